"""Payload bodies as frozen values (RFC 7296 sections 3.3 to 3.16): ``parse`` and ``serialize``, nothing else.

The generic header is the chain's (:mod:`agents.ike.wire.message`); a body here begins after it. CP and EAP are checked
for their lengths and stay opaque, as everything unknown does.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

from agents.ike.errors import WireError
from agents.ike.wire import opaque
from agents.ike.wire.buffer import Reader, malformed
from agents.ike.wire.registry import (
    ATTRIBUTE_KEY_LENGTH,
    IdType,
    NotifyType,
    PayloadType,
    Protocol,
    TransformType,
    TsType,
    notify_name,
)

_PROPOSAL = struct.Struct(">BxHBBBB")
_TRANSFORM = struct.Struct(">BxHBxH")
_TRANSFORM_BODY = struct.Struct(">BxH")
_NOTIFY = struct.Struct(">BBH")
_PAIR = struct.Struct(">HH")
_SPI_OCTETS: dict[int, tuple[int, ...]] = {Protocol.IKE: (0, 8), Protocol.AH: (4,), Protocol.ESP: (4,)}
MOST_PROPOSALS = 64
MOST_TRANSFORMS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """One transform (section 3.3.2). ``understood`` is False when an attribute is unknown: then it never matches."""

    type: int
    id: int
    key_length: int | None = None
    understood: bool = True

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read what follows the substructure's length: type, id and attributes."""
        if len(body) == 4:  # without attributes, as most are
            type_, id_ = _TRANSFORM_BODY.unpack(body)
            return cls(type=type_, id=id_)
        reader = Reader(body, "transform", "wire.transform")
        type_, id_ = _TRANSFORM_BODY.unpack(reader.take(4))
        key_length: int | None = None
        understood = True
        while reader.left:
            attribute, value = reader.number(2), reader.number(2)
            if attribute == ATTRIBUTE_KEY_LENGTH:
                raise malformed(
                    "a key length attribute in the long form",
                    "wire.transform",
                    received="AF bit 0",
                    expected="AF bit 1",
                )
            if attribute == 0x8000 | ATTRIBUTE_KEY_LENGTH and key_length is None:
                key_length = value
            else:
                understood = False
                if not attribute & 0x8000:
                    reader.take(value)
        return cls(type=type_, id=id_, key_length=key_length, understood=understood)

    def serialize(self, last: bool) -> bytes:
        """Return the whole substructure."""
        attribute = b"" if self.key_length is None else _PAIR.pack(0x8000 | ATTRIBUTE_KEY_LENGTH, self.key_length)
        return _TRANSFORM.pack(0 if last else 3, 8 + len(attribute), self.type, self.id) + attribute


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One proposal (section 3.3.1); ``spi`` is empty in IKE_SA_INIT, 8 octets in an IKE rekey, 4 for ESP and AH."""

    number: int
    protocol: int
    spi: bytes = b""
    transforms: tuple[Transform, ...]

    def of_type(self, type_: TransformType) -> tuple[Transform, ...]:
        """Return the transforms of one type, in order."""
        return tuple(transform for transform in self.transforms if transform.type == type_)

    def serialize(self, last: bool) -> bytes:
        """Return the whole substructure."""
        final = len(self.transforms) - 1
        body = self.spi + b"".join(each.serialize(index == final) for index, each in enumerate(self.transforms))
        return (
            _PROPOSAL.pack(
                0 if last else 2, 8 + len(body), self.number, self.protocol, len(self.spi), len(self.transforms)
            )
            + body
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityAssociation:
    """The SA payload (section 3.3)."""

    TYPE: ClassVar[int] = PayloadType.SA
    proposals: tuple[Proposal, ...]

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read proposals, whose numbers run 1, 2, 3 ... in a request (any one number in an answer).

        A number may come twice, as in RFC 4306 section 3.3.1: both proposals together, AH around ESP.
        """
        proposals: list[Proposal] = []
        offset, more = 0, True
        while more:
            if len(proposals) >= MOST_PROPOSALS:
                raise malformed("too many proposals", "wire.sa-payload", expected=f"at most {MOST_PROPOSALS} proposals")
            more, proposal, offset = _parse_proposal(body, offset)
            proposals.append(proposal)
        if offset != len(body):
            raise malformed(
                "octets after the last proposal",
                "wire.sa-payload",
                received=f"{len(body)} octets",
                expected=f"{offset} octets",
            )
        numbers = [each.number for each in proposals]
        in_order = numbers[0] == 1 and all(after - before in (0, 1) for before, after in itertools.pairwise(numbers))
        if not in_order and len(set(numbers)) > 1:
            raise malformed(
                "proposal numbers do not run from 1",
                "wire.sa-payload",
                received=", ".join(map(str, numbers)),
                expected="1, 2, 3 ...",
            )
        return cls(proposals=tuple(proposals))

    def serialize(self) -> bytes:
        """Return the body."""
        final = len(self.proposals) - 1
        return b"".join(each.serialize(index == final) for index, each in enumerate(self.proposals))


