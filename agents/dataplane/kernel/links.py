"""The interfaces of tunnels that have one of their own: an xfrm interface, or a VTI where the kernel has none.

States and policies of such a tunnel are tied to its interface by a number of ours (:class:`~.rows.Steering`): routes
into the interface steer the traffic, and two tunnels may select the same. Interfaces are ours by that number too: what
an earlier run left is removed, what somebody removes is told to the owner, and no interface of others is touched. A VTI
knows packets by their outer addresses, so there is one per pair of addresses, and it follows when they change. Not
here: addresses and routes.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import NETLINK_ROUTE
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_DELLINK
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from agents.contract.carriage import Attachment
from agents.contract.status import QueueStatus
from agents.dataplane.base import REQID_BASE, DataplaneError, TunnelLink
from agents.dataplane.kernel import queues, rows
from agents.dataplane.kernel.channel import Listener, OverflowedError
from agents.dataplane.kernel.rows import SHARED, Steering

_XFRM = "xfrm"
_VTI = {4: "vti", 6: "vti6"}
_ANY = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - a tunnel whose peer may be anywhere
_NUMBER_OF = {_XFRM: "IFLA_XFRM_IF_ID", **dict.fromkeys(_VTI.values(), "IFLA_VTI_IKEY")}
_NO_MASTER = 0
_GROUP_LINK = 1  # RTMGRP_LINK


@dataclass(frozen=True, slots=True, kw_only=True)
class _Own:
    """An interface of ours: what was asked for, the kernel's kind and index, our number, and the VRF it is in.

    ``queued`` is what was asked for when it got the several queues it has, None while it has one; ``counted`` is what
    earlier queues did before those took their place.
    """

    link: TunnelLink
    kind: str
    index: int
    number: int
    master: int = _NO_MASTER
    queued: TunnelLink | None = None
    counted: tuple[QueueStatus, ...] = ()

    @property
    def steering(self) -> Steering:
        """What ties states and policies to it."""
        return Steering(if_id=self.number) if self.kind == _XFRM else Steering(mark=self.number)


class Links:
    """The tunnels' interfaces in the network namespace this is opened in; methods may raise :class:`DataplaneError`."""

    def __init__(self, gone: Callable[[str], None]) -> None:
        """``gone`` is called with a tunnel whose interface may have been removed by others: :meth:`put_back` sees."""
        self._tell = gone
        self._stack = AsyncExitStack()
        self._netlink: Any = None
        self._listener: Listener | None = None
        self._task: asyncio.Task[None] | None = None
        self._own: dict[str, _Own] = {}
        self._refused: dict[str, DataplaneError] = {}

    async def open(self) -> None:
        """Connect and remove the interfaces that an earlier run of ours left."""
        async with _told("open", "netlink"):
            self._netlink = await self._stack.enter_async_context(AsyncIPRoute(ext_ack=True))
            await self._sweep()
        self._listener = Listener(_GROUP_LINK, NETLINK_ROUTE, MarshalRtnl())
        self._task = asyncio.create_task(self._listen(self._listener), name="removed interfaces")

    async def close(self) -> None:
        """Remove every interface of ours and disconnect."""
        if self._task is not None and self._listener is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._listener.close()
        self._own.clear()
        self._refused.clear()
        try:
            async with _told("close", "interfaces"):
                await self._sweep()
        finally:
            await self._stack.aclose()

    def steering(self, tunnel_id: str) -> Steering:
        """Return what ties a tunnel's states and policies to its interface, if it has one."""
        own = self._own.get(tunnel_id)
        return SHARED if own is None else own.steering

    def require(self, tunnel_id: str) -> Steering:
        """Return the same for a new state or policy; raises where the tunnel's interface could not be made.

        Steered by what they select alone, its policies might take traffic that is none of theirs.
        """
        if (refusal := self._refused.get(tunnel_id)) is not None:
            raise refusal
        return self.steering(tunnel_id)

    async def put(self, link: TunnelLink) -> None:
        """Make the tunnel's interface as asked for, up, its queues apart; its number stays while the tunnel has one."""
        before = self._own.get(link.tunnel_id)
        if before is not None and (before.link.name != link.name or _version(before.link) != _version(link)):
            await self.remove(link.tunnel_id)
            before = None
        if before is None:
            try:
                async with _told("open_link", link.name):
                    before = await self._create(link, self._free_number())
            except DataplaneError as error:
                self._refused[link.tunnel_id] = error
                raise
            self._own[link.tunnel_id] = before
        self._refused.pop(link.tunnel_id, None)
        async with _told("open_link", link.name):
            self._own[link.tunnel_id] = await self._change(before, link)

    async def put_queues(self, tunnel_id: str) -> None:
        """Bring the queues of a tunnel's interface to what was asked for; where that fails they stay as they are."""
        own = self._own[tunnel_id]
        async with _told("open_link", own.link.name):
            self._own[tunnel_id] = await self._queue(own)

    async def remove(self, tunnel_id: str) -> None:
        """Remove the tunnel's interface; it need not be there."""
        self._refused.pop(tunnel_id, None)
        own = self._own.pop(tunnel_id, None)
        if own is not None:
            async with _told("close_link", own.link.name):
                await self._delete(own.index)

    async def put_back(self, tunnel_id: str) -> str | None:
        """Make a tunnel's interface again if it is gone, and return its name then; states and policies fit it still."""
        own = self._own.get(tunnel_id)
        if own is None:
            return None
        async with _told("open_link", own.link.name):
            if own.index in [row["index"] async for row in await self._netlink.get_links()]:
                return None
            fresh = await self._create(own.link, own.number)
            self._own[tunnel_id] = fresh
            self._own[tunnel_id] = await self._change(fresh, own.link)
        await self.put_queues(tunnel_id)
        return own.link.name

    async def follow(self, tunnel_id: str, local: str, remote: str) -> None:
        """Let a VTI know that its tunnel's outer addresses are others now; an xfrm interface has none."""
        own = self._own.get(tunnel_id)
        if own is None or own.kind == _XFRM or (own.link.local, own.link.remote) == (local, remote):
            return
        link = replace(own.link, local=local, remote=remote)
        if _version(link) != _version(own.link):
            reason = f"{own.link.name} is a VTI over IPv{_version(own.link)}, which cannot move to {remote}"
            raise DataplaneError("update_mapping", own.link.name, errno.EAFNOSUPPORT, reason)
        async with _told("update_mapping", link.name):
            self._own[tunnel_id] = await self._change(own, link)

    async def queues(self) -> Mapping[str, tuple[QueueStatus, ...]]:
        """Return what the queues of tunnels with several counted, by tunnel id."""
        found = {}
        for tunnel_id, own in self._own.items():
            if own.queued is not None:
                async with _told("queues", own.link.name):
                    counted = await queues.read(self._netlink, own.index)
                if counted:
                    found[tunnel_id] = queues.joined(own.counted, counted)
        return found

    async def _listen(self, listener: Listener) -> None:
        while True:
            try:
                async for message in listener.messages():
                    if message["header"]["type"] == RTM_DELLINK:
                        self._gone([tunnel for tunnel, own in self._own.items() if own.index == message["index"]])
            except OverflowedError:
                self._gone(list(self._own))

    def _gone(self, tunnels: Iterable[str]) -> None:
        for tunnel_id in tunnels:
            self._tell(tunnel_id)

    async def _create(self, link: TunnelLink, number: int) -> _Own:
        """Try one kind after the other: what this kernel has is asked for, not guessed."""
        for kind in (_XFRM, _VTI[_version(link)]):
            try:
                await self._netlink.link("add", ifname=link.name, kind=kind, mtu=link.mtu, **_data(kind, number, link))
            except NetlinkError as error:
                if error.code != errno.EOPNOTSUPP:
                    raise
                continue
            (index,) = await self._netlink.link_lookup(ifname=link.name)
            return _Own(link=link, kind=kind, index=index, number=number)
        reason = "the kernel has neither xfrm interfaces nor VTI: let the tunnel share instead"
        raise DataplaneError("open_link", link.name, errno.EOPNOTSUPP, reason)

    async def _change(self, own: _Own, link: TunnelLink) -> _Own:
        """Bring an interface to what is asked for; returns it as it is now."""
        if own.kind != _XFRM and (own.link.local, own.link.remote) != (link.local, link.remote):
            await self._netlink.link("set", index=own.index, kind=own.kind, **_data(own.kind, own.number, link))
        master = await self._vrf(link.table)
        if own.master != master:
            await self._netlink.link("set", index=own.index, master=master)
        alias = f"VPN Console, tunnel {link.tunnel_id}"
        await self._netlink.link("set", index=own.index, mtu=link.mtu, ifalias=alias, state="up")
        return replace(own, link=link, master=master)

    async def _queue(self, own: _Own) -> _Own:
        """Bring an interface's queues to what is asked for; returns it as it is now."""
        had, link, rate = own.queued, own.link, own.link.rate_kbps
        if link.queues == 1:
            if had is not None:
                await queues.remove(self._netlink, own.index, shaped=had.rate_kbps is not None)
            return replace(own, queued=None, counted=())
        if had is None:
            await queues.add(self._netlink, own.index, rate, link.mtu)
            return replace(own, queued=link)
        if had.rate_kbps is not None and rate is not None:
            if (had.rate_kbps, had.mtu) != (rate, link.mtu):
                await queues.set_rate(self._netlink, own.index, rate, link.mtu)
            return replace(own, queued=link)
        if had.rate_kbps == rate:
            return replace(own, queued=link)
        counted = queues.joined(own.counted, await queues.read(self._netlink, own.index)) or own.counted
        if had.rate_kbps is not None:
            await queues.remove(self._netlink, own.index, shaped=True)
        await queues.add(self._netlink, own.index, rate, link.mtu)
        return replace(own, queued=link, counted=counted)

    async def _vrf(self, table: int | None) -> int:
        """Return the index of the VRF of a routing table; 0 where there is none, and rules lead to the table."""
        if table is not None:
            async for row in await self._netlink.get_links():
                if _kind(row) == "vrf" and _value(row, "IFLA_VRF_TABLE") == table:
                    return int(row["index"])
        return _NO_MASTER

    async def _sweep(self) -> None:
        found = [row["index"] async for row in await self._netlink.get_links() if _is_ours(row)]
        for index in found:
            await self._delete(index)

    async def _delete(self, index: int) -> None:
        try:
            await self._netlink.link("del", index=index)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise

    def _free_number(self) -> int:
        taken = {own.number for own in self._own.values()}
        return next(number for number in range(REQID_BASE + 1, REQID_BASE + 0x10000) if number not in taken)


