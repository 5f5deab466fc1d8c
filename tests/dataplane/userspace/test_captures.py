"""Packets that a Linux 6.1 kernel made, with the keys it had: opened by the engine, and made again octet by octet."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from agents.contract.config import Mode
from agents.contract.secret import Secret
from agents.dataplane.base import AuthenticationHeader, Direction, SaSpec, UdpEncapsulation
from agents.dataplane.userspace import ah
from agents.dataplane.userspace.engine import Engine
from agents.dataplane.userspace.esp import NEXT_AH, NEXT_ESP, AeadTransform, build_transform, strip
from agents.dataplane.userspace.inward import Arrival
from tests.dataplane.userspace.values import entropy, policy, sa_spec
from tests.vectors import ip_packets, load, needs_vectors

pytestmark = needs_vectors

NAMES = (
    "esp-tun-aes128gcm16", "esp-tun-chacha20poly1305", "esp-udp4500-tun-aes128cbc-sha256", "esp6-tun-aes128gcm16",
    "esp-tra-aes256cbc-sha256", "ah-tra-sha256",
)  # fmt: skip
SUITES = {
    "rfc4106(gcm(aes))": ("aes-128-gcm-16", None),
    "rfc7539esp(chacha20,poly1305)": ("chacha20-poly1305", None),
    "cbc(aes)": ("aes-{}-cbc", "hmac-sha2-256-128"),
}


@dataclass(frozen=True, slots=True)
class Captured:
    """An outer packet: its addresses, UDP source port (0 without UDP), and ESP or AH in it."""

    packet: bytes
    source: str
    destination: str
    port: int
    protocol: int
    payload: bytes


def captured(packet: bytes) -> Captured | None:
    """Take an outer packet apart, None where it is neither ESP nor AH."""
    if packet[0] >> 4 == 6:
        source, destination = (str(ipaddress.ip_address(packet[at : at + 16])) for at in (8, 24))
        protocol, payload = packet[6], packet[40:]
    else:
        source, destination = (str(ipaddress.ip_address(packet[at : at + 4])) for at in (12, 16))
        protocol, payload = packet[9], packet[20 : packet[2] << 8 | packet[3]]
        packet = packet[: packet[2] << 8 | packet[3]]
    if protocol in (NEXT_ESP, NEXT_AH):
        return Captured(packet, source, destination, 0, protocol, payload)
    if protocol == 17 and payload[2:4] == b"\x11\x94":
        return Captured(packet, source, destination, payload[0] << 8 | payload[1], NEXT_ESP, payload[8:])
    return None


def spec_of(row: dict[str, Any], sa: dict[str, Any]) -> SaSpec:
    """Return one SA of a row as the receiver has it."""
    common: dict[str, Any] = {
        "source": sa["src"],
        "destination": sa["dst"],
        "spi": int(sa["spi"], 16),
        "mode": Mode(row["mode"]),
        "encapsulation": UdpEncapsulation(source_port=4500, destination_port=4500) if "udp_encap" in sa else None,
    }
    auth_key = Secret(bytes.fromhex(sa["auth_key"])) if "auth_key" in sa else None
    if row["proto"] == "ah":
        assert auth_key is not None
        header = AuthenticationHeader(spi=common["spi"], integrity="hmac-sha2-256-128", key=auth_key)
        none = dict.fromkeys(("encryption", "encryption_key", "integrity", "integrity_key"))
        return sa_spec(Direction.IN, **{**common, **none}, ah=header)
    key = bytes.fromhex(sa.get("key_and_salt") or sa["enc_key"])
    encryption, integrity = SUITES[sa.get("aead") or sa["enc"]]
    suite = (encryption.format(len(key) * 8), integrity)
    return sa_spec(Direction.IN, suite, **common, encryption_key=Secret(key), integrity_key=auth_key)


def cases(name: str) -> Iterator[tuple[dict[str, Any], SaSpec, list[Captured]]]:
    """Yield row, SA and its packets, for each SA of a capture."""
    row = next(each for each in load("linux-kernel-esp/keys.json") if each["name"] == name)
    packets = [found for outer in ip_packets(f"linux-kernel-esp/{name}.pcap") if (found := captured(outer)) is not None]
    for sa in row["sas"]:
        yield row, spec_of(row, sa), [p for p in packets if (p.source, p.destination) == (sa["src"], sa["dst"])]


def verified(name: str) -> int:
    """Return how many packets of a capture others have verified."""
    (row,) = [each for each in load("linux-kernel-esp/keys.json") if each["name"] == name]
    return int(row["packets_verified"])


@pytest.mark.parametrize("name", NAMES)
def test_kernel_packets_open(name: str) -> None:
    opened = 0
    for row, spec, packets in cases(name):
        engine = Engine(entropy())
        engine.add_sa(spec, 0.0)
        inner = [row["inner_a"], row["inner_b"]]
        engine.add_policy(policy(Direction.IN, *(inner if spec.source == row["outer_a"] else inner[::-1])))
        for packet in packets:
            arrival = Arrival(packet.destination, packet.source, packet.port, 0)
            if packet.protocol == NEXT_AH:
                (delivery,) = engine.inbound_ah(arrival, [packet.packet], 1.0)
            else:
                (delivery,) = engine.inbound(arrival, [packet.payload], 1.0)
            (echo,) = delivery.packets
            start = 40 if echo[0] >> 4 == 6 else 20
            assert echo[6 if start == 40 else 9] in (1, 58)
            assert str(ipaddress.ip_address(echo[start - 4 : start] if start == 20 else echo[24:40])) in inner
            opened += 1
        assert engine.totals() == {}
    assert opened == verified(name) > 0


def made_again(spec: SaSpec, packet: Captured) -> bytes:
    """Return the ESP packet sealed anew from its plaintext, under its own number and with the IV that it has."""
    assert spec.encryption is not None
    assert spec.encryption_key is not None
    key, block = spec.encryption_key, b""
    if spec.encryption.endswith("cbc"):
        # Entropy chosen so that the first block, encrypted from the zero chaining value, gives the packet's IV.
        decryptor = Cipher(algorithms.AES(key.reveal()), modes.CBC(bytes(16))).decryptor()
        block = decryptor.update(packet.payload[8:24])
    suite = (spec.spi, spec.encryption, key, spec.integrity, spec.integrity_key)
    transform = build_transform(*suite, lambda _count: block)
    (number,) = struct.unpack_from("!I", packet.payload, 4)
    next_header, payload = strip(transform.open(packet.payload))
    (sealed,) = transform.seal(number, [payload], next_header)
    if not isinstance(transform, AeadTransform):
        return sealed
    # The kernel's IV is the number under a secret mask, ours the number itself (RFC 4106 section 3.1): all of
    # the packet but that is as it leaves here, and under the kernel's IV the cipher gives the kernel's text.
    head, iv = packet.payload[:8], packet.payload[8:16]
    assert (sealed[:8], len(sealed)) == (head, len(packet.payload))
    plain = transform.open(sealed)
    return head + iv + transform._encrypt(transform.salt + iv, plain, head)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("ah")])
def test_kernel_esp_packets_are_made_again(name: str) -> None:
    made = 0
    for _row, spec, packets in cases(name):
        for packet in packets:
            assert made_again(spec, packet) == packet.payload
            made += 1
    assert made == verified(name) > 0


def test_kernel_ah_packets_are_made_again() -> None:
    """The padding is the kernel's: it pads to eight octets over IPv4 too, with what stood there before."""
    made = 0
    for _row, spec, packets in cases("ah-tra-sha256"):
        assert spec.ah is not None
        transform = ah.AhTransform(spec.spi, spec.ah.integrity, spec.ah.key)
        for each in packets:
            parsed = ah.parse(each.packet)
            before, fixed = each.packet[: parsed.start], each.packet[parsed.start : parsed.start + ah.FIXED_OCTETS]
            payload, padding = transform.open(parsed), each.packet[parsed.end - 4 : parsed.end]
            sealed = transform.seal(parsed.sequence, before, parsed.next_header, payload)
            assert sealed[:1] + sealed[2 : ah.FIXED_OCTETS] == fixed[:1] + fixed[2:]
            icv = transform._icv(before, fixed, padding, payload, 0)
            assert before + fixed + icv + padding + payload == each.packet
            made += 1
    assert made == verified("ah-tra-sha256") > 0
