"""The userspace data plane against Linux's own: ``guest/mixed_checks.py``.

``make test`` runs the checks that carry every kind of traffic; ``make kernel-test`` all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.kernel.guest import mixed_checks

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

Report = dict[str, dict[str, Any]]

CHECKS = mixed_checks.CHECKS if os.environ.get("EVERY_KERNEL_CHECK") else mixed_checks.QUICK_CHECKS


@pytest.fixture(scope="module")
def report(guest: Callable[..., Report]) -> Report:
    return guest("tests.kernel.guest.mixed_checks", *CHECKS)


@pytest.mark.parametrize("check", CHECKS)
def test_check(report: Report, check: str) -> None:
    assert report[check]["error"] == ""
