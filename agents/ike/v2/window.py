"""Message IDs, retransmission, the answer cache: a window of one in each direction (RFC 7296 sections 2.1 to 2.3)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from agents.contract.config import Retransmission
from agents.ike.timers import retransmit_after_s


@dataclass(slots=True, kw_only=True)
class Outstanding:
    """A request of ours that has no answer yet; ``tries`` counts transmissions."""

    message_id: int
    exchange: int
    datagram: bytes
    tries: int
    due: float


class RequestWindow:
    """Our requests: one at a time."""

    def __init__(self) -> None:
        self.next_id = 0
        self.outstanding: Outstanding | None = None

    def sent(self, exchange: int, datagram: bytes, now: float, retransmission: Retransmission) -> None:
        """Note the first transmission of the request with ``next_id``."""
        self.outstanding = Outstanding(
            message_id=self.next_id,
            exchange=exchange,
            datagram=datagram,
            tries=1,
            due=now + retransmit_after_s(retransmission, 1),
        )
        self.next_id += 1

    def restart(self) -> None:
        """Begin IKE_SA_INIT again with message ID 0 (COOKIE, INVALID_KE_PAYLOAD)."""
        self.next_id = 0
        self.outstanding = None

    def again(self, now: float, retransmission: Retransmission) -> bytes | None:
        """Return the datagram to send once more, or None when the tries are used up."""
        request = self.outstanding
        if request is None or request.tries >= retransmission.tries:
            return None
        request.tries += 1
        request.due = now + retransmit_after_s(retransmission, request.tries)
        return request.datagram

    def accepts(self, message_id: int, exchange: int) -> bool:
        """Return whether this answers the outstanding request."""
        request = self.outstanding
        return request is not None and request.message_id == message_id and request.exchange == exchange

    def answered(self) -> None:
        """Forget the request: its answer came."""
        self.outstanding = None


class Arrival(Enum):
    """What a request's message ID means."""

    FRESH = "fresh"
    REPEATED = "repeated"
    IN_PROGRESS = "in-progress"
    OUTSIDE = "outside"


class ResponseWindow:
    """The peer's requests: the next one, or the last one again."""

    def __init__(self) -> None:
        self.expected = 0
        self.in_progress = False
        self.response: bytes | None = None
        self._request = b""

    def classify(self, message_id: int, datagram: bytes) -> Arrival:
        """Say what to do with a request; a repetition must be the same octets (section 2.1)."""
        if message_id == self.expected and not self.in_progress:
            return Arrival.FRESH
        last = self.expected if self.in_progress else self.expected - 1
        if message_id != last or datagram != self._request:
            return Arrival.OUTSIDE
        return Arrival.IN_PROGRESS if self.in_progress else Arrival.REPEATED

    def begin(self, datagram: bytes) -> None:
        """Note that this request, known to be the peer's, is being worked on."""
        self.in_progress = True
        self._request = datagram
        self.response = None

    def finish(self, response: bytes) -> None:
        """Note the answer sent; it is kept for repetitions."""
        self.in_progress = False
        self.response = response
        self.expected += 1

    def abandon(self) -> None:
        """Give the request up without an answer (a bug of ours): a repetition is worked on afresh."""
        self.in_progress = False
