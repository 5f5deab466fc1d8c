"""Openswan and a Juniper SRX, opened with the key that came with the capture: Main Mode with RSA, Quick Mode."""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agents.contract.algorithms import ENCRYPTION
from agents.contract.ikev1 import ENCRYPTION as ENCRYPTION_NUMBERS
from agents.contract.ikev1 import HASH as HASH_NUMBERS
from agents.contract.ikev1 import SIGNATURE
from agents.ike.crypto.hash_signature import SignatureError, verify_hash
from agents.ike.errors import WireError
from agents.ike.v1.cipher import Phase1Cipher
from agents.ike.v1.keymat import exchange_iv, first_iv
from agents.ike.wire.header import Header
from agents.ike.wire.isakmp.message import Message, encrypted_body, parse_clear, read_plain
from agents.ike.wire.isakmp.payloads import (
    Cert,
    Hash,
    Identification,
    KeyExchangeData,
    Nonce,
    SecurityAssociation,
    Signature,
)
from agents.ike.wire.isakmp.registry import Exchange, Flag, Phase1Attribute
from tests.vectors import FOLDER, ike_messages, load, needs_vectors

_NAME = "wireshark/ikev1-certs.pcap"
pytestmark = needs_vectors


@dataclass(frozen=True)
class Opened:
    """The four messages in clear, and the two of phase 1 and three of Quick Mode as a cipher gave them back."""

    clear: tuple[Message, ...]
    phase1: tuple[Message, ...]
    quick: tuple[Message, ...]


def _header(datagram: bytes) -> Header:
    spi_i, spi_r, first, version, exchange, flags, message_id, length = struct.unpack_from(">8s8sBBBBII", datagram)
    return Header(spi_i=spi_i, spi_r=spi_r, next_payload=first, version=version, exchange=exchange, flags=flags,
                  message_id=message_id, length=length)  # fmt: skip


@functools.cache
def _key() -> tuple[bytes, bytes]:
    cookie, key = (FOLDER / "wireshark/ikev1_decryption_table.txt").read_text(encoding="ascii").strip().split(",")
    return bytes.fromhex(cookie), bytes.fromhex(key)


@functools.cache
def _opened() -> Opened:
    """Each message once: a repeated one does not move the chain."""
    datagrams = list(dict.fromkeys(ike_messages(_NAME)))
    headers = [_header(each) for each in datagrams]
    assert {each.spi_i for each in headers} == {_key()[0]}
    clear = tuple(
        parse_clear(datagram, header)
        for datagram, header in zip(datagrams, headers, strict=True)
        if not header.flags & Flag.ENCRYPTED
    )
    hash_, cipher = _suite(clear[1])
    public_i, public_r = (message.find(KeyExchangeData) for message in clear[2:4])
    assert public_i is not None
    assert public_r is not None
    iv = first_iv(hash_, public_i.data, public_r.data, cipher.block_octets)
    opened: dict[int, list[Message]] = {Exchange.MAIN: [], Exchange.QUICK: []}
    for datagram, header in list(zip(datagrams, headers, strict=True))[len(clear) :]:
        if header.exchange == Exchange.QUICK and not opened[Exchange.QUICK]:
            iv = exchange_iv(hash_, iv, header.message_id, cipher.block_octets)
        ciphertext = encrypted_body(datagram, header)
        opened[header.exchange].append(read_plain(header, cipher.open(iv, ciphertext)))
        iv = cipher.next_iv(ciphertext)
    return Opened(clear=clear, phase1=tuple(opened[Exchange.MAIN]), quick=tuple(opened[Exchange.QUICK]))


def _suite(answer: Message) -> tuple[str, Phase1Cipher]:
    """The hash and the cipher of the responder's one transform, by its numbers."""
    association = answer.find(SecurityAssociation)
    assert association is not None
    (transform,) = association.proposals[0].transforms
    numbers = {attribute.type: attribute.number for attribute in transform.attributes}
    (slug,) = (name for name, number in ENCRYPTION_NUMBERS.items() if number == numbers[Phase1Attribute.ENCRYPTION])
    (hash_,) = (name for name, number in HASH_NUMBERS.items() if number == numbers[Phase1Attribute.HASH])
    assert (slug, hash_) == ("3des-cbc", "md5")
    assert numbers[Phase1Attribute.AUTHENTICATION_METHOD] == SIGNATURE["ikev1-rsa"]
    return hash_, Phase1Cipher(ENCRYPTION[slug], _key()[1])


def _kinds(message: Message) -> list[type]:
    return [type(payload) for payload in message.payloads]


def _certificate(message: Message) -> x509.Certificate:
    cert = message.find(Cert)
    assert cert is not None
    return x509.load_der_x509_certificate(cert.data)


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_identities_and_certificates_of_main_mode_open() -> None:
    first, second = _opened().phase1
    (expected,) = (row["must_contain"] for row in load("wireshark/expected.json") if row["test"] == "test_ikev1_certs")
    assert expected.encode("ascii") in _certificate(first).subject.public_bytes()
    assert _certificate(second).issuer == _certificate(first).issuer
    for message in (first, second):
        identity = message.find(Identification)
        assert identity is not None
        assert len(identity.data) == 4
    assert _kinds(second) == [Identification, Cert, Signature]
    assert {Identification, Cert, Signature} <= set(_kinds(first))


def test_quick_mode_opens_with_an_iv_of_its_own() -> None:
    first, second, third = _opened().quick
    assert (
        _kinds(first)
        == _kinds(second)
        == [Hash, SecurityAssociation, Nonce, KeyExchangeData, Identification, Identification]
    )
    assert _kinds(third) == [Hash]
    for message in (first, second, third):
        hash_ = message.find(Hash)
        assert hash_ is not None
        assert len(hash_.data) == 16
    assert len({message.header.message_id for message in (first, second, third)}) == 1


def test_the_signature_is_over_a_bare_hash() -> None:
    """What the SRX's key turns its signature into is HASH_R by MD5 alone: no DigestInfo, and not hashed again."""
    message = _opened().phase1[1]
    certificate, signature = _certificate(message), message.find(Signature)
    key = certificate.public_key()
    assert signature is not None
    assert isinstance(key, rsa.RSAPublicKey)
    signed = key.recover_data_from_signature(signature.data, padding.PKCS1v15(), None)
    assert len(signed) == 16
    verify_hash(_spki(certificate), "ikev1-rsa", signature.data, signed)
    with pytest.raises(SignatureError, match="wrong"):
        verify_hash(_spki(certificate), "ikev1-rsa", signature.data, signed[::-1])


def test_openswans_key_of_1024_bits_is_not_taken() -> None:
    message = _opened().phase1[0]
    signature = message.find(Signature)
    assert signature is not None
    with pytest.raises(SignatureError, match="1024 bits"):
        verify_hash(_spki(_certificate(message)), "ikev1-rsa", signature.data, bytes(16))


def test_another_iv_spoils_the_first_block() -> None:
    datagram = next(each for each in ike_messages(_NAME) if _header(each).flags & Flag.ENCRYPTED)
    _, cipher = _suite(_opened().clear[1])
    with pytest.raises(WireError):
        read_plain(_header(datagram), cipher.open(b"\xff" * 8, encrypted_body(datagram, _header(datagram))))
