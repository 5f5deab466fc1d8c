"""The order of a tunnel's rules: where two children protect some of the same traffic, the earlier one gets it.

A policy's priority is that of its specificity (:func:`agents.ike.selectors.specificity`), in one scale for all tunnels.
Only a child that overlaps an earlier one of its tunnel is moved, as a whole, just behind that one; so the order among
its own policies stays, and so does everything between tunnels and between children that do not overlap.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agents.contract.config import Child
from agents.ike import selectors
from agents.ike.wire.payloads import SelectorRange

Rule = tuple[tuple[SelectorRange, ...], tuple[SelectorRange, ...]]
"""The local and the remote selectors of one child."""


@dataclass(frozen=True, slots=True)
class Rank:
    """Where a child's policies go: ``shift`` is added to a specificity, and ``first`` to ``last`` hold the sum.

    What a peer narrows the child to is more specific than what is configured, and must not leave that place.
    """

    first: int
    shift: int
    last: int

    def place(self, specificity: int) -> int:
        """Return the priority of a policy; a lower one goes first."""
        return min(max(specificity + self.shift, self.first), self.last)


NO_RANK = Rank(0, 0, 2**31 - 1)
"""A child's that nothing comes before or after."""


def rank(children: Sequence[Child], name: str) -> Rank:
    """Return the rank of one of a tunnel's children; one that is not among them any more has none."""
    for child, its_rank in zip(children, child_ranks(tuple(children)), strict=True):
        if child.name == name:
            return its_rank
    return NO_RANK


@functools.lru_cache(maxsize=1024)
def child_ranks(children: tuple[Child, ...]) -> tuple[Rank, ...]:
    """Return the ranks of a tunnel's children, in their order."""
    return ranks((selectors.to_ranges(each.local_ts), selectors.to_ranges(each.remote_ts)) for each in children)


def ranks(rules: Iterable[Rule]) -> tuple[Rank, ...]:
    """Return the rank of each of a tunnel's rules, in their order."""
    found: list[tuple[Rule, Rank]] = []
    for rule in rules:
        first = max((each.last + 1 for earlier, each in found if _overlap(earlier, rule)), default=0)
        most, least = _extremes(rule)
        shift = max(0, first - most)
        found.append((rule, Rank(first, shift, max(first, least + shift))))
    return tuple(each for _rule, each in found)


def _overlap(one: Rule, other: Rule) -> bool:
    """Whether some traffic may match both; a local protocol against another remote one is not looked at."""
    return all(
        any(selectors.intersect(ours, theirs) is not None for ours in mine for theirs in yours)
        for mine, yours in zip(one, other, strict=True)
    )


def _extremes(rule: Rule) -> tuple[int, int]:
    """Return the specificity of a rule's most and of its least specific policy."""
    found = [
        selectors.specificity(
            selectors.prefix_length(local, shortest), local, selectors.prefix_length(remote, shortest), remote
        )
        for local in rule[0]
        for remote in rule[1]
        if selectors.can_meet(local, remote)
        for shortest in (True, False)
    ]
    return (min(found), max(found)) if found else (0, 0)
