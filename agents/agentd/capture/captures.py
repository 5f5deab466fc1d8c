"""The captures of a gateway: begun, bounded, written to files that only this user reads, deleted after a while.

A capture's file and what is known of it (``ID.pcapng``, ``ID.json``) lie in one directory. At most one runs per tunnel
and :data:`MOST_RUNNING` in all; the newest :data:`MOST_KEPT` are kept, :data:`~agents.contract.captures.KEPT_S` long.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from agents.agentd.capture import pcapng
from agents.agentd.capture.scope import Scope
from agents.agentd.capture.tap import Seen, Tap, TapError
from agents.agentd.errors import AgentError
from agents.agentd.journal import Journal
from agents.contract.captures import KEPT_S, CaptureRequest
from agents.contract.codec import decode, encode
from agents.contract.errors import DocumentError
from agents.contract.status import CaptureStatus
from agents.runtime.paths import make_private, write_private
from agents.runtime.version import VERSION

MOST_RUNNING = 4
MOST_KEPT = 16
_READS_PER_WAKE_UP = 256
_END_OCTETS = len(pcapng.interface("any") + pcapng.statistics(0, 0, received=0, dropped=0))
_log = logging.getLogger(__name__)


class CaptureRefusedError(AgentError):
    """A capture is not begun, or its file is not given out; ``code`` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UnknownCaptureError(AgentError):
    """There is no capture of this id: it was never begun, or is deleted by now."""


@dataclass(slots=True)
class _Running:
    """One capture under way."""

    request: CaptureRequest
    name: str
    tap: Tap
    file: BinaryIO
    deadline: asyncio.TimerHandle
    started_at: float
    octets: int = 0
    packets: int = 0
    interfaces: dict[str, int] = field(default_factory=dict)

    def write(self, block: bytes) -> None:
        self.file.write(block)
        self.octets += len(block)

    def status(self, ended_because: str = "") -> CaptureStatus:
        return CaptureStatus(
            id=self.request.id,
            tunnel_id=self.request.tunnel_id,
            view=str(self.request.view),
            running=not ended_because,
            started_at=self.started_at,
            packets=self.packets,
            octets=self.octets,
            ended_because=ended_because,
        )


