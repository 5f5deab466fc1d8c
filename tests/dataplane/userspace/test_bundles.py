"""SAs of more than ESP in tunnel mode, through two engines: AH, AH around ESP, IPComp, transport mode."""

from __future__ import annotations

import dataclasses
import errno
import random
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.algorithms import INTEGRITY
from agents.contract.carriage import DfBit
from agents.contract.config import Mode
from agents.contract.secret import Secret
from agents.contract.status import Rejections
from agents.dataplane.base import (
    AuthenticationHeader,
    DataplaneError,
    Direction,
    Expired,
    Limits,
    PolicySpec,
    SaId,
    SaProtocol,
    SaSpec,
    UdpEncapsulation,
)
from agents.dataplane.userspace import drops
from agents.dataplane.userspace.engine import Engine
from agents.dataplane.userspace.esp import MAX_SEQUENCE
from agents.dataplane.userspace.inward import Arrival
from agents.dataplane.userspace.ip import header
from agents.dataplane.userspace.outward import Burst
from agents.dataplane.userspace.rows import Datagram
from agents.dataplane.userspace.sadb import path_of
from tests.dataplane.userspace.values import (
    ALICE,
    ANY,
    BOB,
    NAT,
    SUITES,
    TUNNEL,
    entropy,
    ip_packet,
    policy,
    sa_spec,
    udp_packet,
)

SIX = ("2001:db8::1", "2001:db8::2")
OUTER = {"outer4": (ALICE, BOB), "outer6": SIX}
AH_SPI = 0x3003
CPI = 0x4004
TEXT = b"the same words again and again, " * 20


def ah(slug: str = "hmac-sha2-256-128", spi: int = AH_SPI) -> AuthenticationHeader:
    return AuthenticationHeader(spi=spi, integrity=slug, key=Secret(bytes(range(INTEGRITY[slug].key_octets))))


def alone(slug: str = "hmac-sha2-256-128") -> dict[str, Any]:
    none = dict.fromkeys(("encryption", "encryption_key", "integrity", "integrity_key"))
    return {**none, "ah": ah(slug, 0x1001)}


KINDS: dict[str, dict[str, Any]] = {
    "AH": alone(),
    "AH around ESP": {"ah": ah()},
    "IPComp in ESP": {"compression_cpi": CPI},
    "IPComp in AH": {**alone(), "compression_cpi": CPI},
    "IPComp in ESP in AH": {"ah": ah(), "compression_cpi": CPI},
}


class Pair:
    """A sender and a receiver; packets go between them as sockets would carry them."""

    def __init__(self, outer: tuple[str, str] = (ALICE, BOB), **changes: Any) -> None:
        self.sender, self.receiver = Engine(entropy()), Engine(entropy(2))
        self.spec = sa_spec(Direction.OUT, source=outer[0], destination=outer[1], **{"encapsulation": None, **changes})
        self.sender.add_sa(self.spec, 0.0)
        self.receiver.add_sa(dataclasses.replace(self.spec, direction=Direction.IN), 0.0)
        for source, destination in ANY:
            self.sender.add_policy(policy(Direction.OUT, source, destination))
            self.receiver.add_policy(policy(Direction.IN, source, destination))

    def bursts(self, *packets: bytes) -> list[Burst]:
        return self.sender.outbound(TUNNEL, [[packet] for packet in packets], 1.0)

    def wires(self, *packets: bytes) -> list[bytes]:
        return [self.whole(burst, wire) for burst in self.bursts(*packets) for wire in burst.packets]

    def whole(self, burst: Burst, wire: Datagram) -> bytes:
        """What arrives: with AH the IP packet, as the raw socket of the receiver has it."""
        if self.spec.ah is None or wire[0] == 0x45:
            return bytes(wire)
        source, destination = (struct.pack("!8H", *(int(part or "0", 16) for part in _full(each))) for each in SIX)
        return header(source, destination, 51, len(wire), traffic_class=burst.traffic_class) + bytes(wire)

    def opened(self, *wires: bytes, traffic_class: int = 0) -> list[bytes]:
        arrival = Arrival(self.spec.destination, self.spec.source, 4500 * bool(self.spec.encapsulation), traffic_class)
        inbound = self.receiver.inbound if self.spec.ah is None else self.receiver.inbound_ah
        return [packet for delivery in inbound(arrival, list(wires), 1.0) for packet in delivery.packets]

    @property
    def rejected(self) -> Rejections:
        (state,) = self.receiver.list_sas()
        return state.rejected


