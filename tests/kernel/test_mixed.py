"""The userspace data plane against Linux's own: ``guest/mixed_checks.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.kernel.guest import mixed_checks

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]

Report = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def report(guest: Callable[[str], Report]) -> Report:
    return guest("tests.kernel.guest.mixed_checks")


@pytest.mark.parametrize("check", mixed_checks.CHECKS)
def test_check(report: Report, check: str) -> None:
    assert report[check]["error"] == ""
