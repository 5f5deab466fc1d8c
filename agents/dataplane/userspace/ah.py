"""AH packets (RFC 4302): one object per SA, which holds the keyed MAC for the SA's whole life.

The ICV covers the IP header around it, so this works on whole IP packets; :func:`covered` is the header with everything
zeroed that routers may change (section 3.3.3.1, appendix A). With extended sequence numbers (section 2.5.1) the high
half follows the packet's end. Deliberately not here: replay, selectors, and fragments, which are put together before.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass

from agents.contract.algorithms import INTEGRITY
from agents.contract.secret import Secret
from agents.dataplane.userspace import drops
from agents.dataplane.userspace.drops import Dropped
from agents.dataplane.userspace.esp import NEXT_AH
from agents.ike.crypto.primitives import keyed_mac

FIXED_OCTETS = 12
_MOST_PADDING = 7
_IPV6_OCTETS = 40
_FIXED = struct.Struct("!BBHII")
_high = struct.Struct("!I").pack

_END, _NO_OPERATION = 0, 1
_KEPT_OPTIONS = frozenset({130, 133, 134, 148, 149})
"""IPv4 options that no router changes: security, extended and commercial security, router alert, SDMD (appendix A1)."""
_HOP_BY_HOP, _ROUTING, _DESTINATION = 0, 43, 60
_CHANGES_EN_ROUTE = 0x20
"""In the type of an option of IPv6: its data may change on the way (RFC 8200 section 4.2)."""


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A packet taken apart but not verified: where AH and its payload start, and what it says of itself.

    ``end`` may be beyond the packet's.
    """

    packet: bytes
    start: int
    end: int
    next_header: int
    spi: int
    sequence: int


def parse(packet: bytes) -> Authenticated:
    """Find AH in a whole IP packet; raises :class:`Dropped` (malformed) when it is not there."""
    start = _start(packet)
    if len(packet) < start + FIXED_OCTETS:
        raise Dropped(drops.MALFORMED, "AH is cut")
    next_header, words, _reserved, spi, sequence = _FIXED.unpack_from(packet, start)
    return Authenticated(packet, start, start + (words + 2) * 4, next_header, spi, sequence)


def _start(packet: bytes) -> int:
    """Return where AH starts: behind the IPv4 header, or behind the extension headers of IPv6 before it."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        if packet[9] == NEXT_AH and packet[0] & 15 >= 5:
            return (packet[0] & 15) * 4
    elif len(packet) >= _IPV6_OCTETS and packet[0] >> 4 == 6:
        following, at = packet[6], _IPV6_OCTETS
        while following in (_HOP_BY_HOP, _ROUTING, _DESTINATION) and at + 8 <= len(packet):
            following, at = packet[at], at + (packet[at + 1] + 1) * 8
        if following == NEXT_AH:
            return at
    raise Dropped(drops.MALFORMED, "no AH behind the IP header")


def covered(header: bytes) -> bytes:
    """Return what stands before AH as the ICV covers it; raises :class:`Dropped` for an option that is cut."""
    changed = bytearray(header)
    if header[0] >> 4 == 4:
        changed[1] = changed[8] = 0
        changed[6:8] = changed[10:12] = b"\0\0"
        _zero_options(changed)
    else:
        changed[0:4] = b"\x60\0\0\0"
        changed[7] = 0
        following, at = changed[6], _IPV6_OCTETS
        while following in (_HOP_BY_HOP, _ROUTING, _DESTINATION):
            end = at + (changed[at + 1] + 1) * 8
            if following != _ROUTING:
                _zero_changing(changed, at + 2, end)
            following, at = changed[at], end
    return bytes(changed)


def _zero_options(header: bytearray) -> None:
    at = 20
    while at < len(header):
        kind = header[at]
        if kind == _END:
            return
        if kind == _NO_OPERATION:
            at += 1
            continue
        octets = header[at + 1] if at + 1 < len(header) else 0
        if octets < 2 or at + octets > len(header):
            raise Dropped(drops.MALFORMED, "an IPv4 option is cut")
        if kind not in _KEPT_OPTIONS:
            header[at : at + octets] = bytes(octets)
        at += octets


def _zero_changing(header: bytearray, at: int, end: int) -> None:
    """Zero the data of the options of an IPv6 extension header that say of themselves that they change."""
    while at < end:
        if header[at] == 0:
            at += 1
            continue
        octets = header[at + 1] if at + 1 < end else end
        if at + 2 + octets > end:
            raise Dropped(drops.MALFORMED, "an IPv6 option is cut")
        if header[at] & _CHANGES_EN_ROUTE:
            header[at + 2 : at + 2 + octets] = bytes(octets)
        at += 2 + octets


class AhTransform:
    """AH of one SA. Raises ValueError for an unknown algorithm or a key of the wrong length."""

    __slots__ = ("_extended", "_icv_octets", "_mac", "spi")

    def __init__(self, spi: int, integrity: str, key: Secret, *, extended: bool = False) -> None:
        row = INTEGRITY.get(integrity)
        if row is None:
            raise ValueError(f"unknown integrity algorithm {integrity!r}")
        if len(key) != row.key_octets:
            raise ValueError(f"{integrity} takes {row.key_octets} octets of key, not {len(key)}")
        self.spi = spi
        self._extended = extended
        self._icv_octets = row.icv_octets
        self._mac = keyed_mac(row.hash, key.reveal())

    def octets(self, version: int) -> int:
        """Return the length of AH behind an IPv4 or IPv6 header (section 2.6: a multiple of 4, or of 8)."""
        return header_octets(self._icv_octets, version)

    def seal(self, number: int, header: bytes, next_header: int, payload: bytes) -> bytes:
        """Return AH and payload; ``header`` is all that goes before, with the lengths the packet will have."""
        octets = self.octets(header[0] >> 4)
        fixed = _FIXED.pack(next_header, octets // 4 - 2, 0, self.spi, number & 0xFFFFFFFF)
        padding = bytes(octets - FIXED_OCTETS - self._icv_octets)
        return b"".join((fixed, self._icv(header, fixed, padding, payload, number >> 32), padding, payload))

    def open(self, parsed: Authenticated, high: int = 0) -> bytes:
        """Return the payload of an authentic packet; raises :class:`Dropped`. The padding is as its sender chose."""
        packet, start, end = parsed.packet, parsed.start, parsed.end
        icv_end = start + FIXED_OCTETS + self._icv_octets
        if not icv_end <= end <= min(icv_end + _MOST_PADDING, len(packet)):
            raise Dropped(drops.MALFORMED, "length of AH")
        fixed, padding, payload = packet[start : start + FIXED_OCTETS], packet[icv_end:end], packet[end:]
        icv = self._icv(packet[:start], fixed, padding, payload, high)
        if not hmac.compare_digest(icv, packet[start + FIXED_OCTETS : icv_end]):
            raise Dropped(drops.INTEGRITY, "ICV of AH")
        return payload

    def _icv(self, header: bytes, fixed: bytes, padding: bytes, payload: bytes, high: int) -> bytes:
        parts = (covered(header), fixed, bytes(self._icv_octets), padding, payload)
        return self._mac(b"".join((*parts, _high(high)) if self._extended else parts))[: self._icv_octets]


def header_octets(icv_octets: int, version: int) -> int:
    """Return the length of AH with an ICV of so many octets, padding included (section 2.6)."""
    alignment = 4 if version == 4 else 8
    return -(-(FIXED_OCTETS + icv_octets) // alignment) * alignment
