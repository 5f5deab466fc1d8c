from __future__ import annotations

import dataclasses
import errno
import random
import struct
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.secret import Secret
from agents.contract.status import Rejections
from agents.dataplane.base import (
    Acquired,
    DataplaneError,
    Direction,
    Expired,
    Limits,
    Mapped,
    Rejected,
    SaId,
    UdpEncapsulation,
)
from agents.dataplane.userspace import drops
from agents.dataplane.userspace.engine import Engine
from agents.dataplane.userspace.esp import MAX_SEQUENCE
from agents.dataplane.userspace.inward import Arrival
from agents.dataplane.userspace.outward import ACQUIRE_AGAIN_S
from agents.dataplane.userspace.sadb import ROOM_TO_REKEY
from tests.dataplane.userspace.values import (
    ALICE,
    ANY,
    BOB,
    NAT,
    REQID,
    SUITES,
    TUNNEL,
    engine_pair,
    entropy,
    ip_packet,
    policy,
    sa_spec,
    udp_packet,
)

FROM_ALICE = Arrival(BOB, ALICE, 4500, 0)


def seal(sender: Engine, *packets: bytes, now: float = 1.0) -> list[bytes]:
    bursts = sender.outbound(TUNNEL, [[packet] for packet in packets], now)
    return [bytes(wire) for burst in bursts for wire in burst.packets]


def opened(receiver: Engine, arrival: Arrival, *wires: bytes, now: float = 1.0) -> list[bytes]:
    return [packet for delivery in receiver.inbound(arrival, wires, now) for packet in delivery.packets]


_INNER = [("10.1.0.1", "10.2.0.1"), ("fd01::1", "fd02::1")]


@pytest.mark.parametrize("suite", SUITES, ids=str)
@pytest.mark.parametrize("extended", [False, True], ids=["32", "64"])
def test_every_suite_carries_packets(suite: tuple[str, str | None], extended: bool) -> None:
    for inner in _INNER:
        _cross(suite, inner, extended_sequence_numbers=extended)


@pytest.mark.parametrize("inner", _INNER, ids=["inner4", "inner6"])
@pytest.mark.parametrize("outer", [(ALICE, BOB), ("2001:db8::1", "2001:db8::2")], ids=["outer4", "outer6"])
@pytest.mark.parametrize("encapsulation", [NAT, None], ids=["udp", "plain"])
def test_packets_cross_on_every_kind_of_path(
    inner: tuple[str, str], outer: tuple[str, str], encapsulation: UdpEncapsulation | None
) -> None:
    for suite in (("aes-128-gcm-16", None), ("aes-256-cbc", "hmac-sha2-256-128")):
        _cross(suite, inner, source=outer[0], destination=outer[1], encapsulation=encapsulation)


def _cross(suite: tuple[str, str | None], inner: tuple[str, str], **changes: Any) -> None:
    sender, receiver, arrival = engine_pair(suite, **changes)
    packets = [udp_packet(*inner, data=bytes(length)) for length in range(40)]
    assert opened(receiver, arrival, *seal(sender, *packets)) == packets
    octets = sum(map(len, packets))
    (out,), (into,) = sender.list_sas(), receiver.list_sas()
    assert (out.counters.packets_out, out.counters.bytes_out) == (40, octets)
    assert (into.counters.packets_in, into.counters.bytes_in) == (40, octets)
    assert (into.direction, into.reqid, into.tunnel_id, into.last_used) == (Direction.IN, REQID, TUNNEL, 1.0)
    assert sender.totals() == receiver.totals() == {}


def test_a_burst_goes_where_its_sa_says() -> None:
    sender, _receiver, _arrival = engine_pair()
    (burst,) = sender.outbound(TUNNEL, [[udp_packet(traffic_class=0xB9)]], 1.0)
    path = burst.path
    assert (path.local_address, path.local_port, path.remote_address, path.remote_port) == (ALICE, 4500, BOB, 4500)
    assert burst.traffic_class == 0xB9


