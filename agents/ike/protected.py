"""Which child protects which outbound traffic: two of them cannot, where the data plane has one table of policies.

In transport mode traffic is told apart by the peer's outer address alone, which several hosts behind a NAT have.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import lru_cache

from agents.contract.config import Mode
from agents.dataplane.base import Direction, OriginalAddresses, PolicySpec, SaSpec, Selector

SHARED = ""
_network = lru_cache(maxsize=16_384)(ipaddress.ip_network)


class Protected:
    """Which reqid protects which outbound traffic, counted by children, in each table of policies.

    A tunnel with an interface of its own has a table of its own, named by its id; all others share :data:`SHARED`.
    """

    def __init__(self) -> None:
        self._owners: dict[tuple[str, Selector], tuple[int, int]] = {}

    def add(self, policies: Iterable[PolicySpec], table: str) -> None:
        """Count the policies of a child that is installed."""
        for policy in policies:
            if policy.direction is Direction.OUT:
                _, count = self._owners.get((table, policy.selector), (0, 0))
                self._owners[table, policy.selector] = (policy.reqid, count + 1)

    def remove(self, policies: Iterable[PolicySpec]) -> None:
        """Forget the policies of a child that is gone, in whichever table they were."""
        for policy in policies:
            for key in ((policy.tunnel_id, policy.selector), (SHARED, policy.selector)):
                if policy.direction is Direction.OUT and key in self._owners:
                    reqid, count = self._owners.pop(key)
                    if count > 1:
                        self._owners[key] = (reqid, count - 1)
                    break

    def overlaps(self, policies: Iterable[PolicySpec], reqids: Container[int]) -> bool:
        """Return whether children with one of these reqids send to some of the networks that these would send to."""
        wanted = [_network(policy.selector.destination) for policy in policies if policy.direction is Direction.OUT]
        taken = [_network(each.destination) for (_, each), (reqid, _) in self._owners.items() if reqid in reqids]
        return any(one.version == other.version and one.overlaps(other) for one in wanted for other in taken)

    def other(self, policies: Iterable[PolicySpec], table: str) -> int | None:
        """Return the reqid of another child that has one of these selectors in this table."""
        for policy in policies:
            owner = self._owners.get((table, policy.selector))
            if policy.direction is Direction.OUT and owner is not None and owner[0] != policy.reqid:
                return owner[0]
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One peer: the tunnel it came by, and what it has proven to be (type and data of its ID payload)."""

    tunnel_id: str
    identity: bytes


class Hosts:
    """Which peers have children in transport mode, by the address that each has here."""

    def __init__(self) -> None:
        self._held: dict[str, dict[int, tuple[Host, bool]]] = {}

    def add(self, install_id: int, host: Host, inbound: SaSpec) -> None:
        """Count a child that is installed, if it is in transport mode."""
        if inbound.mode is Mode.TRANSPORT:
            self._held.setdefault(inbound.source, {})[install_id] = (host, inbound.original is not None)

    def remove(self, install_id: int, inbound: SaSpec) -> None:
        """Forget a child that is gone; in transport mode the addresses it was made with are those it has."""
        held = self._held.get(inbound.source, {})
        if held.pop(install_id, None) is not None and not held:
            del self._held[inbound.source]

    def other(self, host: Host, address: str, original: OriginalAddresses | None) -> Host | None:
        """Return another peer behind this address of a NAT; both are one host where there is no NAT."""
        held = self._held.get(address, {}).values()
        return next((each for each, hidden in held if each != host and (hidden or original is not None)), None)
