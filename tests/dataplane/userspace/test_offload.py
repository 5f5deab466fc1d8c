from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.dataplane.userspace.ip import MalformedPacket
from agents.dataplane.userspace.offload import PLAIN_FRAME, VNET_OCTETS, coalesce, segment

V4, V6 = ("10.1.0.1", "10.2.0.1"), ("fd01::1", "fd02::1")
ACK, PSH, FIN, CWR = 0x10, 0x08, 0x01, 0x80
TIMESTAMPS = bytes.fromhex("0101080a0000000100000002")


def words(octets: bytes) -> int:
    """The one's complement sum, the slow way."""
    octets += b"\0" * (len(octets) % 2)
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(addresses: tuple[str, str], protocol: int, length: int) -> bytes:
    packed = b"".join(ipaddress.ip_address(each).packed for each in addresses)
    return packed + struct.pack("!II", length, protocol)


def ip_header(addresses: tuple[str, str], protocol: int, length: int, identification: int = 7, tos: int = 0) -> bytes:
    a, b = (ipaddress.ip_address(each).packed for each in addresses)
    if len(a) == 16:
        return struct.pack("!IHBB", 6 << 28 | tos << 20, length, protocol, 63) + a + b
    head = struct.pack("!BBHHHBBH", 0x45, tos, 20 + length, identification, 0x4000, 63, protocol, 0) + a + b
    return head[:10] + struct.pack("!H", ~words(head) & 0xFFFF) + head[12:]


