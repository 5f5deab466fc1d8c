"""A tunnel's outbound packets while they wait: one queue, or four with strict priority by DSCP.

Packets wait before they are sealed, since afterwards their order is that of their sequence numbers: an overtaken packet
would fall out of the peer's window. The class selectors CS6 and CS7 go first, then CS4 and CS5, CS2 and CS3, CS0 and
CS1; any other DSCP counts by its top three bits (RFC 2474 section 4.2.2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import accumulate

from agents.contract.status import QueueStatus
from agents.dataplane.userspace import ip

DEPTH_PACKETS = 256
"""What one queue holds; the packet behind it is dropped."""


class _Queue:
    __slots__ = ("depth_octets", "depth_packets", "dropped_packets", "groups", "octets", "packets")

    def __init__(self) -> None:
        self.groups: deque[Sequence[bytes]] = deque()
        self.depth_packets = self.depth_octets = self.packets = self.octets = self.dropped_packets = 0

    def room_for(self, group: Sequence[bytes], most_packets: int, most_octets: int | None) -> int:
        """Return how many packets of a group fit."""
        room = min(len(group), most_packets - self.depth_packets)
        if most_octets is None:
            return room
        room_octets = most_octets - self.depth_octets
        return min(room, sum(end <= room_octets for end in accumulate(map(len, group))))


class PriorityQueues:
    """``count`` is 1 or 4. Groups are packets of one flow in order, as the engine takes them."""

    def __init__(self, count: int, depth_packets: int = DEPTH_PACKETS) -> None:
        if count not in (1, 4):
            raise ValueError(f"{count} queues")
        self._queues = tuple(_Queue() for _ in range(count))
        self._most = depth_packets
        self._most_octets: int | None = None

    def __bool__(self) -> bool:
        """Whether packets wait."""
        return any(queue.groups for queue in self._queues)

    @property
    def count(self) -> int:
        """How many queues there are."""
        return len(self._queues)

    def bound(self, most_octets: int | None) -> None:
        """Let a queue hold no more than so many octets; what waits already stays."""
        self._most_octets = most_octets

    def put(self, group: Sequence[bytes]) -> None:
        """Let a group wait; what the queue has no room for is dropped and counted."""
        queue = self._queues[queue_of(group[0]) if len(self._queues) > 1 else 0]
        room = queue.room_for(group, self._most, self._most_octets)
        if len(group) > room:
            queue.dropped_packets += len(group) - room
            group = group[:room]
        if group:
            queue.groups.append(group)
            queue.depth_packets += len(group)
            queue.depth_octets += sum(map(len, group))

    def take(self, most_packets: int) -> Sequence[bytes] | None:
        """Return what goes next, at most so many packets of one group, None when nothing waits."""
        for queue in self._queues:
            if queue.groups:
                group = queue.groups[0]
                if len(group) > most_packets:
                    queue.groups[0], group = group[most_packets:], group[:most_packets]
                else:
                    queue.groups.popleft()
                queue.depth_packets -= len(group)
                queue.packets += len(group)
                octets = sum(map(len, group))
                queue.depth_octets -= octets
                queue.octets += octets
                return group
        return None

    def statuses(self) -> tuple[QueueStatus, ...]:
        """Return what each queue has let go, dropped and holds."""
        return tuple(
            QueueStatus(
                queue=number,
                packets=queue.packets,
                bytes=queue.octets,
                dropped_packets=queue.dropped_packets,
                depth_packets=queue.depth_packets,
            )
            for number, queue in enumerate(self._queues)
        )


def queue_of(packet: bytes) -> int:
    """Return which of four queues a packet goes through."""
    return 3 - (ip.traffic_class(packet) >> 6) if len(packet) > 1 else 3
