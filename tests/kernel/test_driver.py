"""The kernel driver against a kernel that has ESP: ``guest/driver_checks.py``,
``guest/mode_checks.py`` and ``guest/header_checks.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agents.contract import algorithms
from tests.kernel.guest import driver_checks, header_checks, mode_checks

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]

Report = dict[str, dict[str, Any]]
Guest = Callable[[str], Report]


@pytest.fixture(scope="module")
def report(guest: Guest) -> Report:
    return guest("tests.kernel.guest.data_plane")


@pytest.mark.parametrize("check", [*driver_checks.CHECKS, *mode_checks.CHECKS, *header_checks.CHECKS])
def test_check(report: Report, check: str) -> None:
    assert report[check]["error"] == ""


def test_every_algorithm_of_the_contract_works(report: Report) -> None:
    found = report["features"]["value"]
    assert found["encryptions"] == sorted(algorithms.ENCRYPTION)
    assert found["integrities"] == sorted(algorithms.INTEGRITY)
    assert found["reason"] == "the kernel accepts ESP SAs"
    assert (found["modes"], found["protocols"], found["more"]) == (["transport", "tunnel"], ["ah", "esp"], [True, True])
