"""Which child protects which outbound traffic: two of them cannot, where the data plane has one table of policies."""

from __future__ import annotations

from collections.abc import Iterable

from agents.dataplane.base import Direction, PolicySpec, Selector


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

    def other(self, policies: Iterable[PolicySpec]) -> int | None:
        """Return the reqid of another child that has one of these selectors."""
        for policy in policies:
            owner = self._owners.get(policy.selector)
            if policy.direction is Direction.OUT and owner is not None and owner[0] != policy.reqid:
                return owner[0]
        return None
