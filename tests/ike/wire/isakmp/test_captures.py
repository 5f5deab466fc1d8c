"""IKEv1 conversations recorded by others are read and written again octet by octet; none is kept here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from agents.ike.errors import WireError
from agents.ike.wire.header import Header
from agents.ike.wire.isakmp import rules
from agents.ike.wire.isakmp.message import Message, encode, encrypted_body, parse_clear, read_plain, serialize_clear
from agents.ike.wire.isakmp.payloads import (
    Cert,
    Identification,
    KeyExchangeData,
    Nonce,
    SecurityAssociation,
    VendorId,
    parse_payload,
    payload_type,
)
from agents.ike.wire.isakmp.registry import CertEncoding, Exchange, Flag, IdType, Phase1Attribute, payload_name
from agents.ike.wire.isakmp.vendor import Kind, recognise
from tests.ike.wire.captures import ike
from tests.ike.wire.isakmp.samples import header_of
from tests.vectors import FOLDER, load, needs_vectors

pytestmark = needs_vectors

_CERTS = "wireshark/ikev1-certs.pcap"
_CLEAR = {
    "suricata-verify/ikev1-duplicate-proposals__generated.pcap": (Exchange.MAIN, 1),
    "suricata-verify/ikev1-rules__ikev1-isakmp-main-mode.pcap": (Exchange.MAIN, 4),
    _CERTS: (Exchange.MAIN, 4),
    "zeek-spicy-ipsec/ipsec-ikev1-isakmp-aggressive-mode.pcap": (Exchange.AGGRESSIVE, 2),
    "zeek-spicy-ipsec/ipsec-ikev1-isakmp-main-mode.pcap": (Exchange.MAIN, 4),
}


def _messages(name: str) -> Iterator[tuple[bytes, Header]]:
    for _, octets in ike(FOLDER / name):
        header = header_of(octets)
        rules.check_header(header)
        yield octets, header


def _clear(name: str) -> list[Message]:
    return [parse_clear(octets, header) for octets, header in _messages(name) if not header.flags & Flag.ENCRYPTED]


@pytest.mark.parametrize(("name", "expected"), _CLEAR.items())
def test_messages_in_clear_are_read_and_written_again(name: str, expected: tuple[Exchange, int]) -> None:
    exchange, count = expected
    seen = 0
    for octets, header in _messages(name):
        if header.flags & Flag.ENCRYPTED:
            assert len(encrypted_body(octets, header)) % 8 == 0
            continue
        seen += 1
        message = parse_clear(octets, header)
        assert header.exchange == exchange
        rules.check(exchange, message.payloads, seen)
        assert serialize_clear(header, message.payloads) == octets
    assert seen == count


def test_main_mode_of_a_router() -> None:
    """What Suricata's own test says of this conversation (ikev1.test.yaml)."""
    offer, choice, initiator, responder = _clear("suricata-verify/ikev1-rules__ikev1-isakmp-main-mode.pcap")
    assert (choice.header.spi_i.hex(), choice.header.spi_r.hex()) == ("e47a591fd057587f", "a00b8ef0902bb8ec")
    nonces = [each.find(Nonce) for each in (initiator, responder)]
    assert [each and each.data.hex() for each in nonces] == [
        "89d7c8fbf94b515b521d5d9589c2602021e1a709",
        "15b688421ed5c3dd92d3b86e47a76f0d39cc09e0",
    ]
    chosen = choice.find(SecurityAssociation)
    assert chosen is not None
    ((transform,),) = (each.transforms for each in chosen.proposals)
    numbers = {each.type: each.number for each in transform.attributes}
    assert numbers[Phase1Attribute.ENCRYPTION] == 7
    assert numbers[Phase1Attribute.LIFE_DURATION] == 86_400
    kinds = [recognise(each.data) for each in offer.find_all(VendorId)]
    assert [each and each.kind for each in kinds] == [
        Kind.NAT_T_RFC,
        Kind.OTHER,
        Kind.NAT_T_DRAFT,
        Kind.NAT_T_DRAFT,
    ]


