"""The Encrypted Fragment payload (RFC 7383 section 2.5): cutting a message, sealing and opening one piece.

Each piece is a message of its own with its own IV and checksum. Which pieces belong together, and how many are kept
waiting, is :mod:`agents.ike.v2.reassembly`.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass

from agents.ike.errors import WireError
from agents.ike.wire.buffer import malformed
from agents.ike.wire.header import HEADER_OCTETS, Header
from agents.ike.wire.message import GENERIC, Cipher, Inner
from agents.ike.wire.registry import PayloadType, is_known_exchange

_NUMBERS = struct.Struct(">HH")
OVERHEAD_OCTETS = HEADER_OCTETS + GENERIC.size + _NUMBERS.size
"""What of a fragment is neither content nor the cipher's: header, payload header, the two numbers."""

MOST_FRAGMENTS = 128
"""More pieces of one message are neither sent nor taken: 64 kB are fewer even at 576 octets each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a fragment claims to belong: ``number`` of ``total``, from 1."""

    number: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """An authentic fragment; ``first`` (the type of the first payload inside) and ``reserved`` count in number 1."""

    place: Place
    first: int
    reserved: int
    content: bytes = dataclasses.field(repr=False)


def is_fragment(header: Header) -> bool:
    """Return whether the message is an encrypted fragment."""
    return header.next_payload == PayloadType.SKF


def read_place(datagram: bytes, header: Header) -> Place:
    """Read a fragment's numbers, before anything of it is authentic. Raises WireError."""
    if not is_known_exchange(header.exchange):
        raise WireError("drop.exchange-type", f"exchange type {header.exchange}")
    if len(datagram) < OVERHEAD_OCTETS:
        raise malformed("the Encrypted Fragment payload ends within its header", "wire.encrypted-payload")
    length = GENERIC.unpack_from(datagram, HEADER_OCTETS)[2]
    if HEADER_OCTETS + length != len(datagram):
        raise malformed("the Encrypted Fragment payload does not reach to the message's end", "wire.encrypted-payload")
    number, total = _NUMBERS.unpack_from(datagram, HEADER_OCTETS + GENERIC.size)
    if not 1 <= number <= total:
        raise malformed(f"fragment {number} of {total}", "wire.encrypted-payload")
    if total > MOST_FRAGMENTS:
        raise WireError("drop.fragment", f"a message in {total} fragments: at most {MOST_FRAGMENTS} are taken")
    return Place(number=number, total=total)


def open_fragment(datagram: bytes, header: Header, cipher: Cipher) -> Fragment:
    """Decrypt one fragment. Raises WireError, or the cipher's integrity error."""
    place = read_place(datagram, header)
    first, reserved, _length = GENERIC.unpack_from(datagram, HEADER_OCTETS)
    content = cipher.open(datagram[:OVERHEAD_OCTETS], datagram[OVERHEAD_OCTETS:])
    return Fragment(place=place, first=first, reserved=reserved, content=content)


def content_octets(datagram_octets: int, cipher: Cipher) -> int:
    """Return how much content a fragment of at most this many octets takes; at least 1."""
    room = datagram_octets - OVERHEAD_OCTETS
    content = room - cipher.overhead(0)
    while content > 1 and content + cipher.overhead(content) > room:
        content -= 1
    return max(content, 1)


def cut(inner: Inner, octets: int) -> tuple[bytes, ...]:
    """Return the chain in pieces of at most this many octets. Raises ValueError when there would be too many."""
    pieces = tuple(inner.chain[start : start + octets] for start in range(0, len(inner.chain), octets)) or (b"",)
    if len(pieces) > MOST_FRAGMENTS:
        raise ValueError(f"a message of {len(inner.chain)} octets is too long for {MOST_FRAGMENTS} pieces")
    return pieces


def seal_fragment(header: Header, fragment: Fragment, cipher: Cipher, iv: bytes) -> bytes:
    """Return the datagram of one fragment; ``iv`` must never repeat under one key."""
    content, place = fragment.content, fragment.place
    octets = GENERIC.size + _NUMBERS.size + len(content) + cipher.overhead(len(content))
    aad = (
        header.serialize_for(PayloadType.SKF, HEADER_OCTETS + octets)
        + GENERIC.pack(fragment.first, 0, octets)
        + _NUMBERS.pack(place.number, place.total)
    )
    return aad + cipher.seal(aad, content, iv)
