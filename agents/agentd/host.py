"""What the machine has, read and changed: links, addresses, routes, rules, settings, and a table of the packet filter.

Netlink, ``/proc/sys`` and, for the packet filter, the program ``nft`` with JSON. Values in, values out: nothing here
decides.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from agents.agentd import nft
from agents.agentd.errors import HostError
from agents.dataplane import outer

ROUTE_PROTOCOL = 86
"""The mark of the routes and rules that are ours ("V"); rows with another protocol are never touched."""

TABLE_MAIN = 254
NO_TABLE = 0
_TABLE_LOCAL = 255
_LAST_RESORT = 4_278_198_272
"""The metric of the route that ends a VRF's table (Documentation/networking/vrf.rst): nothing falls out of it."""
_SCOPE_NOWHERE = 255
_IFF_UP = 0x1
_RTN_UNICAST = 1
_ACTIONS = {"to_tbl": 1, "goto": 2, "nop": 3, "unreachable": 7}  # linux/fib_rules.h, FR_ACT_*
_RTAX_MTU = 2
# RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, RTNLGRP_IPV6_RULE
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_SYSCTL = Path("/proc/sys")
_PROBE, _PROBE_TABLE = "vpnprobe", 2**32 - 2
_LOOKS = 5
_LISTEN_AGAIN_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One network interface; ``mtu`` in octets, ``table`` that of a VRF, ``master`` the index of its VRF or bridge."""

    index: int
    name: str
    mtu: int
    up: bool
    kind: str | None = None
    alias: str | None = None
    master: int | None = None
    table: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One address of an interface."""

    interface: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One unicast route; ``network`` is canonical prefix text, ``priority`` the metric.

    ``mtu`` is one that nothing a router says makes smaller (``mtu lock``); None is the link's.
    """

    network: str
    interface: str
    gateway: str | None = None
    source: str | None = None
    priority: int = 0
    protocol: int = ROUTE_PROTOCOL
    table: int = TABLE_MAIN
    mtu: int | None = None

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_network(self.network).version

    @property
    def key(self) -> tuple[int, str, int]:
        """What the kernel has one route of: table, network and metric."""
        return self.table, self.network, self.priority


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of ours: packets of this IP version that are all it says look into ``table``.

    Where that is :data:`NO_TABLE` they go nowhere (``unreachable``), on at the rule of priority ``skip_to``, or on at
    the next one. ``source`` and ``destination`` are prefixes. In by ``interface`` (``lo``: made here), of this
    ``protocol``, with ports in these ranges, with every bit of the mark ``marked`` and without any of ``unmarked``.
    None is any.
    """

    version: int
    priority: int
    table: int
    source: str | None = None
    interface: str | None = None
    destination: str | None = None
    protocol: int | None = None
    source_ports: tuple[int, int] | None = None
    destination_ports: tuple[int, int] | None = None
    marked: int | None = None
    unmarked: int | None = None
    skip_to: int | None = None
    unreachable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """One look at the machine."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
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

    async def replace_route(self, route: Route) -> None:
        """Put a route in the place of the one of ours with its key, without a moment between."""
        ...

    async def add_rule(self, rule: Rule) -> None:
        """Add a rule that is not there yet."""
        ...

    async def remove_rule(self, rule: Rule) -> None:
        """Remove a rule of ours; one that is not there any more is no error."""
        ...

    async def has_vrfs(self) -> bool:
        """Tell whether the kernel has VRFs, by making one once."""
        ...

    async def add_vrf(self, name: str, table: int, alias: str) -> None:
        """Make a VRF, up, whose table ends with a route to nowhere."""
        ...

    async def remove_vrf(self, name: str, table: int) -> None:
        """Remove a VRF of ours and what :meth:`add_vrf` put into its table; it need not exist."""
        ...

    async def set_master(self, name: str, master: str | None) -> None:
        """Put a link into a VRF, or take it out."""
        ...

    async def set_link(self, name: str, mtu: int) -> None:
        """Set a link up with this MTU."""
        ...

    def path_mtu(self, local: str, remote: str) -> int:
        """Return what the kernel knows of the largest packet from one address to another, 1500 where it has no way."""
        ...

    def setting(self, name: str) -> str | None:
        """Return the value of a ``net.*`` setting, None where the kernel has none of that name."""
        ...

    def change_setting(self, name: str, value: str) -> None:
        """Write a ``net.*`` setting."""
        ...

    async def filter(self, commands: Sequence[nft.Command]) -> tuple[nft.Command, ...]:
        """Give ``nft`` commands that are one transaction; returns what they list."""
        ...

    async def filter_generation(self) -> int:
        """Return a number that every change of the packet filter, by anybody, makes another one."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yield whenever links, addresses, routes or rules changed."""
        ...


