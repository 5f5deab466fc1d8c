"""Framed JSON over a Unix stream socket: how the agent's processes and command lines speak with each other.

A frame is a 4-octet big-endian length and one JSON object, at most :data:`MAX_FRAME_OCTETS`. Requests carry an ``id``
and are answered with it; frames without one are notifications. A caller that is neither root nor the server's own user
is turned away before its first frame is read. What the methods mean is not here: see ``docs/architecture.md``.

A frame that breaks the framing closes its connection with a log line; parameters are never logged, since documents with
keys travel here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

MAX_FRAME_OCTETS = 16 * 1024 * 1024
MAX_REQUESTS_IN_FLIGHT = 64
MAX_UNSENT_OCTETS = 32 * 1024 * 1024
MAX_QUEUED_NOTIFICATIONS = 10_000

_LENGTH = struct.Struct(">I")
_CREDENTIALS = struct.Struct("3i")
_log = logging.getLogger(__name__)


class RpcError(Exception):
    """The other side answered with an error: a stable code, a sentence, and data for programs."""

    def __init__(self, code: str, message: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.data: dict[str, Any] = dict(data or {})


class RpcUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault of the call
    """Nobody answers: the socket is not there, the connection ended, or the answer took too long."""


class FrameError(Exception):
    """The octets received are not a frame of this protocol; the connection cannot go on."""


class _Channel:
    """One connection's frames, both ways."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> dict[str, Any] | None:
        """Return the next frame, None at the end of the stream; raises :class:`FrameError`."""
        try:
            header = await self._reader.readexactly(_LENGTH.size)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise FrameError("the stream ended inside a length") from None
            return None
        (length,) = _LENGTH.unpack(header)
        if not 2 <= length <= MAX_FRAME_OCTETS:
            raise FrameError(f"a frame of {length} octets")
        try:
            octets = await self._reader.readexactly(length)
        except asyncio.IncompleteReadError:
            raise FrameError("the stream ended inside a frame") from None
        try:
            frame = json.loads(octets)
        except (ValueError, RecursionError):
            raise FrameError("a frame that is not JSON") from None
        if not isinstance(frame, dict):
            raise FrameError("a frame that is not an object")
        return frame

    def write(self, octets: bytes) -> None:
        """Queue one encoded frame; a reader that stopped reading loses its connection instead of growing ours."""
        if self._writer.is_closing():
            return
        self._writer.write(octets)
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT_OCTETS:
            _log.warning("a local connection does not read what it is sent and is closed")
            self._writer.transport.abort()

    async def drain(self) -> None:
        """Wait until the other side has taken most of what is queued."""
        try:
            await self._writer.drain()
        except ConnectionError:
            return  # the reading side of this channel sees the end and cleans up

    def close(self) -> None:
        """Close after sending what is queued."""
        self._writer.close()


