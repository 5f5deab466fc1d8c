"""Who may send when a socket has room for little: a real engine, and a socket that takes as much as the test says."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from agents.dataplane.base import Direction
from agents.dataplane.userspace.engine import Engine
from agents.dataplane.userspace.inward import Arrival
from agents.dataplane.userspace.offload import read, segment
from agents.dataplane.userspace.outward import Burst
from agents.dataplane.userspace.rows import Datagram
from agents.espd.sockets import Batch
from agents.espd.transmitter import Transmitter
from tests.dataplane.userspace.test_offload import V4, super_frame
from tests.dataplane.userspace.values import (
    ALICE,
    ANY,
    BOB,
    REQID,
    entropy,
    policy,
    sa_spec,
    udp_packet,
)


class Narrow:
    """A socket with room for ``room`` packets."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.sent: list[bytes] = []
        self.unsent = 0
        self.too_big_for: int | None = None
        self.holds_little = False

    def fileno(self) -> int:
        raise NotImplementedError

    @property
    def has_more(self) -> bool:
        return False

    def send(self, burst: Burst) -> Sequence[Datagram]:
        taken, rest = burst.packets[: self.room], burst.packets[self.room :]
        self.sent += map(bytes, taken)
        self.room -= len(taken)
        return rest

    def receive(self) -> Batch | None:
        return None

    def hold_little(self) -> None:
        self.holds_little = True

    def hold_much(self) -> None:
        self.holds_little = False

    def close(self) -> None:
        return

    def numbers(self, spi: int) -> list[int]:
        """The sequence numbers sent of an SA."""
        return [int.from_bytes(packet[4:8], "big") for packet in self.sent if int.from_bytes(packet[:4], "big") == spi]


class Rig:
    """``tunnels`` with their number of queues, each with an SA whose SPI is 0x1001 and up."""

    def __init__(self, **tunnels: int) -> None:
        self.socket = Narrow()
        self.asked = 0
        self.woken: list[tuple[str, float]] = []
        self.dropped: Counter[str] = Counter()
        self.engine = Engine(entropy())
        self.transmitter = Transmitter(self.engine, lambda _path: self.socket, self._wait, self._wake, self.dropped)
        for number, (name, queues) in enumerate(tunnels.items()):
            reqid, spi = REQID + number, 0x1001 + number
            self.engine.add_sa(sa_spec(Direction.OUT, tunnel_id=name, reqid=reqid, spi=spi), 0.0)
            row = policy(Direction.OUT, *ANY[0], tunnel_id=name, reqid=reqid)
            if number:
                selector = dataclasses.replace(row.selector, destination=f"10.{number}.0.0/16")
                row = dataclasses.replace(row, selector=selector)
            self.engine.add_policy(row)
            self.transmitter.open(name, queues, None, 1400)

    def _wait(self, _opened: Any) -> None:
        self.asked += 1

    def _wake(self, tunnel: str, delay_s: float) -> None:
        self.woken.append((tunnel, delay_s))

    def send(self, tunnel: str, *packets: bytes) -> None:
        self.transmitter.send(tunnel, [[packet] for packet in packets], 1.0)

    def make_room(self, packets: int) -> None:
        self.socket.room = packets
        self.transmitter.resume(self.socket)


def low(data: bytes = b"low", destination: str = "10.2.0.1") -> bytes:
    return udp_packet(destination=destination, data=data)


def high(data: bytes = b"a packet of CS6") -> bytes:
    return udp_packet(data=data, traffic_class=0xC0)


def test_what_came_later_but_matters_more_goes_first_and_is_numbered_first() -> None:
    rig = Rig(a=4)
    rig.send("a", low(), low())
    rig.send("a", high())
    assert rig.socket.holds_little
    assert rig.asked == 1
    rig.make_room(3)
    # The one that was sealed already goes before; then the order is that of the classes, and the numbers follow it.
    assert rig.socket.numbers(0x1001) == [1, 2, 3]
    assert [len(packet) for packet in rig.socket.sent] == [68, 80, 68]


