"""What ESP, AH and UDP take of a packet's length (RFC 4303 section 2, RFC 4302 section 2, RFC 3948 section 2.1)."""

from __future__ import annotations

from agents.contract.algorithms import ENCRYPTION, INTEGRITY
from agents.dataplane.userspace.ah import header_octets

HEADER_OCTETS = {4: 20, 6: 40}
UDP_OCTETS = 8
_ESP_HEADER_OCTETS, _ESP_TRAILER_OCTETS = 8, 2


def largest_payload(
    packet_octets: int, version: int, *, encryption: str | None, integrity: str | None, ah_integrity: str | None,
    in_udp: bool,
) -> int:  # fmt: skip
    """Return how many octets of payload an outer packet of ``packet_octets`` carries under such a suite.

    The payload is the whole inner packet in tunnel mode. ``version`` is that of the outer header.
    """
    room = packet_octets - HEADER_OCTETS[version] - (UDP_OCTETS if in_udp else 0)
    if ah_integrity is not None:
        room -= header_octets(INTEGRITY[ah_integrity].icv_octets, version)
    if encryption is None:
        return room
    cipher = ENCRYPTION[encryption]
    icv_octets = cipher.icv_octets if integrity is None else INTEGRITY[integrity].icv_octets
    alignment = max(4, cipher.block_octets)
    text = (room - _ESP_HEADER_OCTETS - cipher.iv_octets - icv_octets) // alignment * alignment
    return text - _ESP_TRAILER_OCTETS
