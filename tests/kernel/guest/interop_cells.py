"""Cells of the kernel's interop matrix, run inside the machine: arguments are ``--quick`` or a regular expression."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import sys
from pathlib import Path

from deploy.lab.uml import RESULT_VARIABLE
from tests.interop import kernel, runner
from tests.interop.cells import Cell
from tests.interop.results import Result


def _tell(result: Result, seconds: float, logs: str) -> None:
    reason = f": {result.reason}" if result.reason else ""
    print(
        f"{result.outcome.value:12} {seconds:5.1f} s  {result.axis}: {result.cell} ({result.role}){reason}", flush=True
    )
    if logs:
        print(logs, flush=True)


def _only(cell: Cell, role: str) -> bool:
    (wanted,) = sys.argv[1:] or [""]
    if wanted == "--quick":
        return cell.quick
    return re.search(wanted, f"{cell.axis}: {cell.name} ({role})") is not None


if __name__ == "__main__":
    found = asyncio.run(runner.run(kernel.cells(), _tell, _only, kernel.KernelLab))
    Path(os.environ[RESULT_VARIABLE]).write_text(json.dumps([dataclasses.asdict(each) for each in found]))