def test_much_at_once_overflows_no_queue_while_there_is_room() -> None:
    rig = Rig(a=4)
    rig.socket.room = 2000
    rig.transmitter.send("a", [[low()] * 45 for _ in range(16)], 1.0)
    assert len(rig.socket.sent) == 720
    assert rig.transmitter.statuses()["a"][3].dropped_packets == 0


def test_tunnels_that_wait_take_turns() -> None:
    rig = Rig(a=4, b=4, c=1)
    for _turn in range(40):
        rig.send("a", low())
        rig.send("b", low(destination="10.1.0.1"))
        rig.send("c", low(destination="10.2.0.1"))
    for _turn in range(30):
        rig.make_room(1)
    assert [len(rig.socket.numbers(spi)) for spi in (0x1001, 0x1002, 0x1003)] == [10, 10, 10]
    assert rig.dropped == {}


def test_with_priorities_nowhere_a_full_socket_means_loss() -> None:
    rig = Rig(a=1)
    rig.send("a", low(), low())
    assert (rig.dropped, rig.asked) == ({"out.full": 2}, 0)
    rig.socket.room = 2
    rig.send("a", low())
    assert rig.socket.numbers(0x1001) == [3]


def test_what_waits_is_not_overwritten_by_what_another_tunnel_seals_at_once() -> None:
    """Tunnels without priorities whose socket another one holds small: what was sealed in shared memory waits."""
    rig = Rig(a=1, b=4, c=1)
    sizes = {"a": (1_000, 900), "c": (800, 700)}
    frames = {
        tunnel: [super_frame((V4[0], f"10.2.0.{number}"), bytes((number,)) * 30 * size, size) for size in sizes[tunnel]]
        for number, tunnel in enumerate(sizes, 1)
    }
    rig.socket.room = 2
    for tunnel, (first, _second) in frames.items():
        rig.send(tunnel, segment(first)[0])
    rig.socket.hold_little()
    rig.socket.room = 4
    for tunnel in frames:
        rig.transmitter.send(tunnel, [read(frame) for frame in frames[tunnel]], 1.0)
    rig.make_room(200)
    assert rig.dropped == {}
    for number, tunnel in ((0, "a"), (2, "c")):
        spi = 0x1001 + number
        receiver = Engine(entropy())
        receiver.add_sa(sa_spec(Direction.IN, tunnel_id=tunnel, spi=spi), 0.0)
        receiver.add_policy(policy(Direction.IN, *ANY[0], tunnel_id=tunnel))
        sent = [packet for packet in rig.socket.sent if int.from_bytes(packet[:4], "big") == spi]
        (delivery,) = receiver.inbound(Arrival(BOB, ALICE, 4500, 0), sent[1:], 1.0)
        assert delivery.packets == [packet for frame in frames[tunnel] for packet in segment(frame)]


def test_a_closed_tunnel_waits_no_more() -> None:
    rig = Rig(a=4, b=4)
    rig.send("a", low(), low())
    rig.send("b", low(destination="10.1.0.1"))
    rig.transmitter.close("a")
    rig.make_room(5)
    assert rig.socket.numbers(0x1001) == []
    assert rig.socket.numbers(0x1002) == [1]
    assert set(rig.transmitter.statuses()) == {"b"}


def test_a_closed_socket_takes_along_what_waited_for_it() -> None:
    rig = Rig(a=4)
    rig.send("a", low(), low())
    rig.transmitter.forget(rig.socket)
    assert rig.dropped == {"out.full": 1}
    rig.socket = Narrow(5)
    rig.send("a", low())
    assert rig.socket.numbers(0x1001) == [2, 3]


def test_without_a_socket_packets_are_counted_and_gone() -> None:
    rig = Rig(a=4)
    rig.transmitter = Transmitter(rig.engine, lambda _path: None, rig._wait, rig._wake, rig.dropped)
    rig.transmitter.open("a", 4, None, 1400)
    rig.send("a", low(), high())
    assert rig.dropped == {"out.no-socket": 2}


