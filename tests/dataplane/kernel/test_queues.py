"""What a tunnel's queues have counted when others took their place."""

from __future__ import annotations

from agents.contract.status import QueueStatus
from agents.dataplane.kernel.queues import joined


def test_queues_that_take_the_place_of_others_count_on() -> None:
    first = [QueueStatus(queue=0, packets=5, bytes=500), QueueStatus(queue=1, packets=1, bytes=9, depth_packets=4)]
    second = [QueueStatus(queue=0, packets=2, bytes=20, depth_packets=3), QueueStatus(queue=1, dropped_packets=7)]
    both = joined(first, second)
    assert both == (
        QueueStatus(queue=0, packets=7, bytes=520, depth_packets=3),
        QueueStatus(queue=1, packets=1, bytes=9, dropped_packets=11),
    )
    third = [QueueStatus(queue=number) for number in range(2)]
    assert [(each.packets, each.dropped_packets, each.depth_packets) for each in joined(both, third)] == [
        (7, 3, 0),
        (1, 11, 0),
    ]
    assert joined((), second) == tuple(second)
    assert joined(first, ()) == ()
