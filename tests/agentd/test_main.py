"""The process: its options, and how it ends when it cannot begin."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agents.agentd.__main__ import EX_CONFIG, listen_argument
from tests.agentd.fakes import Authority, make_identity

ROOT = Path(__file__).resolve().parents[2]


def agentd(directory: Path, *words: str) -> subprocess.Popen[str]:
    arguments = ["-m", "agents.agentd", "--state", str(directory / "state"), "--run", str(directory / "run"), *words]
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8470", ("127.0.0.1", 8470)),
        ("[::1]:1", ("::1", 1)),
        (":0", ("", 0)),
    ],
)
def test_where_to_listen(text: str, expected: tuple[str, int]) -> None:
    assert listen_argument(text) == expected


@pytest.mark.parametrize("text", ["", "8470", "host:", "host:x", "host:70000"])
def test_where_not_to_listen(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        listen_argument(text)


def test_a_gateway_that_is_not_enrolled_says_so(tmp_path: Path) -> None:
    process = agentd(tmp_path)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == EX_CONFIG
    assert "run vpn-agent enrol" in errors
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_a_sentence(tmp_path: Path) -> None:
    make_identity(tmp_path / "state/identity", Authority.make())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = agentd(tmp_path, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "cannot serve: Address already in use" in errors
    assert "Traceback" not in errors


def test_it_tells_when_it_is_ready_and_leaves_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_identity(tmp_path / "state/identity", Authority.make())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        process = agentd(tmp_path, "--listen", "127.0.0.1:0")
        assert manager.recv(100) == b"READY=1"
        assert (tmp_path / "run/agentd.sock").is_socket()
        os.kill(process.pid, signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert not (tmp_path / "run/agentd.sock").exists()
