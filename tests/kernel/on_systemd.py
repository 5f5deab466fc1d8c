"""The agent's units under a systemd that has booted: sandboxed, killed, rebooted and uninstalled.

Emulated, so slow: ``make systemd-test`` runs it and ``make test`` does not, for which its name is not ``test_...``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.lab.qemu import booted
from deploy.lab.uml.machine import REPOSITORY
from tests.kernel.guest import unit_checks

pytestmark = [pytest.mark.qemu, pytest.mark.needs("systemd", "nft"), pytest.mark.timeout(2_000)]

LIMIT_S = 1_800
_NEVER = {"error": "not tried: a check before the reboot did not come true"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Have the machine find the environment in place: Debian's Python, since the units see nobody's home directory."""
    built, above = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("above")
    environment = {**os.environ, "PYTHON": "/usr/bin/python3"}
    subprocess.run([REPOSITORY / "deploy/agent/install.sh", "--root", built], env=environment, check=True)
    place = Path("opt/vpn-agent/venv")
    (above / place).parent.mkdir(parents=True)
    (built / place).rename(above / place)
    try:
        outcome = booted.run_beside_systemd(
            "tests.kernel.guest.unit_checks", python=f"/{place}/bin/python", above=above, timeout_s=LIMIT_S
        )
    finally:
        shutil.rmtree(above)
        shutil.rmtree(built)
    assert outcome.status == 0, outcome.console
    assert isinstance(outcome.result, dict), outcome.console
    return outcome.result


@pytest.mark.parametrize("check", unit_checks.CHECKS)
def test_check(report: dict[str, dict[str, Any]], check: str) -> None:
    assert report.get(check, _NEVER)["error"] == ""
