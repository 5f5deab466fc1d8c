"""The kernel driver against the suite that every driver passes: ``guest/conformance_checks.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.kernel.guest import conformance_checks

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

Report = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def report(guest: Callable[[str], Report]) -> Report:
    return guest("tests.kernel.guest.data_plane")


@pytest.mark.parametrize("check", conformance_checks.CHECKS)
def test_check(report: Report, check: str) -> None:
    assert report[check]["error"] == ""
