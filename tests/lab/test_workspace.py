"""A demo's folder between two runs: one that is ending is waited for, one that runs is left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
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


def test_a_demo_that_is_ending_is_waited_for(tmp_path: Path) -> None:
    earlier = holder(tmp_path / "d", "ending")
    later = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(tmp_path / "d"), "running"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            later.wait(0.5)  # it waits: nothing tells us that it does but its not having ended
        earlier.communicate(timeout=10)
        out, _ = later.communicate(timeout=20)
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
