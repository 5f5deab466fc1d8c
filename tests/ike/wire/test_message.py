"""Headers, chains, the Encrypted payload, and the table of what an exchange may carry."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.contract.algorithms import ENCRYPTION, INTEGRITY
from agents.ike.crypto.cipher import SkCipher
from agents.ike.crypto.errors import IntegrityError
from agents.ike.errors import WireError
from agents.ike.wire.header import Header, classify
from agents.ike.wire.message import Message, open_message, parse_clear, seal_message, serialize_clear
from agents.ike.wire.payloads import (
    Delete,
    IdI,
    KeyExchangeData,
    Nonce,
    Notify,
    Opaque,
    Payload,
    Proposal,
    SecurityAssociation,
    Transform,
    VendorId,
)
from agents.ike.wire.registry import Exchange, PayloadType

_SA = SecurityAssociation(proposals=(Proposal(number=1, protocol=1, transforms=(Transform(type=1, id=20),)),))
_FIRST: tuple[Payload, ...] = (_SA, KeyExchangeData(group=31, data=bytes(32)), Nonce(data=bytes(32)))


def header(exchange: int = Exchange.INFORMATIONAL, flags: int = 0x08, message_id: int = 3) -> Header:
    return Header(
        spi_i=b"initiate", spi_r=b"responds", next_payload=0, exchange=exchange, flags=flags, message_id=message_id
    )


def cipher(slug: str = "aes-128-gcm-16", integrity: str | None = None) -> SkCipher:
    row = ENCRYPTION[slug]
    integ = None if integrity is None else INTEGRITY[integrity]
    return SkCipher(row, integ, bytes(row.keymat_octets), b"" if integ is None else bytes(integ.key_octets))


def sealed(payloads: tuple[Payload, ...] = (), exchange: int = Exchange.INFORMATIONAL) -> bytes:
    return seal_message(Message(header=header(exchange), payloads=payloads), cipher(), bytes(8))


def reseal_chain(first: int, chain: bytes) -> bytes:
    """Encrypt arbitrary octets as the inside of an INFORMATIONAL request."""
    sk = cipher()
    total = 28 + 4 + len(chain) + sk.overhead(len(chain))
    aad = (
        Header(
            spi_i=b"initiate", spi_r=b"responds", next_payload=46, exchange=37, flags=8, message_id=3, length=total
        ).serialize()
        + bytes((first, 0))
        + (total - 28).to_bytes(2, "big")
    )
    return aad + sk.seal(aad, chain, bytes(8))


class TestHeader:
    @given(st.binary(min_size=8, max_size=8), st.integers(0, 255), st.integers(0, 2**32 - 1))
    def test_round_trip(self, spi: bytes, flags: int, message_id: int) -> None:
        if spi == bytes(8):
            return
        one = Header(spi_i=spi, spi_r=spi, next_payload=0, exchange=34, flags=flags, message_id=message_id, length=28)
        assert classify(one.serialize()) == one

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            (lambda octets: octets[:27], "wire.header"),
            (lambda octets: octets + b"x", "wire.header"),
            (lambda octets: bytes(8) + octets[8:], "wire.header"),
            (lambda octets: octets[:17] + b"\x30" + octets[18:], "drop.version"),
            (lambda octets: octets[:17] + b"\x00" + octets[18:], "drop.version"),
        ],
    )
    def test_refusals(self, change: object, code: str) -> None:
        octets = serialize_clear(Message(header=header(34), payloads=_FIRST))
        with pytest.raises(WireError) as caught:
            classify(change(octets))  # type: ignore[operator]
        assert caught.value.code == code

    def test_version_1_has_the_same_header(self) -> None:
        octets = serialize_clear(Message(header=header(34), payloads=_FIRST))
        assert classify(octets[:17] + b"\x10" + octets[18:]).major == 1

    def test_a_minor_version_is_ignored(self) -> None:
        octets = bytearray(serialize_clear(Message(header=header(34), payloads=_FIRST)))
        octets[17] = 0x21
        assert classify(bytes(octets)).version == 0x21


class TestClear:
    def test_round_trip(self) -> None:
        octets = serialize_clear(Message(header=header(34), payloads=(*_FIRST, VendorId(data=b"who"))))
        assert parse_clear(octets, classify(octets)).payloads == (*_FIRST, VendorId(data=b"who"))

    def test_an_unknown_payload_is_carried(self) -> None:
        extra = Opaque(type=99, data=b"new")
        octets = serialize_clear(Message(header=header(34), payloads=(extra, *_FIRST)))
        assert parse_clear(octets, classify(octets)).payloads[0] == extra

    @pytest.mark.parametrize("length", [0, 3, 200])
    def test_a_payload_length_that_cannot_be(self, length: int) -> None:
        octets = bytearray(serialize_clear(Message(header=header(34), payloads=_FIRST)))
        octets[30:32] = length.to_bytes(2, "big")
        with pytest.raises(WireError) as caught:
            parse_clear(bytes(octets), classify(bytes(octets)))
        assert (caught.value.code, caught.value.payload) == ("wire.sa-payload", "SA")

    def test_an_endless_chain_ends(self) -> None:
        chain = (bytes((43, 0, 0, 4)) * 200)[:-4] + bytes((0, 0, 0, 4))
        octets = (
            Header(
                spi_i=b"initiate",
                spi_r=bytes(8),
                next_payload=43,
                exchange=34,
                flags=8,
                message_id=0,
                length=28 + len(chain),
            ).serialize()
            + chain
        )
        with pytest.raises(WireError) as caught:
            parse_clear(octets, classify(octets))
        assert caught.value.code == "drop.malformed"

    @given(st.binary(max_size=200))
    def test_any_octets(self, tail: bytes) -> None:
        octets = (
            Header(
                spi_i=b"initiate",
                spi_r=bytes(8),
                next_payload=33,
                exchange=34,
                flags=8,
                message_id=0,
                length=28 + len(tail),
            ).serialize()
            + tail
        )
        with pytest.raises(WireError):
            parse_clear(octets, classify(octets))


class TestRules:
    @pytest.mark.parametrize(
        ("exchange", "response", "payloads", "fine"),
        [
            (34, False, _FIRST, True),
            (34, False, _FIRST[:2], False),
            (34, False, (*_FIRST, _SA), False),
            (34, False, (*_FIRST, IdI(id_type=1, data=bytes(4))), False),
            (34, True, (Notify(type=14),), True),
            (34, False, (Notify(type=14),), False),
        ],
    )
    def test_init(self, exchange: int, response: bool, payloads: tuple[Payload, ...], fine: bool) -> None:
        octets = serialize_clear(Message(header=header(exchange, 0x20 if response else 8), payloads=payloads))
        if fine:
            parse_clear(octets, classify(octets))
        else:
            with pytest.raises(WireError) as caught:
                parse_clear(octets, classify(octets))
            assert caught.value.code == "drop.payload-rules"

    def test_protected(self) -> None:
        octets = sealed((_FIRST[2],))
        with pytest.raises(WireError) as caught:
            open_message(octets, classify(octets), cipher())
        assert (caught.value.code, caught.value.notify) == ("drop.payload-rules", 7)

    def test_unknown_exchange(self) -> None:
        octets = sealed((), exchange=77)
        with pytest.raises(WireError) as caught:
            open_message(octets, classify(octets), cipher())
        assert caught.value.code == "drop.exchange-type"


class TestProtected:
    @pytest.mark.parametrize(
        ("slug", "integrity"),
        [("aes-256-gcm-16", None), ("chacha20-poly1305", None), ("aes-128-cbc", "hmac-sha2-256-128")],
    )
    def test_round_trip(self, slug: str, integrity: str | None) -> None:
        sk = cipher(slug, integrity)
        payloads: tuple[Payload, ...] = (Notify(type=16384), Delete(protocol=1))
        octets = seal_message(Message(header=header(), payloads=payloads), sk, bytes(sk.iv_octets))
        assert open_message(octets, classify(octets), sk).payloads == payloads

    def test_empty(self) -> None:
        octets = sealed()
        assert open_message(octets, classify(octets), cipher()).payloads == ()

    @given(st.integers(0, 10_000), st.integers(1, 255))
    @settings(max_examples=60)
    def test_every_changed_octet_is_noticed(self, place: int, flip: int) -> None:
        octets = bytearray(sealed((Delete(protocol=1),)))
        octets[place % len(octets)] ^= flip
        with pytest.raises((WireError, IntegrityError)):
            open_message(bytes(octets), classify(bytes(octets)), cipher())

    @pytest.mark.parametrize(
        ("first", "chain", "code"),
        [
            (PayloadType.DELETE, b"", "wire.delete-payload"),
            (PayloadType.DELETE, bytes.fromhex("00000003"), "wire.delete-payload"),
            (PayloadType.NONE, b"\x00", "drop.malformed"),
            (PayloadType.SK, bytes.fromhex("00000004"), "wire.encrypted-payload"),
            (PayloadType.NOTIFY, bytes.fromhex("2a000008 00004000 00000009 0100000000"), "wire.delete-payload"),
        ],
    )
    def test_an_authentic_chain_that_is_wrong_is_to_be_answered(self, first: int, chain: bytes, code: str) -> None:
        octets = reseal_chain(first, chain)
        with pytest.raises(WireError) as caught:
            open_message(octets, classify(octets), cipher())
        assert (caught.value.code, caught.value.notify) == (code, 7)

    def test_an_unknown_critical_payload_inside(self) -> None:
        octets = reseal_chain(222, bytes.fromhex("00800004"))
        with pytest.raises(WireError) as caught:
            open_message(octets, classify(octets), cipher())
        assert (caught.value.code, caught.value.notify) == ("drop.critical-payload", 1)

    def test_not_encrypted(self) -> None:
        octets = serialize_clear(Message(header=header(), payloads=(Delete(protocol=1),)))
        with pytest.raises(WireError) as caught:
            open_message(octets, classify(octets), cipher())
        assert (caught.value.code, caught.value.notify) == ("drop.payload-rules", None)

    def test_payloads_in_clear_before_the_encrypted_one(self) -> None:
        inner = sealed()[28:]
        chain = bytes.fromhex("2e000008 00004000") + inner
        octets = Header(
            spi_i=b"initiate", spi_r=b"responds", next_payload=41, exchange=37, flags=8, message_id=3,
            length=28 + len(chain),
        ).serialize() + chain  # fmt: skip
        with pytest.raises(WireError):
            open_message(octets, classify(octets), cipher())

    def test_an_encrypted_fragment(self) -> None:
        octets = bytearray(sealed())
        octets[16] = PayloadType.SKF
        with pytest.raises(WireError) as caught:
            open_message(bytes(octets), classify(bytes(octets)), cipher())
        assert caught.value.code == "drop.state"
