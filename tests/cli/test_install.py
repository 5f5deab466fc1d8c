"""The installation: what lands where, and units the service manager understands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    environment = {**os.environ, "SKIP_ENVIRONMENT": "1", "PYTHON": sys.executable}
    for _ in range(2):  # a repeat is an update
        subprocess.run([ROOT / "deploy/agent/install.sh", "--root", tmp_path], env=environment, check=True)
    return tmp_path


def test_code_commands_and_units_are_in_place(installed: Path) -> None:
    target = installed / "opt/vpn-agent"
    assert {each.name for each in target.iterdir()} == {"agents", "docs"}
    assert not list(target.rglob("__pycache__"))
    shown = subprocess.run(
        [sys.executable, "-m", "agents.cli", "version"], cwd=target, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip()
    for command in ("vpn-agent", "ike", "ipsecstat"):
        assert os.access(installed / "usr/local/sbin" / command, os.X_OK)


@pytest.mark.needs("systemd-analyze")
def test_the_units_are_valid(installed: Path) -> None:
    python = installed / "opt/vpn-agent/venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    system = installed / "usr/lib/systemd/system"
    system.mkdir(parents=True)
    for target in Path("/usr/lib/systemd/system").glob("*.target"):
        shutil.copy(target, system)
    units = [each.name for each in (ROOT / "deploy/systemd").iterdir()]
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={installed}", *units], capture_output=True, text=True
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    assert len(units) == 5


def test_a_python_that_the_units_would_not_see_is_refused(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$2" in *base_prefix*) echo /home/somebody/python ;; esac\n')
    python.chmod(0o755)
    arguments = [str(ROOT / "deploy/agent/install.sh"), "--root", str(tmp_path / "root")]
    refused = subprocess.run(arguments, env={**os.environ, "PYTHON": str(python)}, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "home directory" in refused.stderr
    assert not (tmp_path / "root").exists()


def test_what_was_installed_goes_and_the_state_stays_until_asked(installed: Path) -> None:
    state = installed / "var/lib/vpn-agent"
    state.mkdir(parents=True)
    (state / "filter.json").touch()
    units = installed / "etc/systemd/system"
    for folder in ("vpn-agent-espd.service.d", "multi-user.target.wants"):
        (units / folder).mkdir()
    (units / "vpn-agent-espd.service.d/override.conf").write_text("[Service]\n")
    (units / "multi-user.target.wants/vpn-agent.target").symlink_to("/etc/systemd/system/vpn-agent.target")
    uninstall = [str(ROOT / "deploy/agent/uninstall.sh"), "--root", str(installed)]
    subprocess.run(uninstall, check=True)
    assert [each for each in installed.rglob("*") if each.is_file() or each.name == "vpn-agent"] == [state]
    subprocess.run([*uninstall, "--purge"], check=True)
    assert not state.exists()


def test_the_commands_declared_for_packaging_exist() -> None:
    import importlib
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["scripts"]) == {"vpn-agent", "ike", "ipsecstat"}
    for entry in project["scripts"].values():
        module, _, function = entry.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
    version = importlib.import_module("agents.runtime.version").VERSION
    assert version == project["version"]
