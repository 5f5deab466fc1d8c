"""The policy database alone."""

from __future__ import annotations

import dataclasses
import ipaddress

import pytest

from agents.contract.traffic import TrafficSelector
from agents.dataplane.base import Direction
from agents.dataplane.userspace.ip import Flow, parse_flow
from agents.dataplane.userspace.spd import PolicyDatabase
from agents.ike import selectors
from tests.dataplane.userspace.values import ip_packet, policy

FLOW = Flow(4, 0x0A010001, 0x0A020001, 17, 1000, 7)


def test_two_tunnels_may_protect_the_same_traffic() -> None:
    first = policy(Direction.OUT, "10.1.0.0/24", "10.2.0.0/24", reqid=1)
    second = dataclasses.replace(first, tunnel_id="another", reqid=2)
    database = PolicyDatabase()
    for spec in (first, second):
        database.add(spec)
    assert database.outbound(first.tunnel_id, FLOW) == first
    assert database.outbound("another", FLOW) == second
    database.remove(second)
    assert database.outbound("another", FLOW) is None
    assert database.outbound(first.tunnel_id, FLOW) == first


@pytest.mark.parametrize(
    ("protocol", "ours", "theirs", "types"),
    [
        (1, "10.1.0.9", "10.2.0.9", (8, 0)),
        (58, "fd01::9", "fd02::9", (128, 129)),
        (135, "fd01::9", "fd02::9", (5, 6)),
    ],
    ids=["ICMP", "ICMPv6", "Mobility Header"],
)
def test_the_local_selector_s_types_are_sent_and_the_remote_one_s_received(
    protocol: int, ours: str, theirs: str, types: tuple[int, int]
) -> None:
    """RFC 4301 section 4.4.1.3: requests go and answers come, and neither the other way."""
    here, there = (
        TrafficSelector(
            network=str(ipaddress.ip_network(address)),
            protocol=protocol,
            start_port=kind << 8,
            end_port=kind << 8 | 255,
        )
        for address, kind in zip((ours, theirs), types, strict=True)
    )
    database = PolicyDatabase()
    for spec in selectors.policies(
        tunnel_id="t", reqid=1, local_address="192.0.2.1", remote_address="192.0.2.2",
        local_ts=[selectors.to_range(here)], remote_ts=[selectors.to_range(there)],
    ):  # fmt: skip
        database.add(spec)

    def passes(kind: int) -> tuple[bool, bool]:
        """Whether a message of this type goes out, and whether it comes in."""
        message = bytes((59, 0, kind, 0) if protocol == 135 else (kind, 0, 0, 0)) + bytes(4)
        out, back = (parse_flow(ip_packet(*way, message, protocol)) for way in ((ours, theirs), (theirs, ours)))
        return database.outbound("t", out) is not None, database.inbound(1, back) is not None

    assert [passes(kind) for kind in (*types, 3)] == [(True, False), (False, True), (False, False)]
