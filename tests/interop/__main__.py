"""``make interop``: both matrices against strongSwan; writes ``docs/interop.md``, exits with 1 for a failed cell."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence

from deploy.lab import strongswan
from tests.interop import results, runner
from tests.interop.cells import Cell
from tests.interop.lab import Lab
from tests.interop.results import Outcome, Result, Suite
from tests.interop.suites import SUITES, UserspaceSuite
from tests.needs import BY_MARKER, why_not


def main() -> int:
    """Run what is asked for; a part of a matrix changes no document."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop", description=__doc__)
    parser.add_argument("--suite", choices=[each.name for each in SUITES], help="only this one")
    parser.add_argument("--only", default="", help="regular expression for 'axis: cell (role)'; writes no document")
    parser.add_argument("--quick", action="store_true", help="the representative part; writes no document")
    parser.add_argument("--list", action="store_true", help="print the cells and run nothing")
    arguments = parser.parse_args()
    suites = [each for each in SUITES if arguments.suite in (None, each.name)]
    pattern = re.compile(arguments.only)

    def only(cell: Cell, role: str) -> bool:
        return bool(pattern.search(f"{cell.axis}: {cell.name} ({role})")) and (cell.quick or not arguments.quick)

    if arguments.list:
        for cell in (cell for suite in suites for cell in suite.cells()):
            print(f"{cell.axis}: {cell.name} ({', '.join(role for role in cell.roles if only(cell, role))})")
        return 0
    reason = why_not([*BY_MARKER["lab"], "strongswan"])
    if reason is not None:
        print(f"interop: not run: {reason}")
        return 77
    failed = False
    for suite in suites:
        began = time.monotonic()
        found = asyncio.run(_until_done_or_told(suite.cells(), only))
        if not arguments.only and not arguments.quick:
            results.write(asyncio.run(_described(suite)), found)
            results.render()
        counts = {outcome.value: sum(1 for each in found if each.outcome is outcome) for outcome in Outcome}
        words = ", ".join(f"{count} {word}" for word, count in counts.items())
        print(f"{suite.name}: {words} in {time.monotonic() - began:.0f} s", flush=True)
        failed = failed or bool(counts[Outcome.FAILED.value])
    return 1 if failed else 0


async def _until_done_or_told(cells: Sequence[Cell], only: Callable[[Cell, str], bool]) -> list[Result]:
    """Run the cells; SIGTERM ends the run like Ctrl-C, with everything cleared away."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await runner.run(cells, _tell, only)


def _tell(result: Result, seconds: float, logs: str) -> None:
    reason = f": {result.reason}" if result.reason else ""
    print(
        f"{result.outcome.value:12} {seconds:5.1f} s  {result.axis}: {result.cell} ({result.role}){reason}", flush=True
    )
    if logs:
        print(logs, flush=True)


async def _described(suite: UserspaceSuite) -> Suite:
    async with Lab("direct", {}) as lab:
        theirs_only = runner.unknown_names(lab.vici)
    return Suite(
        name=suite.name,
        peer=f"{suite.protocol}strongSwan {strongswan.version()}",
        data_planes="Userspace ESP here, kernel-libipsec there (tunnel mode, always in UDP)",
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        notes=(f"The peer has these too, which we have not: {', '.join(theirs_only)}.", *suite.notes),
    )


if __name__ == "__main__":
    sys.exit(main())
