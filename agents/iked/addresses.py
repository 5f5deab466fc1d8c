"""The addresses this host has, heard from the kernel: which of those a document names are there to speak from.

An address counts while its link is up with a carrier and it is neither tentative nor a duplicate. Deliberately not
here: binding (sockets are bound to addresses that are not there yet) and what a change means for a tunnel.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from agents.contract.config import GatewayDocument

_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, IPV4_IFADDR, IPV6_IFADDR
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x08, 0x40
_AGAIN_S = 1.0
"""After a failure of the netlink socket (its buffer ran over) listening starts anew, not in a tight loop."""

_log = logging.getLogger(__name__)


def own_addresses(document: GatewayDocument) -> frozenset[str]:
    """Return every local address of an enabled tunnel: what sockets are bound to."""
    return frozenset(
        address
        for tunnel in document.tunnels
        if tunnel.enabled
        for address in (tunnel.local.address, *tunnel.local.more_addresses)
    )


def present(wanted: frozenset[str], there: frozenset[str]) -> frozenset[str]:
    """Return which of the wanted addresses this host has; all of 127.0.0.0/8 is always there."""
    return frozenset(each for each in wanted if each in there or ipaddress.ip_address(each).is_loopback)


async def watch(tell: Callable[[frozenset[str]], None]) -> None:
    """Tell the host's usable addresses now and whenever they change, until cancelled."""
    told: frozenset[str] | None = None
    while True:
        try:
            async with AsyncIPRoute() as listening, AsyncIPRoute() as asking:
                await listening.bind(groups=_GROUPS)
                while True:
                    found = await _look(asking)
                    if found != told:
                        told = found
                        tell(found)
                    async for _message in listening.get():
                        pass  # one batch; what it says is looked up, since batches can be lost
        except (NetlinkError, OSError) as error:
            _log.warning("listening for changes of addresses starts anew: %s", error)
        await asyncio.sleep(_AGAIN_S)


async def _look(netlink: AsyncIPRoute) -> frozenset[str]:
    while True:
        try:
            links = [link async for link in await netlink.get_links()]
            addresses = [address async for address in await netlink.get_addr()]
        except NetlinkDumpInterrupted:
            continue  # something changed meanwhile: the answer would be half old
        carriers = {link["index"] for link in links if _has_carrier(link["flags"])}
        return frozenset(
            address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS")
            for address in addresses
            if address["index"] in carriers and _is_usable(address)
        )


def _has_carrier(flags: int) -> bool:
    return bool(flags & _IFF_UP) and bool(flags & _IFF_LOWER_UP)


def _is_usable(address: Any) -> bool:
    flags = address.get_attr("IFA_FLAGS") or address["flags"]
    return not flags & (_IFA_F_TENTATIVE | _IFA_F_DADFAILED)
