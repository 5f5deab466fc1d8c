"""Directories and private files."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from agents.runtime import sd_notify
from agents.runtime.paths import PathError, Paths, held, write_private


def test_directories_are_made_for_the_owner_only(tmp_path: Path) -> None:
    paths = Paths(state=tmp_path / "a/state", run=tmp_path / "run")
    paths.run.mkdir(mode=0o755)
    paths.prepare()
    assert stat.S_IMODE(paths.state.stat().st_mode) == 0o700
    assert stat.S_IMODE(paths.run.stat().st_mode) == 0o700


def test_a_run_directory_too_long_for_a_socket_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(PathError, match="too long"):
        Paths(state=tmp_path / "s", run=tmp_path / ("r" * 120)).prepare()


def test_a_file_in_the_way_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(PathError):
        Paths(state=tmp_path / "state", run=tmp_path / "run").prepare()


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


def test_a_lock_is_held_by_one_and_free_again_after(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path), pytest.raises(PathError, match="running"), held(path):
        pass
    with held(path):
        pass


def test_readiness_is_told_to_the_service_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        sd_notify.ready("serving")
        assert manager.recv(100) == b"READY=1\nSTATUS=serving"
    sd_notify.stopping()  # the manager has gone: not an error
