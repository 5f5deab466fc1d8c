"""A whole IKEv1 message: the payload chain in clear, or as a cipher gave it back (RFC 2408 section 3).

Ciphertext is octets here: IV chaining and padding are the cipher's (:mod:`agents.ike.v1`). Fragments are in
:mod:`agents.ike.wire.isakmp.fragments`, which payloads go where is in :mod:`agents.ike.wire.isakmp.rules`.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from agents.ike.errors import WireError
from agents.ike.wire.header import HEADER_OCTETS, Header
from agents.ike.wire.isakmp import faults
from agents.ike.wire.isakmp.payloads import (
    Notify,
    Payload,
    SecurityAssociation,
    check_size,
    may_stand,
    parse_payload,
    payload_type,
)
from agents.ike.wire.isakmp.registry import FIRST_STATUS_NOTIFY, Flag, NotifyType, PayloadType, payload_name

GENERIC = struct.Struct(">BBH")
"""The generic payload header (section 3.2): next payload, reserved, length."""
MOST_PAYLOADS = 64
MOST_SA_OCTETS = 8_192
"""Of all SA payloads of a message, 200 transforms and more: reading them is what costs."""
MOST_CLEAR_SA_OCTETS = 4_096
"""Likewise in clear, which anyone may send: 100 transforms, more than phase 1 looks at."""

_AnyPayload = TypeVar("_AnyPayload", bound=Payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Header, payloads, and of what was received the octets that hashes cover.

    ``bodies`` are those of ``payloads``, one by one; ``protected`` is all that follows the first payload, without
    padding: what the hashes of Quick Mode and of a protected Informational cover (RFC 2409 sections 5.5 and 5.7).
    """

    header: Header
    payloads: tuple[Payload, ...]
    bodies: tuple[bytes, ...] = dataclasses.field(default=(), repr=False)
    protected: bytes = dataclasses.field(default=b"", repr=False)

    def find(self, kind: type[_AnyPayload]) -> _AnyPayload | None:
        """Return the first payload of this kind, or None."""
        for payload in self.payloads:
            if type(payload) is kind:
                return payload
        return None

    def find_all(self, kind: type[_AnyPayload]) -> tuple[_AnyPayload, ...]:
        """Return all payloads of this kind, in order."""
        return tuple(payload for payload in self.payloads if type(payload) is kind)

    def notify(self, type_: int) -> Notify | None:
        """Return the first notify of this type, or None."""
        for payload in self.payloads:
            if type(payload) is Notify and payload.type == type_:
                return payload
        return None

    def error(self) -> Notify | None:
        """Return the first error notify, or None."""
        for payload in self.payloads:
            if type(payload) is Notify and payload.type < FIRST_STATUS_NOTIFY:
                return payload
        return None

    def body_of(self, kind: type[_AnyPayload]) -> bytes | None:
        """Return the body of the first payload of this kind as it was received, or None."""
        for payload, body in zip(self.payloads, self.bodies, strict=True):
            if type(payload) is kind:
                return body
        return None


def parse_clear(datagram: bytes, header: Header) -> Message:
    """Read a message that is not encrypted. Raises WireError.

    Up to three zero octets may follow the last payload: Libreswan fills its messages to a multiple of four.
    """
    _check_length(datagram, header)
    if header.flags & Flag.ENCRYPTED:
        raise faults.malformed("The message is encrypted", received="flag ENCRYPTED", expected="a message in clear")
    message, end = _parse_chain(header, datagram, HEADER_OCTETS, MOST_CLEAR_SA_OCTETS)
    padding = datagram[end:]
    if len(padding) > 3 or any(padding):
        raise faults.malformed(
            f"{len(padding)} octets follow the last payload",
            received=f"{len(datagram)} octets",
            expected=f"{end} octets",
        )
    return message


def read_plain(header: Header, plaintext: bytes) -> Message:
    """Read a decrypted chain. Raises WireError. Padding may be of any length and content: senders differ about both."""
    return _parse_chain(header, plaintext, 0, MOST_SA_OCTETS)[0]