def check(link: TunnelLink) -> None:
    """Refuse what cannot be: several queues without an interface to have them. Raises :class:`DataplaneError`."""
    if link.attachment is Attachment.SHARED and link.queues > 1:
        reason = f"{link.queues} queues need an interface of the tunnel's own: set its attachment to interface"
        raise DataplaneError("open_link", link.name, errno.EINVAL, reason)


@asynccontextmanager
async def _told(operation: str, target: str) -> AsyncIterator[None]:
    """Turn the kernel's refusals into :class:`DataplaneError`."""
    try:
        yield
    except NetlinkError as error:
        raise DataplaneError(operation, target, error.code, str(error.args[1])) from None
    except OSError as error:
        raise DataplaneError(operation, target, error.errno or 0, error.strerror or str(error)) from None


def _data(kind: str, number: int, link: TunnelLink) -> dict[str, Any]:
    if kind == _XFRM:
        return {"xfrm_if_id": number}
    nowhere = _ANY[_version(link)]
    return {
        "vti_ikey": number,
        "vti_okey": number,
        "vti_local": link.local or nowhere,
        "vti_remote": link.remote or nowhere,
    }


def _version(link: TunnelLink) -> int:
    address = link.local or link.remote
    return 4 if address is None else ipaddress.ip_address(address).version


def _is_ours(row: Any) -> bool:
    name = _NUMBER_OF.get(_kind(row))
    number = None if name is None else _value(row, name)
    return number is not None and rows.is_ours(number)


def _kind(row: Any) -> str:
    return str(row.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "")


def _value(row: Any, name: str) -> int | None:
    value = row.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", name)
    return None if value is None else int(value)
