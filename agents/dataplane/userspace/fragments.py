"""What becomes of a packet that does not fit: fragments (RFC 791 section 3.2), or the answer that says how much fits.

The answer is "fragmentation needed" (RFC 1191 section 4) or "packet too big" (RFC 4443 section 3.2). It comes from the
address that the packet was for: the data plane has none of its own, and that one is where answers are expected from.
"""

from __future__ import annotations

import ipaddress
import struct

from agents.dataplane.userspace import ip

LEAST_IPV6_MTU = 1_280
_MORE, _OFFSET = 0x2000, 0x1FFF
_COPIED = 0x80
_END, _NO_OPERATION = 0, 1
_ICMP, _ICMPV6 = 1, 58
_ICMP_ERRORS = frozenset({3, 4, 5, 11, 12})
_ICMPV6_INFORMATIONAL = 128
_QUOTED_4 = 576 - 28
_QUOTED_6 = LEAST_IPV6_MTU - 48
_fields = struct.Struct("!HHH")


def fragment(packet: bytes, most_octets: int) -> list[bytes]:
    """Cut an IPv4 packet, which may be a fragment itself, into ones of at most ``most_octets``."""
    head = (packet[0] & 15) * 4
    length, identification, flags = _fields.unpack_from(packet, 2)
    payload = packet[head:length]
    first = packet[:head]
    rest = _header_of_later(first)
    found: list[bytes] = []
    at = 0
    while at < len(payload):
        shape = first if at == 0 else rest
        room = max(8, (most_octets - len(shape)) // 8 * 8)
        piece = payload[at : at + room]
        more = flags & _MORE if at + room >= len(payload) else _MORE
        offset = (flags & _OFFSET) + at // 8
        changed = bytearray(shape)
        _fields.pack_into(
            changed, 2, len(shape) + len(piece), identification, flags & ~_MORE & ~_OFFSET | more | offset
        )
        changed[10:12] = b"\0\0"
        changed[10:12] = ip.checksum(bytes(changed)).to_bytes(2, "big")
        found.append(bytes(changed) + piece)
        at += room
    return found


def _header_of_later(header: bytes) -> bytes:
    """Return the header of all fragments but the first: only options that say so are copied."""
    kept = bytearray()
    at = 20
    while at < len(header) and header[at] != _END:
        octets = 1 if header[at] == _NO_OPERATION else header[at + 1] if at + 1 < len(header) else 0
        if octets < 1 or at + octets > len(header):
            break
        if header[at] & _COPIED:
            kept += header[at : at + octets]
        at += octets
    kept += bytes(-len(kept) % 4)
    return bytes((0x40 | (20 + len(kept)) // 4,)) + header[1:20] + bytes(kept)


def too_big(packet: bytes, most_octets: int) -> bytes | None:
    """Return the ICMP message to the sender of ``packet``: at most ``most_octets`` fit.

    None where none may be sent: about ICMP errors, later fragments, and what is from or to more than one host (RFC 1122
    section 3.2.2, RFC 4443 section 2.4).
    """
    if packet[0] >> 4 == 4:
        return _fragmentation_needed(packet, most_octets)
    return _packet_too_big(packet, max(most_octets, LEAST_IPV6_MTU))


def _fragmentation_needed(packet: bytes, most_octets: int) -> bytes | None:
    head = (packet[0] & 15) * 4
    source, destination = packet[12:16], packet[16:20]
    if not _single(source, destination) or (packet[6] << 8 | packet[7]) & _OFFSET:
        return None
    if packet[9] == _ICMP and (len(packet) <= head or packet[head] in _ICMP_ERRORS):
        return None
    body = struct.pack("!BBHHH", 3, 4, 0, 0, min(most_octets, 0xFFFF)) + packet[:_QUOTED_4]
    body = body[:2] + ip.checksum(_even(body)).to_bytes(2, "big") + body[4:]
    # From the packet's destination to its source.
    return ip.header(destination, source, _ICMP, len(body)) + body


def _packet_too_big(packet: bytes, most_octets: int) -> bytes | None:
    source, destination = packet[8:24], packet[24:40]
    if not _single(source, destination):
        return None
    if packet[6] == _ICMPV6 and (len(packet) <= 40 or packet[40] < _ICMPV6_INFORMATIONAL):
        return None
    body = struct.pack("!BBHI", 2, 0, 0, most_octets) + packet[:_QUOTED_6]
    pseudo = destination + source + struct.pack("!II", len(body), _ICMPV6)
    body = body[:2] + ip.checksum(pseudo + _even(body)).to_bytes(2, "big") + body[4:]
    return ip.header(destination, source, _ICMPV6, len(body)) + body


def _single(source: bytes, destination: bytes) -> bool:
    for octets in (source, destination):
        address = ipaddress.ip_address(octets)
        if address.is_multicast or address.is_unspecified or octets == b"\xff\xff\xff\xff":
            return False
    return True


def _even(octets: bytes) -> bytes:
    return octets + b"\0" if len(octets) & 1 else octets
