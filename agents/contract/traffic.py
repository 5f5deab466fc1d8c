"""Inner traffic and the mode it is carried in: what negotiated and manual tunnels have in common."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import StrEnum

from agents.contract import check
from agents.contract.errors import FieldError


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


def unicast(field: str, value: str) -> None:
    """Refuse an address that no single host can have."""
    address = check.address(field, value)
    if address.is_unspecified or address.is_multicast:
        raise FieldError(field, "must be a unicast address")