def _encode(frame: Mapping[str, Any]) -> bytes:
    octets = json.dumps(frame, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")
    if len(octets) > MAX_FRAME_OCTETS:
        raise ValueError(f"a frame of {len(octets)} octets is over the limit")
    return _LENGTH.pack(len(octets)) + octets


class Connection:
    """One caller, as the server's handlers see it. ``closed`` is set when it has gone."""

    def __init__(self, channel: _Channel, pid: int, uid: int) -> None:
        self._channel = channel
        self.pid = pid
        self.uid = uid
        self.closed = asyncio.Event()

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Send a notification to this caller only."""
        self._channel.write(_encode({"method": method, "params": params}))

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


Handler = Callable[[dict[str, Any], Connection], Awaitable[Any]]


class Server:
    """Serves ``handlers`` on ``path`` (created 0600) while entered.

    Requests of one connection start in the order received and run side by side. An :class:`RpcError` from a handler is
    the answer; any other exception is logged without parameters and answered with code ``internal``. ``on_connect`` and
    ``on_disconnect`` are called with each :class:`Connection`.
    """

    def __init__(
        self,
        path: Path | str,
        handlers: Mapping[str, Handler],
        *,
        on_connect: Callable[[Connection], None] | None = None,
        on_disconnect: Callable[[Connection], None] | None = None,
    ) -> None:
        self._path = Path(path)
        self._handlers = dict(handlers)
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._server: asyncio.AbstractServer | None = None
        self._inode: tuple[int, int] | None = None

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Those connected now."""
        return tuple(self._connections)

    async def __aenter__(self) -> Self:
        listening = _listen(self._path)
        stat = self._path.stat()
        self._inode = (stat.st_dev, stat.st_ino)
        self._server = await asyncio.start_unix_server(self._accept, sock=listening)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self._unlink()
        tasks = list(self._connections.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Send a notification to every connection."""
        octets = _encode({"method": method, "params": params})
        for connection in self._connections:
            connection._channel.write(octets)

    def _unlink(self) -> None:
        """Remove the socket, unless a successor has already put its own there."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return
        if (stat.st_dev, stat.st_ino) == self._inode:
            self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pid, uid, _gid = peer_credentials(writer.get_extra_info("socket"))
        if uid not in (0, os.geteuid()):
            _log.warning("process %d of user %d refused on %s", pid, uid, self._path.name)
            writer.close()
            return
        connection = Connection(_Channel(reader, writer), pid, uid)
        task = asyncio.current_task()
        assert task is not None
        self._connections[connection] = task
        if self._on_connect is not None:
            self._on_connect(connection)
        try:
            await self._serve(connection)
        except asyncio.CancelledError:
            return  # the server is closing; asyncio's stream callback would log a cancelled task
        finally:
            del self._connections[connection]
            connection.closed.set()
            connection.close()
            if self._on_disconnect is not None:
                self._on_disconnect(connection)

    async def _serve(self, connection: Connection) -> None:
        room = asyncio.Semaphore(MAX_REQUESTS_IN_FLIGHT)
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                try:
                    frame = await connection._channel.read()
                    if frame is None:
                        return
                    request_id, method, params = _request(frame)
                except FrameError as error:
                    _log.warning("connection of process %d on %s closed: %s", connection.pid, self._path.name, error)
                    return
                except ConnectionError:
                    return
                await room.acquire()
                task = asyncio.create_task(self._answer(connection, request_id, method, params))
                running.add(task)
                task.add_done_callback(running.discard)
                task.add_done_callback(lambda _done: room.release())
        finally:
            for task in running:
                task.cancel()

    async def _answer(
        self, connection: Connection, request_id: int | None, method: str, params: dict[str, Any]
    ) -> None:
        try:
            handler = self._handlers.get(method)
            if handler is None:
                raise RpcError("unknown-method", f"there is no method {method[:100]!r}")
            octets = _encode({"id": request_id, "result": await handler(params, connection)})
        except RpcError as error:
            octets = _encode(_failure(request_id, error.code, error.message, error.data))
        except Exception:
            _log.exception("handler of %s failed", method, extra={"trigger": "rpc.internal"})
            octets = _encode(_failure(request_id, "internal", f"{method} failed: see the log", {}))
        if request_id is not None:
            connection._channel.write(octets)
            await connection._channel.drain()


def _failure(request_id: int | None, code: str, message: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": request_id, "error": {"code": code, "message": message, "data": data}}


def _request(frame: dict[str, Any]) -> tuple[int | None, str, dict[str, Any]]:
    request_id, method, params = frame.get("id"), frame.get("method"), frame.get("params", {})
    if request_id is not None and (not isinstance(request_id, int) or isinstance(request_id, bool)):
        raise FrameError("an id that is not a whole number")
    if not isinstance(method, str) or not isinstance(params, dict):
        raise FrameError("a frame without a method or with params that are not an object")
    return request_id, method, params


def peer_credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of the process at the other end of a Unix socket."""
    octets = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(octets)
    return pid, uid, gid


def _listen(path: Path) -> socket.socket:
    """Bind ``path`` with mode 0600; a socket that nobody serves any more is replaced, one in use is not."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.ExitStack() as undo:
        undo.callback(listening.close)
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise OSError(errno.EADDRINUSE, f"{path.name} is served by another process")
            path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        listening.listen(64)
        listening.setblocking(False)
        undo.pop_all()
    return listening


class Client:
    """One connection to a :class:`Server`. Use :meth:`connect`; ``closed`` is set when the connection has ended."""

    def __init__(self, channel: _Channel, name: str) -> None:
        self._channel = channel
        self._name = name
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._notifications: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.dropped_notifications = 0
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, path: Path | str) -> Client:
        """Connect to ``path``; raises :class:`RpcUnavailable` when nobody serves it."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(path))
        except OSError as error:
            raise RpcUnavailable(f"{Path(path).name}: {os.strerror(error.errno or 0)}") from None
        return cls(_Channel(reader, writer), Path(path).name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()

    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float | None = 30.0
    ) -> Any:
        """Return the method's result; raises :class:`RpcError` with the server's answer or :class:`RpcUnavailable`."""
        if self.closed.is_set():
            raise RpcUnavailable(f"{self._name}: the connection has ended")
        request_id = next(self._ids)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        try:
            self._channel.write(_encode({"id": request_id, "method": method, "params": params or {}}))
            async with asyncio.timeout(timeout_s):
                await self._channel.drain()
                return await answer
        except TimeoutError:
            raise RpcUnavailable(f"{self._name}: no answer to {method} within {timeout_s:g} s") from None
        finally:
            del self._waiting[request_id]

    def send(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a request that nobody answers; raises :class:`RpcUnavailable` once the connection has ended."""
        if self.closed.is_set():
            raise RpcUnavailable(f"{self._name}: the connection has ended")
        self._channel.write(_encode({"method": method, "params": params or {}}))

    async def notifications(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield ``(method, params)`` until the connection ends. For one reader: each is yielded once.

        A reader that is more than :data:`MAX_QUEUED_NOTIFICATIONS` behind loses the newest (``dropped_notifications``).
        """
        while (item := await self._notifications.get()) is not None:
            yield item
        self._notifications.put_nowait(None)

    async def close(self) -> None:
        """End the connection; calls still waiting raise :class:`RpcUnavailable`."""
        self._channel.close()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        if not self.closed.is_set():
            self._ended()  # the reader was cancelled before it ever ran

    async def _read(self) -> None:
        try:
            while (frame := await self._channel.read()) is not None:
                self._take(frame)
        except FrameError as error:
            _log.warning("connection to %s closed: %s", self._name, error)
        except ConnectionError:
            pass  # told to everybody who waits, below
        finally:
            self._ended()

    def _ended(self) -> None:
        self.closed.set()
        self._channel.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(RpcUnavailable(f"{self._name}: the connection ended"))
        self._notifications.put_nowait(None)

    def _take(self, frame: dict[str, Any]) -> None:
        request_id = frame.get("id")
        if request_id is None:
            _none, method, params = _request(frame)
            if self._notifications.qsize() >= MAX_QUEUED_NOTIFICATIONS:
                self.dropped_notifications += 1
            else:
                self._notifications.put_nowait((method, params))
            return
        answer = self._waiting.get(request_id) if isinstance(request_id, int) else None
        if answer is None or answer.done():
            return  # the caller gave up waiting
        error = frame.get("error")
        if error is None:
            answer.set_result(frame.get("result"))
        elif isinstance(error, dict):
            data = error.get("data")
            answer.set_exception(
                RpcError(
                    str(error.get("code", "internal")),
                    str(error.get("message", "")),
                    data if isinstance(data, dict) else None,
                )
            )
        else:
            raise FrameError("an error that is not an object")