def test_repeated_and_late_packets_are_counted_apart() -> None:
    sender, receiver, arrival = engine_pair(replay_window=32)
    wires = seal(sender, *[udp_packet()] * 100)
    assert len(opened(receiver, arrival, *wires[1:])) == 99
    assert opened(receiver, arrival, wires[99], wires[80], wires[0]) == []
    (state,) = receiver.list_sas()
    assert (state.rejected.replayed, state.rejected.late, state.rejected.integrity) == (2, 1, 0)
    assert set(receiver.take_rejected()) == {
        Rejected(code=drops.REPLAY, count=2, id=state.id),
        Rejected(code=drops.LATE, count=1, id=state.id),
    }
    assert receiver.take_rejected() == []


@given(st.lists(st.integers(0, 119), max_size=200))
def test_each_packet_is_delivered_once_whatever_the_order(order: list[int]) -> None:
    sender, receiver, arrival = engine_pair(replay_window=120)
    packets = [udp_packet(data=struct.pack("!I", index)) for index in range(120)]
    wires = seal(sender, *packets)
    delivered = opened(receiver, arrival, *[wires[index] for index in order])
    assert delivered == [packets[index] for index in dict.fromkeys(order)]


def test_a_forgery_with_a_far_sequence_number_does_not_move_the_window() -> None:
    sender, receiver, arrival = engine_pair()
    first, second = seal(sender, udp_packet(), udp_packet())
    forged = first[:4] + b"\xff\xff\xff\xff" + first[8:]
    assert opened(receiver, arrival, forged) == []
    assert len(opened(receiver, arrival, first, second)) == 2
    assert receiver.totals() == {drops.INTEGRITY: 1}


MALFORMED = {
    "empty": (b"", drops.MALFORMED),
    "one octet": (b"\x01", drops.MALFORMED),
    "seven octets": (bytes(7), drops.MALFORMED),
    "reserved SPI": (bytes(40), drops.NO_SA),
    "unknown SPI": (b"\xde\xad\xbe\xef" + bytes(60), drops.NO_SA),
    "header alone": (struct.pack("!II", 0x1001, 1), drops.MALFORMED),
    "no ciphertext": (struct.pack("!II", 0x1001, 1) + bytes(24), drops.MALFORMED),
    "odd length": (struct.pack("!II", 0x1001, 1) + bytes(33), drops.MALFORMED),
    "noise": (struct.pack("!II", 0x1001, 1) + bytes(100), drops.INTEGRITY),
    "sequence number zero": (struct.pack("!II", 0x1001, 0) + bytes(100), drops.REPLAY),
}


