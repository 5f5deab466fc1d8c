"""The console's processes under one roof: broker, worker, beat, web; for the demo and for hosts without systemd.

They are started in this order, each when the one before is ready, and started again with growing waits when they end.
SIGTERM ends them, the first one last; a supervisor that is killed takes them along (``PR_SET_PDEATHSIG``). It keeps
no state: what has to last is in the database and in the broker's append-only file.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vpnconsole.lib import broker

logger = logging.getLogger(__name__)

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 10.0
#: Up for so long, a process has earned a quick restart again.
SETTLED_S = 30.0
READY_TIMEOUT_S = 60.0
READY_EVERY_S = 0.1
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process: its command, its environment, how to tell that it is ready, and how long it may take to end."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], Awaitable[bool]] | None = None
    stop_timeout_s: float = 10.0


class StartError(RuntimeError):
    """A process ended or did not become ready while the console was starting."""


class Supervisor:
    """Starts the processes in order, keeps them up, ends them; the first one is what the others need and ends last."""

    def __init__(self, specs: Sequence[ProcessSpec]) -> None:
        self._specs = specs
        self._stopping = asyncio.Event()
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._keepers: list[asyncio.Task[None]] = []

    def stop(self) -> None:
        """Ask :meth:`run` to end everything; for signal handlers."""
        self._stopping.set()

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Run until :meth:`stop`; raises :class:`StartError` when the console does not come up."""
        try:
            for spec in self._specs:
                if self._stopping.is_set():
                    return
                process = await self._start(spec)
                await self._await_ready(spec, process)
                self._keepers.append(asyncio.create_task(self._keep(spec, process), name=spec.name))
            on_ready()
            await self._stopping.wait()
        finally:
            self._stopping.set()
            for keeper in self._keepers:
                keeper.cancel()
            # What is started first is what the others need: it ends after them.
            first, *others = self._specs
            await asyncio.gather(*(self._end(spec) for spec in others))
            await self._end(first)

    async def _start(self, spec: ProcessSpec) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *spec.command,
            env=dict(spec.environment),
            stdin=asyncio.subprocess.DEVNULL,
            preexec_fn=_die_with_parent,
            # Of its own group: Ctrl-C reaches the supervisor only, which then ends them in order.
            process_group=0,
        )
        self._running[spec.name] = process
        logger.info("= process=%s pid=%s started", spec.name, process.pid)
        return process

    async def _await_ready(self, spec: ProcessSpec, process: asyncio.subprocess.Process) -> None:
        if spec.ready is None:
            return
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not await spec.ready():
            if process.returncode is not None:
                raise StartError(f"{spec.name} ended with status {process.returncode} while starting")
            if self._stopping.is_set():
                return
            if time.monotonic() > deadline:
                raise StartError(f"{spec.name} was not ready within {READY_TIMEOUT_S:.0f} s")
            await asyncio.sleep(READY_EVERY_S)

    async def _keep(self, spec: ProcessSpec, process: asyncio.subprocess.Process) -> None:
        wait_s, started = FIRST_WAIT_S, time.monotonic()
        while True:
            status = await process.wait()
            if time.monotonic() - started >= SETTLED_S:
                wait_s = FIRST_WAIT_S
            logger.warning("! process=%s status=%s; again in %.1f s", spec.name, status, wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)
            started = time.monotonic()
            process = await self._start(spec)

    async def _end(self, spec: ProcessSpec) -> None:
        process = self._running.get(spec.name)
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), spec.stop_timeout_s)
        except TimeoutError:
            logger.warning("! process=%s does not end; killed", spec.name)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def console_specs(
    *, data_dir: Path, run_dir: Path, bind: str, port: int, environment: Mapping[str, str], own_broker: bool
) -> list[ProcessSpec]:
    """Return the console's processes; ``own_broker`` False when the environment names a broker of somebody else."""
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    celery = (sys.executable, "-m", "celery", "--quiet", "-A", "vpnconsole.celery")
    specs = [_broker_spec(data_dir, run_dir, environment)] if own_broker else []
    return [
        *specs,
        ProcessSpec(
            name="worker",
            command=(
                *celery,
                "worker",
                *("--queues", "rollout,monitor"),
                *("--hostname", "console@%h"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            ),
            environment=environment,
            stop_timeout_s=20.0,
        ),
        ProcessSpec(
            name="beat",
            command=(*celery, "beat", "--schedule", str(run_dir / "beat-schedule"), "--pidfile="),
            environment=environment,
        ),
        ProcessSpec(
            name="web",
            command=(
                *(sys.executable, "-m", "uvicorn", "vpnconsole.asgi:application"),
                *("--host", bind, "--port", str(port)),
                # An open event stream would otherwise hold the shutdown for ever.
                *("--timeout-graceful-shutdown", "2"),
                *("--lifespan", "off", "--no-access-log", "--log-level", "warning", "--no-server-header"),
            ),
            environment=environment,
            ready=lambda: _accepts(bind, port),
        ),
    ]


def _broker_spec(data_dir: Path, run_dir: Path, environment: Mapping[str, str]) -> ProcessSpec:
    store = data_dir / "broker"
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket_path = run_dir / "broker.sock"

    async def ready() -> bool:
        return await asyncio.to_thread(broker.answers, socket_path)

    return ProcessSpec(
        name="broker", command=broker.server_command(socket_path, store), environment=environment, ready=ready
    )


async def _accepts(bind: str, port: int) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104 -- compared, not bound
    try:
        _reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