def encrypted_body(datagram: bytes, header: Header) -> bytes:
    """Return the ciphertext of an encrypted message. Raises WireError."""
    _check_length(datagram, header)
    if not header.flags & Flag.ENCRYPTED:
        raise faults.malformed("The message is not encrypted", received="no flag ENCRYPTED", expected="flag ENCRYPTED")
    if len(datagram) == HEADER_OCTETS:
        raise faults.malformed(
            "The encrypted message is empty", received=f"{HEADER_OCTETS} octets", expected=f"more than {HEADER_OCTETS}"
        )
    return datagram[HEADER_OCTETS:]


def _check_length(datagram: bytes, header: Header) -> None:
    if not HEADER_OCTETS <= len(datagram) == header.length:
        raise WireError(
            faults.MALFORMED,
            f"The header says {header.length} octets, the datagram has {len(datagram)}",
            notify=NotifyType.UNEQUAL_PAYLOAD_LENGTHS,
            received=f"{len(datagram)} octets",
            expected=f"{max(header.length, HEADER_OCTETS)} octets",
        )


def _parse_chain(header: Header, octets: bytes, offset: int, most_sa_octets: int) -> tuple[Message, int]:
    """Return the message and where its chain ends."""
    payloads: list[Payload] = []
    bodies: list[bytes] = []
    next_payload, second, sa_octets = header.next_payload, 0, 0
    while next_payload != PayloadType.NONE:
        if len(payloads) >= MOST_PAYLOADS:
            raise faults.malformed("Too many payloads", expected=f"at most {MOST_PAYLOADS}")
        try:
            if not may_stand(next_payload):
                raise faults.next_payload(next_payload)
            following, body = _take_payload(next_payload, octets, offset)
            if next_payload == PayloadType.SA:
                sa_octets += len(body)
                _check_sa_octets(sa_octets, most_sa_octets)
            payloads.append(parse_payload(next_payload, body))
        except WireError as error:
            error.payload = payload_name(next_payload)
            raise
        bodies.append(body)
        offset += GENERIC.size + len(body)
        next_payload, second = following, second or offset
    protected = octets[second:offset] if second else b""
    return Message(header=header, payloads=tuple(payloads), bodies=tuple(bodies), protected=protected), offset


def _check_sa_octets(octets: int, most: int) -> None:
    if octets > most:
        raise faults.malformed(f"The SA payloads have {octets} octets", received=octets, expected=f"at most {most}")


def _take_payload(type_: int, octets: bytes, offset: int) -> tuple[int, bytes]:
    """Return the type of the payload after this one, and this one's body."""
    name = payload_name(type_)
    left = len(octets) - offset
    if left < GENERIC.size:
        raise faults.malformed(
            f"Payload {name} ends within its header",
            received=f"{max(left, 0)} octets",
            expected=f"{GENERIC.size} octets",
        )
    following, reserved, length = GENERIC.unpack_from(octets, offset)
    if length > left and type_ == SecurityAssociation.TYPE:
        check_size(length, octets[offset + GENERIC.size :])
    if not GENERIC.size <= length <= left:
        raise faults.malformed(
            f"Payload {name} says {length} octets where {left} are left",
            received=f"{length} octets",
            expected=f"{GENERIC.size} to {left} octets",
        )
    if reserved:
        raise faults.reserved(f"header of payload {name}", reserved, NotifyType.PAYLOAD_MALFORMED)
    return following, octets[offset + GENERIC.size : offset + length]


def encode(payloads: Sequence[Payload]) -> tuple[int, bytes]:
    """Return the type of the first payload, and the chain."""
    types = [payload_type(each) for each in payloads]
    parts = []
    for payload, following in zip(payloads, [*types[1:], PayloadType.NONE], strict=False):
        body = payload.serialize()
        parts += [GENERIC.pack(following, 0, GENERIC.size + len(body)), body]
    return types[0] if types else PayloadType.NONE, b"".join(parts)


def serialize_clear(header: Header, payloads: Sequence[Payload]) -> bytes:
    """Return the datagram of a message in clear."""
    first, chain = encode(payloads)
    return header.serialize_for(first, HEADER_OCTETS + len(chain)) + chain


def serialize_encrypted(header: Header, first: int, ciphertext: bytes) -> bytes:
    """Return the datagram of an encrypted message, whose header says so and names the first payload inside."""
    header = dataclasses.replace(header, flags=header.flags | Flag.ENCRYPTED)
    return header.serialize_for(first, HEADER_OCTETS + len(ciphertext)) + ciphertext
