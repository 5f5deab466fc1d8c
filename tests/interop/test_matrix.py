"""A representative part of each matrix, run; and that the document names every cell of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from tests.interop import kernel, kernel_ikev1, libreswan, libreswan_ikev1, results, runner
from tests.interop.cells import Cell
from tests.interop.results import Outcome, Result
from tests.interop.suites import SUITES, UserspaceSuite

every_suite = pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)

_DOCUMENTED: Mapping[str, Sequence[Cell]] = {
    **{suite.name: suite.cells() for suite in SUITES},
    "strongswan-kernel": kernel.cells(),
    "strongswan-ikev1-kernel": kernel_ikev1.cells(),
    "libreswan-kernel": [case.cell for case in libreswan.cases()],
    "libreswan-ikev1-kernel": [case.cell for case in libreswan_ikev1.cases()],
}
"""Every suite's cells by its name, those under User Mode Linux too."""


@pytest.mark.lab
@pytest.mark.needs("strongswan")
@pytest.mark.timeout(400)
@every_suite
async def test_the_representative_part_passes(suite: UserspaceSuite) -> None:
    failures: list[str] = []

    def told(result: Result, _seconds: float, logs: str) -> None:
        if result.outcome is Outcome.FAILED:
            failures.append(f"{result.axis}: {result.cell} ({result.role}): {result.reason}\n{logs}")

    found = await runner.run(suite.cells(), told, lambda cell, _role: cell.quick)
    assert not failures, "\n".join(failures)
    assert all(result.outcome is Outcome.PASSED for result in found)


@every_suite
def test_the_names_of_cells_are_unique(suite: UserspaceSuite) -> None:
    keys = [(cell.axis, cell.name, role) for cell in suite.cells() for role in cell.roles]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("name", "cells"), _DOCUMENTED.items(), ids=list(_DOCUMENTED))
def test_the_document_names_every_cell_and_no_other(name: str, cells: Sequence[Cell]) -> None:
    """``make interop`` writes it anew; a cell that was added or renamed since makes it stale."""
    _, found = results.read(results.FOLDER / f"{name}.jsonl")
    assert {result.key for result in found} == {
        (cell.axis, cell.name, role) for cell in cells for role in cell.roles
    }, "run `make interop`"


def test_the_document_is_what_the_runs_found() -> None:
    suites = [results.read(path) for path in sorted(results.FOLDER.glob("*.jsonl"))]
    assert results.DOCUMENT.read_text(encoding="utf-8") == results.markdown(suites), "run `make interop`"
