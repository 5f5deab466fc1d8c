"""The policy database alone."""

from __future__ import annotations

import dataclasses

from agents.dataplane.base import Direction
from agents.dataplane.userspace.ip import Flow
from agents.dataplane.userspace.spd import PolicyDatabase
from tests.dataplane.userspace.values import policy

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
