"""What ``agentd`` keeps on a kernel that has what this one may lack: ``guest/host_checks.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.kernel.guest import host_checks

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

Report = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def report(guest: Callable[[str], Report]) -> Report:
    return guest("tests.kernel.guest.host_checks")


@pytest.mark.parametrize("check", [*host_checks.CHECKS])
def test_check(report: Report, check: str) -> None:
    assert report[check]["error"] == ""


def test_a_context_is_told_when_it_comes_and_when_it_goes(report: Report) -> None:
    assert report["a_context_is_a_vrf"]["value"] == "agent.context-made,agent.context-removed"
