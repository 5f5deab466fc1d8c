"""The supervisor with small processes: order, readiness, restarts, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from vpnconsole.lib import processes
from vpnconsole.lib.processes import ProcessSpec, StartError, Supervisor, console_specs

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "open({log!r}, 'a').write('ignores 0\\n'); time.sleep(60)"
)


def spec(name: str, code: str, log: Path, **changes: object) -> ProcessSpec:
    line = f"open({str(log)!r}, 'a').write('{name} ' + str(__import__('os').getpid()) + '\\n'); {code}"
    values: dict[str, object] = {"environment": dict(os.environ), "stop_timeout_s": 2.0, **changes}
    return ProcessSpec(name=name, command=(sys.executable, "-S", "-c", line), **values)  # type: ignore[arg-type]


def lines(log: Path) -> list[tuple[str, int]]:
    if not log.exists():
        return []
    return [(name, int(pid)) for name, pid in (line.split() for line in log.read_text().splitlines())]


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until_lines(log: Path, count: int) -> list[tuple[str, int]]:
    async with asyncio.timeout(20):
        while len(lines(log)) < count:
            await asyncio.sleep(0.02)
    return lines(log)


async def test_starts_in_order_when_ready_and_ends_all(tmp_path: Path) -> None:
    log, ready = tmp_path / "log", asyncio.Event()

    async def first_wrote() -> bool:
        return bool(lines(log))

    wait = "import time; time.sleep(60)"
    supervisor = Supervisor([spec("one", wait, log, ready=first_wrote), spec("two", wait, log)])
    task = asyncio.create_task(supervisor.run(on_ready=ready.set))
    await asyncio.wait_for(ready.wait(), 20)
    started = await until_lines(log, 2)
    assert [name for name, _ in started] == ["one", "two"]
    supervisor.stop()
    await asyncio.wait_for(task, 10)
    assert not any(running(pid) for _, pid in started)


async def test_what_ends_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FIRST_WAIT_S", 0.05)
    log = tmp_path / "log"
    supervisor = Supervisor([spec("one", "import time; time.sleep(60)", log)])
    task = asyncio.create_task(supervisor.run())
    ((_, pid),) = await until_lines(log, 1)
    os.kill(pid, signal.SIGKILL)
    (_, (_, again)) = await until_lines(log, 2)
    assert again != pid
    supervisor.stop()
    await asyncio.wait_for(task, 10)
    assert not running(again)


async def test_waits_grow_while_a_process_keeps_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FIRST_WAIT_S", 0.01)
    waits: list[float] = []
    sleep = asyncio.sleep

    async def noted(delay: float) -> None:
        waits.append(delay)
        await sleep(0)

    log = tmp_path / "log"
    supervisor = Supervisor([spec("one", "pass", log)])
    task = asyncio.create_task(supervisor.run())
    monkeypatch.setattr("asyncio.sleep", noted)
    async with asyncio.timeout(30):
        while len(waits) < 4:
            await sleep(0.02)
    supervisor.stop()
    await asyncio.wait_for(task, 10)
    assert waits[:4] == [0.01, 0.02, 0.04, 0.08]


async def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    supervisor = Supervisor([spec("deaf", STUBBORN.format(log=str(log)), log, stop_timeout_s=0.3)])
    task = asyncio.create_task(supervisor.run())
    (_, pid), _ignores = await until_lines(log, 2)
    supervisor.stop()
    await asyncio.wait_for(task, 10)
    assert not running(pid)


async def test_start_that_fails_is_told_and_cleaned_up(tmp_path: Path) -> None:
    log = tmp_path / "log"

    async def never() -> bool:
        return False

    wait = "import time; time.sleep(60)"
    supervisor = Supervisor([spec("one", wait, log), spec("two", "raise SystemExit(3)", log, ready=never)])
    with pytest.raises(StartError, match="two ended with status 3"):
        await asyncio.wait_for(supervisor.run(), 30)
    assert not any(running(pid) for _, pid in lines(log))


def test_broker_of_somebody_else_is_not_started(tmp_path: Path) -> None:
    def names(own_broker: bool) -> list[str]:
        specs = console_specs(
            data_dir=tmp_path, run_dir=tmp_path, bind="127.0.0.1", port=8000, environment={}, own_broker=own_broker
        )
        return [each.name for each in specs]

    assert names(True) == ["broker", "worker", "beat", "web"]
    assert names(False) == ["worker", "beat", "web"]
