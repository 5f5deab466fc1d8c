"""Message IDs, retransmission, the answer cache (RFC 7296 sections 2.1 to 2.3).

Our requests go out one at a time, which fits every window a peer announces. The peer may have :data:`WINDOW` requests
under way; they are worked on in the order of their message IDs, whatever the order they came in, and each is answered
once: a repetition gets the same answer again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum

from agents.contract.config import Retransmission
from agents.ike.errors import WireError
from agents.ike.outputs import Path
from agents.ike.timers import retransmit_after_s
from agents.ike.v2.protection import Sent
from agents.ike.wire.message import Message

WINDOW = 4
"""How many requests of the peer may be under way at once; announced with SET_WINDOW_SIZE."""

LAST_MESSAGE_ID = 2**32 - 1
RENEW_MESSAGE_ID = 2**32 - 2**16
"""From here on the IKE SA is rekeyed, at the last it ends: message IDs never wrap (section 2.2)."""


@dataclass(slots=True, kw_only=True)
class Outstanding:
    """A request of ours that has no answer yet; ``tries`` counts transmissions."""

    message_id: int
    exchange: int
    sent: Sent
    tries: int
    due: float


class RequestWindow:
    """Our requests: one at a time."""

    def __init__(self) -> None:
        self.next_id = 0
        self.last_exchange = 0
        self.outstanding: Outstanding | None = None

    def sent(self, exchange: int, sent: Sent, now: float, retransmission: Retransmission) -> None:
        """Note the first transmission of the request with ``next_id``."""
        self.outstanding = Outstanding(
            message_id=self.next_id,
            exchange=exchange,
            sent=sent,
            tries=1,
            due=now + retransmit_after_s(retransmission, 1),
        )
        self.last_exchange = exchange
        self.next_id += 1

    def restart(self) -> None:
        """Begin IKE_SA_INIT again with message ID 0 (COOKIE, INVALID_KE_PAYLOAD)."""
        self.next_id = 0
        self.outstanding = None

    def again(self, now: float, retransmission: Retransmission) -> Outstanding | None:
        """Return the request to send once more, or None when the tries are used up."""
        request = self.outstanding
        if request is None or request.tries >= retransmission.tries:
            return None
        request.tries += 1
        request.due = now + retransmit_after_s(retransmission, request.tries)
        return request

    def hurry(self, now: float) -> None:
        """Send the request without answer again at once, with all its tries: it takes another path."""
        if self.outstanding is not None:
            self.outstanding.tries = 0
            self.outstanding.due = now

    def accepts(self, message_id: int, exchange: int) -> bool:
        """Return whether this answers the outstanding request."""
        request = self.outstanding
        return request is not None and request.message_id == message_id and request.exchange == exchange

    def answered(self) -> None:
        """Forget the request: its answer came."""
        self.outstanding = None


class Arrival(Enum):
    """What a request's message ID means. ``RECUT`` was answered, but came in other octets: perhaps cut anew."""

    FRESH = "fresh"
    REPEATED = "repeated"
    RECUT = "recut"
    IN_PROGRESS = "in-progress"
    OUTSIDE = "outside"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """An authentic request. ``datagram`` is what a repetition must equal: for a fragmented one, fragment number 1."""

    message_id: int
    exchange: int
    datagram: bytes
    path: Path
    content: Message | WireError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    digest: bytes
    sent: Sent


def _digest(datagram: bytes) -> bytes:
    return hashlib.sha256(datagram).digest()


class ResponseWindow:
    """The peer's requests: the next ones, and the last ones again. ``size`` is 1 until the IKE SA stands."""

    def __init__(self) -> None:
        self.size = 1
        self.expected = 0
        self.in_progress = False
        self.exchange = 0
        self._request = b""
        self._held: dict[int, Arrived] = {}
        self._answered: dict[int, _Answered] = {}

    @property
    def last(self) -> Sent | None:
        """The answer sent last, while it is kept for repetitions."""
        answered = self._answered.get(self.expected - 1)
        return None if answered is None or self.in_progress else answered.sent

    def answer_to(self, message_id: int) -> Sent | None:
        """Return the answer given to this request, if it is still kept."""
        answered = self._answered.get(message_id)
        return None if answered is None else answered.sent

    def classify(self, message_id: int, datagram: bytes) -> Arrival:
        """Say what to do with a request; a repetition must be the same octets (section 2.1)."""
        answered = self._answered.get(message_id)
        if answered is not None:
            return Arrival.REPEATED if answered.digest == _digest(datagram) else Arrival.RECUT
        if self.in_progress and message_id == self.expected:
            return Arrival.IN_PROGRESS if self._request == _digest(datagram) else Arrival.OUTSIDE
        if message_id in self._held:
            return Arrival.IN_PROGRESS
        inside = self.expected <= message_id < self.expected + self.size and message_id < LAST_MESSAGE_ID
        return Arrival.FRESH if inside else Arrival.OUTSIDE

    def is_next(self, message_id: int) -> bool:
        """Return whether this request can be worked on now."""
        return message_id == self.expected and not self.in_progress

    def hold(self, arrived: Arrived) -> None:
        """Keep a request that came before its turn."""
        self._held[arrived.message_id] = arrived

    @property
    def ready(self) -> bool:
        """Whether a request that was held back can be worked on now."""
        return not self.in_progress and self.expected in self._held

    def take_ready(self) -> Arrived:
        """Return the request that was held back and has its turn now."""
        return self._held.pop(self.expected)

    def begin(self, exchange: int, datagram: bytes) -> None:
        """Note that the request with ``expected``, known to be the peer's, is being worked on."""
        self.in_progress = True
        self.exchange = exchange
        self._request = _digest(datagram)

    def finish(self, sent: Sent) -> None:
        """Note the answer sent; as many as the window has requests are kept for repetitions (section 2.3)."""
        self.in_progress = False
        self._answered[self.expected] = _Answered(digest=self._request, sent=sent)
        self._answered.pop(self.expected - self.size, None)
        self.expected += 1

    def abandon(self) -> None:
        """Give the request up without an answer (a bug of ours): a repetition is worked on afresh."""
        self.in_progress = False
