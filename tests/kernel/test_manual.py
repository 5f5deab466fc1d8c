"""Manual keys over the kernel's ESP against plain ``ip xfrm``: ``guest/manual_checks.py``, one boot for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.kernel.guest import manual_checks

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

Report = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def report(guest: Callable[[str], Report]) -> Report:
    return guest("tests.kernel.guest.manual_checks")


@pytest.mark.parametrize("check", manual_checks.CHECKS)
def test_check(report: Report, check: str) -> None:
    assert report[check]["error"] == ""


def test_the_reason_names_the_row_in_the_way(report: Report) -> None:
    sentence = report["a_policy_of_somebody_else_is_left_and_waited_for"]["value"]
    assert "a policy that is not ours has this direction and selector" in sentence
