"""User Mode Linux as a tool: what comes back, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from deploy.lab import uml
from deploy.lab.uml import machine

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a folder of its own for this test's machines, by which they are told from others on the host."""
    folder = tmp_path_factory.mktemp("m")  # short: below it are sockets
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def _running(folder: Path) -> set[int]:
    """Return the processes of this test's machines: their command line names the share."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_text()
            except OSError:
                continue
            if machine.KERNEL in words and f"{folder}/vpnconsole-uml-" in words:
                found.add(int(entry.name))
    return found


def test_status_and_output_come_back() -> None:
    lines: list[str] = []
    outcome = uml.run("tests.kernel.guest.exits", echo=lines.append)
    assert outcome.status == 3
    assert outcome.result is None
    assert "hello from inside" in lines
    assert "hello from inside" in outcome.console


def test_a_machine_that_takes_too_long_is_ended(folder: Path) -> None:
    with pytest.raises(uml.MachineError, match="longer than 1 s"):
        uml.run("tests.kernel.guest.exits", timeout_s=1)
    assert not _running(folder)


def test_a_machine_that_cannot_be_booted_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "KERNEL", "linux.of-another-machine")
    with pytest.raises(uml.MachineError, match="is not installed"):
        uml.run("tests.kernel.guest.exits")


def test_a_run_that_is_terminated_takes_its_machine_along(folder: Path) -> None:
    """As ``python -m tests.kernel.interop`` is by whoever has no more time."""
    program = "from deploy.lab import uml; uml.run('tests.kernel.guest.exits')"
    environment = {**os.environ, "TMPDIR": str(folder)}
    run = subprocess.Popen([sys.executable, "-c", program], cwd=machine.REPOSITORY, env=environment)
    try:
        limit = time.monotonic() + 60
        while not _running(folder):
            assert run.poll() is None, "it ended before its machine began"
            assert time.monotonic() < limit
            time.sleep(0.02)  # a process that begins has no other sign
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 128 + signal.SIGTERM
    finally:
        run.kill()
    assert not _running(folder)
