"""What an engine needs of others where several carry the same SAs: numbers of outbound ones, and who has inbound ones.

Every engine has every SA. An outbound SA's numbers are taken from what all have in common; an inbound SA, whose window
cannot be shared, is one engine's own, and what comes to another is handed over.
"""

from __future__ import annotations

from typing import Protocol

from agents.dataplane.base import SaSpec


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
