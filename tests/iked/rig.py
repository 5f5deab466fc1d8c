"""``iked`` in this process: its control socket, real UDP on loopback, a data plane kept in memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from agents.contract.codec import from_plain, to_plain
from agents.contract.config import GatewayDocument
from agents.contract.events import Event
from agents.contract.status import TunnelState, TunnelStatus
from agents.dataplane.fake import FakeDriver
from agents.iked.daemon import serve
from agents.iked.planes import Planes
from agents.runtime.paths import Paths
from agents.runtime.rpc import Client, RpcUnavailable

_NET = f"127.{64 + (os.getpid() >> 8) % 128}.{os.getpid() & 255}"
TIMEOUT_S = 20.0


def loopback(host: int) -> str:
    """Return a loopback address that no other test process uses."""
    return f"{_NET}.{host}"


class Daemon:
    """One ``iked``; ``driver`` is the data plane in use, a new one after each :meth:`start`.

    ``told`` is how often it has said that something changed.
    """

    def __init__(self, directory: Path, planes: Planes | None = None) -> None:
        self.paths = Paths(state=directory / "state", run=directory / "run")
        self.driver = FakeDriver()
        self.last: dict[str, Any] | None = None
        self.told = 0
        self._planes = planes
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._client: Client | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    async def start(self) -> None:
        """Start and connect."""
        self._stop = asyncio.Event()
        self.driver = FakeDriver()
        planes = self._planes or Planes(lambda: self.driver, lambda: self.driver)
        self._task = asyncio.create_task(serve(self.paths, planes, stop=self._stop))
        self._client = None
        async with asyncio.timeout(TIMEOUT_S):
            while self._client is None:
                await asyncio.sleep(0)
                try:
                    self._client = await Client.connect(self.paths.iked_socket)
                except RpcUnavailable:
                    if self._task.done():
                        self._task.result()
        self._listener = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        """End politely."""
        self._stop.set()
        async with asyncio.timeout(TIMEOUT_S):
            await self.ended()

    async def ended(self) -> None:
        """Wait for the end and raise what it was about."""
        assert self._task is not None
        await asyncio.wait([self._task])
        await self.client.close()
        if self._listener is not None:
            await self._listener
        self._task.result()

    async def configure(self, document: GatewayDocument) -> None:
        await self.client.call("configure", {"document": to_plain(document)})

    async def act(self, verb: str, tunnel_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = await self.client.call("action", {"verb": verb, "tunnel_id": tunnel_id})
        return answer

    async def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = await self.client.call("status")
        return answer

    async def tunnel(self, name: str) -> TunnelStatus:
        found = [from_plain(TunnelStatus, each) for each in (await self.status())["tunnels"]]
        return next(each for each in found if each.name == name)

    async def events(self) -> list[Event]:
        page = await self.client.call("events", {"after": 0, "boot_id": None})
        return [from_plain(Event, each) for each in page["events"]]

    async def until(self, name: str, accept: Callable[[TunnelStatus], bool]) -> TunnelStatus:
        """Wait for a status of one tunnel that ``accept`` takes."""
        last: TunnelStatus | None = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while True:
                    self._changed.clear()
                    last = await self.tunnel(name)
                    if accept(last):
                        return last
                    await self._changed.wait()
        except TimeoutError:
            events = [f"{event.code}: {event.message}" for event in await self.events()]
            raise AssertionError(f"not reached; last {last}; events {events}") from None

    async def until_up(self, name: str) -> TunnelStatus:
        return await self.until(name, is_up)

    async def until_event(self, code: str) -> Event:
        """Wait for an event of this code."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                self._changed.clear()
                for event in await self.events():
                    if event.code == code:
                        return event
                await self._changed.wait()

    async def _listen(self) -> None:
        async for method, params in self.client.notifications():
            if method == "changed":
                self.told += 1
                self._changed.set()
            elif method == "last":
                self.last = params


def is_up(tunnel: TunnelStatus) -> bool:
    """Whether a tunnel is up with exactly one IKE SA and one pair of SAs per child."""
    return (
        tunnel.state is TunnelState.UP
        and len(tunnel.ike_sas) == 1
        and all(len(child.sas) == 1 for child in tunnel.children)
    )
