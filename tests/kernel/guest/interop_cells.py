"""Cells of the kernel's interop matrices, run inside the machine.

Arguments are the suite, and then ``--quick`` or a regular expression.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from deploy.lab.uml import RESULT_VARIABLE
from tests.interop import kernel, kernel_ikev1, runner
from tests.interop.cells import Cell
from tests.interop.results import Result

CELLS = {"strongswan-kernel": kernel.cells, "strongswan-ikev1-kernel": kernel_ikev1.cells}


def tell(result: Result, seconds: float, logs: str) -> None:
    """Print a result, and the logs of one that failed."""
    reason = f": {result.reason}" if result.reason else ""
    name = f"{result.axis}: {result.cell} ({result.role})"
    print(f"{result.outcome.value:12} {seconds:5.1f} s  {name}{reason}", flush=True)
    if logs:
        print(logs, flush=True)


def chosen(cell: Cell, role: str, arguments: Sequence[str]) -> bool:
    """Whether a cell is to be run in a role."""
    (wanted,) = arguments or [""]
    if wanted == "--quick":
        return cell.quick
    return re.search(wanted, f"{cell.axis}: {cell.name} ({role})") is not None


def leave(results: Iterable[Result]) -> None:
    """Leave the results for the host."""
    Path(os.environ[RESULT_VARIABLE]).write_text(json.dumps([dataclasses.asdict(each) for each in results]))


if __name__ == "__main__":
    suite, *rest = sys.argv[1:]
    leave(asyncio.run(runner.run(CELLS[suite](), tell, lambda cell, role: chosen(cell, role, rest), kernel.KernelLab)))
