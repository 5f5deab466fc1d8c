"""Headers read from octets, a first message of Main Mode as a gateway sends it, and payloads of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from hypothesis import strategies as st

from agents.ike.errors import WireError
from agents.ike.wire.header import HEADER_OCTETS, Header
from agents.ike.wire.isakmp import attributes
from agents.ike.wire.isakmp.attributes import Attribute
from agents.ike.wire.isakmp.payloads import (
    Cert,
    CertReq,
    Delete,
    Fragment,
    Hash,
    Identification,
    KeyExchangeData,
    NatDetection,
    NatOriginalAddress,
    Nonce,
    Notify,
    Opaque,
    Payload,
    Proposal,
    SecurityAssociation,
    Signature,
    Transform,
    VendorId,
)
from agents.ike.wire.isakmp.registry import VERSION, Exchange, IdType, PayloadType, Phase1Attribute, Protocol

_P = ParamSpec("_P")
_T = TypeVar("_T")

COOKIE_I = bytes(range(1, 9))
COOKIE_R = bytes(range(9, 17))


def header_of(octets: bytes) -> Header:
    """Read the header alone, checking nothing."""
    assert len(octets) >= HEADER_OCTETS
    return Header(
        spi_i=octets[:8],
        spi_r=octets[8:16],
        next_payload=octets[16],
        version=octets[17],
        exchange=octets[18],
        flags=octets[19],
        message_id=int.from_bytes(octets[20:24], "big"),
        length=int.from_bytes(octets[24:28], "big"),
    )


def outcome(read: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | WireError:
    """Return what was read, or the one error that reading may raise."""
    try:
        return read(*args, **kwargs)
    except WireError as error:
        return error


def header(
    exchange: int = Exchange.MAIN,
    *,
    flags: int = 0,
    message_id: int = 0,
    next_payload: int = PayloadType.NONE,
    version: int = VERSION,
    spi_i: bytes = COOKIE_I,
    length: int = 0,
) -> Header:
    """Return a header that is right but for what is asked."""
    return Header(
        spi_i=spi_i,
        spi_r=COOKIE_R,
        next_payload=next_payload,
        exchange=exchange,
        flags=flags,
        message_id=message_id,
        length=length,
        version=version,
    )


IKE_TRANSFORM = Transform(
    number=1,
    id=1,
    attributes=(
        attributes.number(Phase1Attribute.ENCRYPTION, 5),
        attributes.number(Phase1Attribute.HASH, 2),
        attributes.number(Phase1Attribute.AUTHENTICATION_METHOD, 1),
        attributes.number(Phase1Attribute.GROUP, 2),
        attributes.number(Phase1Attribute.LIFE_TYPE, 1),
        attributes.number(Phase1Attribute.LIFE_DURATION, 86_400),
    ),
)
IKE_SA = SecurityAssociation(proposals=(Proposal(number=1, protocol=Protocol.ISAKMP, transforms=(IKE_TRANSFORM,)),))
"""A payload of 56 octets."""

_octets = st.binary(min_size=1, max_size=40)
_octet = st.integers(0, 255)
_short = st.builds(attributes.short, st.integers(0, 0x7FFF), st.integers(0, 0xFFFF))
_long = st.builds(Attribute, type=st.integers(0, 0x7FFF), data=st.binary(max_size=40), short=st.just(False))
attribute_lists = st.lists(_short | _long, max_size=8).map(tuple)

_transforms = st.builds(Transform, number=_octet, id=_octet, attributes=attribute_lists)
_PROTOCOLS = {Protocol.ISAKMP: (0, 8, 16), Protocol.AH: (4,), Protocol.ESP: (4,), Protocol.IPCOMP: (2, 4)}


@st.composite
def _proposals(draw: st.DrawFn) -> Proposal:
    protocol = draw(st.sampled_from(Protocol))
    octets = draw(st.sampled_from(_PROTOCOLS[protocol]))
    return Proposal(
        number=draw(_octet),
        protocol=protocol,
        spi=draw(st.binary(min_size=octets, max_size=octets)),
        transforms=tuple(draw(st.lists(_transforms, min_size=1, max_size=4))),
    )


_ID_OCTETS = {
    IdType.IPV4_ADDR: 4,
    IdType.IPV4_ADDR_SUBNET: 8,
    IdType.IPV6_ADDR: 16,
    IdType.IPV6_ADDR_SUBNET: 32,
    IdType.IPV4_ADDR_RANGE: 8,
    IdType.IPV6_ADDR_RANGE: 32,
}


@st.composite
def _identities(draw: st.DrawFn) -> Identification:
    id_type = draw(st.sampled_from(IdType))
    octets = _ID_OCTETS.get(id_type)
    return Identification(
        id_type=id_type,
        data=draw(st.binary(min_size=octets or 2, max_size=octets or 40)),
        protocol=draw(_octet),
        port=draw(st.integers(0, 65_535)),
    )


@st.composite
def _deletes(draw: st.DrawFn) -> Delete:
    protocol = draw(st.sampled_from(Protocol))
    octets = 16 if protocol == Protocol.ISAKMP else draw(st.sampled_from(_PROTOCOLS[protocol]))
    spis = draw(st.lists(st.binary(min_size=octets, max_size=octets), min_size=1, max_size=5))
    return Delete(protocol=protocol, spis=tuple(spis), doi=draw(st.sampled_from((0, 1))))


@st.composite
def _original_addresses(draw: st.DrawFn) -> NatOriginalAddress:
    id_type, octets = draw(st.sampled_from(((IdType.IPV4_ADDR, 4), (IdType.IPV6_ADDR, 16))))
    data = draw(st.binary(min_size=octets, max_size=octets))
    return NatOriginalAddress(id_type=id_type, data=data, draft=draw(st.booleans()))


payloads: st.SearchStrategy[Payload] = st.one_of(
    st.builds(SecurityAssociation, proposals=st.lists(_proposals(), min_size=1, max_size=4).map(tuple)),
    st.builds(KeyExchangeData, data=_octets),
    _identities(),
    st.builds(Cert, encoding=_octet, data=_octets),
    st.builds(CertReq, encoding=_octet, data=st.binary(max_size=40)),
    st.builds(Hash, data=_octets),
    st.builds(Signature, data=_octets),
    st.builds(Nonce, data=st.binary(min_size=8, max_size=256)),
    st.builds(
        Notify,
        type=st.integers(0, 65_535),
        protocol=st.integers(0, 4),
        spi=st.binary(max_size=16),
        data=st.binary(max_size=40),
        doi=st.sampled_from((0, 1)),
    ),
    _deletes(),
    st.builds(VendorId, data=st.binary(max_size=40)),
    st.builds(NatDetection, data=_octets, draft=st.booleans()),
    _original_addresses(),
    st.builds(Fragment, id=st.integers(0, 65_535), number=_octet, last=st.booleans(), data=_octets),
    st.builds(Opaque, type=st.sampled_from((14, 15, 16, 17, 18, 19, 22)), data=st.binary(max_size=40)),
)
