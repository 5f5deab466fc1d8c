"""Messages that nothing answers and that must arrive: a Delete, and the third message of Aggressive Mode.

IKEv1 acknowledges neither (RFC 2408 section 4.8, RFC 2409 section 5.7). A Delete that is lost would leave the peer with
SAs that we have forgotten, until it checks whether we are there or their lifetime ends; a third message that is lost
would leave it without an ISAKMP SA. So each goes out four times within 21 seconds: a Delete under a message ID of its
own each time, as a peer that keeps an IV for each message ID could not read the same octets twice, and what is not
there it passes over; the third message as it was. Whoever has lost all four is put right by what is there anyway:
liveness checks, the clearing of SAs that were replaced at both ends, and
:meth:`agents.ike.v1.tunnel.TunnelRuntime.orphaned_at`.
"""

from __future__ import annotations

from collections.abc import Callable

AGAIN_S = (1.0, 4.0, 16.0)
"""How long after the transmission before it each of the others goes out."""

FAREWELL_S = sum(AGAIN_S) + 4.0
"""How long an ISAKMP SA that was deleted, by either end, sends its Deletes and takes those of the peer."""

Again = Callable[[float], None]


class Unanswered:
    """What one ISAKMP SA sends again until it has been sent often enough."""

    def __init__(self) -> None:
        self._pending: list[tuple[float, int, Again]] = []

    def add(self, again: Again, now: float) -> None:
        """Note that a message has gone out for the first time, and what sends it again."""
        self._pending.append((now + AGAIN_S[0], 1, again))

    def forget(self, again: Again | None) -> None:
        """The peer has shown that it has this message."""
        self._pending = [each for each in self._pending if each[2] is not again]

    def clear(self) -> None:
        """Nobody is there to send it to."""
        self._pending = []

    def deadline(self) -> float | None:
        """Return when something goes out again, or None."""
        return min((due for due, _, _ in self._pending), default=None)

    def handle_timer(self, now: float) -> None:
        """Send again what is due."""
        due = [each for each in self._pending if each[0] <= now]
        self._pending = [each for each in self._pending if each[0] > now]
        for _, times, again in due:
            if times < len(AGAIN_S):
                self._pending.append((now + AGAIN_S[times], times + 1, again))
            again(now)
