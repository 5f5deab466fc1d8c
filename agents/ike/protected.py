"""Which child protects which outbound traffic: two of them cannot, where the data plane has one table of policies."""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable
from functools import lru_cache

from agents.dataplane.base import Direction, PolicySpec, Selector

_network = lru_cache(maxsize=16_384)(ipaddress.ip_network)


class Protected:
    """Which reqid protects which outbound traffic, counted by children."""

    def __init__(self) -> None:
        self._owners: dict[Selector, tuple[int, int]] = {}

    def add(self, policies: Iterable[PolicySpec]) -> None:
        """Count the policies of a child that is installed."""
        for policy in policies:
            if policy.direction is Direction.OUT:
                _, count = self._owners.get(policy.selector, (0, 0))
                self._owners[policy.selector] = (policy.reqid, count + 1)

    def remove(self, policies: Iterable[PolicySpec]) -> None:
        """Forget the policies of a child that is gone."""
        for policy in policies:
            if policy.direction is Direction.OUT and policy.selector in self._owners:
                reqid, count = self._owners.pop(policy.selector)
                if count > 1:
                    self._owners[policy.selector] = (reqid, count - 1)

    def overlaps(self, policies: Iterable[PolicySpec], reqids: Container[int]) -> bool:
        """Return whether children with one of these reqids send to some of the networks that these would send to."""
        wanted = [_network(policy.selector.destination) for policy in policies if policy.direction is Direction.OUT]
        taken = [_network(each.destination) for each, (reqid, _) in self._owners.items() if reqid in reqids]
        return any(one.version == other.version and one.overlaps(other) for one in wanted for other in taken)

    def other(self, policies: Iterable[PolicySpec]) -> int | None:
        """Return the reqid of another child that has one of these selectors."""
        for policy in policies:
            owner = self._owners.get(policy.selector)
            if policy.direction is Direction.OUT and owner is not None and owner[0] != policy.reqid:
                return owner[0]
        return None
