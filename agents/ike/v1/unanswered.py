"""Messages that nothing answers and that must arrive: a Delete, and the third message of Aggressive Mode.

IKEv1 acknowledges neither (RFC 2408 section 4.8, RFC 2409 section 5.7). A Delete that is lost would leave the peer with
SAs that we have forgotten, until it checks whether we are there or their lifetime ends; a third message that is lost
would leave it without an ISAKMP SA. So the same octets, under the same message ID, go out four times within 21 seconds:
a peer that has had them drops the others as repetitions. Whoever has lost all four is put right by what is there
anyway: liveness checks, the clearing of SAs that were replaced at both ends, and
:meth:`agents.ike.v1.tunnel.TunnelRuntime.orphaned_at`.
"""

from __future__ import annotations

AGAIN_S = (1.0, 4.0, 16.0)
"""How long after the transmission before it each of the others goes out."""

FAREWELL_S = sum(AGAIN_S) + 4.0
"""How long an ISAKMP SA that was deleted, by either end, sends its Deletes and takes those of the peer."""


class Unanswered:
    """What one ISAKMP SA sends again until it has been sent often enough."""

    def __init__(self) -> None:
        self._pending: list[tuple[float, int, tuple[bytes, ...]]] = []

    def add(self, datagrams: tuple[bytes, ...], now: float) -> None:
        """Note that this message has gone out for the first time."""
        self._pending.append((now + AGAIN_S[0], 1, datagrams))

    def forget(self, datagrams: tuple[bytes, ...]) -> None:
        """The peer has shown that it has this message."""
        self._pending = [each for each in self._pending if each[2] != datagrams]

    def clear(self) -> None:
        """Nobody is there to send it to."""
        self._pending = []

    def deadline(self) -> float | None:
        """Return when something goes out again, or None."""
        return min((due for due, _, _ in self._pending), default=None)

    def take_due(self, now: float) -> tuple[tuple[bytes, ...], ...]:
        """Return the messages that go out again now, the oldest first."""
        due = [each for each in self._pending if each[0] <= now]
        self._pending = [each for each in self._pending if each[0] > now]
        for _, times, datagrams in due:
            if times < len(AGAIN_S):
                self._pending.append((now + AGAIN_S[times], times + 1, datagrams))
        return tuple(datagrams for _, _, datagrams in due)
