"""Checksums of transport mode through a NAT (RFC 3948 section 3.1.2): made for the peer's addresses, right for ours."""

from __future__ import annotations

import dataclasses
import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.contract.config import Mode
from agents.dataplane.base import Direction, OriginalAddresses, UdpEncapsulation
from agents.dataplane.userspace.engine import Engine
from agents.dataplane.userspace.inward import Arrival
from tests.dataplane.userspace.values import ANY, NAT, TUNNEL, entropy, ip_packet, policy, sa_spec

INSIDE, OUTSIDE, FAR, DOOR = "10.0.0.5", "198.51.100.9", "192.0.2.2", "203.0.113.7"
INSIDE6, OUTSIDE6, FAR6 = "fd00::5", "2001:db8::9", "2001:db8::2"
TCP, UDP, DCCP, ICMP6, SCTP, UDP_LITE = 6, 17, 33, 58, 132, 136
CHECKSUM_AT = {TCP: 16, UDP: 6, DCCP: 6, ICMP6: 2, UDP_LITE: 6}
MOVED = UdpEncapsulation(source_port=20_001, destination_port=4500)


def sum_of(source: str, destination: str, protocol: int, payload: bytes) -> int:
    """The sum of RFC 1071 over pseudo-header and payload: 0xFFFF where its checksum is right."""
    octets = b"".join(ipaddress.ip_address(each).packed for each in (source, destination))
    octets += struct.pack("!II", len(payload), protocol) + payload + bytes(len(payload) % 2)
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def made(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """Return a payload with its checksum."""
    at = CHECKSUM_AT[protocol]
    blank = payload[:at] + bytes(2) + payload[at + 2 :]
    value = sum_of(source, destination, protocol, blank) ^ 0xFFFF or 0xFFFF
    return blank[:at] + value.to_bytes(2, "big") + blank[at + 2 :]


def through(
    sent: tuple[str, str], seen: tuple[str, str], protocol: int, payload: bytes, *, moved: bool = False
) -> bytes:
    """Return what a host behind a NAT, or the one before it, gets of a payload: the other's SA has other addresses."""
    sender, receiver = Engine(entropy()), Engine(entropy(2))
    out = sa_spec(Direction.OUT, source=sent[0], destination=sent[1], mode=Mode.TRANSPORT, encapsulation=NAT)
    original = OriginalAddresses(source=sent[0], destination=sent[1])
    into = dataclasses.replace(out, direction=Direction.IN, source=seen[0], destination=seen[1], original=original)
    sender.add_sa(out, 0.0)
    receiver.add_sa(into, 0.0)
    for source, destination in ANY:
        sender.add_policy(policy(Direction.OUT, source, destination))
        receiver.add_policy(policy(Direction.IN, source, destination))
    if moved:
        receiver.update_mapping(into.id, *seen, MOVED)
    (burst,) = sender.outbound(TUNNEL, [[ip_packet(*sent, payload, protocol)]], 1.0)
    (delivery,) = receiver.inbound(Arrival(seen[1], seen[0], 4500, 0), burst.packets, 1.0)
    (packet,) = delivery.packets
    start = 20 if packet[0] >> 4 == 4 else 40
    addresses = b"".join(ipaddress.ip_address(each).packed for each in seen)
    assert packet[start - len(addresses) : start] == addresses
    return packet[start:]


@pytest.mark.parametrize("protocol", CHECKSUM_AT)
@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ((INSIDE, FAR), (OUTSIDE, FAR)), ((FAR, OUTSIDE), (FAR, INSIDE)), ((INSIDE, DOOR), (OUTSIDE, FAR)),
        ((INSIDE6, FAR6), (OUTSIDE6, FAR6)),
    ],
    ids=["to before the NAT", "to behind it", "two NATs", "IPv6"],
)  # fmt: skip
@settings(max_examples=25, deadline=None)
@given(payload=st.binary(min_size=20, max_size=60))
def test_what_was_right_is_right(protocol: int, sent: tuple[str, str], seen: tuple[str, str], payload: bytes) -> None:
    at = CHECKSUM_AT[protocol]
    right = made(*sent, protocol, payload)
    got = through(sent, seen, protocol, right)
    assert sum_of(*seen, protocol, got) == 0xFFFF
    assert got[at : at + 2] != bytes(2)
    assert got[:at] + got[at + 2 :] == right[:at] + right[at + 2 :]
    wrong = right[:-1] + bytes((right[-1] ^ 1,))
    assert sum_of(*seen, protocol, through(sent, seen, protocol, wrong)) != 0xFFFF, "nothing is made good"


def test_a_udp_datagram_without_a_checksum_has_none() -> None:
    payload = struct.pack("!HHHH", 5000, 6000, 12, 0) + b"data"
    assert through((INSIDE, FAR), (OUTSIDE, FAR), UDP, payload) == payload


@pytest.mark.parametrize(
    ("protocol", "payload"),
    [(SCTP, bytes(range(40))), (1, b"\x08\x00" + bytes(range(30))), (TCP, bytes(range(17))), (UDP, b"\1\2\3\4\5\6\7")],
    ids=["SCTP", "ICMP", "too short for TCP", "too short for UDP"],
)
def test_what_covers_no_addresses_is_left_alone(protocol: int, payload: bytes) -> None:
    assert through((INSIDE, FAR), (OUTSIDE, FAR), protocol, payload) == payload


def test_another_port_of_the_nat_changes_nothing_about_it() -> None:
    sent, seen = (INSIDE, FAR), (OUTSIDE, FAR)
    got = through(sent, seen, TCP, made(*sent, TCP, bytes(range(40))), moved=True)
    assert sum_of(*seen, TCP, got) == 0xFFFF