@pytest.mark.parametrize(("wire", "code"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_packets_are_dropped_and_counted(wire: bytes, code: str) -> None:
    _sender, receiver, arrival = engine_pair()
    assert opened(receiver, arrival, wire) == []
    assert receiver.totals() == {code: 1}
    (rejected,) = receiver.take_rejected()
    assert (rejected.code, rejected.count) == (code, 1)


def authentic(plain: bytes, sequence: int = 1) -> bytes:
    """An ESP packet of the default SA with any plaintext: what a faulty peer could send."""
    octets = random.Random(7).randbytes(20)
    head, iv = struct.pack("!II", 0x1001, sequence), struct.pack("!Q", sequence)
    return head + iv + AESGCM(octets[:16]).encrypt(octets[16:] + iv, plain, head)


def trailer(packet: bytes, next_header: int = 4) -> bytes:
    pad = -(len(packet) + 2) % 4
    return packet + bytes(range(1, pad + 1)) + bytes((pad, next_header))


AUTHENTIC = {
    "nothing but a trailer": trailer(b""),
    "half an IPv4 header": trailer(udp_packet()[:10]),
    "half an IPv6 header": trailer(udp_packet("fd01::1", "fd02::1")[:30], 41),
    "total length beyond the end": trailer(udp_packet()[:-1]),
    "total length below the header": trailer(b"\x45\x00\x00\x08" + bytes(30)),
    "header length below 20": trailer(b"\x44" + udp_packet()[1:]),
    "IPv6 payload length beyond the end": trailer(udp_packet("fd01::1", "fd02::1")[:-1], 41),
    "IPv4 said to be IPv6": trailer(udp_packet(), 41),
    "IPv6 said to be IPv4": trailer(udp_packet("fd01::1", "fd02::1"), 4),
    "IP version 5": trailer(b"\x55" + udp_packet()[1:]),
    "padding longer than the packet": b"\x00\x00\xff\x04",
    "wrong padding": udp_packet(data=b"") + bytes((9, 9, 2, 4)),
    "IPv6 extension header cut": trailer(ip_packet("fd01::1", "fd02::1", b"\x06", 0), 41),
}


@pytest.mark.parametrize("plain", AUTHENTIC.values(), ids=AUTHENTIC)
def test_nonsense_inside_authentic_packets_is_malformed(plain: bytes) -> None:
    plain = plain if len(plain) % 4 == 0 else plain + bytes(-len(plain) % 4)
    _sender, receiver, arrival = engine_pair()
    assert opened(receiver, arrival, authentic(plain)) == []
    assert receiver.totals() == {drops.MALFORMED: 1}


@given(st.binary(min_size=4, max_size=120))
def test_any_authentic_plaintext_is_survived(plain: bytes) -> None:
    _sender, receiver, arrival = engine_pair()
    for packet in opened(receiver, arrival, authentic(plain[: len(plain) // 4 * 4])):
        assert packet[0] >> 4 in (4, 6)


@given(st.lists(st.binary(max_size=120), max_size=5))
def test_any_datagrams_are_survived(datagrams: list[bytes]) -> None:
    _sender, receiver, arrival = engine_pair()
    assert opened(receiver, arrival, *datagrams) == []
    assert sum(receiver.totals().values()) == len(datagrams)


@given(st.lists(st.binary(min_size=1, max_size=120), min_size=1, max_size=5))
def test_any_packets_from_the_link_are_survived(packets: list[bytes]) -> None:
    sender, receiver, arrival = engine_pair()
    sender.outbound(TUNNEL, [[packet] for packet in packets], 1.0)
    after = udp_packet(data=b"after")
    assert opened(receiver, arrival, *seal(sender, after)) == [after]


def test_dummy_packets_and_flow_confidentiality_padding() -> None:
    """RFC 4303 sections 2.6 and 2.7."""
    _sender, receiver, arrival = engine_pair()
    packet = udp_packet(data=b"four")
    assert opened(receiver, arrival, authentic(trailer(bytes(30), 59), 1)) == []
    assert opened(receiver, arrival, authentic(trailer(packet + bytes(512)), 2)) == [packet]
    assert receiver.totals() == {}
    assert receiver.list_sas()[0].counters.packets_in == 1


SELECTORS = {
    "inside": (udp_packet("10.1.0.1", "10.2.0.1"), True),
    "source outside": (udp_packet("10.3.0.1", "10.2.0.1"), False),
    "destination outside": (udp_packet("10.1.0.1", "10.3.0.1"), False),
    "protocol outside": (ip_packet(payload=bytes(20), protocol=6), False),
    "port outside": (udp_packet(ports=(5000, 6001)), False),
    "IPv6": (udp_packet("fd01::1", "fd02::1"), False),
    "later fragment, ports unseen": (
        (lambda packet: packet[:6] + b"\x00\x10" + packet[8:])(udp_packet("10.1.0.1", "10.2.0.1")),
        False,
    ),
}


@pytest.mark.parametrize(("packet", "inside"), SELECTORS.values(), ids=SELECTORS)
def test_selectors_hold_in_both_directions(packet: bytes, inside: bool) -> None:
    narrow = {"protocol": 17, "destination_ports": (6000, 6000)}
    sender, receiver, arrival = engine_pair()
    for source, destination in ANY:
        receiver.remove_policy(policy(Direction.IN, source, destination))
    receiver.add_policy(policy(Direction.IN, "10.1.0.0/24", "10.2.0.0/24", **narrow))
    usual = udp_packet()
    (first, wire, last) = seal(sender, usual, packet, usual)
    assert opened(receiver, arrival, first, wire, last) == [usual, *([packet] if inside else []), usual]
    assert receiver.totals() == ({} if inside else {drops.POLICY: 1})
    strict = Engine(entropy())
    strict.add_sa(sa_spec(Direction.OUT), 0.0)
    strict.add_policy(policy(Direction.OUT, "10.1.0.0/24", "10.2.0.0/24", **narrow))
    assert bool(seal(strict, packet)) is inside
    assert strict.totals() == ({} if inside else {drops.LOCAL_NO_POLICY: 1})


def test_icmp_types_are_matched_like_ports() -> None:
    """RFC 4301 section 4.4.1.1: type and code as one number."""
    engine = Engine(entropy())
    engine.add_sa(sa_spec(Direction.OUT), 0.0)
    engine.add_policy(
        policy(Direction.OUT, "10.1.0.0/24", "10.2.0.0/24", protocol=1, source_ports=(8 << 8, 8 << 8 | 255))
    )
    assert seal(engine, ip_packet(payload=b"\x08\x00" + bytes(6), protocol=1))
    assert not seal(engine, ip_packet(payload=b"\x03\x01" + bytes(6), protocol=1))


def test_the_first_policy_by_priority_decides() -> None:
    engine = Engine(entropy())
    engine.add_sa(sa_spec(Direction.OUT), 0.0)
    engine.add_sa(sa_spec(Direction.OUT, spi=0x2002, reqid=REQID + 1), 0.0)
    engine.add_policy(policy(Direction.OUT, "10.1.0.0/16", "10.2.0.0/16"))
    engine.add_policy(policy(Direction.OUT, "10.1.0.0/16", "10.0.0.0/8", reqid=REQID + 1))
    assert seal(engine, udp_packet())[0][:4] == b"\0\0\x10\x01"
    engine.add_policy(policy(Direction.OUT, "10.1.0.0/16", "10.0.0.0/8", reqid=REQID + 1, priority=10))
    assert seal(engine, udp_packet())[0][:4] == b"\0\0\x20\x02"


def test_the_newest_outbound_sa_is_used_and_the_older_one_again_after_it() -> None:
    sender, _receiver, _arrival = engine_pair()
    sender.add_sa(sa_spec(Direction.OUT, spi=0x2002), 1.0)
    assert seal(sender, udp_packet())[0][:4] == b"\0\0\x20\x02"
    sender.remove_sa(SaId(spi=0x2002, destination=BOB))
    assert seal(sender, udp_packet())[0][:4] == b"\0\0\x10\x01"


def test_packets_of_two_sas_in_one_batch() -> None:
    sender, receiver, arrival = engine_pair()
    packets = [udp_packet(data=bytes((index,))) for index in range(4)]
    wires = seal(sender, *packets[:2])
    renewed = sa_spec(Direction.OUT, spi=0x2002, seed=9)
    sender.add_sa(renewed, 1.0)
    receiver.add_sa(dataclasses.replace(renewed, direction=Direction.IN), 1.0)
    wires += seal(sender, *packets[2:])
    (delivery,) = receiver.inbound(arrival, wires, 2.0)
    assert delivery.packets == packets
    assert [state.counters.packets_in for state in receiver.list_sas()] == [2, 2]


def test_traffic_without_an_sa_asks_for_one_now_and_then() -> None:
    engine = Engine(entropy())
    engine.add_policy(policy(Direction.OUT, "10.1.0.0/24", "10.2.0.0/24"))
    for now in (100.0, 100.5, 100.0 + ACQUIRE_AGAIN_S):
        assert seal(engine, udp_packet(), now=now) == []
    acquired = engine.take_notices()
    assert [type(notice) for notice in acquired] == [Acquired, Acquired]
    assert isinstance(acquired[0], Acquired)
    assert (acquired[0].reqid, acquired[0].selector.source, acquired[0].selector.destination_ports) == (
        REQID,
        "10.1.0.1/32",
        (6000, 6000),
    )
    assert engine.totals() == {drops.LOCAL_NO_SA: 3}


LIMITS = {
    "bytes": Limits(soft_bytes=64, hard_bytes=128),
    "packets": Limits(soft_packets=2, hard_packets=4),
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_traffic_limits_tell_once_and_then_end_the_sa(limits: Limits) -> None:
    sender, receiver, arrival = engine_pair(limits=limits)
    packet = udp_packet()
    assert len(packet) == 32
    wires = [*seal(sender, packet), *seal(sender, packet), *seal(sender, packet)]
    sa = SaId(spi=0x1001, destination=BOB)
    assert sender.take_notices() == [Expired(id=sa, hard=False)]
    wires += seal(sender, packet)
    assert sender.take_notices() == [Expired(id=sa, hard=True)]
    assert sender.list_sas() == ()
    assert seal(sender, packet) == []
    for wire in wires:
        assert opened(receiver, arrival, wire) == [packet]
    assert receiver.take_notices() == [Expired(id=sa, hard=False), Expired(id=sa, hard=True)]
    assert receiver.list_sas() == ()


def test_time_limits() -> None:
    engine = Engine(entropy())
    engine.add_sa(sa_spec(Direction.IN, limits=Limits(soft_s=10, hard_s=20)), 100.0)
    told = []
    for now in (109.0, 110.0, 115.0, 120.0, 121.0):
        engine.handle_timer(now)
        told.append([notice.hard for notice in engine.take_notices() if isinstance(notice, Expired)])
    assert told == [[], [False], [], [True], []]


def test_transport_mode_in_a_tunnel_is_the_other_mode() -> None:
    _sender, receiver, arrival = engine_pair()
    assert opened(receiver, arrival, authentic(trailer(bytes(20), 6))) == []
    assert receiver.totals() == {drops.MODE: 1}
    assert receiver.list_sas()[0].rejected == Rejections(mode=1)


def test_the_sequence_number_never_wraps() -> None:
    sender, receiver, arrival = engine_pair()
    (sa,) = sender._sadb
    sa.sequence = MAX_SEQUENCE - ROOM_TO_REKEY - 1
    seal(sender, udp_packet())
    assert sender.take_notices() == [Expired(id=sa.spec.id, hard=False)]
    sa.sequence = MAX_SEQUENCE - 2
    wires = seal(sender, udp_packet())
    assert struct.unpack_from("!II", wires[0]) == (0x1001, MAX_SEQUENCE - 1)
    assert len(opened(receiver, arrival, *wires)) == 1
    assert sender.outbound(TUNNEL, [[udp_packet()] * 2], 1.0) == []
    assert sender.take_notices() == [Expired(id=sa.spec.id, hard=True)]
    assert SaId(spi=0x1001, destination=BOB) not in sender._sadb


def test_a_moved_peer_is_told_once_and_only_for_authentic_new_packets() -> None:
    sender, receiver, _arrival = engine_pair()
    elsewhere = Arrival(BOB, "203.0.113.9", 61000, 0)
    first, second, third = seal(sender, *[udp_packet()] * 3)
    opened(receiver, elsewhere, b"\0\0\x10\x01\0\0\0\x09" + bytes(60))
    assert receiver.take_notices() == []
    opened(receiver, FROM_ALICE, first, third)
    assert receiver.take_notices() == []
    assert len(opened(receiver, elsewhere, second)) == 1
    assert receiver.take_notices() == [], "an older packet may have come a longer way"
    wires = seal(sender, *[udp_packet()] * 2)
    opened(receiver, elsewhere, *wires)
    sa = SaId(spi=0x1001, destination=BOB)
    assert receiver.take_notices() == [Mapped(id=sa, address="203.0.113.9", port=61000)]
    opened(receiver, elsewhere, *seal(sender, udp_packet()))
    assert receiver.take_notices() == []
    receiver.update_mapping(sa, "203.0.113.9", BOB, UdpEncapsulation(source_port=61000, destination_port=4500))
    opened(receiver, elsewhere, *seal(sender, udp_packet()))
    assert receiver.take_notices() == []
    opened(receiver, FROM_ALICE, *seal(sender, udp_packet()))
    assert receiver.take_notices() == [Mapped(id=sa, address=ALICE, port=4500)]


def test_an_outbound_sa_moves_with_its_numbers() -> None:
    sender, _receiver, _arrival = engine_pair()
    seal(sender, udp_packet())
    moved = UdpEncapsulation(source_port=4500, destination_port=61000)
    sender.update_mapping(SaId(spi=0x1001, destination=BOB), ALICE, "203.0.113.9", moved)
    (burst,) = sender.outbound(TUNNEL, [[udp_packet()]], 1.0)
    assert (burst.path.remote_address, burst.path.remote_port) == ("203.0.113.9", 61000)
    assert struct.unpack_from("!II", burst.packets[0]) == (0x1001, 2)
    (state,) = sender.list_sas()
    assert state.id == SaId(spi=0x1001, destination="203.0.113.9")
    assert state.counters.packets_out == 2


@pytest.mark.parametrize("outer", range(4))
@pytest.mark.parametrize("inner", range(4))
@pytest.mark.parametrize("addresses", [("10.1.0.1", "10.2.0.1"), ("fd01::1", "fd02::1")])
def test_congestion_marks_come_inwards(addresses: tuple[str, str], inner: int, outer: int) -> None:
    """RFC 6040 section 4.2, figure 4: rows are inner fields, columns outer ones; 1 is ECT(1), 2 ECT(0), 3 CE."""
    result = ((0, 0, 0, None), (1, 1, 1, 3), (2, 1, 2, 3), (3, 3, 3, 3))[inner][outer]
    sender, receiver, arrival = engine_pair()
    wires = seal(sender, udp_packet(*addresses, traffic_class=0xB8 | inner))
    delivered = opened(receiver, dataclasses.replace(arrival, traffic_class=outer), *wires)
    expected = [] if result is None else [udp_packet(*addresses, traffic_class=0xB8 | result)]
    assert delivered == expected
    assert receiver.totals() == ({drops.CONGESTION: 1} if result is None else {})


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"spi": 255}, errno.EINVAL),
        ({"source": "2001:db8::1"}, errno.EINVAL),
        ({"source": "192.0.2.01"}, errno.EINVAL),
        ({"encryption": "rot13"}, errno.EINVAL),
        ({"encryption_key": Secret(bytes(3))}, errno.EINVAL),
        ({"replay_window": 4097}, errno.EINVAL),
        ({"encapsulation": UdpEncapsulation(source_port=0, destination_port=4500)}, errno.EINVAL),
        ({}, errno.EEXIST),
    ],
)
def test_impossible_sas_are_refused_and_leave_nothing(changes: dict[str, object], number: int) -> None:
    engine = Engine(entropy())
    if not changes:
        engine.add_sa(sa_spec(Direction.IN), 0.0)
    before = engine.list_sas()
    with pytest.raises(DataplaneError) as caught:
        engine.add_sa(dataclasses.replace(sa_spec(Direction.IN), **changes), 0.0)  # type: ignore[arg-type]
    assert caught.value.errno == number
    assert engine.list_sas() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": 256},
        {"source_ports": (2, 1)},
        {"destination_ports": (0, 65536)},
        {"destination_ports": (1, 2, 3)},
    ],
)
def test_impossible_policies_are_refused(changes: dict[str, object]) -> None:
    engine = Engine(entropy())
    for source, destination in (("10.0.0.0/8", "fd00::/8"), ("10.0.0.1/8", "10.0.0.0/8"), ("x", "10.0.0.0/8")):
        with pytest.raises(DataplaneError):
            engine.add_policy(policy(Direction.OUT, source, destination))
    with pytest.raises(DataplaneError):
        engine.add_policy(policy(Direction.OUT, "10.0.0.0/8", "10.0.0.0/8", **changes))
    assert engine.list_policies() == ()


