"""A whole message: the payload chain in clear or inside an Encrypted payload (RFC 7296 sections 3.1, 3.2, 3.14).

The cipher is an argument with three methods; keys never come here. Order of payloads is kept, not required. Fragments
are in :mod:`agents.ike.wire.fragments`.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass
from typing import Protocol, TypeVar

from agents.ike.errors import WireError
from agents.ike.wire import rules
from agents.ike.wire.buffer import malformed
from agents.ike.wire.families import code_of, payload_name
from agents.ike.wire.header import HEADER_OCTETS, Header
from agents.ike.wire.payloads import Notify, Payload, parse_payload, payload_type
from agents.ike.wire.registry import FIRST_STATUS_NOTIFY, Exchange, NotifyType, PayloadType, is_known_exchange

GENERIC = struct.Struct(">BBH")
"""The generic payload header (section 3.2): next payload, flags, length."""
_CRITICAL = 0x80
MOST_PAYLOADS = 128

_AnyPayload = TypeVar("_AnyPayload", bound=Payload)


class Cipher(Protocol):
    """What sealing and opening needs of a cipher (see :class:`agents.ike.crypto.cipher.SkCipher`)."""

    def overhead(self, plaintext_octets: int) -> int:
        """Return the octets added to a plaintext of this length."""
        ...

    def seal(self, aad: bytes, plaintext: bytes, iv: bytes) -> bytes:
        """Return IV, ciphertext and checksum."""
        ...

    def open(self, aad: bytes, body: bytes) -> bytes:
        """Return the plaintext, or raise the cipher's integrity error."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """What an Encrypted payload holds: the type of the first payload, the octet after it, and the chain."""

    first: int
    reserved: int
    chain: bytes = dataclasses.field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Header and payloads. The header's ``next_payload`` and ``length`` are filled in by serialising.

    ``authenticated`` is what of an IKE_INTERMEDIATE message goes into IntAuth; empty for every other message.
    """

    header: Header
    payloads: tuple[Payload, ...]
    authenticated: bytes = dataclasses.field(default=b"", repr=False, compare=False)

    def find(self, kind: type[_AnyPayload]) -> _AnyPayload | None:
        """Return the first payload of this kind, or None."""
        for payload in self.payloads:
            if type(payload) is kind:
                return payload
        return None

    def notify(self, type_: int) -> Notify | None:
        """Return the first notify of this type, or None."""
        for payload in self.payloads:
            if type(payload) is Notify and payload.type == type_:
                return payload
        return None

    def notifies(self, type_: int) -> tuple[Notify, ...]:
        """Return all notifies of this type."""
        return tuple(each for each in self.payloads if type(each) is Notify and each.type == type_)

    def error(self) -> Notify | None:
        """Return the first error notify, or None."""
        for payload in self.payloads:
            if type(payload) is Notify and payload.type < FIRST_STATUS_NOTIFY:
                return payload
        return None


def is_protected(exchange: int) -> bool:
    """Return whether messages of this exchange travel inside an Encrypted payload: all but IKE_SA_INIT."""
    return exchange != Exchange.IKE_SA_INIT


def parse_clear(datagram: bytes, header: Header) -> Message:
    """Read an IKE_SA_INIT message. Raises WireError."""
    payloads = _parse_chain(datagram, HEADER_OCTETS, header.next_payload)
    if any(payload_type(each) == PayloadType.SKF for each in payloads):
        raise malformed("an encrypted fragment in a message in clear", "wire.encrypted-payload")
    rules.check(header.exchange, header.response, payloads)
    return Message(header=header, payloads=payloads)


def open_message(datagram: bytes, header: Header, cipher: Cipher) -> Message:
    """Decrypt and read a protected message that is not a fragment. Raises as open_inner and read_inner do."""
    return read_inner(header, open_inner(datagram, header, cipher))


def open_inner(datagram: bytes, header: Header, cipher: Cipher) -> Inner:
    """Decrypt a protected message.

    Raises the cipher's integrity error before anything of the content is believed, and WireError for a chain that is
    wrong outside: then the sender is unknown.
    """
    if not is_known_exchange(header.exchange):
        raise WireError("drop.exchange-type", f"exchange type {header.exchange}")
    first, reserved = _find_encrypted(datagram, header)
    start = HEADER_OCTETS + GENERIC.size
    return Inner(first=first, reserved=reserved, chain=cipher.open(datagram[:start], datagram[start:]))


def read_inner(header: Header, inner: Inner) -> Message:
    """Read what an Encrypted payload, or all fragments of one, held.

    Raises WireError for a chain that is wrong inside; then ``notify`` is set, for the sender is the peer.
    """
    try:
        payloads = _parse_chain(inner.chain, 0, inner.first)
    except WireError as error:
        if error.notify is None:
            error.notify = NotifyType.INVALID_SYNTAX
        raise
    rules.check(header.exchange, header.response, payloads)
    authenticated = int_auth_octets(header, inner) if header.exchange == Exchange.IKE_INTERMEDIATE else b""
    return Message(header=header, payloads=payloads, authenticated=authenticated)


def int_auth_octets(header: Header, inner: Inner) -> bytes:
    """Return A | P of an IKE_INTERMEDIATE message (RFC 9242 section 3.3.2).

    That is the message as if unfragmented, without IV, padding and checksum, with lengths that do not count those.
    """
    length = GENERIC.size + len(inner.chain)
    outer = header.serialize_for(PayloadType.SK, HEADER_OCTETS + length)
    return outer + GENERIC.pack(inner.first, inner.reserved, length) + inner.chain


def _find_encrypted(datagram: bytes, header: Header) -> tuple[int, int]:
    """Return the type of the first payload inside the Encrypted payload, and the octet of its flags.

    The Encrypted payload must be the last; payloads in clear before it are not believed, so none is accepted.
    """
    if header.next_payload == PayloadType.SKF:
        raise WireError("drop.state", "encrypted fragments were not negotiated")
    if header.next_payload != PayloadType.SK:
        raise WireError("drop.payload-rules", "the message is not encrypted")
    if len(datagram) < HEADER_OCTETS + GENERIC.size:
        raise _cut(PayloadType.SK, len(datagram) - HEADER_OCTETS, "at least 4", "ends within its header")
    first, reserved, length = GENERIC.unpack_from(datagram, HEADER_OCTETS)
    if HEADER_OCTETS + length != len(datagram):
        left = len(datagram) - HEADER_OCTETS
        raise _cut(PayloadType.SK, left, str(length), "does not reach to the message's end")
    return first, reserved


def _parse_chain(octets: bytes, offset: int, next_payload: int) -> tuple[Payload, ...]:
    payloads: list[Payload] = []
    end = len(octets)
    while next_payload:
        if len(payloads) >= MOST_PAYLOADS:
            raise malformed("too many payloads", expected=f"at most {MOST_PAYLOADS}")
        if end - offset < GENERIC.size:
            raise _cut(next_payload, end - offset, f"at least {GENERIC.size}", "ends within its header")
        following, flags, length = GENERIC.unpack_from(octets, offset)
        if length < GENERIC.size or offset + length > end:
            raise _cut(next_payload, end - offset, str(length), f"says {length} octets where {end - offset} are left")
        if next_payload == PayloadType.SK:
            raise malformed("an Encrypted payload inside a chain", "wire.encrypted-payload", received="nested")
        body = octets[offset + GENERIC.size : offset + length]
        try:
            payloads.append(parse_payload(next_payload, bool(flags & _CRITICAL), body))
        except WireError as error:
            error.payload = payload_name(next_payload)
            raise
        next_payload = following
        offset += length
    if offset != end:
        raise malformed(f"{end - offset} octets after the last payload", received=end, expected=offset)
    return tuple(payloads)


def _cut(payload: int, left: int, expected: str, what: str) -> WireError:
    name = payload_name(payload)
    error = malformed(
        f"payload {name} {what}", code_of(payload), received=f"{left} octets", expected=f"{expected} octets"
    )
    error.payload = name
    return error


def _serialize_chain(payloads: tuple[Payload, ...]) -> bytes:
    parts = []
    final = len(payloads) - 1
    for index, payload in enumerate(payloads):
        body = payload.serialize()
        following = 0 if index == final else payload_type(payloads[index + 1])
        parts.append(GENERIC.pack(following, 0, GENERIC.size + len(body)))
        parts.append(body)
    return b"".join(parts)


def _first_type(payloads: tuple[Payload, ...]) -> int:
    return payload_type(payloads[0]) if payloads else 0


def serialize_clear(message: Message) -> bytes:
    """Return the datagram of a message in clear."""
    chain = _serialize_chain(message.payloads)
    return message.header.serialize_for(_first_type(message.payloads), HEADER_OCTETS + len(chain)) + chain


def encode(payloads: tuple[Payload, ...]) -> Inner:
    """Return the payloads as an Encrypted payload holds them."""
    return Inner(first=_first_type(payloads), reserved=0, chain=_serialize_chain(payloads))


def seal_message(message: Message, cipher: Cipher, iv: bytes) -> bytes:
    """Return the datagram of a protected message; ``iv`` must never repeat under one key."""
    return seal_inner(message.header, encode(message.payloads), cipher, iv)


def seal_inner(header: Header, inner: Inner, cipher: Cipher, iv: bytes) -> bytes:
    """Return the datagram of a protected message; ``iv`` must never repeat under one key."""
    octets = GENERIC.size + len(inner.chain) + cipher.overhead(len(inner.chain))
    aad = header.serialize_for(PayloadType.SK, HEADER_OCTETS + octets) + GENERIC.pack(inner.first, 0, octets)
    return aad + cipher.seal(aad, inner.chain, iv)
