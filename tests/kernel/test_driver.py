"""The kernel driver against a kernel that has ESP: the ``*_checks.py`` of ``guest``, all in one boot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agents.contract import algorithms
from tests.kernel.guest import (
    driver_checks,
    header_checks,
    link_checks,
    mode_checks,
    ospf_checks,
    outer_checks,
    queue_checks,
    table_checks,
)

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

Report = dict[str, dict[str, Any]]
Guest = Callable[[str], Report]
MODULES = (driver_checks, mode_checks, header_checks, link_checks, outer_checks, queue_checks, table_checks)


@pytest.fixture(scope="module")
def report(guest: Guest) -> Report:
    return guest("tests.kernel.guest.data_plane")


@pytest.mark.parametrize("check", [name for each in MODULES for name in each.CHECKS])
def test_check(report: Report, check: str) -> None:
    assert report[check]["error"] == ""


@pytest.mark.needs("frr")
@pytest.mark.parametrize("check", ospf_checks.CHECKS)
def test_dynamic_routing(report: Report, check: str) -> None:
    assert report[check]["error"] == ""


def test_every_algorithm_of_the_contract_works(report: Report) -> None:
    found = report["features"]["value"]
    assert found["encryptions"] == sorted(algorithms.ENCRYPTION)
    assert found["integrities"] == sorted(algorithms.INTEGRITY)
    assert found["reason"] == "the kernel accepts ESP SAs"
    assert (found["modes"], found["protocols"], found["more"]) == (["transport", "tunnel"], ["ah", "esp"], [True, True])


def test_a_rate_that_the_kernel_cannot_keep_is_refused_in_its_words(report: Report) -> None:
    assert report["a_kernel_without_a_shaper_says_so"]["value"] == "Specified qdisc kind is unknown"


def test_an_interface_of_its_own_is_a_vti_here(report: Report) -> None:
    """User Mode Linux has no xfrm interfaces."""
    assert report["an_interface_carries_what_is_routed_into_it"]["value"] == "vti"
