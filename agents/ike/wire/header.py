"""The IKE header (RFC 7296 section 3.1) and the first decision about a datagram: whose is it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from agents.ike.errors import WireError
from agents.ike.wire.buffer import malformed
from agents.ike.wire.registry import Flag, NotifyType

HEADER_OCTETS = 28
NO_SPI = bytes(8)

_LAYOUT = struct.Struct(">8s8sBBBBII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The fixed header; SPIs are octets because they are only compared and hashed."""

    spi_i: bytes
    spi_r: bytes
    next_payload: int
    exchange: int
    flags: int
    message_id: int
    length: int = 0
    version: int = 0x20

    @property
    def major(self) -> int:
        """The major version: 1 or 2."""
        return self.version >> 4

    @property
    def response(self) -> bool:
        """Whether the R flag is set."""
        return bool(self.flags & Flag.RESPONSE)

    @property
    def from_initiator(self) -> bool:
        """Whether the I flag is set: the sender is the IKE SA's original initiator."""
        return bool(self.flags & Flag.INITIATOR)

    def serialize(self) -> bytes:
        """Return the 28 octets."""
        return self.serialize_for(self.next_payload, self.length)

    def serialize_for(self, next_payload: int, length: int) -> bytes:
        """Return the 28 octets for this first payload and length of the whole message."""
        return _LAYOUT.pack(
            self.spi_i,
            self.spi_r,
            next_payload,
            self.version,
            self.exchange,
            self.flags,
            self.message_id,
            length,
        )


def classify(datagram: bytes) -> Header:
    """Read the header of an IKE datagram, which both versions have alike (RFC 2408 section 3.1).

    Raises WireError ``drop.version`` (with notify INVALID_MAJOR_VERSION where RFC 7296 section 2.5 asks for an answer)
    for a version that is neither 1 nor 2, and ``wire.header`` for a wrong length or an impossible SPI.
    """
    if len(datagram) < HEADER_OCTETS:
        raise malformed(
            f"{len(datagram)} octets are less than an IKE header",
            "wire.header",
            received=f"{len(datagram)} octets",
            expected=f"at least {HEADER_OCTETS} octets",
        )
    spi_i, spi_r, next_payload, version, exchange, flags, message_id, length = _LAYOUT.unpack_from(datagram)
    major = version >> 4
    if major not in (1, 2):
        higher = major > 2 and not flags & Flag.RESPONSE
        raise WireError(
            "drop.version",
            f"IKE major version {major}",
            notify=NotifyType.INVALID_MAJOR_VERSION if higher else None,
            received=major,
            expected=2,
        )
    if length != len(datagram):
        raise malformed(
            f"the header says {length} octets, the datagram has {len(datagram)}",
            "wire.header",
            received=f"{len(datagram)} octets",
            expected=f"{length} octets",
        )
    if spi_i == NO_SPI and major == 2:
        raise malformed("the initiator's SPI is zero", "wire.header", received="SPI 0")
    return Header(
        spi_i=spi_i,
        spi_r=spi_r,
        next_payload=next_payload,
        version=version,
        exchange=exchange,
        flags=flags,
        message_id=message_id,
        length=length,
    )
