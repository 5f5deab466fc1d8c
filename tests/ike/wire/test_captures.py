"""Conversations recorded by others are read, decrypted and written again octet by octet; none is kept here."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace

import pytest

from agents.contract.algorithms import ENCRYPTION, INTEGRITY
from agents.ike.crypto.cipher import SkCipher
from agents.ike.crypto.errors import IntegrityError
from agents.ike.errors import WireError
from agents.ike.outputs import Path
from agents.ike.v2 import natd
from agents.ike.wire.header import classify
from agents.ike.wire.message import Message, open_message, parse_clear, seal_message, serialize_clear
from agents.ike.wire.payloads import Auth
from agents.ike.wire.registry import Exchange
from tests.ike.wire.captures import ike
from tests.vectors import FOLDER, needs_vectors

pytestmark = needs_vectors

_CLEAR = {
    "scapy/ikev2_nat_t.pcapng": 6,
    "scapy/ikev2_notify_redirect.pcap": 4,
    "suricata-verify/ikev2-weak-dh__IKEv2_SA_INIT_2-8-weak.pcap": 1,
    "wireshark/ikev2-decrypt-aes256cbc.pcapng": 2,
    "wireshark/ikev2-decrypt-aes256ccm16.pcapng": 2,
    "wireshark/ikev2-decrypt-aes256gcm16.pcap": 2,
    "wireshark/ikev2-decrypt-aes256gcm8.pcap": 2,
}
_VERSION_1 = (
    "suricata-verify/ikev1-duplicate-proposals__generated.pcap",
    "suricata-verify/ikev1-rules__ikev1-isakmp-main-mode.pcap",
    "wireshark/ikev1-certs.pcap",
    "zeek-spicy-ipsec/ipsec-ikev1-isakmp-aggressive-mode.pcap",
    "zeek-spicy-ipsec/ipsec-ikev1-isakmp-main-mode.pcap",
)


@pytest.mark.parametrize(("name", "count"), _CLEAR.items())
def test_first_exchanges_are_read_and_written_again(name: str, count: int) -> None:
    seen = 0
    for _, octets in ike(FOLDER / name):
        header = classify(octets)
        if header.exchange != Exchange.IKE_SA_INIT:
            continue
        message = parse_clear(octets, header)
        assert serialize_clear(message) == octets
        seen += 1
    assert seen == count


def test_redirect_is_an_ordinary_notify_to_us() -> None:
    messages = [parse_clear(octets, classify(octets)) for _, octets in ike(FOLDER / "scapy/ikev2_notify_redirect.pcap")]
    assert any(each.notify(16407) or each.notify(16406) for each in messages)


@pytest.mark.parametrize("name", _VERSION_1)
def test_version_1_is_recognised(name: str) -> None:
    for _, octets in ike(FOLDER / name):
        assert classify(octets).major == 1


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("pkt-ikev2.dat", "fine"),
        ("pkt-v2-sainit-response.dat", "fine"),
        ("pkt-v2-notify-response.dat", "fine"),
        ("pkt-malformed.dat", "drop.version"),
        ("pkt-main-natt-response.dat", "wire.header"),  # the marker still in front
    ],
)
def test_scanner_packets(name: str, outcome: str) -> None:
    octets = (FOLDER / "ike-scan" / name).read_bytes()
    found = "fine"
    try:
        parse_clear(octets, classify(octets))
    except WireError as error:
        found = error.code
    assert found == outcome


def _keys(name: str) -> tuple[SkCipher, SkCipher, str]:
    """Return the ciphers of a conversation, initiator's first, and the AUTH octets that must appear."""
    octets = ike(FOLDER / "wireshark" / name)[1][1]
    spi_i = octets[:8].hex()
    row = next(
        line
        for line in (FOLDER / "wireshark/ikev2_decryption_table.txt").read_text().splitlines()
        if line.startswith(spi_i)
    )
    fields = [field.strip('"') for field in row.split(",")]
    encryption = ENCRYPTION["aes-256-cbc" if "CBC" in fields[4] else "aes-256-gcm-16"]
    integrity = INTEGRITY["hmac-sha2-256-128"] if fields[5] else None
    ciphers = [
        SkCipher(encryption, integrity, bytes.fromhex(fields[2 + side]), bytes.fromhex(fields[5 + side]))
        for side in (0, 1)
    ]
    expected = json.loads((FOLDER / "wireshark/expected.json").read_text())
    auth = next(entry["must_contain"] for entry in expected if entry["file"] == name)
    return ciphers[0], ciphers[1], auth


@pytest.mark.parametrize("name", ["ikev2-decrypt-aes256cbc.pcapng", "ikev2-decrypt-aes256gcm16.pcap"])
def test_protected_messages_decrypt_and_seal_again(name: str) -> None:
    from_initiator, from_responder, auth = _keys(name)
    proofs = []
    for _, octets in ike(FOLDER / "wireshark" / name):
        header = classify(octets)
        if header.exchange == Exchange.IKE_SA_INIT:
            continue
        cipher = from_initiator if header.from_initiator else from_responder
        message = open_message(octets, header, cipher)
        proofs += [each.data.hex() for each in message.payloads if isinstance(each, Auth)]
        again = seal_message(
            Message(header=header, payloads=message.payloads), cipher, octets[32 : 32 + cipher.iv_octets]
        )
        assert open_message(again, classify(again), cipher).payloads == message.payloads
        broken = octets[:-1] + bytes((octets[-1] ^ 1,))
        with pytest.raises(IntegrityError):
            open_message(broken, header, cipher)
    assert auth in proofs


@pytest.mark.parametrize("name", [name for name in _CLEAR if name.startswith("wireshark")])
def test_nat_detection_hashes_of_others_are_ours(name: str) -> None:
    for udp, octets in ike(FOLDER / name)[:2]:
        message = parse_clear(octets, classify(octets))
        path = Path(
            local_address=str(ipaddress.ip_address(bytes.fromhex(udp.destination))),
            local_port=udp.destination_port,
            remote_address=str(ipaddress.ip_address(bytes.fromhex(udp.source))),
            remote_port=udp.source_port,
        )
        header = message.header
        found = natd.detect(message, header.spi_i, header.spi_r, path)
        assert (found.supported, found.local, found.remote) == (True, False, False)
        moved = natd.detect(message, header.spi_i, header.spi_r, replace(path, remote_port=1_024))
        assert (moved.local, moved.remote) == (False, True)
