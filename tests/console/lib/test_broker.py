"""The broker's command line: a private socket, no port, data on disk; with the bundled server as a last resort."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import redis

from tests.console.brokers import running_broker
from vpnconsole.lib import broker


@pytest.mark.celery
def test_server_is_private_and_keeps_what_it_was_given(tmp_path: Path) -> None:
    with running_broker(tmp_path) as socket_path:
        assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
        client = redis.Redis(unix_socket_path=str(socket_path), decode_responses=True)
        assert client.config_get("port") == {"port": "0"}
        client.set("kept", "yes")
        client.close()
    assert not broker.answers(socket_path)
    with running_broker(tmp_path) as socket_path:
        client = redis.Redis(unix_socket_path=str(socket_path), decode_responses=True)
        assert client.get("kept") == "yes"
        client.close()


def test_server_on_the_path_is_preferred_to_the_bundled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "redis-server" else None)
    assert broker.server_binary() == "/usr/bin/redis-server"
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert broker.server_binary().endswith("valkey-server")
    assert Path(broker.server_binary()).is_file()