@pytest.mark.parametrize("queues", [1, 4])
def test_what_a_socket_learns_of_its_path_is_the_engines_to_know(queues: int) -> None:
    rig = Rig(a=queues)
    rig.socket.room, rig.socket.too_big_for = 100, 1300
    rig.send("a", low())
    assert rig.socket.too_big_for is None
    rig.send("a", low(bytes(1300)))
    assert set(rig.engine.take_answers()) == {"a"}
    assert len(rig.socket.sent) == 1


def test_other_queues_begin_anew_and_the_same_go_on() -> None:
    rig = Rig(a=4)
    rig.socket.room = 10
    rig.send("a", high())
    rig.transmitter.open("a", 4, None, 1400)
    assert rig.transmitter.statuses()["a"][0].packets == 1
    assert rig.transmitter.bounds_sockets
    rig.transmitter.open("a", 1, None, 1400)
    assert rig.transmitter.statuses() == {}
    assert not rig.transmitter.bounds_sockets


def test_a_rate_lets_packets_wait_here_and_the_higher_ones_pass() -> None:
    rig = Rig(a=4)
    rig.socket.room = 1_000
    rig.transmitter.open("a", 4, 800, 1_400)  # 100 octets in a millisecond, 2,800 at once, 20,000 in a queue
    inner = low(bytes(972))
    assert len(inner) == 1_000
    rig.send("a", *[inner] * 60)
    assert len(rig.socket.sent) == 3
    ((tunnel, delay_s),) = rig.woken
    assert tunnel == "a"
    assert delay_s == pytest.approx(0.002, abs=1e-4)
    lowest = rig.transmitter.statuses()["a"][3]
    assert (lowest.packets, lowest.depth_packets, lowest.dropped_packets) == (3, 20, 37)
    rig.send("a", high())
    assert len(rig.woken) == 1, "it will be woken already"
    rig.transmitter.go_on("a", 1.0 + delay_s)
    assert [len(packet) for packet in rig.socket.sent[3:]] == [80]
    rows = rig.transmitter.statuses()["a"]
    assert [(row.packets, row.depth_packets) for row in rows] == [(1, 0), (0, 0), (0, 0), (3, 20)]
    assert not rig.asked


def test_what_goes_in_a_second_is_the_rate() -> None:
    rig = Rig(a=4)
    rig.socket.room = 10_000
    rig.transmitter.open("a", 4, 8_000, 1_400)
    inner = low(bytes(1_072))
    now, octets = 1.0, 0
    while now < 2.0:
        rig.transmitter.send("a", [[inner] * 20], now)
        _, delay_s = rig.woken[-1]
        now += delay_s
        rig.transmitter.go_on("a", now)
    octets = rig.transmitter.statuses()["a"][3].bytes
    assert 1_000_000 < octets < 1_015_000


def test_a_rate_that_goes_lets_everything_go() -> None:
    rig = Rig(a=4)
    rig.socket.room = 100
    rig.transmitter.open("a", 4, 64, 1_400)
    rig.send("a", *[low(bytes(972))] * 8)
    assert len(rig.socket.sent) == 3
    rig.transmitter.open("a", 4, None, 1_400)
    rig.transmitter.go_on("a", 1.1)
    assert len(rig.socket.sent) == 8
    rig.transmitter.close("a")
    rig.transmitter.go_on("a", 1.2)


def test_a_full_socket_holds_up_what_the_rate_would_let_go() -> None:
    rig = Rig(a=4)
    rig.socket.room = 1
    rig.transmitter.open("a", 4, 800, 1_400)
    rig.send("a", *[low(bytes(972))] * 8)
    assert (len(rig.socket.sent), rig.asked) == (1, 1)
    rig.transmitter.go_on("a", 2.0)
    assert len(rig.socket.sent) == 1
    assert rig.woken == []
    rig.make_room(100)
    assert [len(rig.socket.sent), len(rig.woken)] == [5, 1], "the bucket is full again"