class LinuxHost:
    """The machine, or the network namespace, this process runs in; an async context manager."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._netlink: Any = None
        self._vrfs: bool | None = None
        self._one_at_a_time = asyncio.Lock()  # a netlink socket has one dump at a time: a second one gets EBUSY

    async def __aenter__(self) -> Self:
        self._netlink = await self._stack.enter_async_context(AsyncIPRoute(ext_ack=True))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def look(self) -> HostView:
        """Read links, addresses, routes and the rules that are ours."""
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
        routes: list[Route | None] = []
        rules: list[Rule | None] = []
        for version, family in _FAMILY.items():
            async for row in await self._netlink.route("dump", family=family):
                routes.append(_route(row, names))
            async for row in await self._netlink.rule("dump", family=family):
                rules.append(_rule(row, version))
        return HostView(
            links=tuple(links),
            addresses=tuple(addresses),
            routes=tuple(route for route in routes if route is not None),
            rules=tuple(rule for rule in rules if rule is not None),
        )

    async def add_route(self, route: Route) -> None:
        """Add a route that is not there yet."""
        await self._lay("add", route)

    async def replace_route(self, route: Route) -> None:
        """Put a route in the place of the one of ours with its key, without a moment between."""
        await self._lay("replace", route)

    async def _lay(self, verb: str, route: Route) -> None:
        async with self._one_at_a_time:
            try:
                await self._netlink.route(verb, **await self._request(route, for_removal=False))
            except NetlinkError as error:
                raise HostError(f"{verb} route", route.network, error.code, _reason(error)) from None

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

    async def add_rule(self, rule: Rule) -> None:
        """Add a rule that is not there yet."""
        async with self._one_at_a_time:
            try:
                await self._netlink.rule("add", **_rule_request(rule))
            except NetlinkError as error:
                raise HostError("add rule for table", str(rule.table), error.code, _reason(error)) from None

    async def remove_rule(self, rule: Rule) -> None:
        """Remove a rule of ours; one that is not there any more is no error."""
        async with self._one_at_a_time:
            try:
                await self._netlink.rule("del", **_rule_request(rule))
            except NetlinkError as error:
                if error.code != errno.ENOENT:
                    raise HostError("remove rule for table", str(rule.table), error.code, _reason(error)) from None

    async def has_vrfs(self) -> bool:
        """Tell whether the kernel has VRFs, by making one once."""
        if self._vrfs is None:
            async with self._one_at_a_time:
                try:
                    await self._netlink.link("add", ifname=_PROBE, kind="vrf", vrf_table=_PROBE_TABLE)
                    await self._netlink.link("del", index=await self._index(_PROBE))
                    self._vrfs = True
                except NetlinkError as error:
                    if error.code != errno.EOPNOTSUPP:
                        raise HostError("make a VRF", _PROBE, error.code, _reason(error)) from None
                    self._vrfs = False
        return self._vrfs

    async def add_vrf(self, name: str, table: int, alias: str) -> None:
        """Make a VRF, up, whose table ends with a route to nowhere."""
        async with self._one_at_a_time:
            try:
                await self._netlink.link("add", ifname=name, kind="vrf", vrf_table=table)
                await self._netlink.link("set", index=await self._index(name), ifalias=alias, state="up")
                for request in _last_resort(table):
                    await self._netlink.route("replace", **request)
            except NetlinkError as error:
                raise HostError("make VRF", name, error.code, _reason(error)) from None

    async def remove_vrf(self, name: str, table: int) -> None:
        """Remove a VRF of ours and what :meth:`add_vrf` put into its table; it need not exist."""
        async with self._one_at_a_time:
            for request in _last_resort(table):
                try:
                    await self._netlink.route("del", **request)
                except NetlinkError as error:
                    if error.code != errno.ESRCH:
                        raise HostError("empty the table of VRF", name, error.code, _reason(error)) from None
            try:
                for index in await self._netlink.link_lookup(ifname=name):
                    await self._netlink.link("del", index=index)
            except NetlinkError as error:
                if error.code != errno.ENODEV:
                    raise HostError("remove VRF", name, error.code, _reason(error)) from None

    async def set_master(self, name: str, master: str | None) -> None:
        """Put a link into a VRF, or take it out."""
        async with self._one_at_a_time:
            try:
                index = await self._index(master) if master is not None else 0
                await self._netlink.link("set", index=await self._index(name), master=index)
            except NetlinkError as error:
                raise HostError("set the VRF of", name, error.code, _reason(error)) from None

    async def set_link(self, name: str, mtu: int) -> None:
        """Set a link up with this MTU."""
        async with self._one_at_a_time:
            try:
                await self._netlink.link("set", index=await self._index(name), mtu=mtu, state="up")
            except NetlinkError as error:
                raise HostError("set link", name, error.code, _reason(error)) from None

    def path_mtu(self, local: str, remote: str) -> int:
        """Return what the kernel knows of the largest packet from one address to another, 1500 where it has no way."""
        return outer.path_mtu(local, remote)

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

    async def filter(self, commands: Sequence[nft.Command]) -> tuple[nft.Command, ...]:
        """Give ``nft`` commands that are one transaction; returns what they list."""
        return await nft.run(commands)

    async def filter_generation(self) -> int:
        """Return a number that every change of the packet filter, by anybody, makes another one."""
        return await nft.generation()

    async def changes(self) -> AsyncIterator[None]:
        """Yield whenever links, addresses, routes or rules changed. It listens on a socket of its own.

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
            "table": route.table,
        }
        if route.priority:
            request["priority"] = route.priority
        if route.gateway is not None:
            request["gateway"] = route.gateway
        if for_removal:
            request["scope"] = _SCOPE_NOWHERE
            return request
        if route.source is not None:
            request["prefsrc"] = route.source
        if route.mtu is not None:
            request["metrics"] = {"mtu": route.mtu, "lock": 1 << _RTAX_MTU}
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
        kind=row.get(("linkinfo", "kind")),
        alias=row.get("IFLA_IFALIAS"),
        master=row.get("IFLA_MASTER"),
        table=row.get(("linkinfo", "data", "vrf_table")),
    )


