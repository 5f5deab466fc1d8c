from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.status import QueueStatus
from agents.dataplane.userspace.queues import PriorityQueues, queue_of
from tests.dataplane.userspace.values import udp_packet


def packet(dscp: int, number: int = 0) -> bytes:
    return udp_packet(traffic_class=dscp << 2, data=bytes((number,)))


@pytest.mark.parametrize("addresses", [("10.1.0.1", "10.2.0.1"), ("fd01::1", "fd02::1")], ids=["IPv4", "IPv6"])
def test_every_dscp_has_the_queue_of_its_top_bits(addresses: tuple[str, str]) -> None:
    for dscp in range(64):
        class_selector = dscp >> 3
        expected = {0: 3, 1: 3, 2: 2, 3: 2, 4: 1, 5: 1, 6: 0, 7: 0}[class_selector]
        for ecn in range(4):
            assert queue_of(udp_packet(*addresses, traffic_class=dscp << 2 | ecn)) == expected


def test_higher_classes_go_first_and_each_in_its_order() -> None:
    queues = PriorityQueues(4)
    for number, dscp in enumerate((0, 48, 0, 32, 16, 48)):
        queues.put([packet(dscp, number)])
    taken = []
    while (group := queues.take(16)) is not None:
        taken.append(group[0][-1])
    assert taken == [1, 5, 3, 4, 0, 2]
    assert not queues


def test_a_full_queue_drops_what_comes_and_no_other() -> None:
    queues = PriorityQueues(4, depth_packets=10)
    queues.put([packet(0)] * 8)
    queues.put([packet(0)] * 5)
    queues.put([packet(0)])
    queues.put([packet(48)])
    rows = queues.statuses()
    assert (rows[3].depth_packets, rows[3].dropped_packets) == (10, 4)
    assert (rows[0].depth_packets, rows[0].dropped_packets) == (1, 0)


def test_a_super_packet_can_be_overtaken_between_its_pieces() -> None:
    queues = PriorityQueues(4)
    queues.put([packet(0, number) for number in range(40)])
    first = queues.take(16)
    assert first is not None
    assert len(first) == 16
    queues.put([packet(48, 99)])
    assert queues.take(16) == [packet(48, 99)]
    assert queues.take(16) == [packet(0, number) for number in range(16, 32)]
    assert queues.take(16) == [packet(0, number) for number in range(32, 40)]
    assert queues.take(16) is None


@given(st.lists(st.one_of(st.tuples(st.integers(0, 63), st.integers(1, 20)), st.integers(1, 20)), max_size=100))
def test_nothing_is_lost_from_the_counts(steps: list[tuple[int, int] | int]) -> None:
    queues, put, taken = PriorityQueues(4, depth_packets=30), 0, 0
    for step in steps:
        if isinstance(step, int):
            group = queues.take(step)
            taken += len(group or ())
            assert len(group or ()) <= step
        else:
            queues.put([packet(step[0])] * step[1])
            put += step[1]
        rows = queues.statuses()
        assert sum(row.packets + row.dropped_packets + row.depth_packets for row in rows) == put
        assert sum(row.packets for row in rows) == taken
        assert all(row.depth_packets <= 30 for row in rows)


def test_one_queue_keeps_the_order() -> None:
    queues = PriorityQueues(1)
    queues.put([packet(0, 1)])
    queues.put([packet(48, 2)])
    assert queues.take(1) == [packet(0, 1)]
    assert queues.statuses() == (QueueStatus(queue=0, packets=1, bytes=29, depth_packets=1),)
    with pytest.raises(ValueError):
        PriorityQueues(3)


def test_a_queue_may_be_bound_in_octets_too() -> None:
    queues = PriorityQueues(4)
    queues.bound(100)
    queues.put([packet(0, number) for number in range(6)])  # of 29 octets
    queues.put([packet(48)])
    assert [(row.depth_packets, row.dropped_packets) for row in queues.statuses()] == [(1, 0), (0, 0), (0, 0), (3, 3)]
    assert queues.take(1) == [packet(48)]
    assert queues.take(2) == [packet(0, 0), packet(0, 1)]
    queues.put([packet(0, 9)] * 3)
    assert queues.statuses()[3].depth_packets == 3
    queues.bound(None)
    queues.put([packet(0, 9)] * 3)
    assert queues.statuses()[3].depth_packets == 6
