"""What a UDP socket receives at once: real sockets on loopback, which hands on whole what it was given whole."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator

import pytest

from agents.dataplane.userspace import drops
from agents.dataplane.userspace.rows import RECEIVED_OCTETS, Rows
from agents.espd.datapath import READS_PER_WAKE_UP, Datapath
from agents.espd.sockets import Batch, UdpSocket

OURS, THEIRS, OTHERS = "127.0.0.1", "127.0.0.2", "127.0.0.3"
_UDP_SEGMENT = 103


@pytest.fixture
def ours() -> Iterator[UdpSocket]:
    opened = UdpSocket(OURS, 0, Rows(RECEIVED_OCTETS))
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def peer(ours: UdpSocket) -> Iterator[Peer]:
    with Peer(ours, THEIRS) as made:
        yield made


class Peer:
    """Somebody who sends datagrams, numbered behind a first octet that is not zero."""

    def __init__(self, ours: UdpSocket, address: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 0))
        with socket.socket(fileno=socket.dup(ours.fileno())) as known:
            self._socket.connect(known.getsockname())
        self.sent: list[bytes] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()

    def send(self, count: int, size: int = 1_000, rest: int = 0) -> None:
        """Send so many datagrams of one size, and one that is shorter, in one piece."""
        lengths = [size] * count + [rest] * bool(rest)
        datagrams = [struct.pack("!BI", 1, len(self.sent) + number).ljust(n, b".") for number, n in enumerate(lengths)]
        control = [(socket.SOL_UDP, _UDP_SEGMENT, struct.pack("=H", size))]
        self._socket.sendmsg([b"".join(datagrams)], control)
        self.sent += datagrams

    def send_one(self, octets: bytes) -> None:
        """Send one datagram."""
        self._socket.send(octets)


def received(opened: UdpSocket) -> tuple[list[Batch], list[bytes]]:
    """Receive until there is nothing; what was ESP is copied at once, as its memory is used again."""
    batches, packets = [], []
    while (batch := opened.receive()) is not None:
        batches.append(batch)
        packets += batch.run.copies() if batch.run is not None else []
        packets += [bytes(each) for each in batch.esp]
    assert not opened.has_more
    return batches, packets


def test_what_one_sender_goes_on_with_is_one_run(ours: UdpSocket, peer: Peer) -> None:
    for count in (45, 45, 3, 45):
        peer.send(count)
    batches, packets = received(ours)
    assert packets == peer.sent
    assert [batch.run.count for batch in batches if batch.run is not None] == [138]


def test_a_shorter_datagram_ends_a_run(ours: UdpSocket, peer: Peer) -> None:
    peer.send(20, rest=77)
    peer.send(20)
    batches, packets = received(ours)
    assert packets == peer.sent
    assert [(batch.run and batch.run.count, len(batch.esp)) for batch in batches] == [(20, 1), (20, 0)]


def test_nothing_is_lost_where_memory_ends(ours: UdpSocket, peer: Peer) -> None:
    for _turn in range(30):
        peer.send(45, 1_400)
    for _turn in range(9):
        peer.send(64, 100)
    batches, packets = received(ours)
    assert packets == peer.sent
    assert len(batches) < 15


@pytest.mark.parametrize("other", ["size", "sender"])
def test_what_does_not_go_on_comes_next(ours: UdpSocket, peer: Peer, other: str) -> None:
    peer.send(20)
    with Peer(ours, OTHERS) as somebody:
        if other == "size":
            peer.send(20, 900)
        else:
            somebody.send(20)
        first = ours.receive()
        assert first is not None
        assert first.run is not None
        assert first.run.copies() == peer.sent[:20]
        assert ours.has_more
        second = ours.receive()
        assert second is not None
        assert not ours.has_more
        assert list(second.esp) == (peer.sent + somebody.sent)[20:]
        assert second.arrival.remote_address == (THEIRS if other == "size" else OTHERS)
        assert ours.receive() is None


def test_ike_between_is_ike(ours: UdpSocket, peer: Peer) -> None:
    peer.send(20)
    peer.send_one(bytes(4) + b"a message")
    peer.send_one(b"\xff")
    peer.send(20)
    batches, packets = received(ours)
    assert packets == peer.sent
    assert [message.octets for batch in batches for message in batch.ike] == [b"a message"]


def test_a_run_that_hides_a_marker_is_sorted(ours: UdpSocket, peer: Peer) -> None:
    whole = b"\x01" + bytes(99) + bytes(4) + b"i" * 96 + (b"\x01" + bytes(99)) * 8
    peer._socket.sendmsg([whole], [(socket.SOL_UDP, _UDP_SEGMENT, struct.pack("=H", 100))])
    batches, packets = received(ours)
    assert packets == [b"\x01" + bytes(99)] * 9
    assert [message.octets for batch in batches for message in batch.ike] == [b"i" * 96]


async def test_what_was_received_already_waits_for_nothing_more(ours: UdpSocket, peer: Peer) -> None:
    """A wake-up ends with something in hand and nothing left in the kernel that would bring about another."""
    datapath = Datapath(asyncio.get_running_loop(), lambda _message: None, lambda: None)
    datapath._sockets["here", 17, 0] = ours
    with Peer(ours, OTHERS) as somebody:
        for _turn in range(READS_PER_WAKE_UP // 5 + 1):
            peer.send(20)
            somebody.send(20)
        datapath._socket_readable(ours)
        assert ours.has_more
        await asyncio.sleep(0)
        assert not ours.has_more
        assert datapath.counters() == {drops.NO_SA: len(peer.sent) + len(somebody.sent)}