def _full(address: str) -> list[str]:
    head, tail = address.split("::")
    return [*head.split(":"), *["0"] * (8 - len(head.split(":")) - len(tail.split(":"))), *tail.split(":")]


@pytest.mark.parametrize("outer", OUTER.values(), ids=OUTER)
@pytest.mark.parametrize("inner", [("10.1.0.1", "10.2.0.1"), ("fd01::1", "fd02::1")], ids=["inner4", "inner6"])
@pytest.mark.parametrize("extended", [False, True], ids=["32", "64"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_carries_packets(
    kind: dict[str, Any], extended: bool, inner: tuple[str, str], outer: tuple[str, str]
) -> None:
    pair = Pair(outer, **kind, extended_sequence_numbers=extended)
    packets = [udp_packet(*inner, data=data) for data in (b"", b"x", TEXT, random.Random(1).randbytes(1300))]
    wires = pair.wires(*packets)
    assert pair.opened(*wires) == packets
    octets = sum(map(len, packets))
    for engine in (pair.sender, pair.receiver):
        (state,) = engine.list_sas()
        counters = state.counters
        assert (counters.packets_in + counters.packets_out, counters.bytes_in + counters.bytes_out) == (4, octets)
        assert state.id == pair.spec.id
    assert pair.opened(*wires) == []
    assert pair.rejected == Rejections(replayed=4)
    assert pair.sender.totals() == {}


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_every_suite_goes_under_ah(suite: tuple[str, str | None]) -> None:
    pair = Pair(ah=ah(), **_suite(suite))
    assert pair.opened(*pair.wires(udp_packet(data=TEXT))) == [udp_packet(data=TEXT)]


@pytest.mark.parametrize("slug", INTEGRITY)
def test_every_algorithm_of_ah_carries_packets(slug: str) -> None:
    pair = Pair(**alone(slug))
    assert pair.opened(*pair.wires(udp_packet(data=TEXT))) == [udp_packet(data=TEXT)]


def _suite(suite: tuple[str, str | None]) -> dict[str, Any]:
    spec = sa_spec(Direction.OUT, suite)
    names = ("encryption", "encryption_key", "integrity", "integrity_key")
    return {name: getattr(spec, name) for name in names}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_changed_octet_is_refused(kind: dict[str, Any]) -> None:
    pair = Pair(**kind)
    (wire,) = pair.wires(udp_packet(data=TEXT[:40]))
    mutable = () if pair.spec.ah is None else (1, 6, 7, 8, 10, 11)
    for at in range(len(wire)):
        if at not in mutable:
            changed = bytearray(wire)
            changed[at] ^= 0x01
            assert pair.opened(bytes(changed)) == [], at
    assert pair.opened(wire) == [udp_packet(data=TEXT[:40])]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_numbers_go_on_beyond_32_bits(kind: dict[str, Any]) -> None:
    pair = Pair(**kind, extended_sequence_numbers=True)
    (sa,) = pair.sender._sadb
    sa.sequence = MAX_SEQUENCE - 2
    packets = [udp_packet(data=bytes((number,))) for number in range(6)]
    assert pair.opened(*pair.wires(*packets)) == packets


@pytest.mark.parametrize("size", [0, 1, 32, 64, 4096])
def test_replay_windows_of_ah(size: int) -> None:
    pair = Pair(**alone(), replay_window=size)
    packets = [udp_packet(data=struct.pack("!H", number)) for number in range(200)]
    wires = pair.wires(*packets)
    assert pair.opened(*wires[1:]) == packets[1:]
    again = pair.opened(wires[199], wires[0])
    if size == 0:
        assert again == [packets[199], packets[0]]
    else:
        assert again == ([packets[0]] if size == 4096 else [])
        assert pair.rejected == Rejections(replayed=1, late=0 if size == 4096 else 1)


def test_ah_around_esp_is_counted_and_limited_as_one_sa() -> None:
    pair = Pair(ah=ah(), limits=Limits(soft_packets=2, hard_packets=3))
    pair.wires(udp_packet(), udp_packet())
    assert pair.sender.take_notices() == [Expired(id=pair.spec.id, hard=False)]
    pair.wires(udp_packet())
    assert pair.sender.take_notices() == [Expired(id=pair.spec.id, hard=True)]
    assert pair.sender.list_sas() == ()


def test_the_outer_header_says_what_the_sa_asks() -> None:
    pair = Pair(**alone())
    (wire,) = pair.wires(udp_packet(traffic_class=0xB9))
    assert (wire[0], wire[1], wire[6], wire[9]) == (0x45, 0xB9, 0x40, 51)
    assert wire[4:6] != b"\0\0", "the kernel would put another identification in, which the ICV does not cover"
    (wire,) = pair.wires(ip_packet(payload=bytes(8), dont_fragment=False))
    assert wire[6] == 0
    (burst,) = pair.bursts(udp_packet())
    assert (burst.path.protocol, burst.path.local_port) == (51, 0)


def test_ah_alone_is_named_by_its_own_protocol() -> None:
    pair = Pair(**alone())
    assert pair.spec.id == SaId(spi=0x1001, destination=BOB, protocol=SaProtocol.AH)
    # The same SPI is free for ESP.
    pair.receiver.add_sa(sa_spec(Direction.IN), 0.0)
    assert len(pair.receiver.list_sas()) == 2
    pair.receiver.remove_sa(pair.spec.id)
    assert [state.id.protocol for state in pair.receiver.list_sas()] == [SaProtocol.ESP]
    assert pair.opened(*pair.wires(udp_packet())) == []
    assert pair.receiver.totals() == {drops.NO_SA: 1}


def test_esp_without_the_ah_agreed_on_is_the_wrong_mode() -> None:
    pair = Pair(ah=ah())
    bare = Engine(entropy())
    bare.add_sa(dataclasses.replace(pair.spec, ah=None), 0.0)
    bare.add_policy(policy(Direction.OUT, *ANY[0]))
    (burst,) = bare.outbound(TUNNEL, [[udp_packet()]], 1.0)
    assert pair.receiver.inbound(Arrival(BOB, ALICE, 0, 0), burst.packets, 1.0)[0].packets == []
    assert pair.rejected == Rejections(mode=1)


def test_other_things_under_ah_than_agreed_on_are_the_wrong_mode() -> None:
    pair = Pair(ah=ah())
    other = Pair(**{**alone(), "ah": ah(), "spi": AH_SPI})
    assert pair.opened(*other.wires(udp_packet())) == []
    second = Pair(ah=ah(), spi=0x1002)
    second.wires(udp_packet())
    assert pair.opened(*second.wires(udp_packet())) == []
    assert pair.rejected == Rejections(mode=2)


def test_compression_nobody_agreed_on_is_refused() -> None:
    plain, compressing = Pair(), Pair(compression_cpi=CPI)
    (wire,) = compressing.wires(udp_packet(data=TEXT))
    assert len(wire) < len(TEXT)
    assert plain.opened(wire) == []
    assert plain.rejected == Rejections(mode=1)
    assert compressing.opened(wire) == [udp_packet(data=TEXT)]
    assert compressing.opened(*plain.wires(udp_packet(), udp_packet(data=b"not compressed"))) == [
        udp_packet(data=b"not compressed")
    ]


def test_compressed_packets_in_udp_follow_a_nat() -> None:
    pair = Pair(compression_cpi=CPI, encapsulation=NAT)
    wires = pair.wires(udp_packet(data=TEXT))
    elsewhere = Arrival(BOB, "203.0.113.9", 61000, 0)
    assert pair.receiver.inbound(elsewhere, wires, 1.0)[0].packets == [udp_packet(data=TEXT)]
    (notice,) = pair.receiver.take_notices()
    assert (notice.address, notice.port) == ("203.0.113.9", 61000)  # type: ignore[union-attr]


@given(st.binary(max_size=200))
def test_any_octets_under_ah_are_survived(octets: bytes) -> None:
    pair = Pair(ah=ah())
    head = bytes((0x45, 0)) + (20 + len(octets)).to_bytes(2, "big") + bytes(5) + b"\x33" + bytes(10)
    assert pair.opened(octets, head + octets, head + b"\4\5\0\0" + AH_SPI.to_bytes(4, "big") + octets) == []
    assert sum(pair.receiver.totals().values()) == 3


TRANSPORT: dict[str, dict[str, Any]] = {
    "ESP": {}, **KINDS, "ESP in UDP": {"encapsulation": NAT},
    "IPComp in UDP": {"encapsulation": NAT, **KINDS["IPComp in ESP"]},
}  # fmt: skip


def hosts(outer: tuple[str, str], data: bytes, **changes: Any) -> bytes:
    return udp_packet(*outer, data=data, **changes)


@pytest.mark.parametrize("outer", OUTER.values(), ids=OUTER)
@pytest.mark.parametrize("kind", TRANSPORT.values(), ids=TRANSPORT)
def test_transport_mode_carries_what_two_hosts_say(kind: dict[str, Any], outer: tuple[str, str]) -> None:
    pair = Pair(outer, **kind, mode=Mode.TRANSPORT)
    for data in (b"", b"x", TEXT):
        packet = hosts(outer, data, traffic_class=0xB8)
        (wire,) = pair.wires(packet)
        (opened,) = pair.opened(wire, traffic_class=0xB8)
        # Identification and TTL of the header are made anew, and so is its checksum.
        start = 20 if opened[0] >> 4 == 4 else 40
        assert opened[start:] == packet[start:]
        assert opened[:4] == packet[:4]
        assert opened[start - 8 :] == packet[start - 8 :]
        if start == 20:
            assert sum(struct.unpack("!10H", opened[:20])) % 0xFFFF == 0


def test_transport_mode_has_no_inner_header() -> None:
    packet = hosts((ALICE, BOB), TEXT)
    (tunnel,), (transport,) = Pair().wires(packet), Pair(mode=Mode.TRANSPORT).wires(packet)
    assert len(tunnel) == len(transport) + 20


def test_each_mode_refuses_the_other() -> None:
    tunnel, transport = Pair(), Pair(mode=Mode.TRANSPORT)
    packet = hosts((ALICE, BOB), b"data")
    assert transport.opened(*tunnel.wires(packet)) == []
    assert tunnel.opened(*transport.wires(packet)) == []
    assert (transport.rejected, tunnel.rejected) == (Rejections(mode=1), Rejections(mode=1))


@pytest.mark.parametrize(
    "packet",
    [
        (lambda packet: packet[:6] + b"\x20\x00" + packet[8:])(hosts((ALICE, BOB), b"first fragment")),
        (lambda packet: packet[:6] + b"\x00\x10" + packet[8:])(hosts((ALICE, BOB), b"later fragment")),
        ip_packet(*SIX, bytes((17, 0)) + bytes(14), 44),
    ],
    ids=["first fragment", "later fragment", "IPv6 fragment"],
)
def test_transport_mode_does_not_carry_fragments(packet: bytes) -> None:
    """RFC 4303 section 3.3.4: ESP goes around whole datagrams."""
    pair = Pair(SIX if packet[0] >> 4 == 6 else (ALICE, BOB), mode=Mode.TRANSPORT)
    assert pair.wires(packet) == []
    assert pair.sender.totals() == {drops.LOCAL_TRANSPORT: 1}


@pytest.mark.parametrize("outer", OUTER.values(), ids=OUTER)
@pytest.mark.parametrize("kind", TRANSPORT.values(), ids=TRANSPORT)
def test_a_datagram_longer_than_its_path_goes_whole_and_is_cut_outside(
    kind: dict[str, Any], outer: tuple[str, str]
) -> None:
    pair = Pair(outer, **kind, mode=Mode.TRANSPORT)
    pair.sender.narrow(path_of(pair.spec), 1500, 0.0)
    packet = hosts(outer, random.Random(3).randbytes(3_000), dont_fragment=False)
    (burst,) = pair.bursts(packet)
    assert not burst.dont_fragment
    (opened,) = pair.opened(*(pair.whole(burst, wire) for wire in burst.packets))
    assert opened[-3_008:] == packet[-3_008:]
    assert not pair.sender.take_answers()


@pytest.mark.parametrize(
    ("packet", "leaves"),
    [
        (hosts((ALICE, BOB), bytes(3_000), dont_fragment=True), False),
        (ip_packet(ALICE, BOB, bytes(3_000), 6, dont_fragment=True), True),
        (ip_packet(*SIX, bytes(3_000), 6), True),
    ],
    ids=["DF", "TCP", "TCP over IPv6"],
)
def test_who_can_make_it_smaller_is_told_what_fits(packet: bytes, leaves: bool) -> None:
    """What TCP sends leaves meanwhile, to be cut outside: the answer may not reach it."""
    outer = SIX if packet[0] >> 4 == 6 else (ALICE, BOB)
    pair = Pair(outer, mode=Mode.TRANSPORT)
    pair.sender.narrow(path_of(pair.spec), 1500, 0.0)
    bursts = pair.bursts(packet)
    assert [burst.dont_fragment for burst in bursts] == [False] * leaves
    assert pair.sender.totals() == ({} if leaves else {drops.LOCAL_TOO_BIG: 1})
    ((answer,),) = pair.sender.take_answers().values()
    head = 20 if answer[0] >> 4 == 4 else 40
    (most,) = struct.unpack_from("!H", answer, head + 6)
    # A packet of just that length leaves, and no more room was there: AES-GCM aligns to four octets.
    fitting = ip_packet(*outer, packet[head:most], packet[6] if head == 40 else packet[9])
    (burst,) = pair.bursts(fitting)
    assert burst.dont_fragment
    assert 1497 <= head + len(burst.packets[0]) <= 1500
    assert not pair.sender.take_answers()


@pytest.mark.parametrize("protocol", [6, 17])
def test_over_ipv6_what_every_path_takes_is_not_made_smaller(protocol: int) -> None:
    pair = Pair(SIX, mode=Mode.TRANSPORT)
    pair.sender.narrow(path_of(pair.spec), 1280, 0.0)
    (burst,) = pair.bursts(ip_packet(*SIX, bytes(1_240), protocol))
    assert not burst.dont_fragment
    assert not pair.sender.take_answers()


def test_what_the_settings_say_of_tunnel_mode_is_not_said_of_transport_mode() -> None:
    """The header outside is the packet's own: DF and DSCP are as the sender made them."""
    for df_bit in DfBit:
        pair = Pair(mode=Mode.TRANSPORT, df_bit=df_bit, copy_dscp=False)
        for dont_fragment in (False, True):
            (burst,) = pair.bursts(hosts((ALICE, BOB), TEXT, traffic_class=0xB8, dont_fragment=dont_fragment))
            assert (burst.dont_fragment, burst.traffic_class) == (dont_fragment, 0xB8)


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "AH in UDP": ({**alone(), "encapsulation": NAT}, "AH covers the outer addresses"),
    "nothing": ({**alone(), "ah": None}, "needs encryption or AH"),
    "a key of AH": ({"ah": dataclasses.replace(ah(), key=Secret(b"short"))}, "octets of key"),
}


@pytest.mark.parametrize(("changes", "word"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
@pytest.mark.parametrize("direction", Direction)
def test_what_cannot_be_is_refused_in_a_sentence(direction: Direction, changes: dict[str, Any], word: str) -> None:
    engine = Engine(entropy())
    with pytest.raises(DataplaneError, match=word) as caught:
        engine.add_sa(sa_spec(direction, **{"encapsulation": None, **changes}), 0.0)
    assert caught.value.errno == errno.EINVAL
    assert engine.list_sas() == ()


def test_an_spi_of_ah_is_taken_once() -> None:
    engine = Engine(entropy())
    first = sa_spec(Direction.IN, encapsulation=None, ah=ah())
    engine.add_sa(first, 0.0)
    with pytest.raises(DataplaneError, match="taken"):
        engine.add_sa(dataclasses.replace(first, spi=0x1002), 0.0)
    assert len(engine.list_sas()) == 1
    engine.remove_sa(first.id)
    engine.add_sa(dataclasses.replace(first, spi=0x1002), 0.0)


def test_a_move_into_udp_is_refused_for_what_cannot_go_there() -> None:
    pair = Pair(ah=ah())
    with pytest.raises(DataplaneError, match="AH covers"):
        pair.receiver.update_mapping(
            pair.spec.id, ALICE, BOB, UdpEncapsulation(source_port=4500, destination_port=4500)
        )
    assert pair.opened(*pair.wires(udp_packet())) == [udp_packet()]
    pair.sender.update_mapping(pair.spec.id, "192.0.2.9", BOB, None)
    pair.receiver.update_mapping(pair.spec.id, "192.0.2.9", BOB, None)
    (wire,) = pair.wires(udp_packet(data=b"moved"))
    assert wire[12:16] == bytes((192, 0, 2, 9))
    assert pair.opened(wire) == [udp_packet(data=b"moved")]


def test_a_policy_of_another_kind_is_not_removed_by_its_namesake() -> None:
    engine = Engine(entropy())
    mine: PolicySpec = policy(Direction.OUT, *ANY[0])
    other = dataclasses.replace(mine, protocols=(SaProtocol.ESP, SaProtocol.AH))
    engine.add_policy(mine)
    engine.add_policy(other)
    engine.remove_policy(mine)
    assert engine.list_policies() == (other,)
    engine.remove_policy(other)
    assert engine.list_policies() == ()


def test_no_key_of_ah_shows_in_any_text() -> None:
    spec: SaSpec = sa_spec(Direction.IN, encapsulation=None, **alone())
    assert spec.ah is not None
    for text in (repr(spec), repr(spec.ah)):
        assert spec.ah.key.reveal().hex() not in text
        assert repr(spec.ah.key.reveal()) not in text
