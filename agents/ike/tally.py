"""Messages counted by exchange type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum

from agents.contract.status import ExchangeCounters


class Count(StrEnum):
    """What is counted: the fields of :class:`agents.contract.status.ExchangeCounters`."""

    REQUESTS_IN = "requests_in"
    REQUESTS_OUT = "requests_out"
    RESPONSES_IN = "responses_in"
    RESPONSES_OUT = "responses_out"
    RETRANSMISSIONS_IN = "retransmissions_in"
    RETRANSMISSIONS_OUT = "retransmissions_out"
    REFUSED = "refused"


class ExchangeTally:
    """Counts a message once however many fragments it came in, and a repetition as such only.

    What is not authentic is not counted; IKE_SA_INIT has no authenticity and counts as it comes. ``refused`` is
    requests of the peer answered with an error.
    """

    def __init__(self, exchanges: Iterable[int], name: Callable[[int], str]) -> None:
        self._name = name
        self._counts: dict[int, Counter[Count]] = {int(exchange): Counter() for exchange in exchanges}

    def add(self, exchange: int, count: Count) -> None:
        """Count one message; of an exchange type that this daemon does not speak nothing is counted."""
        counts = self._counts.get(exchange)
        if counts is not None:
            counts[count] += 1

    def counters(self) -> tuple[ExchangeCounters, ...]:
        """Return the counts of every exchange type."""
        return tuple(
            ExchangeCounters(exchange=self._name(exchange), **{str(each): counts[each] for each in Count})
            for exchange, counts in self._counts.items()
        )
