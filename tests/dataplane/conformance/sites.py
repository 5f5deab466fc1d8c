"""What the checks need of a place where a driver works: addresses, the driver, its notices, and a ping."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from agents.agentd.host import ROUTE_PROTOCOL, TABLE_MAIN, LinuxHost
from agents.agentd.parts import contexts, routes
from agents.agentd.parts.carried import Carried, HostPair, Protected
from agents.contract.carriage import LOCAL_CONTEXT, Carriage
from agents.contract.config import Mode, TrafficSelector
from agents.dataplane.base import Driver, Notice
from agents.dataplane.fake import FakeDriver
from agents.dataplane.outer import mark
from deploy.lab.netns import Namespace
from tests.agentd.inside import run_inside
from tests.espd import pair as espd

TUNNEL, LINK = espd.TUNNEL, espd.LINK
WAIT_S = 20.0


class Site(Protocol):
    """One gateway: addresses outside and inside, and a driver that is open."""

    outer: str
    inner: str
    outer6: str
    inner6: str

    @property
    def driver(self) -> Driver:
        """The driver under test."""
        ...

    async def open(self) -> None:
        """Open the driver, as ``iked`` does when it starts: also a second time."""
        ...

    async def close(self) -> None:
        """Close the driver; its notices end."""
        ...

    async def hears(self, kind: type[Notice], matches: Callable[[Any], bool] = ...) -> Any:
        """Wait for a notice and return it."""
        ...

    async def ping(self, target: str, source: str, count: int = 3, payload: int = 56) -> int:
        """Send echo requests; return how many answers came."""
        ...

    async def say(self, target: str, source: str, count: int) -> None:
        """Send echo requests, some of which may have no answer."""
        ...

    def led(
        self, local: str, remote: str, protocol: int, local_port: int | None, remote_port: int | None
    ) -> AbstractAsyncContextManager[None]:
        """Lead what this host says to ``remote`` into the data plane, where policies alone do not do that."""
        ...

    def let_outside(self, opened: socket.socket) -> None:
        """Let what a socket sends and receives be outside the tunnels, as IKE's is."""
        ...

    def takes_udp(self, *, six: bool) -> AbstractContextManager[None]:
        """Take ESP in UDP 4500, where the driver does not do that by itself."""
        ...

    @property
    def namespace(self) -> Namespace:
        """Where its packets are."""
        ...


class SitePair(Protocol):
    """Two gateways that reach each other outside and route each other's inner addresses into the data plane."""

    @property
    def left(self) -> Site:
        """One end."""
        ...

    @property
    def right(self) -> Site:
        """The other."""
        ...


