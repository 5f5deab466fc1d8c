"""A demo's folder between two runs: one that is ending is waited for, one that runs is left alone."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.lab.netns import LabError
from deploy.lab.workspace import Workspace

_RUN = """
import signal, sys
from pathlib import Path
from deploy.lab.workspace import Workspace
work = Workspace(Path(sys.argv[1]))
work.open()
if sys.argv[2] == "ending":
    work.ending = True
    work.save()
print("ready", flush=True)
sys.stdin.read()
"""


def holder(directory: Path, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _RUN, str(directory), how]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def waits_for(waiting: int, awaited: int) -> bool:
    """Tell whether a process has a pidfd of another."""
    held = []
    for each in Path(f"/proc/{waiting}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held.append(each.read_text(encoding="ascii"))
    return any(f"Pid:\t{awaited}\n" in text for text in held)


def test_a_demo_that_is_ending_is_waited_for(tmp_path: Path) -> None:
    earlier = holder(tmp_path / "d", "ending")
    later = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(tmp_path / "d"), "running"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while not waits_for(later.pid, earlier.pid):
            assert later.poll() is None
            time.sleep(0.02)  # what another process does is no event here
        earlier.communicate(timeout=60)
        out, _ = later.communicate(timeout=60)
    finally:
        for process in (earlier, later):
            process.kill()
            process.wait()
    assert (out, later.returncode) == ("ready\n", 0)


def test_a_demo_that_runs_is_left_alone(tmp_path: Path) -> None:
    running = holder(tmp_path / "d", "running")
    try:
        with pytest.raises(LabError, match="already runs from this folder"):
            Workspace(tmp_path / "d").open()
        assert running.poll() is None
        assert (tmp_path / "d" / "record.json").is_file()
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == -signal.SIGKILL
    work = Workspace(tmp_path / "d")
    work.open()  # cleans up after the killed one
    work.close(keep_logs=False)
    assert not (tmp_path / "d").exists()
