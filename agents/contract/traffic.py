"""Inner traffic and the mode it is carried in: what negotiated and manual tunnels have in common."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import StrEnum

from agents.contract import check
from agents.contract.errors import FieldError

TYPED = frozenset({1, 58, 135})
"""ICMP, ICMPv6, Mobility Header: ports of a selector are type and code, or the MH type (RFC 7296 section 3.13.1).

A packet has no two of them: those of the local selector are what is sent, those of the remote one what is received (RFC
4301 section 4.4.1.3).
"""
ALL_CODES = (0, 255)


class Mode(StrEnum):
    """IPsec mode (RFC 4301 section 3.2)."""

    TUNNEL = "tunnel"
    TRANSPORT = "transport"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSelector:
    """Inner traffic by prefix, protocol (0 is any) and inclusive port range."""

    network: str
    protocol: int = 0
    start_port: int = 0
    end_port: int = 65535

    def __post_init__(self) -> None:
        check.network("network", self.network)
        check.bounded("protocol", self.protocol, 0, 255)
        check.bounded("start_port", self.start_port, 0, 65535)
        check.bounded("end_port", self.end_port, self.start_port, 65535)

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_network(self.network).version


def types_and_codes(ports: tuple[int, int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return what inclusive ports of a :data:`TYPED` protocol stand for: ranges of types, each with the same codes."""
    (first, code), (last, last_code) = divmod(ports[0], 256), divmod(ports[1], 256)
    if first == last:
        return [((first, first), (code, last_code))]
    blocks = []
    if code > ALL_CODES[0]:
        blocks.append(((first, first), (code, ALL_CODES[1])))
        first += 1
    end = last if last_code == ALL_CODES[1] else last - 1
    if first <= end:
        blocks.append(((first, end), ALL_CODES))
    if end < last:
        blocks.append(((last, last), (ALL_CODES[0], last_code)))
    return blocks


def unicast(field: str, value: str) -> None:
    """Refuse an address that no single host can have."""
    address = check.address(field, value)
    if address.is_unspecified or address.is_multicast:
        raise FieldError(field, "must be a unicast address")
