"""Payload bodies: what is written is read back, and what is wrong is refused with its code and notify."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.ike.errors import WireError
from agents.ike.wire.isakmp.payloads import (
    MOST_PROPOSALS,
    Hash,
    NatDetection,
    Opaque,
    Payload,
    Proposal,
    SecurityAssociation,
    Signature,
    Transform,
    parse_payload,
    payload_type,
)
from agents.ike.wire.isakmp.registry import NotifyType, PayloadType, Protocol
from tests.ike.wire.isakmp.samples import IKE_SA, outcome, payloads


@given(payloads)
def test_payloads_are_read_as_written(payload: Payload) -> None:
    assert parse_payload(payload_type(payload), payload.serialize()) == payload


@given(st.integers(0, 255), st.binary(max_size=300))
def test_anything_else_is_a_wire_error(type_: int, body: bytes) -> None:
    found = outcome(parse_payload, type_, body)
    if isinstance(found, WireError):
        assert found.code.startswith("ikev1.")
        assert found.notify is not None
    else:
        assert payload_type(found) == type_


@given(payloads, st.data())
def test_one_wrong_octet_is_another_value_or_a_wire_error(payload: Payload, data: st.DataObject) -> None:
    body = bytearray(payload.serialize() or b"\0")
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    found = outcome(parse_payload, payload_type(payload), bytes(body))
    assert not isinstance(found, WireError) or found.notify is not None


_SA = IKE_SA.serialize()
_ESP = SecurityAssociation(
    proposals=(Proposal(number=1, protocol=Protocol.ESP, spi=b"abcd", transforms=(Transform(number=1, id=12),)),)
).serialize()


def _with(body: bytes, offset: int, value: int, octets: int = 1) -> bytes:
    return body[:offset] + value.to_bytes(octets, "big") + body[offset + octets :]


@pytest.mark.parametrize(
    ("body", "code", "notify", "received"),
    [
        (_with(_SA, 0, 0x4001, 4), "doi", NotifyType.DOI_NOT_SUPPORTED, "0x4001"),
        (_with(_SA, 4, 0x4001, 4), "situation", NotifyType.SITUATION_NOT_SUPPORTED, "0x4001"),
        (_with(_SA, 8, 0x99), "next-payload", NotifyType.INVALID_PAYLOAD_TYPE, "0x99"),
        (_with(_SA, 9, 0x11), "reserved-field", NotifyType.BAD_PROPOSAL_SYNTAX, "0x11"),
        (_with(_SA, 13, 0xFF), "protocol-id", NotifyType.INVALID_PROTOCOL_ID, "0xff"),
        (_with(_SA, 14, 17), "payload-malformed", NotifyType.INVALID_SPI, "17"),
        (_with(_ESP, 14, 5), "payload-malformed", NotifyType.INVALID_SPI, "5"),
        (_with(_SA, 15, 0), "payload-malformed", NotifyType.PAYLOAD_MALFORMED, "0"),
        (_with(_SA, 15, 2), "payload-malformed", NotifyType.BAD_PROPOSAL_SYNTAX, "fewer transforms"),
        (_with(_SA, 16, 0x99), "next-payload", NotifyType.INVALID_PAYLOAD_TYPE, "0x99"),
        (_with(_SA, 16, 3), "payload-malformed", NotifyType.BAD_PROPOSAL_SYNTAX, "more transforms"),
        (_with(_SA, 17, 0x11), "reserved-field", NotifyType.BAD_PROPOSAL_SYNTAX, "0x11"),
        (_with(_SA, 18, 7, 2), "payload-malformed", NotifyType.PAYLOAD_MALFORMED, "7 octets"),
        (_with(_SA, 18, 28, 2), "payload-malformed", NotifyType.PAYLOAD_MALFORMED, "44 octets"),
        (_with(_SA, 18, 40, 2), "payload-malformed", NotifyType.PAYLOAD_MALFORMED, "40 octets"),
        (_with(_SA, 22, 0x11), "reserved-field", NotifyType.BAD_PROPOSAL_SYNTAX, "0x1100"),
        (_with(_SA, 10, 7, 2), "payload-malformed", NotifyType.PAYLOAD_MALFORMED, "7 octets"),
        (_with(_SA, 10, 45, 2), "sa-length", NotifyType.UNEQUAL_PAYLOAD_LENGTHS, "56 octets"),
        (_SA + bytes(12), "sa-length", NotifyType.UNEQUAL_PAYLOAD_LENGTHS, "68 octets"),
        (_with(_SA, 8, 2), "payload-malformed", NotifyType.PAYLOAD_MALFORMED, "0 octets"),
        (_SA[:8], "payload-malformed", NotifyType.PAYLOAD_MALFORMED, "0 octets"),
        (_SA[:7], "payload-malformed", NotifyType.PAYLOAD_MALFORMED, "7 octets"),
    ],
)
def test_wrong_sa_payloads(body: bytes, code: str, notify: NotifyType, received: str | None) -> None:
    with pytest.raises(WireError) as caught:
        parse_payload(PayloadType.SA, body)
    assert (caught.value.code, caught.value.notify) == (f"ikev1.{code}", notify)
    assert received is None or caught.value.received == received


def test_length_of_the_sa_payload_is_told_as_operators_know_it() -> None:
    with pytest.raises(WireError) as caught:
        parse_payload(PayloadType.SA, _SA + bytes(12))
    assert caught.value.detail == "Payload length (68) is greater than SA + Proposal + Xform + Attributes size (56)"
    assert (caught.value.received, caught.value.expected) == ("68 octets", "56 octets")


def test_proposals_are_bounded() -> None:
    many = SecurityAssociation(proposals=IKE_SA.proposals * (MOST_PROPOSALS + 1))
    with pytest.raises(WireError, match="Too many proposals"):
        parse_payload(PayloadType.SA, many.serialize())


@pytest.mark.parametrize("numbers", [(1, 1), (1, 2, 2, 3), (5, 1, 1), (0, 255)])
def test_proposals_are_numbered_in_any_way(numbers: tuple[int, ...]) -> None:
    offer = SecurityAssociation(
        proposals=tuple(
            Proposal(number=number, protocol=Protocol.AH, spi=b"abcd", transforms=(Transform(number=1, id=3),))
            for number in numbers
        )
    )
    found = parse_payload(PayloadType.SA, offer.serialize())
    assert isinstance(found, SecurityAssociation)
    assert tuple(each.number for each in found.proposals) == numbers


@pytest.mark.parametrize(
    ("type_", "body", "code", "notify"),
    [
        (PayloadType.KE, b"", "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.HASH, b"", "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.SIGNATURE, b"", "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.NONCE, bytes(7), "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.NONCE, bytes(257), "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.ID, b"\x01\x11", "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.ID, b"\x01\x11\x01\xf4abc", "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.ID, b"\x0c\x11\x01\xf4abc", "payload-malformed", NotifyType.INVALID_ID_INFORMATION),
        (PayloadType.ID, b"\x00\x00\x00\x00abc", "payload-malformed", NotifyType.INVALID_ID_INFORMATION),
        (PayloadType.CERT, b"", "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.CERTREQ, b"", "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.NOTIFY, struct.pack(">IBBH", 2, 1, 0, 14), "doi", NotifyType.DOI_NOT_SUPPORTED),
        (PayloadType.NOTIFY, struct.pack(">IBBH", 1, 5, 0, 14), "protocol-id", NotifyType.INVALID_PROTOCOL_ID),
        (PayloadType.NOTIFY, struct.pack(">IBBH", 1, 1, 16, 14), "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.DELETE, struct.pack(">IBBH", 2, 3, 4, 1) + b"abcd", "doi", NotifyType.DOI_NOT_SUPPORTED),
        (PayloadType.DELETE, struct.pack(">IBBH", 1, 0, 4, 1) + b"abcd", "protocol-id", NotifyType.INVALID_PROTOCOL_ID),
        (PayloadType.DELETE, struct.pack(">IBBH", 1, 1, 4, 1) + b"abcd", "payload-malformed", NotifyType.INVALID_SPI),
        (PayloadType.DELETE, struct.pack(">IBBH", 1, 3, 4, 0), "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.DELETE, struct.pack(">IBBH", 1, 3, 4, 9), "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.NAT_D, b"", "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.NAT_OA, b"\x01\x00\x00\x01abcd", "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.NAT_OA, b"\x05\x00\x00\x00abcd", "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.NAT_OA_DRAFT, b"\x02\x00\x00\x00abcd", "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.FRAGMENT, b"\x00\x01\x01\x00", "payload-malformed", NotifyType.PAYLOAD_MALFORMED),
        (PayloadType.PROPOSAL, b"", "next-payload", NotifyType.INVALID_PAYLOAD_TYPE),
        (PayloadType.TRANSFORM, b"", "next-payload", NotifyType.INVALID_PAYLOAD_TYPE),
        (0x99, b"", "next-payload", NotifyType.INVALID_PAYLOAD_TYPE),
    ],
)
def test_other_wrong_payloads(type_: int, body: bytes, code: str, notify: NotifyType) -> None:
    with pytest.raises(WireError) as caught:
        parse_payload(type_, body)
    assert (caught.value.code, caught.value.notify) == (f"ikev1.{code}", notify)


@pytest.mark.parametrize("kind", [Hash, Signature])
def test_proofs_are_not_shown(kind: type[Hash] | type[Signature]) -> None:
    assert repr(kind(data=b"secret")) == f"{kind.__name__}(6 octets)"


def test_draft_numbers_come_back() -> None:
    found = parse_payload(130, b"hash")
    assert found == NatDetection(data=b"hash", draft=True)
    assert payload_type(found) == 130


def test_payloads_of_others_are_carried() -> None:
    assert parse_payload(14, b"attributes") == Opaque(type=14, data=b"attributes")


def test_transform_finds_its_first_attribute() -> None:
    transform = IKE_SA.proposals[0].transforms[0]
    found = transform.find(12)
    assert found is not None
    assert found.number == 86_400
    assert transform.find(13) is None
