"""Data attributes of transforms and of RESPONDER-LIFETIME (RFC 2408 section 3.3): a type, and a value in two forms."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from agents.ike.wire.isakmp import faults

_SHORT_FORM = 0x8000
_LAYOUT = struct.Struct(">HH")
MOST_ATTRIBUTES = 64
MOST_OCTETS = 1_024
"""Of one value: the longest there is a use for is a prime of 8192 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One attribute; ``short`` says that the value stands in the two octets of the length (AF bit 1)."""

    type: int
    data: bytes
    short: bool

    @property
    def number(self) -> int:
        """The value as an unsigned number, as all but group parameters are meant."""
        return int.from_bytes(self.data, "big")

    def serialize(self) -> bytes:
        """Return the attribute."""
        if self.short:
            return _LAYOUT.pack(_SHORT_FORM | self.type, self.number)
        return _LAYOUT.pack(self.type, len(self.data)) + self.data


def short(type_: int, value: int) -> Attribute:
    """Return an attribute in the short form. Raises OverflowError for more than 16 bits."""
    return Attribute(type=type_, data=value.to_bytes(2, "big"), short=True)


def number(type_: int, value: int) -> Attribute:
    """Return the short form where the value fits 16 bits, else the long one with four octets."""
    if value <= 0xFFFF:
        return short(type_, value)
    return Attribute(type=type_, data=value.to_bytes(4, "big"), short=False)


def parse(octets: bytes) -> tuple[Attribute, ...]:
    """Read a list of attributes that fills the octets. Raises WireError.

    Anybody may send some 2,000 of them in one message, so each is taken from where it stands.
    """
    attributes: list[Attribute] = []
    offset, end = 0, len(octets)
    while offset < end:
        if len(attributes) >= MOST_ATTRIBUTES:
            raise faults.malformed("Too many attributes", expected=f"at most {MOST_ATTRIBUTES}")
        start = offset + _LAYOUT.size
        if start > end:
            raise faults.malformed(
                f"The list of attributes ends {start - end} octets too early",
                received=f"{end} octets",
                expected=f"at least {start} octets",
            )
        type_, length = _LAYOUT.unpack_from(octets, offset)
        if type_ & _SHORT_FORM:
            attributes.append(Attribute(type=type_ ^ _SHORT_FORM, data=octets[offset + 2 : start], short=True))
            offset = start
            continue
        if length > min(end - start, MOST_OCTETS):
            raise faults.malformed(
                f"Attribute {type_} has a length of {length} octets",
                received=length,
                expected=f"at most {min(end - start, MOST_OCTETS)}",
            )
        offset = start + length
        attributes.append(Attribute(type=type_, data=octets[start:offset], short=False))
    return tuple(attributes)


def serialize(attributes: Iterable[Attribute]) -> bytes:
    """Return the attributes in a row."""
    return b"".join(each.serialize() for each in attributes)
