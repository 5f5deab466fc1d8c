"""Payload bodies of IKEv1 as frozen values (RFC 2408 sections 3.4 to 3.16): ``parse`` and ``serialize``, nothing else.

The generic header is the chain's (:mod:`agents.ike.wire.isakmp.message`); a body here begins after it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

from agents.ike.errors import WireError
from agents.ike.wire.buffer import Reader
from agents.ike.wire.isakmp import attributes as attribute_list
from agents.ike.wire.isakmp import faults
from agents.ike.wire.isakmp.attributes import Attribute
from agents.ike.wire.isakmp.registry import (
    CARRIED_PAYLOADS,
    DOI_IPSEC,
    SITUATION_IDENTITY_ONLY,
    IdType,
    NotifyType,
    PayloadType,
    Protocol,
)

_ASSOCIATION = struct.Struct(">II")
_PROPOSAL = struct.Struct(">BBHBBBB")
_TRANSFORM = struct.Struct(">BBHBBH")
_IDENTIFICATION = struct.Struct(">BBH")
_NOTIFY = struct.Struct(">IBBH")
_FRAGMENT = struct.Struct(">HBB")
_GENERIC_OCTETS = 4
_SPI_OCTETS: dict[int, tuple[int, ...]] = {
    Protocol.ISAKMP: tuple(range(17)),  # any, and ignored (RFC 2408 section 3.5)
    Protocol.AH: (4,),
    Protocol.ESP: (4,),
    Protocol.IPCOMP: (2, 4),  # a CPI, which some send as if it were an SPI (RFC 3173 section 4.1)
}
_PROTOCOLS = "0x1 to 0x4"
MOST_PROPOSALS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """One transform (section 3.6): a whole suite in IKEv1, unlike IKEv2."""

    number: int
    id: int
    attributes: tuple[Attribute, ...] = ()

    def find(self, type_: int) -> Attribute | None:
        """Return the first attribute of this type, or None."""
        return next((each for each in self.attributes if each.type == type_), None)

    def serialize(self, last: bool) -> bytes:
        """Return the whole payload, with its generic header."""
        attributes = attribute_list.serialize(self.attributes)
        return (
            _TRANSFORM.pack(
                PayloadType.NONE if last else PayloadType.TRANSFORM, 0, 8 + len(attributes), self.number, self.id, 0
            )
            + attributes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One proposal (section 3.5). Those with one number belong together: AH around ESP, IPComp inside (section 4.2)."""

    number: int
    protocol: int
    spi: bytes = b""
    transforms: tuple[Transform, ...]

    def serialize(self, last: bool) -> bytes:
        """Return the whole payload, with its generic header."""
        final = len(self.transforms) - 1
        body = self.spi + b"".join(each.serialize(index == final) for index, each in enumerate(self.transforms))
        return (
            _PROPOSAL.pack(
                PayloadType.NONE if last else PayloadType.PROPOSAL,
                0,
                _PROPOSAL.size + len(body),
                self.number,
                self.protocol,
                len(self.spi),
                len(self.transforms),
            )
            + body
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityAssociation:
    """The SA payload (section 3.4, RFC 2407 section 4.6.1). Proposals may be numbered in any way, as real ones are."""

    TYPE: ClassVar[int] = PayloadType.SA
    proposals: tuple[Proposal, ...]
    doi: int = DOI_IPSEC
    situation: int = SITUATION_IDENTITY_ONLY

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read DOI, situation and proposals.

        Another situation is answered with SITUATION-NOT-SUPPORTED, as RFC 2408 section 5.4 says. The gateway whose
        messages operators know names INVALID_NOTIFY_TYPE there, which no registry has.
        """
        reader = Reader(body, "The SA payload", faults.MALFORMED)
        doi, situation = _ASSOCIATION.unpack(reader.take(_ASSOCIATION.size))
        if doi != DOI_IPSEC:
            raise faults.doi(doi)
        if situation != SITUATION_IDENTITY_ONLY:
            raise WireError(
                "ikev1.situation",
                f"The situation ({situation:#x}) is not supported",
                notify=NotifyType.SITUATION_NOT_SUPPORTED,
                received=f"{situation:#x}",
                expected=f"{SITUATION_IDENTITY_ONLY:#x}",
            )
        check_size(_GENERIC_OCTETS + len(body), body)
        proposals: list[Proposal] = []
        offset, more = _ASSOCIATION.size, True
        while more:
            if len(proposals) >= MOST_PROPOSALS:
                raise faults.malformed("Too many proposals", expected=f"at most {MOST_PROPOSALS}")
            more, proposal, offset = _parse_proposal(body, offset)
            proposals.append(proposal)
        return cls(proposals=tuple(proposals), doi=doi, situation=situation)

    def serialize(self) -> bytes:
        """Return the body: SA_b of the hashes of RFC 2409 section 5."""
        final = len(self.proposals) - 1
        return _ASSOCIATION.pack(self.doi, self.situation) + b"".join(
            each.serialize(index == final) for index, each in enumerate(self.proposals)
        )


def check_size(length: int, body: bytes) -> None:
    """Raise WireError ``ikev1.sa-length`` when proposals end elsewhere than an SA payload of this length.

    A body whose proposals cannot be followed to the last is left to what reads them one by one.
    """
    offset = _ASSOCIATION.size
    marker: int = PayloadType.PROPOSAL
    while marker == PayloadType.PROPOSAL and len(body) - offset >= _PROPOSAL.size:
        marker, _reserved, octets = struct.unpack_from(">BBH", body, offset)
        if octets < _PROPOSAL.size:
            return
        offset += octets
    parts = _GENERIC_OCTETS + offset
    if (marker == PayloadType.NONE or offset > len(body)) and parts != length:
        raise faults.sa_length(length, parts)


def _parse_proposal(body: bytes, offset: int) -> tuple[bool, Proposal, int]:
    left = len(body) - offset
    if left < _PROPOSAL.size:
        raise faults.malformed(
            "A proposal ends within its header", received=f"{left} octets", expected=f"{_PROPOSAL.size} octets"
        )
    marker, reserved, length, number, protocol, spi_octets, count = _PROPOSAL.unpack_from(body, offset)
    if marker not in (PayloadType.NONE, PayloadType.PROPOSAL):
        raise faults.next_payload(marker, "0x0 or 0x2")
    if reserved:
        raise faults.reserved(f"proposal {number}", reserved, NotifyType.BAD_PROPOSAL_SYNTAX)
    if protocol not in _SPI_OCTETS:
        raise faults.protocol_id(protocol, _PROTOCOLS)
    if spi_octets not in _SPI_OCTETS[protocol]:
        raise faults.malformed(
            f"The SPI of proposal {number} has {spi_octets} octets",
            received=spi_octets,
            expected=" or ".join(map(str, _SPI_OCTETS[protocol])),
            notify=NotifyType.INVALID_SPI,
        )
    stop = offset + length
    start = offset + _PROPOSAL.size + spi_octets
    if stop > len(body) or start > stop:
        raise faults.malformed(
            f"Proposal {number} has a wrong length",
            received=f"{length} octets",
            expected=f"{start - offset} to {left} octets",
        )
    if not count:
        raise faults.malformed(f"Proposal {number} has no transforms", received=0, expected="at least 1")
    spi = body[start - spi_octets : start]
    transforms = []
    for index in range(count):
        transform, start = _parse_transform(body, start, stop, last=index == count - 1)
        transforms.append(transform)
    if start != stop:
        raise faults.malformed(
            f"Octets stand after the last transform of proposal {number}",
            received=f"{length} octets",
            expected=f"{start - offset} octets",
        )
    proposal = Proposal(number=number, protocol=protocol, spi=spi, transforms=tuple(transforms))
    return marker == PayloadType.PROPOSAL, proposal, stop


def _parse_transform(body: bytes, start: int, stop: int, last: bool) -> tuple[Transform, int]:
    if stop - start < _TRANSFORM.size:
        raise faults.malformed(
            "A transform ends within its header",
            received=f"{stop - start} octets",
            expected=f"{_TRANSFORM.size} octets",
        )
    marker, reserved, length, number, id_, unused = _TRANSFORM.unpack_from(body, start)
    if marker not in (PayloadType.NONE, PayloadType.TRANSFORM):
        raise faults.next_payload(marker, "0x0 or 0x3")
    if reserved:
        raise faults.reserved("transform's header", reserved, NotifyType.BAD_PROPOSAL_SYNTAX)
    if (marker == PayloadType.NONE) != last:
        raise faults.malformed(
            "The number of transforms is not that of the proposal",
            received="more transforms" if last else "fewer transforms",
            notify=NotifyType.BAD_PROPOSAL_SYNTAX,
        )
    if length < _TRANSFORM.size or start + length > stop:
        raise faults.malformed(
            "A transform has a wrong length",
            received=f"{length} octets",
            expected=f"{_TRANSFORM.size} to {stop - start} octets",
        )
    if unused:
        raise faults.reserved(f"transform {number}", unused, NotifyType.BAD_PROPOSAL_SYNTAX)
    attributes = attribute_list.parse(body[start + _TRANSFORM.size : start + length])
    return Transform(number=number, id=id_, attributes=attributes), start + length


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyExchangeData:
    """The KE payload (section 3.7): a public value; the group is the transform's."""

    TYPE: ClassVar[int] = PayloadType.KE
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Take the value; its length is the group's affair."""
        return cls(data=_filled(body, "key exchange"))

    def serialize(self) -> bytes:
        """Return the body."""
        return self.data


_ID_OCTETS = {
    int(IdType.IPV4_ADDR): (4, 4),
    int(IdType.FQDN): (1, 65_535),
    int(IdType.USER_FQDN): (1, 65_535),
    int(IdType.IPV4_ADDR_SUBNET): (8, 8),
    int(IdType.IPV6_ADDR): (16, 16),
    int(IdType.IPV6_ADDR_SUBNET): (32, 32),
    int(IdType.IPV4_ADDR_RANGE): (8, 8),
    int(IdType.IPV6_ADDR_RANGE): (32, 32),
    int(IdType.DER_ASN1_DN): (2, 65_535),
    int(IdType.DER_ASN1_GN): (2, 65_535),
    int(IdType.KEY_ID): (1, 65_535),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identification:
    """The ID payload (RFC 2407 section 4.6.2): an identity in phase 1, a selector in phase 2."""

    TYPE: ClassVar[int] = PayloadType.ID
    id_type: int
    data: bytes
    protocol: int = 0
    port: int = 0

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read type, protocol, port and value."""
        reader = Reader(body, "The ID payload", faults.MALFORMED)
        id_type, protocol, port = _IDENTIFICATION.unpack(reader.take(_IDENTIFICATION.size))
        octets = _ID_OCTETS.get(id_type)
        if octets is None:
            raise faults.malformed(
                f"The identity is of type {id_type}",
                received=id_type,
                expected=f"{min(_ID_OCTETS)} to {max(_ID_OCTETS)}",
                notify=NotifyType.INVALID_ID_INFORMATION,
            )
        if not octets[0] <= reader.left <= octets[1]:
            raise faults.malformed(
                f"An identity of type {id_type} has {reader.left} octets",
                received=reader.left,
                expected=octets[0] if octets[0] == octets[1] else f"{octets[0]} to {octets[1]}",
            )
        return cls(id_type=id_type, protocol=protocol, port=port, data=reader.rest())

    def serialize(self) -> bytes:
        """Return the body: ID_b of the hashes of RFC 2409 section 5."""
        return _IDENTIFICATION.pack(self.id_type, self.protocol, self.port) + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Cert:
    """The CERT payload (section 3.9); encoding 4 is one X.509 certificate in DER."""

    TYPE: ClassVar[int] = PayloadType.CERT
    encoding: int
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read encoding and data; an encoding unknown to the receiver is passed over there."""
        reader = Reader(body, "The CERT payload", faults.MALFORMED)
        return cls(encoding=reader.number(1), data=reader.rest())

    def serialize(self) -> bytes:
        """Return the body."""
        return bytes((self.encoding,)) + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class CertReq:
    """The CERTREQ payload (section 3.10); ``data`` is the name of one CA in DER, or empty for any."""

    TYPE: ClassVar[int] = PayloadType.CERTREQ
    encoding: int
    data: bytes = b""

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read encoding and name."""
        reader = Reader(body, "The CERTREQ payload", faults.MALFORMED)
        return cls(encoding=reader.number(1), data=reader.rest())

    def serialize(self) -> bytes:
        """Return the body."""
        return bytes((self.encoding,)) + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Hash:
    """The HASH payload (section 3.11)."""

    TYPE: ClassVar[int] = PayloadType.HASH
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Take the body; its length is that of the negotiated hash."""
        return cls(data=_filled(body, "hash"))

    def serialize(self) -> bytes:
        """Return the body."""
        return self.data

    def __repr__(self) -> str:
        return f"Hash({len(self.data)} octets)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The SIG payload (section 3.12)."""

    TYPE: ClassVar[int] = PayloadType.SIGNATURE
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Take the body."""
        return cls(data=_filled(body, "signature"))

    def serialize(self) -> bytes:
        """Return the body."""
        return self.data

    def __repr__(self) -> str:
        return f"Signature({len(self.data)} octets)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nonce:
    """The Nonce payload (section 3.13): 8 to 256 octets (RFC 2409 section 5)."""

    TYPE: ClassVar[int] = PayloadType.NONCE
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read and check the length."""
        if not 8 <= len(body) <= 256:
            raise faults.malformed(f"A nonce has {len(body)} octets", received=len(body), expected="8 to 256")
        return cls(data=body)

    def serialize(self) -> bytes:
        """Return the body."""
        return self.data


def _check_doi(doi: int) -> None:
    """Raise WireError unless a notify or delete is of ISAKMP itself (0) or of IPsec; senders differ about it."""
    if doi not in (0, DOI_IPSEC):
        raise faults.doi(doi)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """The Notification payload (section 3.14)."""

    TYPE: ClassVar[int] = PayloadType.NOTIFY
    type: int
    protocol: int = Protocol.ISAKMP
    spi: bytes = b""
    data: bytes = b""
    doi: int = DOI_IPSEC

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read DOI, protocol (0 where a sender has none to name), type, SPI and data."""
        reader = Reader(body, "The notification payload", faults.MALFORMED)
        doi, protocol, spi_octets, type_ = _NOTIFY.unpack(reader.take(_NOTIFY.size))
        _check_doi(doi)
        if protocol and protocol not in _SPI_OCTETS:
            raise faults.protocol_id(protocol, f"0x0, {_PROTOCOLS}")
        return cls(type=type_, protocol=protocol, spi=reader.take(spi_octets), data=reader.rest(), doi=doi)

    def serialize(self) -> bytes:
        """Return the body."""
        return _NOTIFY.pack(self.doi, self.protocol, len(self.spi), self.type) + self.spi + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """The Delete payload (section 3.15); the SPI of an IKE SA is its two cookies."""

    TYPE: ClassVar[int] = PayloadType.DELETE
    protocol: int
    spis: tuple[bytes, ...]
    doi: int = DOI_IPSEC

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read protocol and SPIs, of which there is at least one."""
        reader = Reader(body, "The delete payload", faults.MALFORMED)
        doi, protocol, spi_octets, count = _NOTIFY.unpack(reader.take(_NOTIFY.size))
        _check_doi(doi)
        if protocol not in _SPI_OCTETS:
            raise faults.protocol_id(protocol, _PROTOCOLS)
        expected = (16,) if protocol == Protocol.ISAKMP else _SPI_OCTETS[protocol]
        if spi_octets not in expected:
            raise faults.malformed(
                f"A delete payload has SPIs of {spi_octets} octets",
                received=spi_octets,
                expected=" or ".join(map(str, expected)),
                notify=NotifyType.INVALID_SPI,
            )
        if not count or spi_octets * count != reader.left:
            raise faults.malformed(
                f"A delete payload of {count} SPIs has {reader.left} octets for them",
                received=reader.left,
                expected=spi_octets * max(count, 1),
            )
        return cls(protocol=protocol, spis=tuple(reader.take(spi_octets) for _ in range(count)), doi=doi)

    def serialize(self) -> bytes:
        """Return the body."""
        return _NOTIFY.pack(self.doi, self.protocol, len(self.spis[0]), len(self.spis)) + b"".join(self.spis)


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorId:
    """The Vendor ID payload (section 3.16); see :mod:`agents.ike.wire.isakmp.vendor`."""

    TYPE: ClassVar[int] = PayloadType.VENDOR_ID
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Take the body as it is."""
        return cls(data=body)

    def serialize(self) -> bytes:
        """Return the body."""
        return self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class NatDetection:
    """The NAT-D payload (RFC 3947 section 3.2); ``draft`` is its number before the RFC."""

    TYPE: ClassVar[int] = PayloadType.NAT_D
    data: bytes
    draft: bool = False

    @classmethod
    def parse(cls, body: bytes, draft: bool = False) -> Self:
        """Take the hash of cookies, address and port."""
        return cls(data=_filled(body, "NAT-D"), draft=draft)

    def serialize(self) -> bytes:
        """Return the body."""
        return self.data


_ADDRESS_OCTETS: dict[int, int] = {IdType.IPV4_ADDR: 4, IdType.IPV6_ADDR: 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class NatOriginalAddress:
    """The NAT-OA payload (RFC 3947 section 5.2); ``draft`` is its number before the RFC."""

    TYPE: ClassVar[int] = PayloadType.NAT_OA
    id_type: int
    data: bytes
    draft: bool = False

    @classmethod
    def parse(cls, body: bytes, draft: bool = False) -> Self:
        """Read the kind of address, and the address."""
        reader = Reader(body, "The NAT-OA payload", faults.MALFORMED)
        id_type, reserved = reader.number(1), reader.number(3)
        if reserved:
            raise faults.reserved("NAT-OA payload", reserved, NotifyType.PAYLOAD_MALFORMED)
        if _ADDRESS_OCTETS.get(id_type) != reader.left:
            raise faults.malformed(
                f"An original address of type {id_type} has {reader.left} octets",
                received=reader.left,
                expected="4 octets of type 1, or 16 of type 5",
            )
        return cls(id_type=id_type, data=reader.rest(), draft=draft)

    def serialize(self) -> bytes:
        """Return the body."""
        return bytes((self.id_type, 0, 0, 0)) + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """A piece of a whole message, as Cisco and then others cut them: ``number`` counts from 1, ``last`` ends them."""

    TYPE: ClassVar[int] = PayloadType.FRAGMENT
    id: int
    number: int
    last: bool
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read id, number, flags and the piece."""
        reader = Reader(body, "The fragment payload", faults.MALFORMED)
        id_, number, flags = _FRAGMENT.unpack(reader.take(_FRAGMENT.size))
        return cls(id=id_, number=number, last=bool(flags & 1), data=_filled(reader.rest(), "fragment"))

    def serialize(self) -> bytes:
        """Return the body."""
        return _FRAGMENT.pack(self.id, self.number, int(self.last)) + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque:
    """A payload this codec carries but does not read: those of the configuration draft and of GDOI."""

    type: int
    data: bytes

    def serialize(self) -> bytes:
        """Return the body."""
        return self.data


def _filled(body: bytes, what: str) -> bytes:
    if not body:
        raise faults.malformed(f"The {what} payload is empty", received=0, expected="at least 1")
    return body


Payload = (
    SecurityAssociation
    | KeyExchangeData
    | Identification
    | Cert
    | CertReq
    | Hash
    | Signature
    | Nonce
    | Notify
    | Delete
    | VendorId
    | NatDetection
    | NatOriginalAddress
    | Fragment
    | Opaque
)

_PARSERS: dict[int, Callable[[bytes], Payload]] = {
    SecurityAssociation.TYPE: SecurityAssociation.parse,
    KeyExchangeData.TYPE: KeyExchangeData.parse,
    Identification.TYPE: Identification.parse,
    Cert.TYPE: Cert.parse,
    CertReq.TYPE: CertReq.parse,
    Hash.TYPE: Hash.parse,
    Signature.TYPE: Signature.parse,
    Nonce.TYPE: Nonce.parse,
    Notify.TYPE: Notify.parse,
    Delete.TYPE: Delete.parse,
    VendorId.TYPE: VendorId.parse,
    NatDetection.TYPE: NatDetection.parse,
    NatOriginalAddress.TYPE: NatOriginalAddress.parse,
    PayloadType.NAT_D_DRAFT: lambda body: NatDetection.parse(body, draft=True),
    PayloadType.NAT_OA_DRAFT: lambda body: NatOriginalAddress.parse(body, draft=True),
    Fragment.TYPE: Fragment.parse,
}


def payload_type(payload: Payload) -> int:
    """Return the number that stands for this payload in a chain."""
    if isinstance(payload, Opaque):
        return payload.type
    if isinstance(payload, NatDetection) and payload.draft:
        return PayloadType.NAT_D_DRAFT
    if isinstance(payload, NatOriginalAddress) and payload.draft:
        return PayloadType.NAT_OA_DRAFT
    return payload.TYPE


def may_stand(type_: int) -> bool:
    """Return whether a payload of this type may stand in a chain; proposals and transforms only stand inside an SA."""
    return type_ in _PARSERS or type_ in CARRIED_PAYLOADS


def parse_payload(type_: int, body: bytes) -> Payload:
    """Read one body. Raises WireError, whose notify says what a sender that is known to be the peer is answered."""
    parser = _PARSERS.get(type_)
    if parser is None:
        if type_ in CARRIED_PAYLOADS:
            return Opaque(type=type_, data=body)
        raise faults.next_payload(type_)
    try:
        return parser(body)
    except WireError as error:
        if error.notify is None:
            error.notify = NotifyType.PAYLOAD_MALFORMED
        raise
