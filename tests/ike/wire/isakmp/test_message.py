"""Whole messages: the chain in clear and decrypted, the octets that hashes cover, and every way to be wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.ike.errors import WireError
from agents.ike.wire.isakmp import message as isakmp
from agents.ike.wire.isakmp.message import (
    MOST_CLEAR_SA_OCTETS,
    MOST_PAYLOADS,
    MOST_SA_OCTETS,
    Message,
    encode,
    encrypted_body,
    parse_clear,
    read_plain,
    serialize_clear,
    serialize_encrypted,
)
from agents.ike.wire.isakmp.payloads import (
    Hash,
    Identification,
    Nonce,
    Notify,
    Payload,
    SecurityAssociation,
    VendorId,
)
from agents.ike.wire.isakmp.registry import Exchange, Flag, IdType, NotifyType, PayloadType
from tests.ike.wire.isakmp.samples import IKE_SA, header, header_of, outcome, payloads

_chains = st.lists(payloads, min_size=1, max_size=8).map(tuple)
_VENDORS = (VendorId(data=b"one"), VendorId(data=b"another"))
_FIRST = serialize_clear(header(), (IKE_SA, *_VENDORS))
_QUICK = header(Exchange.QUICK, flags=Flag.ENCRYPTED, message_id=7)


def _clear(octets: bytes) -> isakmp.Message:
    return parse_clear(octets, header_of(octets))


@given(_chains)
def test_messages_are_read_as_written(chain: tuple[Payload, ...]) -> None:
    octets = serialize_clear(header(), chain)
    message = _clear(octets)
    assert message.payloads == chain
    assert message.bodies == tuple(each.serialize() for each in chain)
    assert serialize_clear(message.header, message.payloads) == octets


@given(_chains, st.binary(max_size=64))
def test_decrypted_chains_end_before_any_padding(chain: tuple[Payload, ...], padding: bytes) -> None:
    first, octets = encode(chain)
    message = read_plain(replace(_QUICK, next_payload=first), octets + padding)
    assert message.payloads == chain
    assert message.protected == octets[4 + len(message.bodies[0]) :]


@given(st.binary(max_size=300), st.integers(0, 255))
def test_anything_decrypted_wrongly_is_a_wire_error(octets: bytes, first: int) -> None:
    found = outcome(read_plain, header(next_payload=first), octets)
    assert not isinstance(found, WireError) or found.notify is not None


@given(st.binary(min_size=28, max_size=300))
def test_any_datagram_is_a_message_or_a_wire_error(octets: bytes) -> None:
    outcome(_clear, octets)
    outcome(encrypted_body, octets, header_of(octets))


@given(_chains, st.data())
def test_a_changed_octet_is_another_message_or_a_wire_error(chain: tuple[Payload, ...], data: st.DataObject) -> None:
    octets = bytearray(serialize_clear(header(), chain))
    octets[data.draw(st.integers(16, len(octets) - 1))] ^= data.draw(st.integers(1, 255))
    found = outcome(_clear, bytes(octets))
    assert not isinstance(found, WireError) or found.notify is not None


@given(_chains, st.data())
def test_a_cut_message_is_a_wire_error(chain: tuple[Payload, ...], data: st.DataObject) -> None:
    octets = serialize_clear(header(), chain)
    cut = octets[: data.draw(st.integers(28, len(octets) - 1))]
    assert isinstance(outcome(_clear, cut), WireError)
    whole = header_of(octets)
    assert isinstance(outcome(parse_clear, cut, replace(whole, length=len(cut))), WireError)


def _changed(offset: int, value: int, octets: int = 1) -> bytes:
    return _FIRST[:offset] + value.to_bytes(octets, "big") + _FIRST[offset + octets :]


@pytest.mark.parametrize(
    ("octets", "code", "notify", "payload"),
    [
        (_changed(16, 0x99), "next-payload", NotifyType.INVALID_PAYLOAD_TYPE, "type 153"),
        (_changed(16, PayloadType.PROPOSAL), "next-payload", NotifyType.INVALID_PAYLOAD_TYPE, "PROPOSAL"),
        (_changed(28, 0x99), "next-payload", NotifyType.INVALID_PAYLOAD_TYPE, "type 153"),
        (_changed(29, 0x11), "payload-malformed", NotifyType.PAYLOAD_MALFORMED, "SA"),
        (_changed(32, 0x4001, 4), "doi", NotifyType.DOI_NOT_SUPPORTED, "SA"),
        (_changed(36, 0x4001, 4), "situation", NotifyType.SITUATION_NOT_SUPPORTED, "SA"),
        (_changed(30, 68, 2), "sa-length", NotifyType.UNEQUAL_PAYLOAD_LENGTHS, "SA"),
        (_changed(30, 500, 2), "sa-length", NotifyType.UNEQUAL_PAYLOAD_LENGTHS, "SA"),
        (_changed(30, 48, 2), "sa-length", NotifyType.UNEQUAL_PAYLOAD_LENGTHS, "SA"),
        (_changed(30, 3, 2), "payload-malformed", NotifyType.PAYLOAD_MALFORMED, "SA"),
        (_changed(86, 500, 2), "payload-malformed", NotifyType.PAYLOAD_MALFORMED, "VENDOR_ID"),
        (_changed(24, 500, 4), "payload-malformed", NotifyType.UNEQUAL_PAYLOAD_LENGTHS, None),
        (_changed(24, 5, 4), "payload-malformed", NotifyType.UNEQUAL_PAYLOAD_LENGTHS, None),
        (_changed(19, Flag.ENCRYPTED), "payload-malformed", NotifyType.PAYLOAD_MALFORMED, None),
        (_changed(91, PayloadType.VENDOR_ID), "payload-malformed", NotifyType.PAYLOAD_MALFORMED, "VENDOR_ID"),
        (_changed(84, PayloadType.NONE), "payload-malformed", NotifyType.PAYLOAD_MALFORMED, None),
    ],
)
def test_wrong_messages(octets: bytes, code: str, notify: NotifyType, payload: str | None) -> None:
    with pytest.raises(WireError) as caught:
        _clear(octets)
    assert (caught.value.code, caught.value.notify) == (f"ikev1.{code}", notify)
    assert caught.value.payload == payload


def test_length_of_an_sa_payload_that_ends_the_message() -> None:
    octets = bytearray(serialize_clear(header(), (IKE_SA,)))
    octets[31] = 68
    with pytest.raises(WireError) as caught:
        _clear(bytes(octets))
    assert caught.value.code == "ikev1.sa-length"
    assert caught.value.detail == "Payload length (68) is greater than SA + Proposal + Xform + Attributes size (56)"


def test_payloads_are_bounded() -> None:
    with pytest.raises(WireError, match="Too many payloads"):
        _clear(serialize_clear(header(), (VendorId(data=b"x"),) * (MOST_PAYLOADS + 1)))
    assert len(_clear(serialize_clear(header(), (VendorId(data=b"x"),) * MOST_PAYLOADS)).payloads) == MOST_PAYLOADS


def test_what_is_costly_to_read_is_bounded() -> None:
    offer = replace(IKE_SA, proposals=IKE_SA.proposals * 32)
    octets = len(offer.serialize())

    def plain(count: int) -> Message:
        first, chain = encode((offer,) * count)
        return read_plain(replace(_QUICK, next_payload=first), chain)

    def clear(count: int) -> Message:
        return _clear(serialize_clear(header(), (offer,) * count))

    for read, most in ((clear, MOST_CLEAR_SA_OCTETS), (plain, MOST_SA_OCTETS)):
        fit = most // octets
        assert len(read(fit).payloads) == fit
        with pytest.raises(WireError, match=f"The SA payloads have {(fit + 1) * octets} octets"):
            read(fit + 1)


@pytest.mark.parametrize(("padding", "accepted"), [(b"\0", True), (bytes(3), True), (bytes(4), False), (b"\1", False)])
def test_only_filling_to_four_octets_follows_in_clear(padding: bytes, accepted: bool) -> None:
    _first, chain = encode((IKE_SA,))
    padded = header().serialize_for(PayloadType.SA, 28 + len(chain) + len(padding)) + chain + padding
    assert isinstance(outcome(_clear, padded), WireError) is not accepted


def test_a_message_without_payloads_can_be_read() -> None:
    message = _clear(serialize_clear(header(Exchange.INFORMATIONAL), ()))
    assert message.payloads == ()
    assert message.protected == b""


def test_payloads_are_found_by_kind_and_bodies_are_kept() -> None:
    identities = tuple(Identification(id_type=IdType.IPV4_ADDR, data=bytes((10, 0, 0, last))) for last in (1, 2))
    refusal = Notify(type=NotifyType.NO_PROPOSAL_CHOSEN)
    contact = Notify(type=NotifyType.INITIAL_CONTACT)
    first, chain = encode((Hash(data=bytes(20)), contact, *identities, refusal))
    message = read_plain(replace(_QUICK, next_payload=first), chain)
    assert message.find(Identification) == identities[0]
    assert message.find_all(Identification) == identities
    assert message.find(Nonce) is None
    assert message.notify(NotifyType.INITIAL_CONTACT) == contact
    assert message.notify(NotifyType.CONNECTED) is None
    assert message.error() == refusal
    assert message.body_of(Identification) == identities[0].serialize()
    assert message.body_of(SecurityAssociation) is None
    assert message.protected == chain[24:]


def test_encrypted_messages_say_so_and_give_their_body_back() -> None:
    octets = serialize_encrypted(replace(_QUICK, flags=0), PayloadType.HASH, b"ciphertext")
    found = header_of(octets)
    assert found == replace(_QUICK, next_payload=PayloadType.HASH, length=len(octets))
    assert encrypted_body(octets, found) == b"ciphertext"


@pytest.mark.parametrize(
    "octets",
    [
        serialize_encrypted(_QUICK, PayloadType.HASH, b""),
        serialize_clear(replace(_QUICK, flags=0), (Hash(data=b"hash"),)),
        serialize_encrypted(_QUICK, PayloadType.HASH, b"ciphertext")[:-1],
    ],
    ids=["empty", "in clear", "cut"],
)
def test_no_body_to_decrypt(octets: bytes) -> None:
    with pytest.raises(WireError) as caught:
        encrypted_body(octets, header_of(octets))
    assert caught.value.code == "ikev1.payload-malformed"


@pytest.mark.parametrize("octets", [b"", b"\1" * 27])
def test_less_than_a_header_is_a_wire_error(octets: bytes) -> None:
    with pytest.raises(WireError):
        parse_clear(octets, header(length=len(octets)))
    with pytest.raises(WireError):
        encrypted_body(octets, header(length=len(octets), flags=Flag.ENCRYPTED))