def _parse_proposal(body: bytes, offset: int) -> tuple[bool, Proposal, int]:
    left = len(body) - offset
    if left < _PROPOSAL.size:
        raise malformed(
            "a proposal ends within its header", "wire.sa-payload", received=f"{left} octets", expected="8 octets"
        )
    marker, length, number, protocol, spi_octets, count = _PROPOSAL.unpack_from(body, offset)
    stop = offset + length
    start = offset + _PROPOSAL.size + spi_octets
    if marker not in (0, 2) or length < _PROPOSAL.size or stop > len(body) or start > stop:
        raise malformed(
            f"proposal {number} has a wrong length or marker",
            "wire.proposal-payload",
            received=f"length {length}, marker {marker}",
            expected=f"length 8 to {left}, marker 0 or 2",
        )
    if protocol == Protocol.NONE:
        raise malformed(f"proposal {number} is of no protocol", "wire.invalid-attribute", received=0, expected="1 to 3")
    if spi_octets not in _SPI_OCTETS.get(protocol, (spi_octets,)):
        raise malformed(
            f"an SPI of {spi_octets} octets in proposal {number} does not go with protocol {protocol}",
            "wire.invalid-attribute",
            received=spi_octets,
            expected=" or ".join(map(str, _SPI_OCTETS[protocol])),
        )
    if not 1 <= count <= MOST_TRANSFORMS:
        raise malformed(
            f"proposal {number} has {count} transforms",
            "wire.mismatched-attribute",
            received=count,
            expected=f"1 to {MOST_TRANSFORMS}",
        )
    spi = body[start - spi_octets : start]
    transforms = []
    for index in range(count):
        transform, start = _parse_transform(body, start, stop, last=index == count - 1)
        transforms.append(transform)
    if start != stop:
        raise malformed(
            f"octets after the last transform of proposal {number}",
            "wire.proposal-payload",
            received=f"{length} octets",
            expected=f"{start - offset} octets",
        )
    return marker == 2, Proposal(number=number, protocol=protocol, spi=spi, transforms=tuple(transforms)), stop