def test_moving_what_is_not_there_is_refused_and_removing_it_is_not() -> None:
    engine = Engine(entropy())
    sa = SaId(spi=0x1001, destination=BOB)
    with pytest.raises(DataplaneError) as caught:
        engine.update_mapping(sa, ALICE, BOB, NAT)
    assert caught.value.errno == errno.ESRCH
    engine.remove_sa(sa)
    engine.remove_policy(policy(Direction.OUT, *ANY[0]))


def test_a_removed_sa_and_a_removed_policy_stop_at_once() -> None:
    sender, receiver, arrival = engine_pair()
    wires = seal(sender, *[udp_packet()] * 3)
    assert opened(receiver, arrival, wires[0])
    receiver.remove_policy(policy(Direction.IN, *ANY[0]))
    assert not opened(receiver, arrival, wires[1])
    receiver.remove_sa(SaId(spi=0x1001, destination=BOB))
    assert not opened(receiver, arrival, wires[2])
    assert receiver.totals() == {drops.POLICY: 1, drops.NO_SA: 1}
    sender.remove_policy(policy(Direction.OUT, *ANY[0]))
    assert not seal(sender, udp_packet())


def test_no_key_shows_in_any_text() -> None:
    engine = Engine(entropy())
    spec = sa_spec(Direction.IN, ("aes-128-cbc", "hmac-sha1-96"))
    engine.add_sa(spec, 0.0)
    assert spec.encryption_key is not None
    secret = spec.encryption_key.reveal()
    for text in (repr(spec), repr(engine.list_sas()), repr(engine.paths())):
        assert secret.hex() not in text
        assert repr(secret) not in text


