"""A representative part of the matrix, run; and that the document names every cell of it."""

from __future__ import annotations

import pytest

from tests.interop import results, runner
from tests.interop.__main__ import SUITE
from tests.interop.matrix import cells
from tests.interop.results import Outcome, Result


@pytest.mark.lab
@pytest.mark.needs("strongswan")
@pytest.mark.timeout(120)
async def test_the_representative_part_passes() -> None:
    failures: list[str] = []

    def told(result: Result, _seconds: float, logs: str) -> None:
        if result.outcome is Outcome.FAILED:
            failures.append(f"{result.axis}: {result.cell} ({result.role}): {result.reason}\n{logs}")

    found = await runner.run(cells(), told, lambda cell, _role: cell.quick)
    assert not failures, "\n".join(failures)
    assert all(result.outcome is Outcome.PASSED for result in found)


def test_the_names_of_cells_are_unique() -> None:
    keys = [(cell.axis, cell.name, role) for cell in cells() for role in cell.roles]
    assert len(set(keys)) == len(keys)


def test_the_document_names_every_cell_and_no_other() -> None:
    """``make interop`` writes it anew; a cell that was added or renamed since makes it stale."""
    _, found = results.read(results.FOLDER / f"{SUITE}.jsonl")
    assert {result.key for result in found} == {
        (cell.axis, cell.name, role) for cell in cells() for role in cell.roles
    }, "run `make interop`"


def test_the_document_is_what_the_runs_found() -> None:
    suites = [results.read(path) for path in sorted(results.FOLDER.glob("*.jsonl"))]
    assert results.DOCUMENT.read_text(encoding="utf-8") == results.markdown(suites), "run `make interop`"