def _route(row: Any, names: dict[int, str]) -> Route | None:
    """Return a unicast route with one next hop; the others are none of our business."""
    if row.get("type") != _RTN_UNICAST or row.get("RTA_OIF") not in names or row.get("table") == _TABLE_LOCAL:
        return None
    anywhere = "0.0.0.0" if row.get("family") == socket.AF_INET else "::"  # noqa: S104 - the prefix of a default route
    return Route(
        network=str(ipaddress.ip_network(f"{row.get('RTA_DST') or anywhere}/{row.get('dst_len')}")),
        interface=names[row.get("RTA_OIF")],
        gateway=row.get("RTA_GATEWAY"),
        source=row.get("RTA_PREFSRC"),
        priority=row.get("RTA_PRIORITY") or 0,
        protocol=row.get("proto"),
        table=row.get("table"),
        mtu=_locked_mtu(row.get("RTA_METRICS")),
    )


def _locked_mtu(metrics: Any) -> int | None:
    if metrics is None or not (metrics.get("RTAX_LOCK") or 0) & 1 << _RTAX_MTU:
        return None
    return int(metrics.get("RTAX_MTU") or 0) or None


def _rule(row: Any, version: int) -> Rule | None:
    action = row.get("action")
    if row.get("FRA_PROTOCOL") != ROUTE_PROTOCOL or action not in _ACTIONS.values():
        return None
    return Rule(
        version=version,
        priority=row.get("FRA_PRIORITY") or 0,
        table=row.get("table") if action == _ACTIONS["to_tbl"] else NO_TABLE,
        source=_prefix(row.get("FRA_SRC"), row.get("src_len")),
        interface=row.get("FRA_IIFNAME"),
        destination=_prefix(row.get("FRA_DST"), row.get("dst_len")),
        protocol=row.get("FRA_IP_PROTO"),
        source_ports=_ports(row.get("FRA_SPORT_RANGE")),
        destination_ports=_ports(row.get("FRA_DPORT_RANGE")),
        marked=row.get("FRA_FWMARK") or None,
        unmarked=row.get("FRA_FWMASK") if not row.get("FRA_FWMARK") else None,
        skip_to=row.get("FRA_GOTO"),
        unreachable=action == _ACTIONS["unreachable"],
    )


def _prefix(address: str | None, length: int) -> str | None:
    return f"{address}/{length}" if address is not None else None


def _ports(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition(":")
    return int(first), int(last)


def _rule_request(rule: Rule) -> dict[str, Any]:
    request: dict[str, Any] = {
        "family": _FAMILY[rule.version],
        "priority": rule.priority,
        "protocol": ROUTE_PROTOCOL,
    }
    if rule.table != NO_TABLE:
        request["table"] = rule.table
    elif rule.unreachable:
        request["action"] = _ACTIONS["unreachable"]
    elif rule.skip_to is not None:
        request |= {"action": _ACTIONS["goto"], "goto": rule.skip_to}
    else:
        request["action"] = _ACTIONS["nop"]
    for end, prefix in (("src", rule.source), ("dst", rule.destination)):
        if prefix is not None:
            address, _, length = prefix.partition("/")
            request |= {end: address, f"{end}_len": int(length)}
    if rule.interface is not None:
        request["iifname"] = rule.interface
    if rule.protocol is not None:
        request["ip_proto"] = rule.protocol
    for end, ports in (("sport_range", rule.source_ports), ("dport_range", rule.destination_ports)):
        if ports is not None:
            request[end] = f"{ports[0]}:{ports[1]}"
    if rule.marked is not None:
        request |= {"fwmark": rule.marked, "fwmask": rule.marked}
    if rule.unmarked is not None:
        request |= {"fwmark": 0, "fwmask": rule.unmarked}
    return request


def _last_resort(table: int) -> list[dict[str, Any]]:
    return [
        {
            "family": family, "dst": anywhere, "type": "unreachable", "table": table,
            "priority": _LAST_RESORT, "proto": ROUTE_PROTOCOL,
        }
        for family, anywhere in ((socket.AF_INET, "0.0.0.0/0"), (socket.AF_INET6, "::/0"))
    ]  # fmt: skip


def _setting_path(name: str) -> Path:
    """Turn ``net/ipv4/conf/eth0.5/rp_filter`` into its file: slashes, since interface names may hold dots."""
    return _SYSCTL / name


def _reason(error: NetlinkError) -> str:
    return str(error.args[1]) if len(error.args) > 1 else os.strerror(error.code)
