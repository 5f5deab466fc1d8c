"""Super-packets sealed at once, and runs of ESP packets opened at once, are what they are one by one."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.algorithms import ENCRYPTION
from agents.dataplane.base import Direction, SaState
from agents.dataplane.userspace import drops, inward, outward, vector
from agents.dataplane.userspace.engine import Engine
from agents.dataplane.userspace.esp import MAX_SEQUENCE, AeadTransform
from agents.dataplane.userspace.inward import Arrival, Delivery
from agents.dataplane.userspace.offload import VNET_OCTETS, SuperPacket, read, segment
from agents.dataplane.userspace.outward import Burst
from agents.dataplane.userspace.rows import MOST, RECEIVED_OCTETS, Datagram, Rows, Run
from tests.dataplane.userspace.test_offload import ACK, CWR, FIN, PSH, V4, V6, super_frame, tcp, words
from tests.dataplane.userspace.values import REQID, TUNNEL, engine_pair, ip_packet, policy, udp_packet

AEADS = tuple(slug for slug, row in ENCRYPTION.items() if row.aead and row.esp)
SIZE = 1_348


@pytest.fixture(scope="module", autouse=True)
def _short_runs_too() -> Iterator[None]:
    """What takes longer at once than one by one is done at once all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outward, "SEALED_AT_ONCE", vector.WORTH)
        patch.setattr(inward, "OPENED_AT_ONCE", vector.WORTH)
        yield


def super_packet(
    count: int, number: int = 0, *, addresses: tuple[str, str] = V4, size: int = SIZE, rest: int = 0, flags: int = ACK
) -> bytes:
    """A frame with so many segments of ``size`` octets and ``rest`` more, the ``number``-th of its flow."""
    data = random.Random(number).randbytes(count * size + rest)
    return super_frame(addresses, data, size, flags=flags, sequence=1_000 + number * count * size & 0xFFFFFFFF)


def supers(frames: Sequence[bytes]) -> list[SuperPacket]:
    found = [read(frame) for frame in frames]
    assert all(isinstance(each, SuperPacket) for each in found)
    return [each for each in found if isinstance(each, SuperPacket)]


def segments(frames: Sequence[bytes]) -> list[bytes]:
    return [packet for frame in frames for packet in segment(frame)]


def wires(bursts: Sequence[Burst]) -> list[bytes]:
    return [bytes(packet) for burst in bursts for packet in burst.packets]


def at_once(sender: Engine, frames: Sequence[bytes]) -> list[Burst]:
    """Seal frames of a flow that is known already."""
    return sender.outbound(TUNNEL, supers(frames), 2.0)


def get_to_know(sender: Engine, *packets: bytes) -> None:
    sender.outbound(TUNNEL, [[packet] for packet in packets], 1.0)


def run_of(packets: Sequence[Datagram]) -> Run:
    """ESP packets of one length as a socket receives them."""
    rows = Rows(RECEIVED_OCTETS)
    whole = b"".join(packets)
    rows.memory[: len(whole)] = whole
    return Run(rows, len(packets[0]), len(packets))


def inner(deliveries: Sequence[Delivery]) -> list[bytes]:
    """The packets of what was delivered, frames cut again."""
    found: list[bytes] = []
    for delivery in deliveries:
        found += delivery.packets
        for frame in delivery.frames:
            found += segment(b"".join(frame))
    return found


def state(engine: Engine) -> SaState:
    (found,) = engine.list_sas()
    return found


UNUSUAL = frozenset(
    [
        "jump",
        "ack",
        "push",
        "fin",
        "flow",
        "damaged",
        "number damaged",
        "hops damaged",
        "udp",
        "offset",
        "may be cut",
        "hops",
        "class",
    ]
)


