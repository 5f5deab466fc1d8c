"""A part of the kernel's interop matrix: what ``python -m tests.kernel.interop`` runs whole."""

from __future__ import annotations

import pytest

from tests.interop.results import Outcome
from tests.kernel import interop

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]


@pytest.mark.needs("strongswan")
@pytest.mark.parametrize(
    ("guest", "cells"), [(interop.STRONGSWAN, 8), (interop.STRONGSWAN_IKEV1, 6)], ids=["IKEv2", "IKEv1"]
)
def test_quick_cells_against_strongswan(guest: interop.Guest, cells: int) -> None:
    told: list[str] = []
    found = interop.run(guest, ["--quick"], told.append)
    assert len(found) == cells
    # The machine prints the logs of both ends of what fails.
    assert all(each.outcome is Outcome.PASSED for each in found), "\n".join(told)