def test_duplicate_attributes_are_kept() -> None:
    (offer,) = _clear("suricata-verify/ikev1-duplicate-proposals__generated.pcap")
    found = offer.find(SecurityAssociation)
    assert found is not None
    durations = [
        each.number
        for proposal in found.proposals
        for transform in proposal.transforms
        for each in transform.attributes
        if each.type == Phase1Attribute.LIFE_DURATION
    ]
    assert 65_535 in durations
    assert 86_400 in durations


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("pkt-aggr-cert-response.dat", "SA KE NONCE ID CERT SIGNATURE"),
        ("pkt-aggr-mode-response.dat", "SA VENDOR_ID VENDOR_ID VENDOR_ID KE NONCE ID HASH"),
        ("pkt-aggressive.dat", "SA KE NONCE ID"),
        ("pkt-checkpoint-notify.dat", "NOTIFY"),
        ("pkt-custom-proposal.dat", "ikev1.payload-malformed"),  # made so: 0xff wherever a zero should stand
        ("pkt-default-proposal.dat", "SA"),
        ("pkt-ikev2.dat", "ikev1.major-version"),
        ("pkt-main-mode-response.dat", "SA VENDOR_ID"),
        ("pkt-main-natt-response.dat", "SA VENDOR_ID"),
        ("pkt-malformed.dat", "ikev1.major-version"),
        ("pkt-notify-response.dat", "NOTIFY"),
        ("pkt-single-trans.dat", "SA"),
    ],
)
def test_scanner_packets(name: str, outcome: str) -> None:
    octets = (FOLDER / "ike-scan" / name).read_bytes()
    if "natt" in name:
        octets = octets[4:]  # the non-ESP marker
    header = header_of(octets)
    try:
        rules.check_header(header)
        message = parse_clear(octets, header)
        assert serialize_clear(header, message.payloads) == octets
        found = " ".join(payload_name(payload_type(each)) for each in message.payloads)
    except WireError as error:
        found = error.code
    assert found == outcome


def test_bodies_that_hashes_cover_are_written_as_they_came() -> None:
    """SAi_b and IDir_b of Aggressive Modes whose hash is known (RFC 2409 section 5)."""
    for row in load("ike-scan/aggressive_psk_vectors.json"):
        for kind, field in ((SecurityAssociation, "sai_b"), (Identification, "idir_b")):
            body = bytes.fromhex(row[field])
            assert parse_payload(kind.TYPE, body).serialize() == body


def _md5(octets: bytes) -> bytes:
    return hashlib.md5(octets, usedforsecurity=False).digest()


def _decrypted() -> Iterator[Message]:
    """Decrypt a conversation with its published key: 3DES, and MD5 for the IVs (RFC 2409 appendix B)."""
    cookie, key = (FOLDER / "wireshark/ikev1_decryption_table.txt").read_text().strip().split(",")
    values, iv = b"", b""
    phase_2: dict[int, bytes] = {}
    for octets, header in dict(_messages(_CERTS)).items():  # once each: one was sent again
        assert header.spi_i.hex() == cookie
        if not header.flags & Flag.ENCRYPTED:
            exchange = parse_clear(octets, header).find(KeyExchangeData)
            values += b"" if exchange is None else exchange.data
            continue
        body = encrypted_body(octets, header)
        if header.message_id == 0:
            this, iv = iv or _md5(values)[:8], body[-8:]
        else:
            this = phase_2.get(header.message_id) or _md5(iv + header.message_id.to_bytes(4, "big"))[:8]
            phase_2[header.message_id] = body[-8:]
        decryptor = Cipher(TripleDES(bytes.fromhex(key)), modes.CBC(this)).decryptor()
        yield read_plain(header, decryptor.update(body))


def test_protected_messages_are_read_with_the_padding_of_another_daemon() -> None:
    messages = list(_decrypted())
    steps = [(Exchange.MAIN, 5), (Exchange.MAIN, 6), *((Exchange.QUICK, step) for step in (1, 2, 3))]
    assert [each.header.exchange for each in messages] == [exchange for exchange, _ in steps]
    for message, (exchange, step) in zip(messages, steps, strict=True):
        rules.check(exchange, message.payloads, step)
        first, chain = encode(message.payloads)
        assert first == message.header.next_payload
        assert chain[4 + len(message.bodies[0]) :] == message.protected
    identity, certificate = messages[0].find(Identification), messages[0].find(Cert)
    assert identity is not None
    assert identity.id_type == IdType.IPV4_ADDR
    assert certificate is not None
    assert certificate.encoding == CertEncoding.X509_SIGNATURE
    assert b"OpenSwan" in certificate.data
    selectors = messages[2].find_all(Identification)
    assert [each.id_type for each in selectors] == [IdType.IPV4_ADDR] * 2
    assert messages[2].body_of(Identification) == selectors[0].serialize()