def unusual(kind: str, number: int, acknowledged: int) -> bytes:
    """A packet of always the same length, the ``number``-th of its flow but for what ``kind`` says."""
    options = bytes.fromhex("0101080a") + struct.pack("!II", acknowledged, 2)
    packet = tcp(
        V4,
        bytes(200),
        sequence=(0xFFFFF000 + number * 200 + 50 * (kind == "jump")) & 0xFFFFFFFF,
        flags=ACK | PSH * (kind == "push") | FIN * (kind == "fin"),
        ports=(5001, 6001 + (kind == "flow")),
        options=options,
    )
    if kind == "udp":
        return udp_packet(data=bytes(len(packet) - 28))
    if kind == "may be cut":
        return ip_packet(*V4, packet[20:], 6, dont_fragment=False)
    if kind == "class":
        return ip_packet(*V4, packet[20:], 6, traffic_class=0x28)
    at, change = {
        "damaged": (-1, 1),
        "number damaged": (4, 1),
        "hops damaged": (8, 1),
        "offset": (32, 0x10),
        "hops": (8, 2),
    }.get(kind, (0, 0))
    changed = bytearray(packet)
    changed[at] ^= change
    if kind == "hops":
        changed[10:12] = bytes(2)
        changed[10:12] = struct.pack("!H", ~words(bytes(changed[:20])) & 0xFFFF)
    return bytes(changed)


class TestSealing:
    @pytest.mark.parametrize("extended", [False, True], ids=["32 bits", "64 bits"])
    @pytest.mark.parametrize("suite", AEADS)
    def test_every_aead_seals_the_same_octets(self, suite: str, extended: bool) -> None:
        frames = [super_packet(20, number) for number in range(4)]
        sender, _receiver, _arrival = engine_pair((suite, None), extended_sequence_numbers=extended)
        twin, _receiver, _arrival = engine_pair((suite, None), extended_sequence_numbers=extended)
        for each in (sender, twin):
            (sa,) = each._sadb
            sa.sequence = MAX_SEQUENCE - 30 if extended else 7
            get_to_know(each, segments(frames)[0])
        assert wires(at_once(sender, frames)) == wires(twin.outbound(TUNNEL, [segments(frames)], 2.0))
        assert state(sender).counters == state(twin).counters

    @pytest.mark.parametrize("addresses", [V4, V6])
    @pytest.mark.parametrize("size", [1_348, 1_346, 536])
    @pytest.mark.parametrize("rest", [0, 1, 700])
    @pytest.mark.parametrize("flags", [ACK, ACK | PSH, ACK | PSH | CWR, ACK | FIN])
    def test_segments_of_every_kind(self, addresses: tuple[str, str], size: int, rest: int, flags: int) -> None:
        frames = [super_packet(n, n, addresses=addresses, size=size, rest=rest, flags=flags) for n in (40, 6, 12)]
        sender, twin = engine_pair()[0], engine_pair()[0]
        for each in (sender, twin):
            get_to_know(each, segments(frames)[0])
        assert wires(at_once(sender, frames)) == wires(twin.outbound(TUNNEL, map(segment, frames), 2.0))

    def test_what_is_of_one_kind_is_one_piece_of_memory(self) -> None:
        frames = [super_packet(45, number) for number in range(3)] + [super_packet(45, 3, rest=9)]
        sender = engine_pair()[0]
        get_to_know(sender, segments(frames)[0])
        (burst,) = at_once(sender, frames)
        assert burst.whole is not None
        assert bytes(burst.whole) == b"".join(burst.packets)
        assert len(burst.packets) == 4 * 45 + 1

    def test_what_differs_outside_or_is_of_another_flow_goes_apart(self) -> None:
        plain = super_packet(20)
        marked, may_be_cut = bytearray(plain), bytearray(plain)
        marked[VNET_OCTETS + 1] = 0x28
        may_be_cut[VNET_OCTETS + 6] = 0
        other = super_packet(20, addresses=(V4[0], "10.2.0.9"))
        frames = [plain, other, bytes(marked), bytes(may_be_cut)]
        sender, twin = engine_pair()[0], engine_pair()[0]
        for each in (sender, twin):
            get_to_know(each, segment(plain)[0], segment(other)[0])
        bursts = at_once(sender, frames)
        assert [(burst.traffic_class, burst.dont_fragment) for burst in bursts] == [
            (0, True),
            (0, True),
            (0x28, True),
            (0, False),
        ]
        assert all(burst.whole is not None for burst in bursts)
        assert wires(bursts) == wires(twin.outbound(TUNNEL, map(segment, frames), 2.0))

    def test_bursts_of_one_call_lie_apart(self) -> None:
        """Other lengths, other flows, and one that is too short to be worth it between them."""
        frames = [
            super_packet(20, 1),
            super_packet(30, 2, size=1_000),
            super_packet(3, 3),
            super_packet(9, 4, addresses=V6),
            super_packet(20, 5),
        ]
        sender, receiver, arrival = engine_pair()
        get_to_know(sender, segments(frames)[0], segment(frames[3])[0])
        bursts = at_once(sender, frames)
        assert [len(burst.packets) for burst in bursts] == [20, 30, 3, 9, 20]
        assert inner(receiver.inbound(arrival, wires(bursts), 2.0)) == segments(frames)

    def test_more_than_there_is_memory_for_goes_one_by_one(self) -> None:
        frames = [super_packet(7, number, size=1_300 - 2 * number) for number in range(6)]
        sender, receiver, arrival = engine_pair()
        get_to_know(sender, segments(frames)[0])
        bursts = at_once(sender, frames)
        assert [burst.whole is not None for burst in bursts] == [True] * 4 + [False] * 2
        assert inner(receiver.inbound(arrival, wires(bursts), 2.0)) == segments(frames)

    @pytest.mark.parametrize("suite", [("aes-128-cbc", "hmac-sha2-256-128"), ("aes-128-gmac", None)])
    def test_other_algorithms_seal_one_by_one(self, suite: tuple[str, str | None]) -> None:
        frames = [super_packet(10)]
        sender, receiver, arrival = engine_pair(suite)
        get_to_know(sender, segments(frames)[0])
        (burst,) = at_once(sender, frames)
        assert burst.whole is None
        assert inner(receiver.inbound(arrival, wires([burst]), 2.0)) == segments(frames)

    def test_no_number_is_used_beyond_the_last(self) -> None:
        sender = engine_pair()[0]
        get_to_know(sender, segment(super_packet(1))[0])
        (sa,) = sender._sadb
        sa.sequence = MAX_SEQUENCE - 9
        assert at_once(sender, [super_packet(10)]) == []
        assert sender.list_sas() == ()

    def test_what_does_not_fit_the_path_is_answered(self) -> None:
        frames = [super_packet(10)]
        sender = engine_pair()[0]
        get_to_know(sender, segments(frames)[0])
        (sa,) = sender._sadb
        sender.narrow(sa.path, 1_300, 2.0)
        assert at_once(sender, frames) == []
        assert len(sender.take_answers()[TUNNEL]) == 1


