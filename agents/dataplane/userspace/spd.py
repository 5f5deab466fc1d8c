"""Policies (RFC 4301 section 4.4.1): which inner traffic takes which tunnel, matched on addresses, protocol and ports.

A lower ``priority`` goes first, as in the kernel; among equals the narrower destination, then the older. Traffic whose
ports cannot be seen matches only selectors that take every port.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from agents.dataplane.base import Direction, PolicySpec, Selector
from agents.dataplane.userspace.ip import Flow

_ANY_PORT = (0, 65535)


@dataclass(frozen=True, slots=True)
class Matcher:
    """One selector, ready for comparison with integers."""

    version: int
    source: int
    source_mask: int
    destination: int
    destination_mask: int
    protocol: int
    source_ports: tuple[int, int]
    destination_ports: tuple[int, int]

    def matches(self, flow: Flow) -> bool:
        """Whether the flow is within the selector."""
        return (
            flow.version == self.version
            and flow.source & self.source_mask == self.source
            and flow.destination & self.destination_mask == self.destination
            and self.protocol in (0, flow.protocol)
            and _within(flow.source_port, self.source_ports)
            and _within(flow.destination_port, self.destination_ports)
        )


def _within(port: int | None, ports: tuple[int, int]) -> bool:
    if ports == _ANY_PORT:
        return True
    return port is not None and ports[0] <= port <= ports[1]


def build_matcher(selector: Selector) -> Matcher:
    """Read a selector; raises ValueError when it is not one."""
    source = ipaddress.ip_network(selector.source)
    destination = ipaddress.ip_network(selector.destination)
    if source.version != destination.version:
        raise ValueError("source and destination are of different IP versions")
    if not 0 <= selector.protocol <= 255:
        raise ValueError(f"protocol {selector.protocol}")
    for ports in (selector.source_ports, selector.destination_ports):
        if len(ports) != 2 or not 0 <= ports[0] <= ports[1] <= 65535:
            raise ValueError(f"port range {ports}")
    return Matcher(
        source.version,
        int(source.network_address),
        int(source.netmask),
        int(destination.network_address),
        int(destination.netmask),
        selector.protocol,
        (selector.source_ports[0], selector.source_ports[1]),
        (selector.destination_ports[0], selector.destination_ports[1]),
    )


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as the database holds it."""

    spec: PolicySpec
    matcher: Matcher
    order: tuple[int, int, int]


class PolicyDatabase:
    """Policies by direction, tunnel and selector; outbound ones looked up per tunnel, inbound ones per reqid.

    Two tunnels may protect the same traffic: here a link, and so a route, says which of them is meant.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[Direction, str, Selector], Policy] = {}
        self._outbound: dict[str, list[Policy]] = {}
        self._inbound: dict[int, list[Policy]] = {}
        self._added = 0
        self._in_order = True

    def add(self, spec: PolicySpec) -> None:
        """Hold or replace a policy; raises ValueError for an impossible selector."""
        matcher = build_matcher(spec.selector)
        self._added += 1
        order = (spec.priority, -matcher.destination_mask.bit_count(), self._added)
        self._rows[spec.direction, spec.tunnel_id, spec.selector] = Policy(spec, matcher, order)
        self._sort()

    def remove(self, spec: PolicySpec) -> None:
        """Let go of the policy of this direction and selector, unless one of another kind has taken it over."""
        row = self._rows.get((spec.direction, spec.tunnel_id, spec.selector))
        if row is not None and _kind(row.spec) == _kind(spec):
            del self._rows[spec.direction, spec.tunnel_id, spec.selector]
            self._sort()

    def specs(self) -> tuple[PolicySpec, ...]:
        """Return every policy in the order added."""
        return tuple(row.spec for row in self._rows.values())

    def outbound(self, tunnel_id: str, flow: Flow) -> PolicySpec | None:
        """Return the policy that traffic entering this tunnel's link takes."""
        self._put_in_order()
        return _first(self._outbound.get(tunnel_id, ()), flow)

    def inbound(self, reqid: int, flow: Flow) -> PolicySpec | None:
        """Return the policy that lets decrypted traffic of this reqid's SAs pass (section 5.2, step 4)."""
        self._put_in_order()
        return _first(self._inbound.get(reqid, ()), flow)

    def _sort(self) -> None:
        """Sort before the next look-up: thousands of tunnels come at once, and once is often enough."""
        self._in_order = False

    def _put_in_order(self) -> None:
        if self._in_order:
            return
        self._in_order = True
        self._outbound.clear()
        self._inbound.clear()
        for row in sorted(self._rows.values(), key=lambda row: row.order):
            if row.spec.direction is Direction.OUT:
                self._outbound.setdefault(row.spec.tunnel_id, []).append(row)
            else:
                self._inbound.setdefault(row.spec.reqid, []).append(row)


def _kind(spec: PolicySpec) -> tuple[object, ...]:
    return spec.reqid, spec.mode, spec.protocols, spec.compressed


def _first(rows: Iterable[Policy], flow: Flow) -> PolicySpec | None:
    for row in rows:
        if row.matcher.matches(flow):
            return row.spec
    return None
