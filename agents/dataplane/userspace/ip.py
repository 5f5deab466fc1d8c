"""What the engine needs of IP packets: length, flow, traffic class, checksum, and a header to put before a payload.

Here: RFC 791 and RFC 8200 headers as far as selectors (RFC 4301 section 4.4.1.1) and RFC 6040 look at them.
Deliberately not here: fragments are not put together; what is behind the first one has no ports.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_PORTS = frozenset({6, 17, 33, 132, 136})
"""TCP, UDP, DCCP, SCTP, UDP-Lite: the first four octets are the ports."""
_ICMP = frozenset({1, 58})
"""Type and code are one number, which stands in for the source port (RFC 4301 sections 4.4.1.1 and 4.4.1.3)."""
_MOBILITY = 135
"""Its type does (RFC 6275 section 6.1.1: the third octet)."""
_EXTENSIONS = frozenset({0, 43, 60, 139, 140})
_FRAGMENT = 44
_AUTHENTICATION = 51

_UDP = 17
_CHECKSUM_AT = {6: 16, _UDP: 6, 33: 6, 58: 2, 136: 6}
"""Where TCP, UDP, DCCP, ICMPv6 and UDP-Lite have the checksum that covers the addresses too."""

MOST_OCTETS = 65_535
"""Of an IPv4 packet."""
ECN_ECT_1, ECN_CE = 1, 3
HOP_LIMIT = 64
"""Of the headers made here."""
_words = struct.Struct("!HH").unpack_from
_head_4 = struct.Struct("!BBHHHBBH").pack
_head_6 = struct.Struct("!IHBB").pack


class MalformedPacket(Exception):  # noqa: N818 - an outcome of one packet, not a fault of ours
    """The octets are not one whole IP packet."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Addresses as integers; ports are None where they are not to be seen (a later fragment, AH, ESP...)."""

    version: int
    source: int
    destination: int
    protocol: int
    source_port: int | None
    destination_port: int | None


def flow_key(packet: bytes) -> bytes | None:
    """Return octets equal for packets of one unfragmented TCP or UDP flow, or None: use :func:`parse_flow` then."""
    first = packet[0]
    if first == 0x45:
        if len(packet) >= 28 and not packet[6] & 0x3F and not packet[7] and packet[9] in (6, 17):
            return packet[9:10] + packet[12:24]
    elif first >> 4 == 6 and len(packet) >= 48 and packet[6] in (6, 17):
        return packet[6:7] + packet[8:44]
    return None


def packet_length(packet: bytes) -> int:
    """Return the length an IP header states; raises :class:`MalformedPacket` when the octets are fewer.

    Octets behind it are traffic flow confidentiality padding (RFC 4303 section 2.7). Jumbograms are refused.
    """
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        length = packet[2] << 8 | packet[3]
        if 20 <= (packet[0] & 15) * 4 <= length <= len(packet):
            return length
    elif len(packet) >= 40 and packet[0] >> 4 == 6:
        length = 40 + (packet[4] << 8 | packet[5])
        if length <= len(packet):
            return length
    raise MalformedPacket("not one whole IP packet")


def parse_flow(packet: bytes) -> Flow:
    """Return the packet's selectors; raises :class:`MalformedPacket`."""
    packet_length(packet)
    if packet[0] >> 4 == 4:
        offset = (packet[0] & 15) * 4
        protocol = packet[9]
        visible = not (packet[6] & 0x1F or packet[7])
        source, destination = packet[12:16], packet[16:20]
        version = 4
    else:
        protocol, offset, visible = _upper_layer(packet)
        source, destination = packet[8:24], packet[24:40]
        version = 6
    source_port, destination_port = _ports(packet, protocol, offset) if visible else (None, None)
    return Flow(
        version,
        int.from_bytes(source, "big"),
        int.from_bytes(destination, "big"),
        protocol,
        source_port,
        destination_port,
    )


