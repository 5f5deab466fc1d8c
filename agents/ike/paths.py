"""Addresses and ports of a tunnel's outside, as both IKE versions see them."""

from __future__ import annotations

import ipaddress

from agents.contract.config import Endpoint, Tunnel
from agents.dataplane.base import Direction, UdpEncapsulation
from agents.ike.outputs import Path

IKE_PORT = 500
NAT_PORT = 4500


def addresses_of(end: Endpoint) -> tuple[str, ...]:
    """Return every address of an end of a tunnel, the main one first."""
    return (end.address, *end.more_addresses)


def pairs_of(config: Tunnel) -> set[tuple[str, str]]:
    """Return the pairs of a local and a remote address that the tunnel may run between."""
    return {
        (local, remote)
        for local in addresses_of(config.local)
        for remote in addresses_of(config.remote)
        if same_version(local, remote)
    }


def same_version(left: str, right: str) -> bool:
    """Return whether both addresses are of one IP version."""
    return ipaddress.ip_address(left).version == ipaddress.ip_address(right).version


def endpoint(address: str, port: int) -> str:
    """Return ``address:port``, IPv6 in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def encapsulation(path: Path, direction: Direction) -> UdpEncapsulation:
    """Return the UDP ports of ESP on this path; where IKE stayed on 500, ESP still uses 4500 (RFC 3948)."""
    local = NAT_PORT if path.local_port == IKE_PORT else path.local_port
    remote = NAT_PORT if path.remote_port == IKE_PORT else path.remote_port
    if direction is Direction.OUT:
        return UdpEncapsulation(source_port=local, destination_port=remote)
    return UdpEncapsulation(source_port=remote, destination_port=local)
