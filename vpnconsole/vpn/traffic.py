"""Which inner traffic two selector pairs have in common. Pure: prefixes as text, nothing of Django's database."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """A selector pair as one gateway sees it."""

    local: Network
    remote: Network
    protocol: int = 0
    local_ports: tuple[int, int] = (0, 65_535)
    remote_ports: tuple[int, int] = (0, 65_535)


def networks_overlap(one: Network, other: Network) -> bool:
    """Tell whether some address is in both; networks of different IP versions never overlap."""
    return one.version == other.version and one.overlaps(other)


def overlap(one: Traffic, other: Traffic) -> bool:
    """Tell whether some packet matches both."""
    return (
        networks_overlap(one.local, other.local)
        and networks_overlap(one.remote, other.remote)
        and (0 in (one.protocol, other.protocol) or one.protocol == other.protocol)
        and _ranges_overlap(one.local_ports, other.local_ports)
        and _ranges_overlap(one.remote_ports, other.remote_ports)
    )


def covers(one: Traffic, other: Traffic) -> bool:
    """Tell whether every packet that matches ``other`` matches ``one`` as well."""
    return (
        _within(other.local, one.local)
        and _within(other.remote, one.remote)
        and one.protocol in (0, other.protocol)
        and _range_within(other.local_ports, one.local_ports)
        and _range_within(other.remote_ports, one.remote_ports)
    )


def _within(inner: Network, outer: Network) -> bool:
    return networks_overlap(inner, outer) and outer.prefixlen <= inner.prefixlen


def _range_within(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def ambiguous(one: Traffic, other: Traffic) -> bool:
    """Tell whether a gateway with both could not know where a packet belongs.

    Where one remote network lies inside the other, the longer prefix decides; equal ones leave nothing to decide by.
    """
    return one.remote == other.remote and overlap(one, other)


def _ranges_overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]