def _parse_transform(body: bytes, start: int, stop: int, last: bool) -> tuple[Transform, int]:
    if stop - start < _TRANSFORM.size:
        raise malformed(
            "a transform ends within its header",
            "wire.transform",
            received=f"{stop - start} octets",
            expected=f"{_TRANSFORM.size} octets",
        )
    marker, length = struct.unpack_from(">BxH", body, start)
    if marker != (0 if last else 3) or length < _TRANSFORM.size or start + length > stop:
        raise malformed(
            "a transform has a wrong length or marker",
            "wire.transform",
            received=f"length {length}, marker {marker}",
            expected=f"length 8 to {stop - start}, marker {0 if last else 3}",
        )
    return Transform.parse(body[start + 4 : start + length]), start + length


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyExchangeData:
    """The KE payload (section 3.4)."""

    TYPE: ClassVar[int] = PayloadType.KE
    group: int
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read group and public value."""
        reader = Reader(body, "KE payload", "wire.ke-payload")
        group, _reserved = reader.number(2), reader.take(2)
        if not reader.left:
            raise malformed(
                "a KE payload without a value", "wire.ke-payload", received=len(body), expected="at least 5"
            )
        return cls(group=group, data=reader.rest())

    def serialize(self) -> bytes:
        """Return the body."""
        return _PAIR.pack(self.group, 0) + self.data


_ID_OCTETS = {
    int(IdType.IPV4_ADDR): (4, 4),
    int(IdType.FQDN): (1, 65_535),
    int(IdType.RFC822_ADDR): (1, 65_535),
    int(IdType.IPV6_ADDR): (16, 16),
    int(IdType.DER_ASN1_DN): (2, 65_535),
    int(IdType.DER_ASN1_GN): (2, 65_535),
    int(IdType.KEY_ID): (1, 65_535),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identification:
    """An ID payload (section 3.5); the two kinds differ in payload type only."""

    TYPE: ClassVar[int] = 0
    id_type: int
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read type and value."""
        reader = Reader(body, "ID payload", "wire.id-payload")
        id_type, _reserved = reader.number(1), reader.take(3)
        octets = _ID_OCTETS.get(id_type)
        if octets is None:
            raise WireError(
                "wire.invalid-attribute",
                f"an identity of type {id_type}",
                notify=NotifyType.AUTHENTICATION_FAILED,
                received=id_type,
                expected=", ".join(map(str, _ID_OCTETS)),
            )
        if not octets[0] <= reader.left <= octets[1]:
            raise malformed(
                f"an identity of type {id_type} with {reader.left} octets",
                "wire.id-payload",
                received=reader.left,
                expected=octets[0] if octets[0] == octets[1] else f"{octets[0]} to {octets[1]}",
            )
        return cls(id_type=id_type, data=reader.rest())

    def serialize(self) -> bytes:
        """Return the body: what section 2.15 calls RestOfIDPayload."""
        return bytes((self.id_type, 0, 0, 0)) + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class IdI(Identification):
    """IDi."""

    TYPE: ClassVar[int] = PayloadType.ID_I


@dataclass(frozen=True, slots=True, kw_only=True)
class IdR(Identification):
    """IDr."""

    TYPE: ClassVar[int] = PayloadType.ID_R


def _encoding(number: int) -> int:
    """Return a certificate encoding that the registry has (section 3.6; 14 is RFC 7670, 15 RFC 4806)."""
    if not 1 <= number <= 15:
        raise malformed(f"certificate encoding {number}", "wire.cert-payload", received=number, expected="1 to 15")
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Cert:
    """The CERT payload (section 3.6); encoding 4 is one X.509 certificate in DER."""

    TYPE: ClassVar[int] = PayloadType.CERT
    encoding: int
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read encoding and data."""
        reader = Reader(body, "CERT payload", "wire.cert-payload")
        return cls(encoding=_encoding(reader.number(1)), data=reader.rest())

    def serialize(self) -> bytes:
        """Return the body."""
        return bytes((self.encoding,)) + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class CertReq:
    """The CERTREQ payload (section 3.7); for encoding 4 ``data`` is SHA-1 hashes of CAs' public keys in a row."""

    TYPE: ClassVar[int] = PayloadType.CERTREQ
    encoding: int
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read encoding and authorities."""
        reader = Reader(body, "CERTREQ payload", "wire.cert-payload")
        return cls(encoding=_encoding(reader.number(1)), data=reader.rest())

    def serialize(self) -> bytes:
        """Return the body."""
        return bytes((self.encoding,)) + self.data

    @property
    def authorities(self) -> tuple[bytes, ...]:
        """The hashes, without an incomplete one at the end."""
        return tuple(self.data[at : at + 20] for at in range(0, len(self.data) - 19, 20))


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """The AUTH payload (section 3.8)."""

    TYPE: ClassVar[int] = PayloadType.AUTH
    method: int
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read method and data."""
        reader = Reader(body, "AUTH payload", "wire.auth-payload")
        method, _reserved = reader.number(1), reader.take(3)
        if method == 0:
            raise malformed("an authentication method of 0", "wire.auth-payload", received=0, expected="1 to 255")
        if not reader.left:
            raise malformed("an AUTH payload without data", "wire.auth-payload", received=4, expected="at least 5")
        return cls(method=method, data=reader.rest())

    def serialize(self) -> bytes:
        """Return the body."""
        return bytes((self.method, 0, 0, 0)) + self.data

    def __repr__(self) -> str:
        return f"Auth(method={self.method})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nonce:
    """The Nonce payload (section 3.9): 16 to 256 octets."""

    TYPE: ClassVar[int] = PayloadType.NONCE
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read and check the length."""
        if not 16 <= len(body) <= 256:
            raise malformed(
                f"a nonce of {len(body)} octets", "wire.nonce-payload", received=len(body), expected="16 to 256"
            )
        return cls(data=body)

    def serialize(self) -> bytes:
        """Return the body."""
        return self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """The Notify payload (section 3.10)."""

    TYPE: ClassVar[int] = PayloadType.NOTIFY
    type: int
    protocol: int = Protocol.NONE
    spi: bytes = b""
    data: bytes = b""

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read protocol, SPI, type and data."""
        reader = Reader(body, "Notify payload", "wire.notify-payload")
        protocol, spi_octets, type_ = _NOTIFY.unpack(reader.take(4))
        if spi_octets and protocol not in (Protocol.AH, Protocol.ESP):
            raise malformed(
                f"{notify_name(type_)} of protocol {protocol} with an SPI",
                "wire.notify-payload",
                received=f"protocol {protocol}, SPI of {spi_octets} octets",
                expected="protocol 2 or 3, or no SPI",
            )
        if type_ == NotifyType.REKEY_SA and (spi_octets != 4 or protocol not in (Protocol.AH, Protocol.ESP)):
            raise malformed(
                "REKEY_SA without the SPI of an IPsec SA",
                "wire.notify-payload",
                received=f"protocol {protocol}, SPI of {spi_octets} octets",
                expected="protocol 2 or 3, SPI of 4 octets",
            )
        return cls(type=type_, protocol=protocol, spi=reader.take(spi_octets), data=reader.rest())

    def serialize(self) -> bytes:
        """Return the body."""
        return _NOTIFY.pack(self.protocol, len(self.spi), self.type) + self.spi + self.data