def _ports(packet: bytes, protocol: int, offset: int) -> tuple[int | None, int | None]:
    if protocol in _PORTS and len(packet) >= offset + 4:
        return _words(packet, offset)
    if protocol in _ICMP and len(packet) >= offset + 2:
        return packet[offset] << 8 | packet[offset + 1], None
    if protocol == _MOBILITY and len(packet) >= offset + 3:
        return packet[offset + 2] << 8, None
    return None, None


def _upper_layer(packet: bytes) -> tuple[int, int, bool]:
    """Walk IPv6 extension headers; return protocol, where it starts, and whether it is there (first fragment)."""
    protocol, offset = packet[6], 40
    while protocol in _EXTENSIONS or protocol in (_FRAGMENT, _AUTHENTICATION):
        if len(packet) < offset + 8:
            raise MalformedPacket("extension header")
        following = packet[offset]
        if protocol == _FRAGMENT:
            if (packet[offset + 2] << 8 | packet[offset + 3]) & 0xFFF8:
                return following, offset + 8, False
            offset += 8
        elif protocol == _AUTHENTICATION:
            offset += (packet[offset + 1] + 2) * 4
        else:
            offset += (packet[offset + 1] + 1) * 8
        protocol = following
    return protocol, offset, True


def traffic_class(packet: bytes) -> int:
    """Return DSCP and ECN as one octet."""
    if packet[0] >> 4 == 4:
        return packet[1]
    return (packet[0] << 4 | packet[1] >> 4) & 0xFF


def with_congestion(packet: bytes, outer: int) -> bytes | None:
    """Return the packet with the ECN field that it has inwards (RFC 6040 section 4.2, figure 4); None means drop.

    ``outer`` is the field outside, CE or ECT(1); the others change nothing.
    """
    inner = traffic_class(packet) & 3
    if inner == 0:
        return None if outer == ECN_CE else packet
    if inner in (ECN_CE, outer):
        return packet
    changed = bytearray(packet)
    if packet[0] >> 4 == 4:
        changed[1] = changed[1] & ~3 | outer
        header = (packet[0] & 15) * 4
        changed[10:12] = b"\0\0"
        changed[10:12] = checksum(bytes(changed[:header])).to_bytes(2, "big")
    else:
        changed[1] = changed[1] & ~0x30 | outer << 4
    return bytes(changed)


def may_not_be_fragmented(packet: bytes) -> bool:
    """Whether routers may not cut the packet: DF is set, or it is IPv6."""
    return packet[0] >> 4 == 6 or packet[6] & 0x40 != 0


def header(
    source: bytes, destination: bytes, protocol: int, octets: int, *, traffic_class: int = 0, identification: int = 0,
    dont_fragment: bool = True,
) -> bytes:  # fmt: skip
    """Return an IP header before ``octets`` of payload; the addresses' length says which version."""
    if len(source) == 16:
        return _head_6(6 << 28 | traffic_class << 20, octets, protocol, HOP_LIMIT) + source + destination
    flags = 0x4000 if dont_fragment else 0
    fixed = (0x45, traffic_class, 20 + octets, identification, flags, HOP_LIMIT, protocol)
    total = checksum(_head_4(*fixed, 0) + source + destination)
    return _head_4(*fixed, total) + source + destination


def checksum(octets: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of octets."""
    return -int.from_bytes(octets, "big") % 0xFFFF


def with_checksum_shifted(protocol: int, payload: bytes, shift: int) -> bytes:
    """Return a payload whose checksum covers addresses with it made that of others (RFC 1624).

    ``shift`` is the difference of the addresses' own checksums. UDP over IPv4 may have none, which stays so; protocols
    that do not cover addresses, and what is too short for one, are left as they are.
    """
    at = _CHECKSUM_AT.get(protocol)
    if at is None or len(payload) < at + 2:
        return payload
    value = payload[at] << 8 | payload[at + 1]
    if value == 0 and protocol == _UDP:
        return payload
    # Of the two zeros this is the one that UDP has; for all others they are the same.
    value = (value + shift) % 0xFFFF or 0xFFFF
    return payload[:at] + value.to_bytes(2, "big") + payload[at + 2 :]
