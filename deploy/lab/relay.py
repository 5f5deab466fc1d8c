"""Byte relays between TCP and Unix sockets: the lab's management network.

The console runs outside the namespaces and the agents inside. Both see the same files, so a Unix socket joins them, and
no link or address has to be made in the namespace the lab was started from.

``python -m deploy.lab.relay LISTEN=CONNECT ...`` with ends like ``tcp:127.0.0.1:8470`` or ``unix:/run/x.sock``; prints
``ready`` when every listener is open and runs until it is told to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

_CHUNK_OCTETS = 65_536


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK_OCTETS):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except ConnectionError:
        writer.close()


async def _open(end: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    kind, _, rest = end.partition(":")
    if kind == "unix":
        return await asyncio.open_unix_connection(rest)
    host, _, port = rest.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def listen(listener: str, target: str) -> asyncio.Server:
    """Accept on ``listener`` and join every connection with a new one to ``target``."""

    joined: set[asyncio.Task[None]] = set()  # the loop itself keeps weak references only

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(join(reader, writer))
        joined.add(task)
        task.add_done_callback(joined.discard)

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await _open(target)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            for each in (writer, far_writer):
                each.close()
                with contextlib.suppress(ConnectionError):
                    await each.wait_closed()

    kind, _, rest = listener.partition(":")
    if kind == "unix":
        Path(rest).unlink(missing_ok=True)  # noqa: ASYNC240 (a local file, before anything is served)
        return await asyncio.start_unix_server(accept, rest)
    host, _, port = rest.rpartition(":")
    return await asyncio.start_server(accept, host, int(port))


class OutsideRelay:
    """Relays that live in a thread of this process; ports of 0 are chosen and told by :meth:`add`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()

    def add(self, listener: str, target: str) -> int:
        """Open one relay and return its TCP port (0 for a Unix listener)."""
        server = asyncio.run_coroutine_threadsafe(listen(listener, target), self._loop).result(timeout=10)
        name = server.sockets[0].getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    def close(self) -> None:
        """Stop the thread; the sockets go with it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)


async def _main(pairs: Iterable[str]) -> None:
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    servers = []
    for pair in pairs:
        listener, _, target = pair.partition("=")
        servers.append(await listen(listener, target))
    print("ready", flush=True)
    await done.wait()
    for server in servers:
        server.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
