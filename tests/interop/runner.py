"""Runs cells: one lab per group of cells, each cell bounded in time, each result told as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from agents.runtime.rpc import RpcUnavailable
from deploy.lab.netns import LabError
from deploy.lab.vici import Vici
from tests.interop import words
from tests.interop.cells import Cell
from tests.interop.lab import Lab
from tests.interop.results import Outcome, Result
from tests.interop.session import Session

Told = Callable[[Result, float, str], None]
"""Takes a result, the seconds it took, and both sides' logs where it failed."""


async def run(
    cells: Sequence[Cell],
    told: Told,
    only: Callable[[Cell, str], bool] = lambda *_: True,
    make_lab: Callable[[str, Mapping[str, str], int], Lab] = Lab,
) -> list[Result]:
    """Run the cells that ``only`` takes and return their results in the order of ``cells``."""
    results: dict[tuple[str, str, str], Result] = {}
    groups = dict.fromkeys(cell.group for cell in cells)
    for number, group in enumerate(groups):
        wanted = [(cell, role) for cell in cells for role in cell.roles if cell.group == group and only(cell, role)]
        for cell, role in wanted:
            if cell.impossible:
                result = _result(cell, role, Outcome.NOT_POSSIBLE, cell.impossible)
                results[result.key] = result
                told(result, 0, "")
        possible = [(cell, role) for cell, role in wanted if not cell.impossible]
        for result in await _run_group(partial(make_lab, group[0], dict(group[1]), number), possible, told):
            results[result.key] = result
    order = [(cell.axis, cell.name, role) for cell in cells for role in cell.roles]
    return [results[key] for key in order if key in results]


async def _run_group(make_lab: Callable[[], Lab], wanted: Sequence[tuple[Cell, str]], told: Told) -> list[Result]:
    results: list[Result] = []
    runs = 0
    while len(results) < len(wanted):
        async with make_lab() as lab:
            offered = offered_names(lab.vici)
            while len(results) < len(wanted):
                cell, role = wanted[len(results)]
                runs += 1
                began = time.monotonic()
                result = await _run_one(lab, cell, role, runs, offered)
                failed = result.outcome is Outcome.FAILED
                told(result, time.monotonic() - began, lab.logs() if failed else "")
                results.append(result)
                if failed:
                    break  # what a failed cell leaves must not fail the next one
    return results


async def _run_one(lab: Lab, cell: Cell, role: str, number: int, offered: frozenset[str]) -> Result:
    missing = [name for name in cell.needs if name not in offered]
    if missing:
        return _result(cell, role, Outcome.NOT_OFFERED, f"the peer has no {', '.join(missing)}")
    await lab.mark()
    try:
        async with asyncio.timeout(cell.limit_s):
            session = Session(lab, cell, role, lab.place(cell), number)
            try:
                await _play(session)
            except BaseException:
                await session.clear()
                raise
            await session.end()
    except (AssertionError, LabError, RpcUnavailable) as error:
        return _result(cell, role, Outcome.FAILED, str(error).partition("\n")[0])
    except TimeoutError:
        return _result(cell, role, Outcome.FAILED, f"not over after {cell.limit_s:.0f} s")
    return _result(cell, role, Outcome.PASSED)


async def _play(session: Session) -> None:
    if session.cell.up:
        await session.prepare()
        await session.bring_up()
        await session.carrying()
    for step in session.cell.script:
        await step(session)


def offered_names(vici: Vici) -> frozenset[str]:
    """Return the names of every algorithm the peer has, as ``swanctl --list-algs`` would."""
    sections = vici.request("get-algorithms")
    return frozenset(name for names in sections.values() if isinstance(names, dict) for name in names)


def unknown_names(vici: Vici) -> list[str]:
    """Return the names of transforms that the peer has and our tables do not."""
    sections = vici.request("get-algorithms")
    tables = (words.ENCRYPTION, words.INTEGRITY, words.PSEUDO_RANDOM, words.KEY_EXCHANGE)
    known = {word.name for table in tables for word in table.values()}
    kinds = ("encryption", "aead", "integrity", "prf", "dh")
    return sorted({name for kind in kinds for name in sections.get(kind, {})} - known)


def _result(cell: Cell, role: str, outcome: Outcome, reason: str = "") -> Result:
    return Result(axis=cell.axis, cell=cell.name, role=role, outcome=outcome, reason=reason)
