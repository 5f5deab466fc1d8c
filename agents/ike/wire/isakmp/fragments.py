"""Fragments of IKEv1: a finished datagram is cut, and every piece sent under a header in clear (payload 132).

Cisco made it, Microsoft wrote it down (MS-IKEE section 2.2.3), others followed. Nothing of a fragment is authentic:
whoever saw the cookies can forge one. So what waits is bounded in number, size and time, and the first piece stands.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from agents.ike.errors import WireError
from agents.ike.wire.header import HEADER_OCTETS, Header
from agents.ike.wire.isakmp import faults
from agents.ike.wire.isakmp.message import GENERIC, parse_clear, serialize_clear
from agents.ike.wire.isakmp.payloads import Fragment
from agents.ike.wire.isakmp.registry import Flag, PayloadType

OVERHEAD_OCTETS = HEADER_OCTETS + GENERIC.size + 4
"""What of a fragment's datagram is not content: header, payload header, id, number and flags."""

MOST_FRAGMENTS = 255
"""The number is one octet, and counts from 1."""
MOST_IDS = 2
"""Messages of one SA that may be incomplete at a time; a third takes the place of the older."""
MOST_OCTETS = 32_768
"""Of one message, so that a forged one takes no room from a real one: no IKEv1 message comes near."""
LIFETIME = 30.0
"""Seconds that the first fragment of a message waits for the others."""
_NEXT_PAYLOAD_AT = 16


def is_fragment(header: Header) -> bool:
    """Return whether the datagram is a fragment of another."""
    return header.next_payload == PayloadType.FRAGMENT


def read(datagram: bytes, header: Header) -> Fragment:
    """Return the fragment that a datagram carries, alone. Raises WireError.

    Some leave the whole's flag ENCRYPTED in the header of its pieces; they are in clear nevertheless.
    """
    payloads = parse_clear(datagram, _in_clear(header)).payloads
    if len(payloads) != 1 or not isinstance(payloads[0], Fragment):
        raise faults.malformed("A fragment stands among other payloads", received=len(payloads), expected=1)
    return payloads[0]


def cut(datagram: bytes, header: Header, fragment_id: int, most_octets: int) -> tuple[bytes, ...]:
    """Return the datagrams, of at most this many octets each, that carry this one, whose header is given.

    Raises ValueError when there would be too many pieces.
    """
    octets = most_octets - OVERHEAD_OCTETS
    pieces = [datagram[at : at + octets] for at in range(0, len(datagram), octets)] if octets > 0 else []
    if not 1 <= len(pieces) <= MOST_FRAGMENTS:
        raise ValueError(f"{len(datagram)} octets do not go into {MOST_FRAGMENTS} fragments of {most_octets} octets")
    clear = _in_clear(header)
    return tuple(
        serialize_clear(clear, (Fragment(id=fragment_id, number=number, last=number == len(pieces), data=piece),))
        for number, piece in enumerate(pieces, start=1)
    )


def _in_clear(header: Header) -> Header:
    return dataclasses.replace(header, flags=header.flags & ~Flag.ENCRYPTED)


@dataclass(slots=True, kw_only=True)
class _Waiting:
    """The pieces of one message; ``total`` is known from its last one on."""

    deadline: float
    pieces: dict[int, bytes] = dataclasses.field(default_factory=dict)
    total: int | None = None

    @property
    def octets(self) -> int:
        """Octets of all pieces."""
        return sum(map(len, self.pieces.values()))

    def holds(self, fragment: Fragment) -> bool:
        """Return whether exactly this piece is there."""
        last = self.total == fragment.number
        return self.pieces.get(fragment.number) == fragment.data and last == fragment.last


class Reassembly:
    """What has come of fragmented messages of one SA."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[int, _Waiting] = {}

    @property
    def octets(self) -> int:
        """Octets that wait."""
        return sum(each.octets for each in self._waiting.values())

    @property
    def deadline(self) -> float | None:
        """When what waits longest is forgotten, or None."""
        return min((each.deadline for each in self._waiting.values()), default=None)

    def add(self, fragment: Fragment, now: float) -> bytes | None:
        """Take a fragment and return the datagram that it completes, or None.

        The same piece again is passed over, for so a repeated message begins. Raises WireError ``drop.fragment`` for
        one that does not go with those before it, or that is too much; what waits then stays as it was.
        """
        self.expire(now)
        waiting = self._waiting.get(fragment.id) or _Waiting(deadline=now + LIFETIME)
        if waiting.holds(fragment):
            return None
        _check(fragment, waiting)
        if fragment.id not in self._waiting:
            self._make_room()
            self._waiting[fragment.id] = waiting
        waiting.pieces[fragment.number] = fragment.data
        if fragment.last:
            waiting.total = fragment.number
        if len(waiting.pieces) != waiting.total:
            return None
        del self._waiting[fragment.id]
        return _joined(waiting)

    def expire(self, now: float) -> None:
        """Forget what has waited too long."""
        for id_ in [id_ for id_, each in self._waiting.items() if each.deadline <= now]:
            del self._waiting[id_]

    def _make_room(self) -> None:
        while len(self._waiting) >= MOST_IDS:
            del self._waiting[min(self._waiting, key=lambda id_: self._waiting[id_].deadline)]


def _check(fragment: Fragment, waiting: _Waiting) -> None:
    """Raise WireError unless the fragment goes with those that wait."""
    total, highest = waiting.total, max(waiting.pieces, default=0)
    if not 1 <= fragment.number <= MOST_FRAGMENTS:
        raise _dropped(f"A fragment has number {fragment.number}", fragment.number, f"1 to {MOST_FRAGMENTS}")
    if fragment.number in waiting.pieces:
        raise _dropped(f"Fragment {fragment.number} comes a second time and is another")
    if total is not None and (fragment.number > total or (fragment.last and fragment.number != total)):
        raise _dropped(f"Fragment {fragment.number} contradicts the last, {total}", fragment.number, f"at most {total}")
    if fragment.last and fragment.number < highest:
        raise _dropped(f"Fragment {fragment.number} is the last, yet there is {highest}", fragment.number, highest)
    octets = waiting.octets + len(fragment.data)
    if octets > MOST_OCTETS:
        raise _dropped(f"A message has {octets} octets in its fragments", octets, f"at most {MOST_OCTETS}")


def _joined(waiting: _Waiting) -> bytes:
    datagram = b"".join(waiting.pieces[number] for number in sorted(waiting.pieces))
    if datagram[_NEXT_PAYLOAD_AT : _NEXT_PAYLOAD_AT + 1] == bytes((PayloadType.FRAGMENT,)):
        raise _dropped("The fragments hold a fragment again")
    return datagram


def _dropped(detail: str, received: object = None, expected: object = None) -> WireError:
    return WireError("drop.fragment", detail, received=received, expected=expected)