class TestExtendedSequenceNumbers:
    """RFC 4303 section 2.2.1: 64 bits counted, 32 of them sent."""

    @pytest.mark.parametrize("suite", [("aes-128-gcm-16", None), ("aes-256-cbc", "hmac-sha2-256-128")], ids=str)
    def test_numbers_go_on_beyond_32_bits(self, suite: tuple[str, str | None]) -> None:
        sender, receiver, arrival = engine_pair(suite, extended_sequence_numbers=True)
        (sa,) = sender._sadb
        sa.sequence = MAX_SEQUENCE - 5
        packets = [udp_packet(data=bytes((number,))) for number in range(12)]
        wires = [seal(sender, packet)[0] for packet in packets]
        assert [struct.unpack_from("!II", wire)[1] for wire in wires][3:8] == [MAX_SEQUENCE - 1, MAX_SEQUENCE, 0, 1, 2]
        assert not sender.take_notices()
        order = [0, 1, 2, 4, 6, 3, 5, 9, 8, 7, 11, 10]  # across the wrap in both directions
        assert [opened(receiver, arrival, wires[number])[0] for number in order] == [packets[n] for n in order]
        assert opened(receiver, arrival, *wires) == []
        (state,) = receiver.list_sas()
        assert (state.rejected.replayed, state.rejected.late, state.rejected.integrity) == (12, 0, 0)

    def test_a_run_across_the_wrap_opens_at_once(self) -> None:
        sender, receiver, arrival = engine_pair(extended_sequence_numbers=True)
        (sa,), (theirs,) = sender._sadb, receiver._sadb
        sa.sequence = theirs.window.top = MAX_SEQUENCE - 3
        packets = [udp_packet(data=bytes((number,))) for number in range(8)]
        (burst,) = sender.outbound(TUNNEL, [packets], 1.0)
        assert opened(receiver, arrival, *map(bytes, burst.packets)) == packets
        assert theirs.window.top == MAX_SEQUENCE + 5

    def test_a_late_packet_is_called_late(self) -> None:
        sender, receiver, arrival = engine_pair(extended_sequence_numbers=True)
        (sa,), (theirs,) = sender._sadb, receiver._sadb
        sa.sequence = theirs.window.top = MAX_SEQUENCE - 2
        wires = [seal(sender, udp_packet())[0] for _ in range(200)]
        assert len(opened(receiver, arrival, wires[-1], wires[0])) == 1
        (state,) = receiver.list_sas()
        assert (state.rejected.late, state.rejected.integrity) == (1, 0)

    def test_one_end_alone_with_them_gets_nothing_through(self) -> None:
        sender, receiver, arrival = engine_pair(extended_sequence_numbers=True)
        (theirs,) = receiver._sadb
        receiver.remove_sa(theirs.spec.id)
        receiver.add_sa(dataclasses.replace(theirs.spec, extended_sequence_numbers=False), 0.0)
        assert opened(receiver, arrival, *seal(sender, udp_packet())) == []
        (state,) = receiver.list_sas()
        assert state.rejected.integrity == 1

    def test_a_rekey_is_asked_for_before_64_bits_end(self) -> None:
        sender, _, _ = engine_pair(extended_sequence_numbers=True)
        (sa,) = sender._sadb
        sa.sequence = MAX_SEQUENCE
        seal(sender, udp_packet())
        assert not sender.take_notices()
        sa.sequence = 2**64 - 1 - ROOM_TO_REKEY
        seal(sender, udp_packet())
        assert sender.take_notices() == [Expired(id=sa.spec.id, hard=False)]
