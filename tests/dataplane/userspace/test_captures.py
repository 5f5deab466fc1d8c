"""Packets that a Linux 6.1 kernel made, with the keys it had: opened by the engine, inner packets checked."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from agents.contract.secret import Secret
from agents.dataplane.base import Direction, UdpEncapsulation
from agents.dataplane.userspace.engine import Engine
from agents.dataplane.userspace.esp import CbcTransform, strip
from agents.dataplane.userspace.inward import Arrival
from tests.dataplane.userspace.values import entropy, policy, sa_spec
from tests.vectors import ip_packets, load, needs_vectors

pytestmark = needs_vectors

CASES = (
    "esp-tun-aes128gcm16",
    "esp-tun-chacha20poly1305",
    "esp-udp4500-tun-aes128cbc-sha256",
    "esp6-tun-aes128gcm16",
)


def esp_of(packet: bytes) -> tuple[str, str, int, bytes] | None:
    """Return source, destination, UDP source port (0 for plain ESP) and the ESP packet."""
    if packet[0] >> 4 == 6:
        source, destination = (str(ipaddress.ip_address(packet[at : at + 16])) for at in (8, 24))
        protocol, payload = packet[6], packet[40:]
    else:
        source, destination = (str(ipaddress.ip_address(packet[at : at + 4])) for at in (12, 16))
        protocol, payload = packet[9], packet[20 : packet[2] << 8 | packet[3]]
    if protocol == 50:
        return source, destination, 0, payload
    if protocol == 17 and payload[2:4] == b"\x11\x94":
        return source, destination, payload[0] << 8 | payload[1], payload[8:]
    return None


def keyed(row: dict[str, Any], sa: dict[str, Any]) -> Engine:
    engine = Engine(entropy())
    suite = {
        "rfc4106(gcm(aes))": ("aes-128-gcm-16", None),
        "rfc7539esp(chacha20,poly1305)": ("chacha20-poly1305", None),
    }.get(sa.get("aead", ""), ("aes-128-cbc", "hmac-sha2-256-128"))
    engine.add_sa(
        sa_spec(
            Direction.IN,
            suite,
            source=sa["src"],
            destination=sa["dst"],
            spi=int(sa["spi"], 16),
            encryption_key=Secret(bytes.fromhex(sa.get("key_and_salt") or sa["enc_key"])),
            integrity_key=Secret(bytes.fromhex(sa["auth_key"])) if "auth_key" in sa else None,
            encapsulation=UdpEncapsulation(source_port=4500, destination_port=4500) if "udp_encap" in sa else None,
        ),
        0.0,
    )
    inner = [row["inner_a"], row["inner_b"]]
    source, destination = inner if sa["direction"] == "a->b" else inner[::-1]
    engine.add_policy(policy(Direction.IN, source, destination))
    return engine


@pytest.mark.parametrize("name", CASES)
def test_kernel_packets_open(name: str) -> None:
    row = next(each for each in load("linux-kernel-esp/keys.json") if each["name"] == name)
    opened = 0
    for sa in row["sas"]:
        engine = keyed(row, sa)
        for outer in ip_packets(f"linux-kernel-esp/{name}.pcap"):
            esp = esp_of(outer)
            if esp is None or esp[1] != sa["dst"] or esp[0] != sa["src"]:
                continue
            (delivery,) = engine.inbound(Arrival(esp[1], esp[0], esp[2], 0), [esp[3]], 1.0)
            opened += len(delivery.packets)
        assert engine.totals() == {}
    assert opened == row["packets_verified"]


def test_kernel_transport_mode_packets_authenticate() -> None:
    """Transport mode is not ours to deliver, but its packets are made by the same transform."""
    row = next(each for each in load("linux-kernel-esp/keys.json") if each["name"] == "esp-tra-aes256cbc-sha256")
    opened = 0
    for sa in row["sas"]:
        key, mac_key = Secret(bytes.fromhex(sa["enc_key"])), Secret(bytes.fromhex(sa["auth_key"]))
        cbc = CbcTransform(int(sa["spi"], 16), "aes-256-cbc", "hmac-sha2-256-128", key, mac_key, entropy())
        for outer in ip_packets(f"linux-kernel-esp/{row['name']}.pcap"):
            esp = esp_of(outer)
            if esp is not None and esp[0] == sa["src"]:
                next_header, _payload = strip(cbc.open(esp[3]))
                assert next_header == 1
                opened += 1
    assert opened == row["packets_verified"]
