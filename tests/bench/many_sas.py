"""What a packet costs while the data plane holds 1, 100 or 8,000 pairs of SAs, each of a tunnel of its own.

Two engines without sockets, one sealing what the other opens: the cost of looking up, sealing, opening and checking,
where the number of SAs could matter. Traffic is spread over all tunnels, as many packets of each in a row as a
super-packet has, so no cache of a single flow hides a look-up. The counts take turns within one run. Beside it stands
what looking at every SA's limits takes, once a second.
"""

from __future__ import annotations

import ipaddress
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

from agents.contract.secret import Secret
from agents.dataplane.base import REQID_BASE, Direction, PolicySpec, SaSpec, Selector
from agents.dataplane.userspace.engine import Engine
from agents.dataplane.userspace.inward import Arrival

COUNTS = (1, 100, 8_000)
TARGET_GROWTH = 1.5
"""Of the cost with the most SAs to that with one: memory that no longer fits the caches is allowed for."""
_PACKETS = 16_000
_RUN = 40
_OUTER = ("192.0.2.1", "192.0.2.2")
_OCTETS = 1_400


class Tunnels:
    """A sender and a receiver with so many pairs of SAs, and a packet for each tunnel."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.sender, self.receiver = Engine(os.urandom), Engine(os.urandom)
        self.packets: list[bytes] = []
        for number in range(count):
            self._add(number)

    def _add(self, number: int) -> None:
        near, far = (ipaddress.ip_address((base << 24) + number * 4 + 1) for base in (10, 11))
        for engine, direction in ((self.sender, Direction.OUT), (self.receiver, Direction.IN)):
            sa = SaSpec(
                tunnel_id=str(number),
                direction=direction,
                spi=0x1000 + number,
                source=_OUTER[0],
                destination=_OUTER[1],
                reqid=REQID_BASE + number + 1,
                encryption="aes-128-gcm-16",
                encryption_key=Secret(number.to_bytes(4, "big") * 5),
            )
            engine.add_sa(sa, 0.0)
            back = Direction.IN if direction is Direction.OUT else Direction.OUT
            engine.add_sa(
                replace(sa, direction=back, spi=0x10_0000 + number, source=_OUTER[1], destination=_OUTER[0]), 0.0
            )
            selector = Selector(source=f"{near}/32", destination=f"{far}/32")
            policy = PolicySpec(
                tunnel_id=str(number), direction=direction, selector=selector, source=_OUTER[0], destination=_OUTER[1],
                reqid=sa.reqid,
            )  # fmt: skip
            engine.add_policy(policy)
            backwards = Selector(source=selector.destination, destination=selector.source)
            engine.add_policy(
                replace(policy, direction=back, selector=backwards, source=_OUTER[1], destination=_OUTER[0])
            )
        self.packets.append(_packet(near.packed, far.packed))

    def cost_us(self) -> float:
        """Return microseconds of processor time a packet, sealed and opened."""
        arrival = Arrival(_OUTER[1], _OUTER[0], 0, 0)
        delivered, step = 0, max(1, self.count * _RUN // _PACKETS)
        began = time.process_time()
        for run in range(_PACKETS // _RUN):
            number = run * step % self.count
            for burst in self.sender.outbound(str(number), [[self.packets[number]] * _RUN], 1.0):
                delivered += sum(len(each.packets) for each in self.receiver.inbound(arrival, burst.packets, 1.0))
        spent = time.process_time() - began
        assert delivered == _PACKETS, delivered
        return 1e6 * spent / _PACKETS

    def timer_ms(self) -> float:
        """Return milliseconds of processor time that one engine takes to look at the limits of its SAs."""
        began = time.process_time()
        self.sender.handle_timer(1.0)
        return 1e3 * (time.process_time() - began)


def _packet(source: bytes, destination: bytes) -> bytes:
    """Return a UDP packet of IPv4; nobody looks at its checksums."""
    head = bytes((0x45, 0)) + _OCTETS.to_bytes(2, "big") + bytes((0, 0, 0, 0, 64, 17, 0, 0)) + source + destination
    return head + bytes((0x10, 0, 0x20, 0)) + (_OCTETS - 20).to_bytes(2, "big") + bytes(_OCTETS - 26)


async def measure(rounds: int, counts: Sequence[int] = COUNTS) -> bool:
    """Print the cost for each count; returns whether it stays flat."""
    tunnels = [Tunnels(count) for count in counts]
    for each in tunnels:
        each.cost_us()  # the first time fills the caches
    costs: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for each in tunnels:
            costs[each.count].append(each.cost_us())
    print(f"Cost of a packet of {_OCTETS} octets, sealed and opened, by the number of SA pairs:")
    for each in tunnels:
        timer_ms = each.timer_ms()
        print(f"  {each.count:5,}: {statistics.median(costs[each.count]):.2f} us; limits {timer_ms:.2f} ms a second")
    ratios = [last / first for first, last in zip(costs[counts[0]], costs[counts[-1]], strict=True)]
    growth = statistics.median(ratios)
    verdict = "reached" if growth <= TARGET_GROWTH else "MISSED"
    print(
        f"  ratio {counts[-1]:,} to {counts[0]}: {growth:.2f} (at most {TARGET_GROWTH} asked for: {verdict})",
        flush=True,
    )
    return growth <= TARGET_GROWTH
