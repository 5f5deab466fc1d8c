"""What an engine needs of others where several carry the same SAs: numbers of outbound ones, and who has inbound ones.

Every engine has every SA. An outbound SA's numbers are taken from what all have in common; an inbound SA, whose window
cannot be shared, is one engine's own, and what comes to another is handed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from agents.dataplane.base import SaSpec
from agents.dataplane.userspace import ip
from agents.dataplane.userspace.offload import SuperPacket

MOST_TOGETHER = 64
"""Packets that numbers are taken for at once, beside the last super-packet: others wait for them."""


class Turn(Protocol):
    """Consecutive numbers of one SA, from ``first`` on, and the order to send in what is sealed with them.

    ``octets`` and ``packets`` are what the SA has carried in all engines, these included.
    """

    first: int
    octets: int
    packets: int

    def wait(self) -> None:
        """Return when everything with lower numbers is sent."""
        ...

    def done(self) -> None:
        """Say that all of this is sent, or never will be."""
        ...


class Numbers(Protocol):
    """An outbound SA's numbers."""

    def take(self, packets: int, octets: int, last: int) -> Turn | None:
        """Take numbers for packets of so many octets together; None when they would go beyond ``last``."""
        ...


def owner(spec: SaSpec, engines: int) -> int:
    """Return which of several engines an inbound SA is of; AH all comes to the first."""
    return spec.spi % engines if spec.ah is None else 0


def together(groups: Iterable[Sequence[bytes] | SuperPacket]) -> list[list[Sequence[bytes] | SuperPacket]]:
    """Return groups that are to be sealed and sent one after the other, each in a list of its own.

    Those of one flow in a row are joined: whoever shares an SA takes numbers once for all of them.
    """
    joined: list[list[Sequence[bytes] | SuperPacket]] = []
    last: list[bytes] | None = None
    for group in groups:
        if isinstance(group, SuperPacket):
            joined.append([group])
            last = None
            continue
        first = group[0]
        if last is not None and len(first) <= len(last[0]) and len(last) < MOST_TOGETHER and _alike(first, last[0]):
            last.extend(group)
            continue
        last = list(group)
        joined.append([last])
    return joined


def _alike(one: bytes, other: bytes) -> bool:
    """Whether two packets are of one flow, and DSCP, ECN and DF are the same."""
    if len(one) < 20 or len(other) < 20 or one[:2] != other[:2] or one[6] != other[6]:
        return False
    key = ip.flow_key(one)
    return key is not None and key == ip.flow_key(other)