def tcp(
    addresses: tuple[str, str],
    data: bytes,
    *,
    sequence: int = 1000,
    flags: int = ACK,
    options: bytes = TIMESTAMPS,
    identification: int = 7,
    ports: tuple[int, int] = (5001, 6001),
    window: int = 500,
) -> bytes:
    """A whole TCP packet with right checksums."""
    head = struct.pack("!HHIIBBHHH", *ports, sequence, 99, (20 + len(options)) // 4 << 4, flags, window, 0, 0) + options
    check = ~words(pseudo(addresses, 6, len(head) + len(data)) + head + data) & 0xFFFF
    body = head[:16] + struct.pack("!H", check) + head[18:] + data
    return ip_header(addresses, 6, len(body), identification) + body


def checksums_hold(packet: bytes) -> bool:
    if packet[0] >> 4 == 4:
        start, protocol = 20, packet[9]
        addresses = (str(ipaddress.ip_address(packet[12:16])), str(ipaddress.ip_address(packet[16:20])))
        if words(packet[:20]) != 0xFFFF or int.from_bytes(packet[2:4], "big") != len(packet):
            return False
    else:
        start, protocol = 40, packet[6]
        addresses = (str(ipaddress.ip_address(packet[8:24])), str(ipaddress.ip_address(packet[24:40])))
        if int.from_bytes(packet[4:6], "big") != len(packet) - 40:
            return False
    return words(pseudo(addresses, protocol, len(packet) - start) + packet[start:]) == 0xFFFF


def super_frame(addresses: tuple[str, str], data: bytes, size: int, *, flags: int = ACK, sequence: int = 1000) -> bytes:
    """What the kernel hands over with TSO: one packet with a partial checksum and a virtio-net header."""
    packet = bytearray(tcp(addresses, data, flags=flags, sequence=sequence))
    start = 20 if packet[0] >> 4 == 4 else 40
    packet[start + 16 : start + 18] = struct.pack("!H", words(pseudo(addresses, 6, len(packet) - start)))
    kind = 1 if start == 20 else 4
    return struct.pack("=BBHHHH", 1, kind, start + 32, size, start, 16) + bytes(packet)


def test_fragmentable_segments_are_numbered() -> None:
    frame = bytearray(super_frame(V4, payload(5000), 1000))
    frame[VNET_OCTETS + 4 : VNET_OCTETS + 8] = b"\xff\xfe\0\0"
    packets = segment(bytes(frame))
    assert [packet[4:6].hex() for packet in packets] == ["fffe", "ffff", "0000", "0001", "0002"]
    assert all(checksums_hold(packet) for packet in packets)


def payload(count: int) -> bytes:
    return bytes(index * 7 & 0xFF for index in range(count))


@given(
    addresses=st.sampled_from([V4, V6]),
    size=st.integers(1, 1500),
    count=st.integers(1, 40),
    rest=st.integers(0, 1500),
    flags=st.sampled_from([ACK, ACK | PSH, ACK | FIN | PSH, ACK | CWR]),
    sequence=st.sampled_from([0, 1000, 0xFFFFFFFF, 0xFFFFF000]),
)
def test_a_super_packet_becomes_right_segments(
    addresses: tuple[str, str], size: int, count: int, rest: int, flags: int, sequence: int
) -> None:
    data = payload(size * count + min(rest, size))
    packets = segment(super_frame(addresses, data, size, flags=flags, sequence=sequence))
    start = 20 if addresses is V4 else 40
    assert b"".join(packet[start + 32 :] for packet in packets) == data
    assert all(checksums_hold(packet) for packet in packets)
    assert all(len(packet) == start + 32 + size for packet in packets[:-1])
    for index, packet in enumerate(packets):
        assert int.from_bytes(packet[start + 4 : start + 8], "big") == (sequence + index * size) & 0xFFFFFFFF
        expected = flags
        if index:
            expected &= ~CWR
        if index < len(packets) - 1:
            expected &= ~(FIN | PSH)
        assert packet[start + 13] == expected
    if addresses is V4:
        assert {packet[4:6] for packet in packets} == {b"\0\x07"}


@given(
    addresses=st.sampled_from([V4, V6]), size=st.integers(1, 1400), count=st.integers(2, 40), rest=st.integers(0, 1399)
)
def test_segments_join_into_the_super_packet_they_were(
    addresses: tuple[str, str], size: int, count: int, rest: int
) -> None:
    data = payload(size * count + min(rest, size - 1))
    frame = super_frame(addresses, data, size, flags=ACK | PSH)
    (joined,) = coalesce(segment(frame))
    assert b"".join(joined) == frame


@pytest.mark.parametrize("addresses", [V4, V6])
def test_a_run_with_a_wrong_checksum_is_written_packet_by_packet(addresses: tuple[str, str]) -> None:
    packets = [tcp(addresses, b"x" * 100, sequence=1000 + 100 * index) for index in range(4)]
    broken = bytearray(packets[2])
    broken[-1] ^= 1
    packets[2] = bytes(broken)
    assert coalesce(packets) == [(PLAIN_FRAME, packet) for packet in packets]


def test_a_wrong_ip_header_checksum_is_not_covered_up() -> None:
    packets = [tcp(V4, b"x" * 100, sequence=1000 + 100 * index) for index in range(2)]
    broken = bytearray(packets[1])
    broken[10] ^= 1
    packets[1] = bytes(broken)
    assert len(coalesce(packets)) == 2


SECOND = {
    "another flow": {"ports": (5002, 6001)},
    "a gap": {"sequence": 1101},
    "a repeat": {"sequence": 1000},
    "another window": {"window": 501},
    "other options": {"options": bytes(12)},
    "no options": {"options": b""},
    "URG": {"flags": ACK | 0x20},
    "FIN": {"flags": ACK | FIN},
    "ECE": {"flags": ACK | 0x40},
    "no data": {"data": b""},
    "longer than the first": {"data": b"x" * 101},
}


@pytest.mark.parametrize("addresses", [V4, V6])
@pytest.mark.parametrize("change", SECOND.values(), ids=SECOND)
def test_what_a_receiver_could_tell_apart_is_not_joined(addresses: tuple[str, str], change: dict[str, object]) -> None:
    first = tcp(addresses, b"x" * 100)
    second = tcp(addresses, **({"data": b"x" * 100, "sequence": 1100} | change))  # type: ignore[arg-type]
    assert coalesce([first, second]) == [(PLAIN_FRAME, first), (PLAIN_FRAME, second)]


def test_nothing_is_joined_behind_a_push_or_a_short_segment() -> None:
    pushed = [tcp(V4, b"x" * 9, flags=ACK | PSH), tcp(V4, b"x" * 9, sequence=1009)]
    assert len(coalesce(pushed)) == 2
    short = [tcp(V4, b"x" * 9), tcp(V4, b"x" * 8, sequence=1009), tcp(V4, b"x" * 8, sequence=1017)]
    assert len(coalesce(short)) == 2


def test_a_run_stays_below_64_kib() -> None:
    packets = [tcp(V4, bytes(1400), sequence=1000 + 1400 * index) for index in range(100)]
    frames = coalesce(packets)
    assert [sum(map(len, frame)) - VNET_OCTETS <= 65535 for frame in frames] == [True] * len(frames)
    assert len(frames) == 3


@given(st.lists(st.binary(min_size=20, max_size=90), max_size=8))
def test_any_packets_go_through_coalescing_unharmed(packets: list[bytes]) -> None:
    assert [b"".join(frame)[VNET_OCTETS:] for frame in coalesce(packets)] == packets


@given(st.binary(min_size=VNET_OCTETS + 1, max_size=200))
def test_any_frame_is_segmented_or_refused(frame: bytes) -> None:
    try:
        packets = segment(frame)
    except MalformedPacket:
        return
    assert packets
    assert all(packet[0] >> 4 == frame[VNET_OCTETS] >> 4 for packet in packets)


@pytest.mark.parametrize("addresses", [V4, V6])
def test_a_partial_checksum_is_finished(addresses: tuple[str, str]) -> None:
    whole = tcp(addresses, b"hello")
    start = 20 if addresses is V4 else 40
    partial = bytearray(whole)
    partial[start + 16 : start + 18] = struct.pack("!H", words(pseudo(addresses, 6, len(whole) - start)))
    assert segment(struct.pack("=BBHHHH", 1, 0, 0, 0, start, 16) + bytes(partial)) == [whole]


@pytest.mark.parametrize("addresses", [V4, V6])
def test_udp_super_packets_become_right_datagrams(addresses: tuple[str, str]) -> None:
    data = payload(2500)
    packet = ip_header(addresses, 17, 8 + len(data)) + struct.pack("!HHHH", 5, 6, 8 + len(data), 0) + data
    start = 20 if addresses is V4 else 40
    packets = segment(struct.pack("=BBHHHH", 1, 5, start + 8, 1000, start, 6) + packet)
    assert [len(each) - start - 8 for each in packets] == [1000, 1000, 500]
    assert all(checksums_hold(each) for each in packets)
    assert b"".join(each[start + 8 :] for each in packets) == data