class _Listening:
    """Collects a driver's notices."""

    driver: Driver

    def __init__(self) -> None:
        self._heard: list[Notice] = []
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def _collect(self) -> None:
        async for notice in self.driver.notices():
            async with self._news:
                self._heard.append(notice)
                self._news.notify_all()

    async def open(self) -> None:
        """See :class:`Site`."""
        await self.driver.open()
        await self.finish()
        self._heard.clear()
        self._task = asyncio.create_task(self._collect())

    async def close(self) -> None:
        """See :class:`Site`."""
        await self.driver.close()
        if self._task is not None:
            await asyncio.wait_for(self._task, WAIT_S)
            self._task = None

    async def finish(self) -> None:
        """Stop listening, the driver left as it is."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def hears(self, kind: type[Notice], matches: Callable[[Any], bool] = lambda _: True) -> Any:
        """See :class:`Site`."""

        def found() -> Any:
            return next((notice for notice in self._heard if isinstance(notice, kind) and matches(notice)), None)

        async with self._news:
            return await asyncio.wait_for(self._news.wait_for(found), WAIT_S)


class FakeSite(_Listening):
    """The driver in memory."""

    outer, outer6 = espd.OUTER_4[0], espd.OUTER_6[0]
    inner, inner6 = espd.INNER_4[0], espd.INNER_6[0]

    def __init__(self) -> None:
        super().__init__()
        self.driver: Driver = FakeDriver()

    async def ping(self, target: str, source: str, count: int = 3, payload: int = 56) -> int:
        """There are no packets."""
        raise NotImplementedError

    async def say(self, target: str, source: str, count: int) -> None:
        """There are no packets."""
        raise NotImplementedError

    def led(
        self, local: str, remote: str, protocol: int, local_port: int | None, remote_port: int | None
    ) -> AbstractAsyncContextManager[None]:
        """There are no packets."""
        raise NotImplementedError

    def let_outside(self, opened: socket.socket) -> None:
        """There are no packets."""
        raise NotImplementedError

    def takes_udp(self, *, six: bool) -> AbstractContextManager[None]:
        """There are no packets."""
        raise NotImplementedError

    @property
    def namespace(self) -> Namespace:
        """There are no packets."""
        raise NotImplementedError


class EspdSite(_Listening):
    """One ``espd`` in its namespace."""

    def __init__(self, end: espd.End, index: int) -> None:
        super().__init__()
        self._end = end
        self._index = index
        self.outer, self.outer6 = espd.OUTER_4[index], espd.OUTER_6[index]
        self.inner, self.inner6 = espd.INNER_4[index], espd.INNER_6[index]
        self.driver: Driver = end.driver

    async def open(self) -> None:
        """See :class:`Site`; the link and UDP 4500 are asked for again, as ``iked`` does."""
        await super().open()
        await espd.prepare(self._end, self._index)

    async def ping(self, target: str, source: str, count: int = 3, payload: int = 56) -> int:
        """See :class:`Site`."""
        return await espd.ping(self._end, target, source, count, payload)

    async def say(self, target: str, source: str, count: int) -> None:
        """See :class:`Site`."""
        await espd.ping(self._end, target, source, count, rest_s=0.1)

    def let_outside(self, opened: socket.socket) -> None:
        """See :class:`Site`."""
        mark(opened)

    def takes_udp(self, *, six: bool) -> AbstractContextManager[None]:
        """See :class:`Site`: ``espd`` holds the port."""
        return nullcontext()

    @property
    def namespace(self) -> Namespace:
        """See :class:`Site`."""
        return self._end.namespace

    @asynccontextmanager
    async def led(
        self, local: str, remote: str, protocol: int, local_port: int | None, remote_port: int | None
    ) -> AsyncIterator[None]:
        """See :class:`Site`: with the routes and rules that ``agentd`` makes of an SA in transport mode."""
        selectors = _selector(local, protocol, local_port), _selector(remote, protocol, remote_port)
        await asyncio.to_thread(run_inside, self.namespace, partial(_lead, *selectors))
        try:
            yield
        finally:
            await asyncio.to_thread(run_inside, self.namespace, _lead_no_more)


def _selector(address: str, protocol: int, port: int | None) -> TrafficSelector:
    first, last = (0, 65_535) if port is None else (port, port)
    network = str(ipaddress.ip_network(address))
    return TrafficSelector(network=network, protocol=protocol, start_port=first, end_port=last)


async def _lead(ours: TrafficSelector, theirs: TrafficSelector) -> None:
    local, remote = (each.network.partition("/")[0] for each in (ours, theirs))
    tunnel = Carried(
        id=TUNNEL,
        name="lab",
        local=(local,),
        peers=(remote,),
        anywhere=False,
        selector_routes=True,
        carriage=Carriage(),
        protected=(Protected(child="hosts", local=(ours,), remote=(theirs,), up=True, mode=Mode.TRANSPORT),),
        interface=LINK,
        hosts=(HostPair(child="hosts", local=ours, remote=theirs, spi="00006001"),),
    )
    async with LinuxHost() as host:
        view = await host.look()
        for claim in routes.wanted((tunnel,), {LOCAL_CONTEXT: TABLE_MAIN}, view).claims:
            await host.add_route(claim.route)
        for rule in contexts.plan((), (tunnel,), view, vrfs=False).add_rules:
            await host.add_rule(rule)


async def _lead_no_more() -> None:
    async with LinuxHost() as host:
        view = await host.look()
        for rule in view.rules:
            await host.remove_rule(rule)
        for route in view.routes:
            if route.protocol == ROUTE_PROTOCOL:
                await host.remove_route(route)


@dataclass(frozen=True, slots=True)
class EspdPair:
    """Two ``espd``."""

    left: EspdSite
    right: EspdSite
