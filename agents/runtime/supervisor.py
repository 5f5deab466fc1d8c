"""Starts the agent's processes and starts again the one that ended. It keeps no state and knows no protocol.

One pidfd per child in the event loop tells of its end. A child that ends is started again after 0.2 s, doubling to 10 s
while it keeps ending; 30 s up resets that. SIGTERM or SIGINT ends all, in the reverse order of their start, each given
time to leave politely. When the supervisor itself is killed, the kernel sends every child SIGTERM (PR_SET_PDEATHSIG):
nothing is left running unattended.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.runtime import sd_notify
from agents.runtime.logs import FORMAT_VARIABLE
from agents.runtime.paths import Paths

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0
STEADY_AFTER_S = 30.0
GRACE_S = 6.0

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process to keep running."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """How long to wait before the next start; see :func:`next_delay`."""

    first_s: float = FIRST_DELAY_S
    longest_s: float = LONGEST_DELAY_S
    steady_after_s: float = STEADY_AFTER_S


def next_delay(previous_s: float | None, up_s: float, policy: BackOff) -> float:
    """Return the delay in seconds before a program that was up for ``up_s`` is started again."""
    if previous_s is None or up_s >= policy.steady_after_s:
        return policy.first_s
    return min(previous_s * 2, policy.longest_s)


def agent_programs(
    paths: Paths, *, listen: str | None, log_level: str, log_format: str | None = None
) -> tuple[Program, ...]:
    """Return the agent's three processes in the order of their start: what carries packets first."""
    environment = {FORMAT_VARIABLE: log_format} if log_format is not None else None
    common = ("--state", str(paths.state), "--run", str(paths.run), "--log-level", log_level)
    programs = []
    for name in ("espd", "iked", "agentd"):
        extra = ("--listen", listen) if name == "agentd" and listen else ()
        arguments = (sys.executable, "-m", f"agents.{name}", *common, *extra)
        programs.append(Program(name=name, arguments=arguments, environment=environment))
    return tuple(programs)


class Supervisor:
    """Keeps ``programs`` running until :meth:`stop`; :meth:`run` returns when all have ended."""

    def __init__(
        self, programs: Sequence[Program], *, back_off: BackOff | None = None, grace_s: float = GRACE_S
    ) -> None:
        self._programs = tuple(programs)
        self._back_off = back_off or BackOff()
        self._grace_s = grace_s
        self._stopping = asyncio.Event()
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def pids(self) -> dict[str, int]:
        """The processes running now, by program name."""
        return {name: child.pid for name, child in self._children.items()}

    def stop(self) -> None:
        """Ask for the end; a second call changes nothing."""
        self._stopping.set()

    async def run(self) -> None:
        """Start everything, keep it running, and end it in reverse order once stopped."""
        keepers = {program.name: asyncio.create_task(self._keep(program)) for program in self._programs}
        try:
            await self._stopping.wait()
        finally:
            for program in reversed(self._programs):
                keepers[program.name].cancel()
                await asyncio.gather(keepers[program.name], return_exceptions=True)
                await self._end(program.name)

    async def _keep(self, program: Program) -> None:
        delay_s: float | None = None
        while True:
            started = time.monotonic()
            try:
                child = _start(program)
            except OSError as error:
                _log.error("%s cannot be started: %s", program.name, os.strerror(error.errno or 0))
            else:
                self._children[program.name] = child
                _log.info("%s started as process %d", program.name, child.pid)
                await _ended(child)
                del self._children[program.name]
                _log.error("%s ended with %s and is started again", program.name, _outcome(child.returncode))
            delay_s = next_delay(delay_s, time.monotonic() - started, self._back_off)
            await asyncio.sleep(delay_s)

    async def _end(self, name: str) -> None:
        child = self._children.pop(name, None)
        if child is None:
            return
        child.terminate()
        try:
            async with asyncio.timeout(self._grace_s):
                await _ended(child)
        except TimeoutError:
            _log.error("%s did not end within %g s and is killed", name, self._grace_s)
            child.kill()
            await _ended(child)
        _log.info("%s ended with %s", name, _outcome(child.returncode))


async def _ended(child: subprocess.Popen[bytes]) -> None:
    """Wait for the child's end, told by its pidfd, and reap it."""
    if child.poll() is not None:
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    descriptor = os.pidfd_open(child.pid)
    loop.add_reader(descriptor, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    child.wait()


def _start(program: Program) -> subprocess.Popen[bytes]:
    supervisor = os.getpid()

    def die_with_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != supervisor:  # it ended between fork and prctl: nobody would tell us any more
            os._exit(1)

    environment = {**os.environ, **(program.environment or {})}
    environment.pop("NOTIFY_SOCKET", None)  # readiness of the whole is the supervisor's to tell
    return subprocess.Popen(
        program.arguments,
        stdin=subprocess.DEVNULL,
        env=environment,
        preexec_fn=die_with_parent,
        start_new_session=True,  # a Ctrl-C at the terminal reaches the supervisor alone, which ends all in order
    )


def _outcome(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"status {code}"


async def supervise(programs: Sequence[Program]) -> None:
    """Run ``programs`` until SIGTERM or SIGINT."""
    supervisor = Supervisor(programs)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    sd_notify.ready()
    await supervisor.run()
