"""The supervisor with real child processes: restarts, order, the end, and its own death."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agents.runtime.paths import Paths
from agents.runtime.supervisor import BackOff, Program, Supervisor, agent_programs, next_delay

RECORDER = """
import os, signal, sys
def end(*_):
    open(sys.argv[2], "a").write(sys.argv[1] + " ends\\n"); os._exit(0)
signal.signal(signal.SIGTERM, end)
open(sys.argv[2], "a").write(sys.argv[1] + " " + str(os.getpid()) + "\\n")
while True: signal.pause()
"""

STUBBORN = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[2], "a").write("up\\n")
while True: signal.pause()
"""


def program(name: str, log: Path, code: str = RECORDER) -> Program:
    return Program(name=name, arguments=(sys.executable, "-c", code, name, str(log)))


@asynccontextmanager
async def running(*programs: Program, grace_s: float = 5.0) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(programs, back_off=BackOff(first_s=0.01, longest_s=0.02), grace_s=grace_s)
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        supervisor.stop()
        await asyncio.wait_for(task, 20)


async def lines(log: Path, count: int) -> list[str]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = log.read_text().splitlines() if log.exists() else []
        if len(found) >= count:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"never {count} lines: {found}")


async def test_a_program_that_ends_is_started_again_and_the_other_left_alone(tmp_path: Path) -> None:
    log, other = tmp_path / "a", tmp_path / "b"
    async with running(program("a", log), program("b", other)) as supervisor:
        first = (await lines(log, 1))[0]
        second = (await lines(other, 1))[0]
        os.kill(int(first.split()[1]), signal.SIGKILL)
        restarted = (await lines(log, 2))[1]
        assert restarted != first
        assert supervisor.pids == {"a": int(restarted.split()[1]), "b": int(second.split()[1])}
        assert other.read_text().splitlines() == [second]


async def test_the_end_is_polite_and_in_reverse_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with running(program("first", log), program("last", log)):
        await lines(log, 2)
    assert log.read_text().splitlines()[2:] == ["last ends", "first ends"]


async def test_a_program_that_does_not_leave_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with running(program("stubborn", log, STUBBORN), grace_s=0.2) as supervisor:
        await lines(log, 1)
        pid = supervisor.pids["stubborn"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_program_that_cannot_start_does_not_stop_the_others(tmp_path: Path) -> None:
    log = tmp_path / "log"
    missing = Program(name="missing", arguments=("/nonexistent/program",))
    async with running(missing, program("a", log)) as supervisor:
        await lines(log, 1)
        assert set(supervisor.pids) == {"a"}


async def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = (
        "import asyncio, sys\n"
        "from agents.runtime.supervisor import Program, supervise\n"
        f"asyncio.run(supervise([Program(name='a', arguments={(sys.executable, '-c', RECORDER, 'a', str(log))!r})]))\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script])
    try:
        await lines(log, 1)
        supervisor.kill()
        supervisor.wait()
        assert (await lines(log, 2))[1] == "a ends"
    finally:
        if supervisor.poll() is None:
            supervisor.kill()
            supervisor.wait()


def test_back_off_doubles_to_its_limit_and_is_reset_by_a_steady_run() -> None:
    policy = BackOff()
    delays: list[float] = []
    delay: float | None = None
    for _ in range(8):
        delay = next_delay(delay, 0.0, policy)
        delays.append(delay)
    assert delays == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])
    assert next_delay(10.0, 30.0, policy) == 0.2


def test_the_agents_programs_start_with_what_carries_packets(tmp_path: Path) -> None:
    paths = Paths(state=tmp_path / "s", run=tmp_path / "r")
    programs = agent_programs(paths, listen="127.0.0.1:1", log_level="info", log_format="json")
    assert [each.name for each in programs] == ["espd", "iked", "agentd"]
    assert programs[2].arguments[-2:] == ("--listen", "127.0.0.1:1")
    assert "--listen" not in programs[0].arguments
    assert all(each.environment == {"VPN_AGENT_LOG_FORMAT": "json"} for each in programs)
