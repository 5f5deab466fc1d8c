"""What the machine has, read and changed through netlink and ``/proc/sys``: links, addresses, routes, settings.

Values in, values out: nothing here decides. Only the main routing table is read and written.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from agents.agentd.errors import HostError

ROUTE_PROTOCOL = 86
"""The mark of the routes that are ours ("V"); rows with another protocol are never touched."""

_TABLE_MAIN = 254
_SCOPE_NOWHERE = 255
_IFF_UP = 0x1
_RTN_UNICAST = 1
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_SYSCTL = Path("/proc/sys")
_LOOKS = 5
_LISTEN_AGAIN_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One network interface; ``mtu`` in octets."""

    index: int
    name: str
    mtu: int
    up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One address of an interface."""

    interface: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One unicast route of the main table; ``network`` is canonical prefix text."""

    network: str
    interface: str
    gateway: str | None = None
    source: str | None = None
    priority: int = 0
    protocol: int = ROUTE_PROTOCOL

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_network(self.network).version


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """One look at the machine."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    _by_name: dict[str, Link] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {link.name: link for link in self.links})

    def link(self, name: str) -> Link | None:
        """Return the link of this name."""
        return self._by_name.get(name)


class Host(Protocol):
    """The machine as the reconciler sees it; every method may raise :class:`HostError`."""

    async def look(self) -> HostView:
        """Read links, addresses and routes."""
        ...

    async def add_route(self, route: Route) -> None:
        """Add a route that is not there yet."""
        ...

    async def remove_route(self, route: Route) -> None:
        """Remove a route of ours; one that is not there any more is no error."""
        ...

    async def set_link(self, name: str, mtu: int) -> None:
        """Set a link up with this MTU."""
        ...

    def setting(self, name: str) -> str | None:
        """Return the value of a ``net.*`` setting, None where the kernel has none of that name."""
        ...

    def change_setting(self, name: str, value: str) -> None:
        """Write a ``net.*`` setting."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yield whenever links, addresses or routes changed."""
        ...


