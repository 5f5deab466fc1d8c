"""A part of the kernel's interop matrix: what ``python -m tests.kernel.interop`` runs whole."""

from __future__ import annotations

import pytest

from tests.interop.results import Outcome
from tests.kernel import interop

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]


@pytest.mark.needs("strongswan")
def test_quick_cells_against_strongswan() -> None:
    found = interop.run(interop.STRONGSWAN, ["--quick"])
    assert len(found) == 8
    assert [each for each in found if each.outcome is not Outcome.PASSED] == []


@pytest.mark.needs("strongswan")
def test_quick_cells_of_ikev1_against_strongswan() -> None:
    found = interop.run(interop.STRONGSWAN_IKEV1, ["--quick"])
    assert len(found) == 6
    assert [each for each in found if each.outcome is not Outcome.PASSED] == []
