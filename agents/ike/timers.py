"""Deadlines and delays: when to send again, try again, rekey. Seconds of the caller's monotonic clock throughout.

Numbers that are policy of ours and not of the document stand here, each with its reason.
"""

from __future__ import annotations

import heapq
from typing import Protocol

from agents.contract.config import Retransmission
from agents.ike.questions import Reactor

HALF_OPEN_S = 30.0
"""How long a responder waits for IKE_AUTH: longer than five transmissions of an ordinary initiator need."""

LINGER_S = 20.0
"""How long a closed SA still answers retransmissions of the request that closed it."""

SWITCH_OUTBOUND_S = 5.0
"""When the responder of a child rekey sends on the new SA although the old one was not deleted (RFC 7296 2.8)."""

DUPLICATE_GRACE_S = 10.0
"""How long the peer has to delete the superfluous IKE SA it opened before we do."""

REPLACED_GRACE_S = 30.0
"""How long an IKE SA that a younger one replaces keeps children which that does not have yet; the peer waits twice."""

_LEAST_LEAD_S = 10.0

RETRY_FIRST_S = 1.0
RETRY_MOST_S = 60.0
TEMPORARY_FAILURE_S = 3.0
"""RFC 7296 section 2.25 leaves the wait after TEMPORARY_FAILURE open; half of this is jitter."""


class Owner(Reactor, Protocol):
    """Something with one next deadline: an SA, or a tunnel."""

    scheduled_at: float | None

    def deadline(self) -> float | None:
        """Return when :meth:`handle_timer` wants to be called, or None."""
        ...

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        ...

    def maintain(self, now: float) -> None:
        """Start what is missing and due; called after every input that touched it."""
        ...


class Agenda:
    """The next deadlines of many owners: a heap in which outdated entries are skipped when they surface."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Owner]] = []
        self._sequence = 0

    def update(self, owner: Owner) -> None:
        """Take over the owner's present deadline."""
        due = owner.deadline()
        if due == owner.scheduled_at:
            return
        owner.scheduled_at = due
        if due is not None:
            self._sequence += 1
            heapq.heappush(self._heap, (due, self._sequence, owner))
        if len(self._heap) > 64 and self._sequence % 1024 == 0:
            self._compact()

    def remove(self, owner: Owner) -> None:
        """Forget the owner."""
        owner.scheduled_at = None

    def next_deadline(self) -> float | None:
        """Return the earliest deadline of all, or None."""
        heap = self._heap
        while heap and heap[0][2].scheduled_at != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> Owner | None:
        """Return an owner whose deadline has come, unscheduled, or None."""
        due = self.next_deadline()
        if due is None or due > now:
            return None
        owner = heapq.heappop(self._heap)[2]
        owner.scheduled_at = None
        return owner

    def _compact(self) -> None:
        self._heap = [entry for entry in self._heap if entry[2].scheduled_at == entry[0]]
        heapq.heapify(self._heap)


def retransmit_after_s(retransmission: Retransmission, transmissions: int) -> float:
    """Return how long to wait for an answer after so many transmissions (1 or more)."""
    return retransmission.initial_ms / 1_000 * retransmission.factor ** (transmissions - 1)


def gives_up_after_s(retransmission: Retransmission) -> float:
    """Return how long an answer is waited for in all."""
    return sum(retransmit_after_s(retransmission, tries + 1) for tries in range(retransmission.tries))


def retry_after_s(failures: int, uniform: float) -> float:
    """Return the pause before a failed tunnel or child is tried again: doubling from 1 s to 60 s, a quarter jitter."""
    pause = min(RETRY_MOST_S, RETRY_FIRST_S * 2.0 ** min(failures, 10))
    return pause * (0.75 + 0.5 * uniform)


def rekey_after_s(lifetime_s: float, initiator: bool, uniform: float) -> float:
    """Return when to rekey: the initiator at 80 to 88 % of the lifetime, the responder at 90 to 96 %.

    The two ranges do not meet, so two ends with the same lifetime seldom rekey at once. Short lifetimes leave up to
    10 s, at most a third, in the place of a fifth: a request may have to be sent several times before the SA ends.
    """
    lead_s = max(0.20 * lifetime_s, min(_LEAST_LEAD_S, lifetime_s / 3))
    return lifetime_s - lead_s * (1.0 - 0.4 * uniform if initiator else 0.5 - 0.3 * uniform)


def soft_limit(hard: int, uniform: float) -> int:
    """Return the soft limit of octets or packets that goes with a hard one: 80 to 90 %; 0 stays 0."""
    return int(hard * (0.80 + 0.10 * uniform))