class TestOpening:
    @pytest.mark.parametrize("extended", [False, True], ids=["32 bits", "64 bits"])
    @pytest.mark.parametrize("suite", AEADS)
    def test_every_aead(self, suite: str, extended: bool) -> None:
        frames = [super_packet(45, number) for number in range(4)]
        sender, receiver, arrival = engine_pair((suite, None), extended_sequence_numbers=extended)
        if extended:
            (sa,), (theirs,) = sender._sadb, receiver._sadb
            sa.sequence = theirs.window.top = MAX_SEQUENCE - 100
        packets = wires(sender.outbound(TUNNEL, map(segment, frames), 1.0))
        found = receiver.inbound_run(arrival, run_of(packets), 1.0)
        assert inner(found) == segments(frames)
        assert (state(receiver).counters.packets_in, state(receiver).counters.bytes_in) == (180, 180 * 1_400)

    @pytest.mark.parametrize("addresses", [V4, V6])
    @pytest.mark.parametrize("size", [1_348, 1_346, 1_347])
    def test_what_follows_goes_in_one_frame_up_to_a_push(self, addresses: tuple[str, str], size: int) -> None:
        frames = [super_packet(10, n, addresses=addresses, size=size, flags=ACK | PSH * (n == 1)) for n in range(4)]
        sender, receiver, arrival = engine_pair()
        packets = wires(sender.outbound(TUNNEL, map(segment, frames), 1.0))
        (delivery,) = receiver.inbound_run(arrival, run_of(packets), 1.0)
        assert inner([delivery]) == segments(frames)
        if size % 2 == 0:
            assert delivery.joined == 40
            assert [sum(map(len, frame)) - VNET_OCTETS for frame in delivery.frames] == [
                len(segments(frames)[0]) + 19 * size
            ] * 2

    def test_no_frame_is_longer_than_ip_allows(self) -> None:
        frames = [super_packet(45, number) for number in range(4)]
        sender, receiver, arrival = engine_pair()
        packets = wires(sender.outbound(TUNNEL, map(segment, frames), 1.0))
        (delivery,) = receiver.inbound_run(arrival, run_of(packets), 1.0)
        lengths = [sum(map(len, frame)) - VNET_OCTETS for frame in delivery.frames]
        assert lengths == [52 + 48 * SIZE] * 3 + [52 + 36 * SIZE]

    @given(st.data())
    def test_any_traffic_of_one_length(self, data: st.DataObject) -> None:
        """Lost, repeated, damaged and foreign packets: the same come out as one by one, and the same counts."""
        others = data.draw(st.sets(st.sampled_from(sorted(UNUSUAL)), max_size=2))
        kinds = data.draw(st.lists(st.sampled_from(["next"] * 5 + sorted(others)), min_size=6, max_size=40))
        packets = [unusual(kind, number, kinds[:number].count("ack")) for number, kind in enumerate(kinds)]
        sender, receiver, arrival = engine_pair()
        twin = engine_pair()[1]
        sealed = wires(sender.outbound(TUNNEL, [[packet] for packet in packets], 1.0))
        for step in data.draw(st.lists(st.integers(0, len(sealed) - 1), max_size=2)):
            what = data.draw(st.sampled_from(["lose", "repeat", "damage"]))
            if what == "lose":
                sealed = sealed[:step] + sealed[step + 1 :] or sealed
            elif what == "repeat":
                sealed = [*sealed[: step + 1], *sealed[step:]]
            else:
                sealed = [each[:-1] + bytes((each[-1] ^ (at == step),)) for at, each in enumerate(sealed)]
        found = inner(receiver.inbound_run(arrival, run_of(sealed), 1.0))
        assert found == inner(twin.inbound(arrival, sealed, 1.0))
        assert state(receiver) == state(twin)
        assert receiver.totals() == twin.totals()

    @pytest.mark.parametrize("kind", ["next", *sorted(UNUSUAL)])
    @pytest.mark.parametrize("at", [range(1), range(7, 8), range(19, 20), range(20)], ids=["0", "7", "19", "all"])
    def test_unusual_packets_in_a_run(self, kind: str, at: range) -> None:
        packets = [unusual(kind if number in at else "next", number, int(number > at.start)) for number in range(20)]
        sender, receiver, arrival = engine_pair()
        sealed = wires(sender.outbound(TUNNEL, [[packet] for packet in packets], 1.0))
        assert inner(receiver.inbound_run(arrival, run_of(sealed), 1.0)) == packets

    def test_another_flow_in_a_run_must_be_permitted_too(self) -> None:
        packets = [unusual("flow" if number > 9 else "next", number, 0) for number in range(20)]
        sender, receiver, arrival = engine_pair()
        for row in receiver.list_policies():
            receiver.remove_policy(row)
        receiver.add_policy(
            policy(Direction.IN, "10.1.0.0/16", "10.2.0.0/16", protocol=6, destination_ports=(6001, 6001))
        )
        sealed = wires(sender.outbound(TUNNEL, [[packet] for packet in packets], 1.0))
        assert inner(receiver.inbound_run(arrival, run_of(sealed), 1.0)) == packets[:10]
        assert receiver.totals() == {drops.POLICY: 10}

    def test_padding_is_looked_at_in_every_packet(self) -> None:
        packets = segment(super_packet(20))
        sender, receiver, arrival = engine_pair()
        sealed = wires(sender.outbound(TUNNEL, [packets], 1.0))
        (sa,) = sender._sadb
        assert isinstance(sa.transform, AeadTransform)
        plain, head, iv = packets[7] + b"\x07\x07\x02\x04", sealed[7][:8], sealed[7][8:16]
        sealed[7] = head + iv + sa.transform._encrypt(sa.transform.salt + iv, plain, head)
        twin = engine_pair()[1]
        found = inner(receiver.inbound_run(arrival, run_of(sealed), 1.0))
        assert found == inner(twin.inbound(arrival, sealed, 1.0)) != packets
        assert receiver.totals() == twin.totals() != {}

    def test_a_damaged_packet_costs_only_itself(self) -> None:
        frames = [super_packet(40)]
        sender, receiver, arrival = engine_pair()
        packets = wires(sender.outbound(TUNNEL, map(segment, frames), 1.0))
        packets[7] = packets[7][:-1] + bytes((packets[7][-1] ^ 1,))
        found = inner(receiver.inbound_run(arrival, run_of(packets), 1.0))
        assert found == segments(frames)[:7] + segments(frames)[8:]
        assert state(receiver).rejected.integrity == 1

    def test_what_came_before_is_not_let_in_again(self) -> None:
        frames = [super_packet(40)]
        sender, receiver, arrival = engine_pair()
        run = run_of(wires(sender.outbound(TUNNEL, map(segment, frames), 1.0)))
        assert len(inner(receiver.inbound_run(arrival, run, 1.0))) == 40
        assert inner(receiver.inbound_run(arrival, run, 1.0)) == []
        assert state(receiver).rejected.replayed == 40

    def test_what_is_missing_before_a_run_may_still_come(self) -> None:
        frames = [super_packet(40)]
        sender, receiver, arrival = engine_pair()
        packets = wires(sender.outbound(TUNNEL, map(segment, frames), 1.0))
        assert len(inner(receiver.inbound_run(arrival, run_of(packets[3:]), 1.0))) == 37
        assert inner(receiver.inbound(arrival, packets[:3], 1.0)) == segments(frames)[:3]
        assert inner(receiver.inbound(arrival, packets, 1.0)) == []

    def test_outside_the_selectors_nothing_comes_in_and_all_is_counted(self) -> None:
        frames = [super_packet(40)]
        sender, receiver, arrival = engine_pair()
        for row in receiver.list_policies():
            receiver.remove_policy(row)
        receiver.add_policy(policy(Direction.IN, "10.9.0.0/16", "10.2.0.0/16", reqid=REQID))
        run = run_of(wires(sender.outbound(TUNNEL, map(segment, frames), 1.0)))
        assert inner(receiver.inbound_run(arrival, run, 1.0)) == []
        assert receiver.totals() == {drops.POLICY: 40}

    def test_congestion_outside_is_carried_inside(self) -> None:
        frames = [super_packet(40)]
        sender, receiver, arrival = engine_pair()
        run = run_of(wires(sender.outbound(TUNNEL, map(segment, frames), 1.0)))
        marked = Arrival(arrival.local_address, arrival.remote_address, arrival.remote_port, 3)
        assert inner(receiver.inbound_run(marked, run, 1.0)) == []  # the flow cannot be told of it (RFC 6040 4.2)
        assert receiver.totals() == {drops.CONGESTION: 40}

    def test_a_new_place_is_told_of(self) -> None:
        frames = [super_packet(40)]
        sender, receiver, arrival = engine_pair()
        run = run_of(wires(sender.outbound(TUNNEL, map(segment, frames), 1.0)))
        moved = Arrival(arrival.local_address, "203.0.113.9", 5_555, 0)
        assert len(inner(receiver.inbound_run(moved, run, 1.0))) == 40
        assert [type(each).__name__ for each in receiver.take_notices()] == ["Mapped"]

    def test_packets_too_short_for_a_header_are_malformed(self) -> None:
        receiver, arrival = engine_pair()[1:]
        assert receiver.inbound_run(arrival, run_of([b"\x01abcd"] * 9), 1.0) == []
        assert receiver.totals() == {drops.MALFORMED: 9}


class TestRows:
    def test_no_run_is_longer_than_its_memory(self) -> None:
        rows = Rows(10_000)
        assert rows.fit(100, 100)
        assert not rows.fit(101, 100)
        assert not rows.fit(1, MOST + 1)
        assert not rows.fit(0, 1)
        assert not Run(rows, 100, 50).has_room(10, 5_001)
        assert Run(rows, 100, 50).has_room(10, 5_000)

    def test_many_lengths_do_not_pile_up_views(self) -> None:
        rows = Rows(10_000)
        for length in range(1, 2_000):
            rows.table(length, 1)
            rows.pieces(length, 0, 1, 1)
        assert len(rows._tables) <= 32
        assert len(rows._pieces) <= 128

    def test_copies_are_no_views(self) -> None:
        run = run_of([b"abcd", b"efgh"])
        copies = run.copies()
        run.rows.memory[:8] = bytes(8)
        assert copies == [b"abcd", b"efgh"]
