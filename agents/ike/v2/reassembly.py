"""Putting a peer's fragments together (RFC 7383 section 2.6): bounded in number, octets and time.

A fragment takes its place only when it is authentic; what is not is opened and forgotten. One of a larger total
replaces those of a smaller one (the peer cut its message anew), one of a smaller total is late and dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.ike.errors import WireError
from agents.ike.v2.window import WINDOW
from agents.ike.wire.fragments import Fragment, Place
from agents.ike.wire.header import Header
from agents.ike.wire.message import Inner

KEEP_S = 30.0
"""How long pieces wait for the others: the peer sends all of them again every few seconds."""

MOST_MESSAGES = WINDOW + 1
MOST_OCTETS = 65_535
MOST_OCTETS_UNPROVEN = 32_768
"""What the pieces of one IKE SA may take together; less before the peer is authenticated."""


@dataclass(slots=True, kw_only=True)
class _Pending:
    header: Header
    total: int
    until: float
    pieces: dict[int, bytes] = field(default_factory=dict)
    first: int = 0
    reserved: int = 0
    datagram: bytes = b""

    @property
    def octets(self) -> int:
        return sum(len(piece) for piece in self.pieces.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A message of which every fragment came; header and ``datagram`` are those of number 1."""

    header: Header
    inner: Inner
    datagram: bytes


class Reassembly:
    """The incomplete messages of one IKE SA."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending: dict[tuple[bool, int], _Pending] = {}

    @property
    def until(self) -> float | None:
        """When pieces are to be forgotten next, or None."""
        return min((each.until for each in self._pending.values()), default=None)

    def forget(self, now: float) -> None:
        """Drop what has waited too long."""
        self._pending = {key: each for key, each in self._pending.items() if each.until > now}

    def clear(self) -> None:
        """Drop everything."""
        self._pending.clear()

    def expects(self, header: Header, place: Place) -> None:
        """Raise WireError when a fragment with this place is of no use, whoever sent it: then it is not opened."""
        pending = self._pending.get((header.response, header.message_id))
        if pending is None:
            return
        if place.total < pending.total:
            raise WireError("drop.fragment", f"a fragment of {place.total} where the message has {pending.total}")
        if place.total == pending.total and place.number in pending.pieces:
            raise WireError("drop.duplicate", f"fragment {place.number} of {place.total} again")

    def add(self, header: Header, fragment: Fragment, datagram: bytes, now: float, proven: bool) -> Whole | None:
        """Put an authentic fragment in its place; return the message when it was the last. Raises WireError."""
        key = (header.response, header.message_id)
        self.expects(header, fragment.place)
        pending = self._pending.get(key)
        if pending is None or fragment.place.total > pending.total or header.exchange != pending.header.exchange:
            if pending is None and len(self._pending) >= MOST_MESSAGES:
                raise WireError("drop.fragment", "too many incomplete messages")
            pending = _Pending(header=header, total=fragment.place.total, until=now + KEEP_S)
        others = sum(each.octets for other, each in self._pending.items() if other != key)
        limit = MOST_OCTETS if proven else MOST_OCTETS_UNPROVEN
        if others + pending.octets + len(fragment.content) > limit:
            raise WireError("drop.fragment", f"more than {limit} octets of incomplete messages")
        self._pending[key] = pending
        pending.pieces[fragment.place.number] = fragment.content
        if fragment.place.number == 1:
            pending.header, pending.datagram = header, datagram
            pending.first, pending.reserved = fragment.first, fragment.reserved
        if len(pending.pieces) < pending.total:
            return None
        del self._pending[key]
        chain = b"".join(pending.pieces[number] for number in range(1, pending.total + 1))
        inner = Inner(first=pending.first, reserved=pending.reserved, chain=chain)
        return Whole(header=pending.header, inner=inner, datagram=pending.datagram)