class LinuxHost:
    """The machine, or the network namespace, this process runs in; an async context manager."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._netlink: Any = None
        self._one_at_a_time = asyncio.Lock()  # a netlink socket has one dump at a time: a second one gets EBUSY

    async def __aenter__(self) -> Self:
        self._netlink = await self._stack.enter_async_context(AsyncIPRoute(ext_ack=True))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def look(self) -> HostView:
        """Read links, addresses and routes."""
        async with self._one_at_a_time:
            for attempt in range(_LOOKS):
                try:
                    return await self._look()
                except NetlinkDumpInterrupted:  # something changed while it was read
                    _log.debug("reading links and routes was interrupted (%d)", attempt)
                except NetlinkError as error:
                    raise HostError("read", "links and routes", error.code, _reason(error)) from None
        raise HostError("read", "links and routes", errno.EINTR, "they keep changing")

    async def _look(self) -> HostView:
        links = [_link(row) async for row in await self._netlink.get_links()]
        names = {link.index: link.name for link in links}
        addresses = [
            Address(interface=names.get(row.get("index"), ""), address=row.get("IFA_LOCAL") or row.get("IFA_ADDRESS"))
            async for row in await self._netlink.get_addr()
        ]
        routes = []
        for family in (socket.AF_INET, socket.AF_INET6):
            async for row in await self._netlink.route("dump", family=family, table=_TABLE_MAIN):
                routes.append(_route(row, names))
        return HostView(
            links=tuple(links), addresses=tuple(addresses), routes=tuple(route for route in routes if route is not None)
        )

    async def add_route(self, route: Route) -> None:
        """Add a route that is not there yet."""
        async with self._one_at_a_time:
            try:
                await self._netlink.route("add", **await self._request(route, for_removal=False))
            except NetlinkError as error:
                raise HostError("add route", route.network, error.code, _reason(error)) from None

    async def remove_route(self, route: Route) -> None:
        """Remove a route of ours; one that is not there any more is no error."""
        async with self._one_at_a_time:
            try:
                await self._netlink.route("del", **await self._request(route, for_removal=True))
            except HostError as error:
                if error.errno != errno.ENODEV:
                    raise
            except NetlinkError as error:
                if error.code not in (errno.ESRCH, errno.ENODEV):  # it has gone, with its link or without
                    raise HostError("remove route", route.network, error.code, _reason(error)) from None

    async def set_link(self, name: str, mtu: int) -> None:
        """Set a link up with this MTU."""
        async with self._one_at_a_time:
            try:
                await self._netlink.link("set", index=await self._index(name), mtu=mtu, state="up")
            except NetlinkError as error:
                raise HostError("set link", name, error.code, _reason(error)) from None

    def setting(self, name: str) -> str | None:
        """Return the value of a ``net.*`` setting, None where the kernel has none of that name."""
        try:
            return _setting_path(name).read_text(encoding="ascii").strip()
        except OSError:
            return None  # no such setting here; a caller that needs it says so

    def change_setting(self, name: str, value: str) -> None:
        """Write a ``net.*`` setting."""
        try:
            _setting_path(name).write_text(value, encoding="ascii")
        except OSError as error:
            raise HostError("set", name, error.errno or 0, os.strerror(error.errno or 0)) from None

    async def changes(self) -> AsyncIterator[None]:
        """Yield whenever links, addresses or routes changed. It listens on a socket of its own.

        When more changed than the socket could hold, that is a change too, and it listens anew.
        """
        while True:
            try:
                async with AsyncIPRoute() as listening:
                    await listening.bind(groups=_GROUPS)
                    async for _message in listening.get():
                        yield None
            except (NetlinkError, OSError) as error:
                _log.warning("listening for changes of links and routes starts anew: %s", error)
            yield None
            await asyncio.sleep(_LISTEN_AGAIN_S)

    async def _request(self, route: Route, *, for_removal: bool) -> dict[str, Any]:
        request: dict[str, Any] = {
            "family": _FAMILY[route.version],
            "dst": route.network,
            "oif": await self._index(route.interface),
            "proto": ROUTE_PROTOCOL,
            "table": _TABLE_MAIN,
        }
        if route.priority:
            request["priority"] = route.priority
        if route.gateway is not None:
            request["gateway"] = route.gateway
        if for_removal:
            request["scope"] = _SCOPE_NOWHERE
        elif route.source is not None:
            request["prefsrc"] = route.source
        return request

    async def _index(self, name: str) -> int:
        found = await self._netlink.link_lookup(ifname=name)
        if not found:
            raise HostError("find link", name, errno.ENODEV, "there is no link of this name")
        return int(found[0])


def _link(row: Any) -> Link:
    return Link(
        index=row.get("index"),
        name=row.get("IFLA_IFNAME"),
        mtu=row.get("IFLA_MTU"),
        up=bool(row.get("flags") & _IFF_UP),
    )


def _route(row: Any, names: dict[int, str]) -> Route | None:
    """Return a unicast route with one next hop; the others are none of our business."""
    if row.get("type") != _RTN_UNICAST or row.get("RTA_OIF") not in names:
        return None
    anywhere = "0.0.0.0" if row.get("family") == socket.AF_INET else "::"  # noqa: S104 - the prefix of a default route
    return Route(
        network=str(ipaddress.ip_network(f"{row.get('RTA_DST') or anywhere}/{row.get('dst_len')}")),
        interface=names[row.get("RTA_OIF")],
        gateway=row.get("RTA_GATEWAY"),
        source=row.get("RTA_PREFSRC"),
        priority=row.get("RTA_PRIORITY") or 0,
        protocol=row.get("proto"),
    )


def _setting_path(name: str) -> Path:
    """Turn ``net/ipv4/conf/eth0.5/rp_filter`` into its file: slashes, since interface names may hold dots."""
    return _SYSCTL / name


def _reason(error: NetlinkError) -> str:
    return str(error.args[1]) if len(error.args) > 1 else os.strerror(error.code)
