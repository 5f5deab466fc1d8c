"""The blocks of a pcapng file (draft-ietf-opsawg-pcapng), as far as a capture of IP packets needs them.

Little-endian, times in nanoseconds, packets from the IP header on (link type RAW). An interface must be described
before its first packet; its number is its place among the descriptions.
"""

from __future__ import annotations

import struct

SNAP_OCTETS = 262_144
_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_MAGIC = 0x1A2B3C4D
_LINK_RAW = 101
_COMMENT, _APPLICATION, _NAME, _RESOLUTION, _FLAGS, _RECEIVED, _DROPPED = 1, 4, 2, 9, 2, 4, 5
_NANOSECONDS = b"\x09"
_INBOUND, _OUTBOUND = 1, 2
_LONGEST_OPTION = 65_535


def section(application: str, comment: str) -> bytes:
    """Return the block a file begins with; its length is left open."""
    options = _option(_COMMENT, comment.encode()) + _option(_APPLICATION, application.encode())
    return _block(_SECTION, struct.pack("<IHHq", _MAGIC, 1, 0, -1), options)


def interface(name: str) -> bytes:
    """Return the description of an interface."""
    options = _option(_NAME, name.encode()) + _option(_RESOLUTION, _NANOSECONDS)
    return _block(_INTERFACE, struct.pack("<HHI", _LINK_RAW, 0, SNAP_OCTETS), options)


def packet(number: int, time_ns: int, octets: bytes, *, outbound: bool) -> bytes:
    """Return one whole packet of interface ``number``."""
    head = struct.pack("<IIIII", number, time_ns >> 32, time_ns & 0xFFFFFFFF, len(octets), len(octets))
    flags = struct.pack("<I", _OUTBOUND if outbound else _INBOUND)
    return _block(_PACKET, head + _padded(octets), _option(_FLAGS, flags))


def statistics(number: int, time_ns: int, *, received: int, dropped: int) -> bytes:
    """Return how many packets the system took for this capture, and how many it had to drop."""
    head = struct.pack("<III", number, time_ns >> 32, time_ns & 0xFFFFFFFF)
    options = _option(_RECEIVED, struct.pack("<Q", received)) + _option(_DROPPED, struct.pack("<Q", dropped))
    return _block(_STATISTICS, head, options)


def _block(kind: int, body: bytes, options: bytes) -> bytes:
    content = body + options + struct.pack("<HH", 0, 0)
    length = struct.pack("<I", len(content) + 12)
    return struct.pack("<I", kind) + length + content + length


def _option(code: int, value: bytes) -> bytes:
    value = value[:_LONGEST_OPTION]
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 4)
