"""What User Mode Linux has not, on Debian's own kernel: interfaces over xfrm interfaces and VRFs, nftables beside ESP.

Emulated, so slow: ``make kernel-test-qemu`` runs it and ``make test`` does not, for which its name is not ``test_...``.
"""

from __future__ import annotations

from typing import Any

import pytest

from deploy.lab import qemu
from tests.kernel.guest import filter_checks, link_checks, outer_checks, queue_checks

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]

Report = dict[str, dict[str, Any]]
LIMIT_S = 800
PATIENCE_S = 120
"""For one check: emulated on a busy machine some take half a minute."""


@pytest.fixture(scope="module")
def report() -> Report:
    names = [*link_checks.CHECKS, *outer_checks.CHECKS, *queue_checks.CHECKS, "features"]
    return _run("tests.kernel.guest.data_plane", "--patience", str(PATIENCE_S), *names)


@pytest.fixture(scope="module")
def filtered() -> Report:
    return _run("tests.kernel.guest.filter_checks")


def _run(module: str, *arguments: str) -> Report:
    outcome = qemu.run(module, arguments, timeout_s=LIMIT_S)
    assert outcome.status == 0, outcome.console
    assert isinstance(outcome.result, dict), outcome.console
    return outcome.result


@pytest.mark.parametrize("check", [*link_checks.CHECKS, *outer_checks.CHECKS, *queue_checks.CHECKS])
def test_check(report: Report, check: str) -> None:
    assert report[check]["error"] == ""


@pytest.mark.needs("nft")
@pytest.mark.parametrize("check", filter_checks.CHECKS)
def test_the_packet_filter(filtered: Report, check: str) -> None:
    assert filtered[check]["error"] == ""


def test_an_interface_of_its_own_is_an_xfrm_interface(report: Report) -> None:
    assert report["an_interface_carries_what_is_routed_into_it"]["value"] == "xfrm"


def test_the_stock_kernel_can_do_what_the_driver_offers(report: Report) -> None:
    found = report["features"]
    assert found["error"] == ""
    assert found["value"]["reason"].startswith("the kernel accepts ESP SAs")
    assert {"aes-128-gcm-16", "aes-256-cbc"} <= set(found["value"]["encryptions"])
    assert found["value"]["protocols"] == ["ah", "esp"]
