"""What the data path records while a trace runs (:mod:`agents.runtime.tracing`): sizes and addresses of batches."""

from __future__ import annotations

from collections.abc import Sequence

from agents.dataplane.userspace.inward import Arrival, Delivery
from agents.dataplane.userspace.offload import SuperPacket
from agents.runtime.tracing import TRACE, Category


def taken(link: str, groups: Sequence[Sequence[bytes] | SuperPacket]) -> None:
    """Record packets that a link gave to be sealed, in one go."""
    if groups and TRACE.wants(Category.CAPSULATION_INFORMATION):
        packets = octets = 0
        for group in groups:
            if isinstance(group, SuperPacket):
                packets, octets = packets + group.count, octets + group.octets
            else:
                packets, octets = packets + len(group), octets + sum(map(len, group))
        TRACE.record(Category.CAPSULATION_INFORMATION, f"{link}: {packets} packets of {octets} octets to be sealed")


def opened(arrival: Arrival, came: int, deliveries: Sequence[Delivery]) -> None:
    """Record packets that came from one place in one go, and what was inside."""
    if came and TRACE.wants(Category.CAPSULATION_INFORMATION):
        inside = [packet for delivery in deliveries for packet in delivery.packets]
        port = f":{arrival.remote_port}" if arrival.remote_port else ""
        octets = sum(map(len, inside))
        text = f"{came} packets from {arrival.remote_address}{port}, {len(inside)} let in with {octets} octets"
        TRACE.record(Category.CAPSULATION_INFORMATION, text, arrival.remote_address)


def lost(link: str, reason: str) -> None:
    """Record a link that is gone."""
    TRACE.record(Category.ERROR, f"{link} is gone: {reason}")
