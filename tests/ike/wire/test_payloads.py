"""Payload bodies: what is written is read back, and what is wrong is refused where it is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.ike.errors import WireError
from agents.ike.wire.payloads import (
    Auth,
    Cert,
    CertReq,
    Delete,
    IdI,
    IdR,
    KeyExchangeData,
    Nonce,
    Notify,
    Opaque,
    Payload,
    Proposal,
    SecurityAssociation,
    SelectorRange,
    Transform,
    TsI,
    TsR,
    VendorId,
    parse_payload,
    payload_type,
)
from agents.ike.wire.registry import NotifyType, Protocol, TransformType

_octets = st.binary(max_size=64)
_transforms = st.builds(
    Transform,
    type=st.integers(1, 5),
    id=st.integers(0, 65535),
    key_length=st.one_of(st.none(), st.integers(0, 65535)),
)


@st.composite
def _proposals(draw: st.DrawFn) -> tuple[Proposal, ...]:
    count = draw(st.integers(1, 4))
    return tuple(
        Proposal(
            number=number,
            protocol=Protocol.ESP,
            spi=draw(st.binary(min_size=4, max_size=4)),
            transforms=tuple(draw(st.lists(_transforms, min_size=1, max_size=6))),
        )
        for number in range(1, count + 1)
    )


@st.composite
def _ranges(draw: st.DrawFn) -> SelectorRange:
    octets = draw(st.sampled_from([4, 16]))
    return SelectorRange(
        ts_type=7 if octets == 4 else 8,
        protocol=draw(st.integers(0, 255)),
        start_port=draw(st.integers(0, 65535)),
        end_port=draw(st.integers(0, 65535)),
        start=draw(st.binary(min_size=octets, max_size=octets)),
        end=draw(st.binary(min_size=octets, max_size=octets)),
    )


_selectors = st.lists(_ranges(), min_size=1, max_size=5).map(tuple)

_filled = st.binary(min_size=2, max_size=60)

payloads: st.SearchStrategy[Payload] = st.one_of(
    st.builds(SecurityAssociation, proposals=_proposals()),
    st.builds(KeyExchangeData, group=st.integers(0, 65535), data=_filled),
    st.builds(IdI, id_type=st.sampled_from([2, 3, 9, 10, 11]), data=_filled),
    st.builds(IdR, id_type=st.sampled_from([1]), data=st.binary(min_size=4, max_size=4)),
    st.builds(Auth, method=st.integers(1, 255), data=_filled),
    st.builds(Nonce, data=st.binary(min_size=16, max_size=256)),
    st.builds(
        Notify,
        type=st.integers(0, 65535).filter(lambda number: number != NotifyType.REKEY_SA),
        protocol=st.sampled_from([2, 3]),
        spi=st.binary(max_size=8),
        data=_octets,
    ),
    st.builds(
        Delete,
        protocol=st.just(int(Protocol.ESP)),
        spis=st.lists(st.binary(min_size=4, max_size=4), min_size=1, max_size=5).map(tuple),
    ),
    st.builds(VendorId, data=_octets),
    st.builds(TsI, selectors=_selectors),
    st.builds(TsR, selectors=_selectors),
    st.builds(Cert, encoding=st.integers(1, 15), data=_octets),
    st.builds(CertReq, encoding=st.integers(1, 15), data=_octets),
    st.builds(Opaque, type=st.just(200), data=_octets),
    st.builds(
        Opaque, type=st.just(47), data=st.sampled_from([b"\x01\0\0\0", bytes.fromhex("02000000 0001 0004 0a000001")])
    ),
    st.builds(Opaque, type=st.just(48), data=st.sampled_from([b"\x03\x01\0\x04", b"\x01\x01\0\x05\x01"])),
)


@given(payloads)
def test_round_trip(payload: Payload) -> None:
    assert parse_payload(payload_type(payload), False, payload.serialize()) == payload


@given(st.integers(33, 60), st.booleans(), st.binary(max_size=120))
def test_any_octets_are_read_or_refused(type_: int, critical: bool, body: bytes) -> None:
    code = "fine"
    try:
        parse_payload(type_, critical, body).serialize()
    except WireError as error:
        code = error.code
    assert code in ("fine", "drop.critical-payload") or code.startswith("wire.")


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("proposal header cut", "000000"),
        ("proposal shorter than its header", "00000004 01030401 01020304"),
        ("proposal longer than the payload", "00000030 01030401 01020304 00000008 01000003"),
        ("proposal marker 1", "01000014 01030401 01020304 00000008 01000003"),
        ("SPI of 3 octets for ESP", "00000013 01030301 010203 00000008 01000003"),
        ("no transforms", "0000000c 01030400 01020304"),
        ("two transforms announced, one there", "00000014 01030402 01020304 00000008 01000003"),
        ("transform of no length", "00000014 01030401 01020304 00000000 01000003"),
        ("last transform says more follow", "00000014 01030401 01020304 03000008 01000003"),
        ("octets after the last proposal", "00000014 01030401 01020304 00000008 01000003 ff"),
        ("attribute cut", "00000016 01030401 01020304 0000000a 01000003 800e"),
        ("numbers 1, 3", "02000014 01030401 01020304 00000008 01000003 00000014 03030401 01020304 00000008 01000003"),
    ],
    ids=lambda value: value if " " in value and not value.startswith("0") else "",
)
def test_malformed_proposals(what: str, body: str) -> None:
    with pytest.raises(WireError) as caught:
        SecurityAssociation.parse(bytes.fromhex(body))
    assert caught.value.code.startswith("wire."), what


@pytest.mark.parametrize(
    ("type_", "body"),
    [
        (34, "00"),
        (35, "0100"),
        (40, "00" * 15),
        (40, "00" * 257),
        (41, "0000"),
        (41, "03044009 0102"),
        (41, "00004009"),  # REKEY_SA without an SPI
        (42, "01040001 01020304"),  # a Delete of the IKE SA with an SPI
        (42, "03040002 01020304"),
        (42, "03080001 0102030405060708"),
        (44, "00000000"),
        (44, "01000000 07000010 0000ffff 0a000000"),
        (44, "01000000 07000003"),
        (44, "01000000 07000011 0000ffff 0a000000 0affffff 00"),
        (44, "01000000 07000010 0000ffff 0a000000 0affffff 00"),
    ],
)
def test_malformed_bodies(type_: int, body: str) -> None:
    with pytest.raises(WireError) as caught:
        parse_payload(type_, False, bytes.fromhex(body))
    assert caught.value.code.startswith("wire.")


def test_an_unknown_attribute_makes_the_transform_unusable() -> None:
    body = bytes.fromhex("01000014 800e0080 80630001")
    transform = Transform.parse(body)
    assert transform.key_length == 128
    assert not transform.understood


def test_unknown_critical_payload_names_its_type() -> None:
    with pytest.raises(WireError) as caught:
        parse_payload(201, True, b"")
    assert (caught.value.code, caught.value.notify, caught.value.data) == ("drop.critical-payload", 1, bytes((201,)))


def test_a_known_payload_may_carry_the_critical_bit() -> None:
    assert parse_payload(48, True, b"\x03\1\0\4") == Opaque(type=48, data=b"\x03\1\0\4")


def test_other_selector_types_are_skipped() -> None:
    body = bytes.fromhex("02000000 09000008 01020304 07000010 0000ffff 0a000000 0affffff")
    assert [each.ts_type for each in TsI.parse(body).selectors] == [7]


def test_no_key_material_in_repr() -> None:
    assert "secret" not in repr(Auth(method=2, data=b"secret octets"))


def test_transforms_by_type() -> None:
    encr = Transform(type=TransformType.ENCR, id=20, key_length=128)
    proposal = Proposal(number=1, protocol=1, transforms=(encr, Transform(type=TransformType.PRF, id=5)))
    assert proposal.of_type(TransformType.ENCR) == (encr,)


def test_authorities_are_whole_hashes() -> None:
    request = CertReq(encoding=4, data=b"a" * 20 + b"b" * 20 + b"left over")
    assert request.authorities == (b"a" * 20, b"b" * 20)
    assert CertReq(encoding=4, data=b"").authorities == ()
