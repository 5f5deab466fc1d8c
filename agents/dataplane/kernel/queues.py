"""Four priority queues on a tunnel's own interface: a ``prio`` qdisc, filters by DSCP, and what each queue counted.

The class of service is the upper two bits of the DSCP: CS6 and CS7 go into queue 0, CS4 and CS5 into 1, CS2 and CS3
into 2, CS0 and CS1 into 3; a queue is served when those before it are empty. A tunnel's interface hands a packet on at
once, so packets wait in a queue only where something behind it holds them up, such as a shaper on the queue.
"""

from __future__ import annotations

from typing import Any

from pyroute2.netlink.rtnl import TC_H_ROOT

from agents.contract.status import QueueStatus

QUEUES = 4
_HANDLE = 0x5643 << 16
"""Of our qdisc; its classes, one per queue, are this plus 1 to 4."""
_LOWEST = QUEUES - 1
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_CLASS_BITS = {_ETH_P_IP: "{:#x}/0xc0+1", _ETH_P_IPV6: "{:#x}/0x0c00+0"}
"""Where the upper two bits of the DSCP are: in the second octet of IPv4, across the first two of IPv6."""
_SHIFTS = {_ETH_P_IP: 6, _ETH_P_IPV6: 10}


async def add(netlink: Any, index: int) -> None:
    """Put the queues on an interface; what no filter takes is of the lowest. May raise NetlinkError."""
    await netlink.tc(
        "replace", "prio", index, handle=_HANDLE, parent=TC_H_ROOT, bands=QUEUES, priomap=[_LOWEST] * 16
    )  # fmt: skip
    for place, (protocol, key) in enumerate(_CLASS_BITS.items()):
        for queue in range(_LOWEST):
            bits = (_LOWEST - queue) << _SHIFTS[protocol]
            await netlink.tc(
                "add-filter", "u32", index, parent=_HANDLE, prio=place + 1, protocol=protocol,
                target=_HANDLE + queue + 1, keys=[key.format(bits)],
            )  # fmt: skip


async def remove(netlink: Any, index: int) -> None:
    """Take the queues off; may raise NetlinkError."""
    await netlink.tc("del", index=index, handle=_HANDLE, parent=TC_H_ROOT)


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