def _wrong_delete(detail: str, received: object, expected: object) -> WireError:
    return malformed(detail, "wire.delete-payload", received=received, expected=expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """The Delete payload (section 3.11); no SPI for the IKE SA itself."""

    TYPE: ClassVar[int] = PayloadType.DELETE
    protocol: int
    spis: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read protocol and SPIs."""
        reader = Reader(body, "Delete payload", "wire.delete-payload")
        protocol, spi_octets, count = reader.number(1), reader.number(1), reader.number(2)
        if protocol not in (Protocol.IKE, Protocol.AH, Protocol.ESP):
            raise _wrong_delete(f"a Delete of protocol {protocol}", protocol, "1, 2 or 3")
        if protocol == Protocol.IKE and (spi_octets or count):
            raise _wrong_delete("a Delete of the IKE SA carries SPIs", f"{count} of {spi_octets} octets", "none")
        if protocol in (Protocol.AH, Protocol.ESP) and spi_octets != 4:
            raise _wrong_delete(f"a Delete with SPIs of {spi_octets} octets", spi_octets, 4)
        if spi_octets * count != reader.left:
            raise _wrong_delete("a Delete whose SPIs do not fill it", reader.left, spi_octets * count)
        return cls(protocol=protocol, spis=tuple(reader.take(spi_octets) for _ in range(count)))

    def serialize(self) -> bytes:
        """Return the body."""
        spi_octets = len(self.spis[0]) if self.spis else 0
        return struct.pack(">BBH", self.protocol, spi_octets, len(self.spis)) + b"".join(self.spis)


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorId:
    """The Vendor ID payload (section 3.12)."""

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
class SelectorRange:
    """One traffic selector (section 3.13.1): inclusive ranges of addresses (octets) and ports; protocol 0 is any."""

    ts_type: int
    protocol: int
    start_port: int
    end_port: int
    start: bytes
    end: bytes

    def serialize(self) -> bytes:
        """Return the selector."""
        return (
            struct.pack(">BBHHH", self.ts_type, self.protocol, 8 + 2 * len(self.start), self.start_port, self.end_port)
            + self.start
            + self.end
        )


_TS_ADDRESS_OCTETS: dict[int, int] = {TsType.IPV4_ADDR_RANGE: 4, TsType.IPV6_ADDR_RANGE: 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSelectors:
    """A TS payload (section 3.13). Selectors that are not address ranges are skipped, as section 2.9 allows."""

    TYPE: ClassVar[int] = 0
    selectors: tuple[SelectorRange, ...]

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the selectors; at least one must stand there."""
        reader = Reader(body, "TS payload", "wire.ts-payload")
        count, _reserved = reader.number(1), reader.take(3)
        if count == 0:
            raise malformed("a TS payload without selectors", "wire.ts-payload", received=0, expected="1 to 255")
        selectors = []
        for _ in range(count):
            if reader.left < 4:
                raise malformed(
                    "a traffic selector ends within its header", "wire.ts-attribute", received=reader.left, expected=4
                )
            ts_type, protocol, length = reader.number(1), reader.number(1), reader.number(2)
            if length - 4 > reader.left:
                raise malformed(
                    "a traffic selector longer than its payload",
                    "wire.ts-attribute",
                    received=f"{reader.left + 4} octets",
                    expected=f"{length} octets",
                )
            octets = _TS_ADDRESS_OCTETS.get(ts_type)
            if length < 4 or (octets is not None and length != 8 + 2 * octets):
                raise malformed(
                    f"a traffic selector of type {ts_type} with length {length}",
                    "wire.invalid-attribute",
                    received=length,
                    expected="at least 4" if octets is None else 8 + 2 * octets,
                )
            inner = Reader(reader.take(length - 4), "traffic selector", "wire.ts-attribute")
            if octets is None:
                continue
            selectors.append(
                SelectorRange(
                    ts_type=ts_type,
                    protocol=protocol,
                    start_port=inner.number(2),
                    end_port=inner.number(2),
                    start=inner.take(octets),
                    end=inner.take(octets),
                )
            )
            inner.end()
        reader.end()
        return cls(selectors=tuple(selectors))

    def serialize(self) -> bytes:
        """Return the body."""
        return bytes((len(self.selectors), 0, 0, 0)) + b"".join(each.serialize() for each in self.selectors)


@dataclass(frozen=True, slots=True, kw_only=True)
class TsI(TrafficSelectors):
    """TSi."""

    TYPE: ClassVar[int] = PayloadType.TS_I


@dataclass(frozen=True, slots=True, kw_only=True)
class TsR(TrafficSelectors):
    """TSr."""

    TYPE: ClassVar[int] = PayloadType.TS_R


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque:
    """A payload this codec carries but does not read: CP, EAP, SKF and unknown ones."""

    type: int
    data: bytes

    def serialize(self) -> bytes:
        """Return the body."""
        return self.data


Payload = (
    SecurityAssociation
    | KeyExchangeData
    | IdI
    | IdR
    | Cert
    | CertReq
    | Auth
    | Nonce
    | Notify
    | Delete
    | VendorId
    | TsI
    | TsR
    | Opaque
)

_READ = (SecurityAssociation, KeyExchangeData, IdI, IdR, Cert, CertReq, Auth, Nonce, Notify, Delete, VendorId, TsI, TsR)
_PARSERS: dict[int, Callable[[bytes], Payload]] = {kind.TYPE: kind.parse for kind in _READ}


def payload_type(payload: Payload) -> int:
    """Return the number that stands for this payload in a chain."""
    return payload.type if isinstance(payload, Opaque) else payload.TYPE


def parse_payload(type_: int, critical: bool, body: bytes) -> Payload:
    """Read one body. Raises WireError: malformed, or an unknown payload whose critical bit is set (section 2.5)."""
    parser = _PARSERS.get(type_)
    if parser is not None:
        return parser(body)
    if type_ == PayloadType.CP:
        opaque.check_configuration(body)
    elif type_ == PayloadType.EAP:
        opaque.check_eap(body)
    elif critical and type_ != PayloadType.SKF:
        raise WireError(
            "drop.critical-payload",
            f"payload type {type_} is unknown and critical",
            notify=NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD,
            data=bytes((type_,)),
            received=f"payload type {type_}, critical",
        )
    return Opaque(type=type_, data=body)
