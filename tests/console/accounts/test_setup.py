"""``manage.py setup`` on an empty directory, and again; processes that start before it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def _run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "VPNCONSOLE_DATA_DIR": str(directory), "DJANGO_SETTINGS_MODULE": "vpnconsole.settings"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=90, check=False
    )


@pytest.mark.slow
def test_set_up_makes_private_keys_and_tables_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    early = _run(data, "-c", "import vpnconsole.asgi")
    assert "run `manage.py setup` first" in early.stderr
    first = _run(data, "manage.py", "setup")
    assert first.returncode == 0, first.stderr
    keys = {path.name: path.read_bytes() for path in (data / "keys").iterdir()}
    assert set(keys) == {"kek", "secret-key"}
    assert {path.stat().st_mode & 0o777 for path in (data / "keys").iterdir()} == {0o600}
    assert data.stat().st_mode & 0o777 == 0o700
    assert not any(key.strip().decode() in first.stdout for key in keys.values())
    second = _run(data, "manage.py", "setup")
    assert (second.returncode, second.stdout) == (0, "ready\n")
    assert {path.name: path.read_bytes() for path in (data / "keys").iterdir()} == keys
    late = _run(data, "-c", "import vpnconsole.asgi")
    assert late.returncode == 0, late.stderr


@pytest.mark.slow
def test_models_and_migrations_agree(tmp_path: Path) -> None:
    result = _run(tmp_path, "manage.py", "makemigrations", "--check", "--dry-run", "accounts", "gateways", "vpn")
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_a_deployment_check_has_nothing_to_say_of_ours(tmp_path: Path) -> None:
    _run(tmp_path, "manage.py", "setup")
    result = _run(tmp_path, "manage.py", "check", "--deploy")
    warned = {line.split(")")[0].removeprefix("?: (") for line in result.stderr.splitlines() if line.startswith("?:")}
    # Plain HTTP is the default: these four belong to VPNCONSOLE_HTTPS.
    assert warned <= {"security.W004", "security.W008", "security.W012", "security.W016"}, result.stderr
