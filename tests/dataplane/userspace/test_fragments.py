from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.dataplane.userspace import ip
from agents.dataplane.userspace.fragments import fragment, too_big
from tests.dataplane.userspace.values import ip_packet, udp_packet


def whole(pieces: list[bytes]) -> bytes:
    """What RFC 791 makes of fragments: payload by offset; headers, offsets and the last mark checked on the way."""
    data = b""
    for index, piece in enumerate(pieces):
        head = (piece[0] & 15) * 4
        length, _identification, place = struct.unpack_from("!HHH", piece, 2)
        assert length == len(piece)
        assert sum(struct.unpack(f"!{head // 2}H", piece[:head])) % 0xFFFF == 0
        assert (place & 0x1FFF) * 8 == len(data)
        assert bool(place & 0x2000) is (index < len(pieces) - 1)
        data += piece[head:]
    return data


@given(st.integers(0, 6000), st.integers(68, 1500))
def test_fragments_fit_and_come_together_again(octets: int, most: int) -> None:
    packet = ip_packet(payload=bytes(index & 255 for index in range(octets)), dont_fragment=False)
    pieces = fragment(packet, most) if len(packet) > most else [packet]
    assert all(len(piece) <= most for piece in pieces)
    assert whole(pieces) == packet[20:]
    assert {piece[4:6] for piece in pieces} == {packet[4:6]}


def test_a_fragment_is_cut_at_its_own_place() -> None:
    packet = bytearray(ip_packet(payload=bytes(800), dont_fragment=False))
    packet[6:8] = struct.pack("!H", 0x2000 | 100)
    places = [struct.unpack_from("!H", piece, 6)[0] for piece in fragment(bytes(packet), 420)]
    assert places == [0x2000 | 100, 0x2000 | 150]


def test_only_options_that_are_copied_are_in_later_fragments() -> None:
    options = bytes((7, 3, 4, 1, 148, 4, 0, 0))
    packet = bytearray(ip_packet(payload=bytes(400), dont_fragment=False))
    packet[0] += len(options) // 4
    packet[20:20] = options
    packet[2:4] = len(packet).to_bytes(2, "big")
    first, second = fragment(bytes(packet), 300)
    assert (first[0], first[20:28]) == (0x47, options)
    assert (second[0], second[20:24]) == (0x46, bytes((148, 4, 0, 0)))
    assert whole([first, second]) == bytes(400)


def test_fragmentation_needed_is_what_rfc_1191_says() -> None:
    packet = udp_packet(data=bytes(2000))
    answer = too_big(packet, 1300)
    assert answer is not None
    assert len(answer) == 576
    assert ip.parse_flow(answer) == ip.Flow(
        4, int(ipaddress.ip_address("10.2.0.1")), int(ipaddress.ip_address("10.1.0.1")), 1, 3 << 8 | 4, None
    )
    assert struct.unpack_from("!BBHHH", answer, 20)[:2] == (3, 4)
    assert struct.unpack_from("!HH", answer, 24) == (0, 1300)
    assert sum(struct.unpack(f"!{278}H", answer[20:])) % 0xFFFF == 0
    assert packet.startswith(answer[28:])


@pytest.mark.parametrize(("most", "said"), [(1300, 1300), (900, 1280)])
def test_packet_too_big_is_what_rfc_4443_says_and_never_below_1280(most: int, said: int) -> None:
    packet = udp_packet("fd01::1", "fd02::1", data=bytes(2000))
    answer = too_big(packet, most)
    assert answer is not None
    assert len(answer) == 1280
    assert (answer[8:24], answer[24:40]) == (packet[24:40], packet[8:24])
    assert struct.unpack_from("!BB", answer, 40) == (2, 0)
    assert struct.unpack_from("!I", answer, 44) == (said,)
    pseudo = answer[8:40] + struct.pack("!II", len(answer) - 40, 58)
    assert sum(struct.unpack(f"!{len(pseudo + answer[40:]) // 2}H", pseudo + answer[40:])) % 0xFFFF == 0
    assert packet.startswith(answer[48:])


NOT_ANSWERED = {
    "multicast": udp_packet(destination="224.0.0.5"),
    "broadcast": udp_packet(destination="255.255.255.255"),
    "no source": udp_packet(source="0.0.0.0"),
    "IPv6 multicast": udp_packet("fd01::1", "ff02::5"),
    "a later fragment": (lambda packet: packet[:6] + b"\x00\x10" + packet[8:])(udp_packet()),
    "an ICMP error": ip_packet(payload=b"\x03\x01" + bytes(40), protocol=1),
    "an ICMPv6 error": ip_packet("fd01::1", "fd02::1", b"\x01\x00" + bytes(40), 58),
}


@pytest.mark.parametrize("packet", NOT_ANSWERED.values(), ids=NOT_ANSWERED)
def test_what_icmp_forbids_is_not_answered(packet: bytes) -> None:
    assert too_big(packet, 500) is None


def test_echo_is_answered() -> None:
    assert too_big(ip_packet(payload=b"\x08\x00" + bytes(40), protocol=1), 500) is not None
    assert too_big(ip_packet("fd01::1", "fd02::1", b"\x80\x00" + bytes(40), 58), 1280) is not None


@given(st.binary(min_size=40, max_size=90))
def test_any_packet_that_parses_is_survived(octets: bytes) -> None:
    for packet in (b"\x45" + octets[1:], b"\x47" + octets[1:], b"\x60" + octets[1:]):
        try:
            ip.parse_flow(packet)
        except ip.MalformedPacket:
            continue
        too_big(packet, 100)
        if packet[0] >> 4 == 4:
            fragment(packet, 68)