class Captures:
    """Use :meth:`open` in the running event loop before anything else, :meth:`close` at the end."""

    def __init__(self, directory: Path, journal: Journal, on_change: Callable[[], None] = lambda: None) -> None:
        self._directory = directory
        self._journal = journal
        self._on_change = on_change
        self._running: dict[str, _Running] = {}
        self._ended: dict[str, CaptureStatus] = {}
        self._ended_at: dict[str, float] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Find what an earlier run left: captures that it did not end have ended with it."""
        make_private(self._directory)
        for path in sorted(self._directory.glob("*.json"), key=lambda path: path.stat().st_mtime):
            ended_at = path.stat().st_mtime
            try:
                status = decode(CaptureStatus, path.read_bytes())
            except DocumentError as error:
                _log.warning("%s cannot be read and is removed: %s", path.name, error)
                path.unlink()
                continue
            if status.running:
                file = self._file(status.id)
                octets = file.stat().st_size if file.exists() else 0
                status = dataclasses.replace(status, running=False, octets=octets, ended_because="the agent ended")
                write_private(path, encode(status))
            self._ended[status.id], self._ended_at[status.id] = status, ended_at
        for file in self._directory.glob("*.pcapng"):
            if file.stem not in self._ended:
                file.unlink()
        self._tidy()

    def close(self) -> None:
        """End every capture."""
        for capture_id in tuple(self._running):
            self._end(capture_id, "the agent ended")
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def statuses(self) -> tuple[CaptureStatus, ...]:
        """Return every capture that there is, the newest last."""
        return (*self._ended.values(), *(each.status() for each in self._running.values()))

    def start(self, request: CaptureRequest, name: str, scope: Scope) -> CaptureStatus:
        """Begin one of the tunnel ``name``, or say how the one of this id is; raises :class:`CaptureRefusedError`."""
        known = self._known(request.id)
        if known is not None:
            return known
        if any(each.request.tunnel_id == request.tunnel_id for each in self._running.values()):
            raise CaptureRefusedError("busy", f"A capture of {name} is running already: stop it first.")
        if len(self._running) >= MOST_RUNNING:
            raise CaptureRefusedError("busy", f"{MOST_RUNNING} captures are running: stop one first.")
        try:
            tap = Tap(scope)
        except TapError as error:
            raise CaptureRefusedError("unavailable", f"{error}.") from None
        loop = asyncio.get_running_loop()
        running = _Running(
            request=request,
            name=name,
            tap=tap,
            file=self._create(request.id),
            deadline=loop.call_later(request.seconds, self._end, request.id, f"the time limit of {request.seconds} s"),
            started_at=round(time.time(), 3),
        )
        running.write(pcapng.section(f"vpn-agent {VERSION}", scope.note))
        self._running[request.id] = running
        write_private(self._facts(request.id), encode(running.status()))
        loop.add_reader(tap.fileno(), self._readable, running)
        text = f"Capture of {request.view} packets of {name} started"
        self._tell("agent.capture-started", text, running)
        return running.status()

    def stop(self, capture_id: str) -> CaptureStatus:
        """End one; one that has ended stays as it is. Raises :class:`UnknownCaptureError`."""
        if capture_id in self._running:
            self._end(capture_id, "stopped")
        return self._get(capture_id)

    def file(self, capture_id: str) -> Path:
        """Return the file of one that has ended; raises UnknownCaptureError and CaptureRefusedError."""
        if self._get(capture_id).running:
            raise CaptureRefusedError("running", "The capture is running: stop it first.")
        path = self._file(capture_id)
        if not path.exists():
            raise UnknownCaptureError("the file of this capture is gone")
        return path

    def remove(self, capture_id: str) -> None:
        """Delete one; a running one ends. Raises :class:`UnknownCaptureError`."""
        self.stop(capture_id)
        self._delete(capture_id)

    def forget(self, tunnel_ids: frozenset[str]) -> None:
        """Delete those of tunnels other than these: what is shown of a tunnel goes with it."""
        for status in self.statuses():
            if status.tunnel_id not in tunnel_ids:
                self.remove(status.id)

    # Inside

    def _readable(self, running: _Running) -> None:
        try:
            for _turn in range(_READS_PER_WAKE_UP):
                seen = running.tap.read()
                if seen is None:
                    return
                if isinstance(seen, Seen) and (full := self._take(running, seen)):
                    self._end(running.request.id, full)
                    return
        except TapError as error:
            self._end(running.request.id, str(error))
        except OSError as error:
            self._end(running.request.id, f"the file cannot be written: {os.strerror(error.errno or 0)}")

    def _take(self, running: _Running, seen: Seen) -> str:
        """Write a packet down; return why the capture is full, or nothing."""
        request, blocks = running.request, b""
        number = running.interfaces.get(seen.interface)
        if number is None:
            number = len(running.interfaces)
            blocks = pcapng.interface(seen.interface)
        blocks += pcapng.packet(number, seen.time_ns, seen.octets, outbound=seen.outbound)
        if running.octets + len(blocks) + _END_OCTETS > request.octets:
            return f"the size limit of {request.octets} octets"
        running.interfaces[seen.interface] = number
        running.write(blocks)
        running.packets += 1
        return f"the limit of {request.packets} packets" if running.packets >= request.packets else ""

    def _end(self, capture_id: str, because: str) -> None:
        running = self._running.pop(capture_id)
        running.deadline.cancel()
        asyncio.get_running_loop().remove_reader(running.tap.fileno())
        received, dropped = running.tap.statistics()
        running.tap.close()
        try:
            with running.file:
                if not running.interfaces:
                    running.write(pcapng.interface("any"))  # what reads the file wants one, packets or not
                running.write(pcapng.statistics(0, time.time_ns(), received=received, dropped=dropped))
        except OSError as error:
            because = f"the file cannot be written: {os.strerror(error.errno or 0)}"
        lost = f"; {dropped} packets came too fast to be kept" if dropped else ""
        status = running.status(because + lost)
        self._ended[capture_id], self._ended_at[capture_id] = status, time.time()
        write_private(self._facts(capture_id), encode(status))
        what = f"Capture of {running.request.view} packets of {running.name}"
        text = f"{what} ended with {running.packets}: {status.ended_because}"
        self._tell("agent.capture-ended", text, running)
        self._tidy()

    def _tell(self, code: str, text: str, running: _Running) -> None:
        attributes = {"capture": running.request.id, "view": str(running.request.view)}
        self._journal.append(code, text, tunnel_id=running.request.tunnel_id, attributes=attributes)
        self._on_change()

    def _tidy(self) -> None:
        """Delete what is too old or too much, and come again when the next one will be."""
        now = time.time()
        ages = sorted((ended_at, capture_id) for capture_id, ended_at in self._ended_at.items())
        over = len(ages) - MOST_KEPT
        left = []
        for index, (ended_at, capture_id) in enumerate(ages):
            if index < over or now - ended_at >= KEPT_S:
                self._delete(capture_id)
            else:
                left.append(ended_at)
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep = None
        if left:
            delay_s = max(1.0, left[0] + KEPT_S - now)
            self._sweep = asyncio.get_running_loop().call_later(delay_s, self._tidy)

    def _delete(self, capture_id: str) -> None:
        self._ended.pop(capture_id, None)
        self._ended_at.pop(capture_id, None)
        for path in (self._file(capture_id), self._facts(capture_id)):
            path.unlink(missing_ok=True)
        self._on_change()

    def _known(self, capture_id: str) -> CaptureStatus | None:
        running = self._running.get(capture_id)
        return running.status() if running is not None else self._ended.get(capture_id)

    def _get(self, capture_id: str) -> CaptureStatus:
        status = self._known(capture_id)
        if status is None:
            raise UnknownCaptureError("there is no such capture; it may have been deleted by now")
        return status

    def _create(self, capture_id: str) -> BinaryIO:
        descriptor = os.open(self._file(capture_id), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "wb")

    def _file(self, capture_id: str) -> Path:
        return self._directory / f"{capture_id}.pcapng"

    def _facts(self, capture_id: str) -> Path:
        return self._directory / f"{capture_id}.json"
