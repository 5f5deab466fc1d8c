"""What the environment says to the console."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpnconsole.env import Environment, split


def test_defaults_lie_in_one_directory_and_are_strict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VPNCONSOLE_DATA_DIR", raising=False)
    env = Environment()
    assert env.data_path == tmp_path / ".data"
    assert env.broker == f"redis+socket://{tmp_path}/.data/run/broker.sock"
    assert env.secret_key_path.parent == env.kek_path.parent == tmp_path / ".data/keys"
    assert (env.debug, env.https) == (False, False)
    assert "*" not in env.allowed_hosts
    database = env.database()
    assert database["NAME"] == tmp_path / ".data/console.sqlite3"
    assert database["OPTIONS"]["transaction_mode"] == "IMMEDIATE"


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {
        "DATA_DIR": str(tmp_path),
        "KEK_FILE": str(tmp_path / "elsewhere"),
        "BROKER_URL": "redis+socket:///run/redis.sock",
        "ALLOWED_HOSTS": "vpn.example, 192.0.2.1",
        "HTTPS": "1",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"VPNCONSOLE_{name}", value)
    env = Environment()
    assert (env.kek_path, env.broker) == (tmp_path / "elsewhere", "redis+socket:///run/redis.sock")
    assert (split(env.allowed_hosts), env.https) == (["vpn.example", "192.0.2.1"], True)


def test_a_database_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPNCONSOLE_DATABASE_URL", "postgresql://vpn:p%40ss@db.example:5433/console?sslmode=require")
    env = Environment()
    database = env.database()
    assert (database["NAME"], database["USER"], database["PASSWORD"]) == ("console", "vpn", "p@ss")
    assert (database["HOST"], database["PORT"]) == ("db.example", 5433)
    assert database["OPTIONS"] == {"sslmode": "require"}
    assert "p%40ss" not in repr(env)


def test_another_database_is_refused_without_repeating_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPNCONSOLE_DATABASE_URL", "mysql://vpn:secret@db/console")
    with pytest.raises(ValueError, match="postgresql://") as caught:
        Environment().database()
    assert "secret" not in str(caught.value)


def test_the_secret_key_is_the_file_s_or_this_process_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VPNCONSOLE_DATA_DIR", str(tmp_path))
    env = Environment()
    assert env.secret_key() != env.secret_key()
    env.secret_key_path.parent.mkdir()
    env.secret_key_path.write_text("stored\n")
    assert env.secret_key() == "stored"
