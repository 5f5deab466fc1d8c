"""Which child protects which outbound traffic: two of them cannot, where the data plane has one table of policies."""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable
from functools import lru_cache

from agents.dataplane.base import Direction, PolicySpec, Selector

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
