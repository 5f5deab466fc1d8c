"""Four priority queues on a tunnel's own interface: a ``prio`` qdisc, filters by DSCP, and what each queue counted.

The class of service is the upper two bits of the DSCP: CS6 and CS7 go into queue 0, CS4 and CS5 into 1, CS2 and CS3
into 2, CS0 and CS1 into 3; a queue is served when those before it are empty. A tunnel's interface hands a packet on at
once, so packets wait in a queue only where something holds them up. A rate does: then a token bucket is the root, the
queues are below it, and each holds no more than the rate takes in a fifth of a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pyroute2.netlink.rtnl import TC_H_ROOT
from pyroute2.netlink.rtnl.tcmsg import plugins, sched_pfifo

from agents.contract.status import QueueStatus
from agents.dataplane.shaping import burst_octets, octets_per_second, waiting_octets

# pyroute2 has the options of both queues under one of the names only; a bound in octets needs the other.
plugins.setdefault("bfifo", sched_pfifo)

QUEUES = 4
_SHAPER = 0x5642 << 16
_HANDLE = 0x5643 << 16
"""Of our ``prio``; its classes, one per queue, are this plus 1 to 4. What packets wait in has the handles behind it."""
_LOWEST = QUEUES - 1
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_CLASS_BITS = {_ETH_P_IP: "{:#x}/0xc0+1", _ETH_P_IPV6: "{:#x}/0x0c00+0"}
"""Where the upper two bits of the DSCP are: in the second octet of IPv4, across the first two of IPv6."""
_SHIFTS = {_ETH_P_IP: 6, _ETH_P_IPV6: 10}


async def add(netlink: Any, index: int, rate_kbps: int | None, mtu: int) -> None:
    """Put the queues on an interface in the place of any others; what no filter takes is of the lowest.

    May raise NetlinkError; where the kernel has no token bucket nothing is changed then.
    """
    parent = TC_H_ROOT
    if rate_kbps is not None:
        await _shape(netlink, index, rate_kbps, mtu)
        parent = _SHAPER + 1
    await netlink.tc(
        "replace", "prio", index, handle=_HANDLE, parent=parent, bands=QUEUES, priomap=[_LOWEST] * 16
    )  # fmt: skip
    for place, (protocol, key) in enumerate(_CLASS_BITS.items()):
        for queue in range(_LOWEST):
            bits = (_LOWEST - queue) << _SHIFTS[protocol]
            await netlink.tc(
                "add-filter", "u32", index, parent=_HANDLE, prio=place + 1, protocol=protocol,
                target=_HANDLE + queue + 1, keys=[key.format(bits)],
            )  # fmt: skip
    if rate_kbps is not None:
        await _bound(netlink, index, rate_kbps, mtu)


async def set_rate(netlink: Any, index: int, rate_kbps: int, mtu: int) -> None:
    """Change the rate of queues that have one: they keep what waits in them and what they counted."""
    await _shape(netlink, index, rate_kbps, mtu)
    await _bound(netlink, index, rate_kbps, mtu)


async def remove(netlink: Any, index: int, *, shaped: bool) -> None:
    """Take the queues off, whether ``shaped`` by a rate or not; may raise NetlinkError."""
    await netlink.tc("del", index=index, handle=_SHAPER if shaped else _HANDLE, parent=TC_H_ROOT)


async def read(netlink: Any, index: int) -> tuple[QueueStatus, ...]:
    """Return what each queue counted; nothing where somebody has put other queues in the place of ours."""
    found = []
    async for row in await netlink.tc("dump-class", index=index):
        queue = row["handle"] - _HANDLE - 1
        if row["index"] == index and 0 <= queue < QUEUES:
            counted = row.get_attr("TCA_STATS2")
            basic, waiting = counted.get_attr("TCA_STATS_BASIC"), counted.get_attr("TCA_STATS_QUEUE")
            found.append(
                QueueStatus(
                    queue=queue,
                    packets=basic["packets"],
                    bytes=basic["bytes"],
                    dropped_packets=waiting["drops"],
                    depth_packets=waiting["qlen"],
                )
            )
    return tuple(sorted(found, key=lambda status: status.queue))


def joined(earlier: Iterable[QueueStatus], later: Iterable[QueueStatus]) -> tuple[QueueStatus, ...]:
    """Return what queues counted that took the place of ``earlier`` ones: what waited in those was dropped."""
    before = {each.queue: each for each in earlier}
    return tuple(
        replace(
            now,
            packets=now.packets + was.packets,
            bytes=now.bytes + was.bytes,
            dropped_packets=now.dropped_packets + was.dropped_packets + was.depth_packets,
        )
        for now in later
        for was in [before.get(now.queue, QueueStatus(queue=now.queue))]
    )


async def _shape(netlink: Any, index: int, rate_kbps: int, mtu: int) -> None:
    """Put a token bucket at the root, or change the one that is there."""
    await netlink.tc(
        "replace", "tbf", index, handle=_SHAPER, parent=TC_H_ROOT, rate=octets_per_second(rate_kbps),
        burst=burst_octets(rate_kbps, mtu), limit=waiting_octets(rate_kbps, mtu),
    )  # fmt: skip


async def _bound(netlink: Any, index: int, rate_kbps: int, mtu: int) -> None:
    """Bound what waits in each queue: what comes then is dropped there, and counted."""
    for number in range(1, QUEUES + 1):
        await netlink.tc(
            "replace", "bfifo", index, handle=_HANDLE + (number << 16), parent=_HANDLE + number,
            limit=waiting_octets(rate_kbps, mtu),
        )  # fmt: skip
