"""One exchange of an ISAKMP SA: its IV, what came and went last, and when to send again (RFC 2408 section 5.1).

Phase 1 is the exchange with message ID 0. Whoever waits for a message sends its own again; whoever gets the same octets
again sends the same answer again, a bounded number of times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents.contract.config import Retransmission
from agents.ike.timers import retransmit_after_s

if TYPE_CHECKING:
    from agents.ike.wire.isakmp.message import Message

MOST_REPEATS = 10
"""An answer is sent again so often: more than any initiator sends its question, few enough to be no use to others."""

REMEMBERED_S = 60.0
"""How long a finished exchange still answers repetitions."""


@dataclass(slots=True, kw_only=True, eq=False)
class Exchange:
    """``take`` handles its next message; None when it waits for none."""

    message_id: int
    number: int
    iv: bytes = b""
    step: int = 0
    """Number of the message that came or went last."""
    taken: bytes = b""
    refused: bytes = b""
    """Digest of the message that was refused last."""
    sent: tuple[bytes, ...] = ()
    sent_at: float = 0.0
    """When it went out first."""
    sent_step: int = 0
    """Its number; a message that came after it has no answer."""
    repeats: int = 0
    tries: int = 0
    due: float | None = None
    until: float | None = None
    take: Callable[[Message, float], None] | None = None
    gave_up: Callable[[float], None] | None = None
    """What to do when the peer does not answer."""

    def is_repetition(self, datagram: bytes) -> bool:
        """Return whether these octets are those of the message that came last."""
        return self.taken == digest(datagram)

    def may_repeat(self) -> bool:
        """Return whether the answer is sent again, and count it."""
        if self.step != self.sent_step or self.repeats >= MOST_REPEATS:
            return False
        self.repeats += 1
        return True

    def went(self, datagrams: tuple[bytes, ...], now: float, retransmission: Retransmission, asks: bool) -> None:
        """Note what was sent; ``asks`` says that we send it again until an answer comes."""
        self.sent, self.repeats, self.tries = datagrams, 0, 1
        self.step += 1
        self.sent_step, self.sent_at = self.step, now
        self.due = now + retransmit_after_s(retransmission, 1) if asks else None

    def again(self, now: float, retransmission: Retransmission) -> bool:
        """Note that what was sent is sent once more; False when the tries are used up."""
        if self.tries >= retransmission.tries:
            self.due = None
            return False
        self.tries += 1
        self.due = now + retransmit_after_s(retransmission, self.tries)
        return True

    def finish(self, now: float) -> None:
        """Wait for nothing more; repetitions are still answered for a while."""
        self.due, self.take, self.gave_up = None, None, None
        self.until = now + REMEMBERED_S


def digest(datagram: bytes) -> bytes:
    """Return what tells one message from another."""
    return hashlib.sha256(datagram).digest()
