"""Two of our daemons, and one against strongSwan, over the kernel's ESP: ``guest/iked_checks.py``, one boot for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.kernel.guest import iked_checks

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

Report = dict[str, dict[str, Any]]
Guest = Callable[[str], Report]

ECHO_OCTETS = 228


@pytest.fixture(scope="module")
def report(guest: Guest) -> Report:
    return guest("tests.kernel.guest.iked_checks")


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, marks=[pytest.mark.needs("strongswan")] if "strongswan" in check else [])
        for check in iked_checks.CHECKS
    ],
)
def test_check(report: Report, check: str) -> None:
    assert report[check]["error"] == ""


def test_auto_says_why(report: Report) -> None:
    assert report["auto_chooses_the_kernel"]["value"] == "kernel: the kernel accepts ESP SAs"


def test_five_pings_are_counted_as_inner_packets(report: Report) -> None:
    assert report["pings_between_hosts"]["value"] == {
        "bytes_in": 5 * ECHO_OCTETS,
        "bytes_out": 5 * ECHO_OCTETS,
        "packets_in": 5,
    }
