"""The soak's checks find what they look for."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import inner_traffic, recorded
from tests.bench.watch import Watch

PLAN = {"wan": "wan", "links": {"vpn1": ("10.1.0.0/24", "10.2.0.0/24")}, "skip": [0x5000]}
HERE, THERE = "192.0.2.1", "192.0.2.2"


def packet(protocol: int, payload: bytes, source: str = HERE, destination: str = THERE) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    return head + socket.inet_aton(source) + socket.inet_aton(destination) + payload


def esp(spi: int, sequence: int, iv: int) -> bytes:
    return struct.pack("!IIQ", spi, sequence, iv) + bytes(20)


def watched(*payloads: bytes, protocol: int = 50) -> Watch:
    watch = Watch(PLAN)
    for payload in payloads:
        watch.packet(packet(protocol, payload), "wan", socket.PACKET_OUTGOING)
    return watch


@pytest.mark.parametrize("second", [(2, 1), (1, 2), (1, 1), (0, 0)])
def test_a_number_or_iv_that_comes_again_is_found(second: tuple[int, int]) -> None:
    assert watched(esp(0x1000, 1, 1), esp(0x1000, *second)).counts["reused"] == 1


def test_numbers_that_go_up_are_fine_and_each_sa_has_its_own() -> None:
    watch = watched(esp(0x1000, 1, 1), esp(0x1001, 1, 1), esp(0x1000, 2, 2), esp(0x5000, 1, 1), esp(0x5000, 1, 1))
    assert watch.counts == {"esp": 3, "sas": 2}


def test_esp_in_udp_is_looked_at_and_ike_is_not() -> None:
    def udp(payload: bytes) -> bytes:
        return struct.pack("!HHHH", 4500, 4500, 8 + len(payload), 0) + payload

    watch = watched(udp(esp(0x1000, 1, 1)), udp(esp(0x1000, 1, 1)), udp(bytes(40)), protocol=17)
    assert watch.counts == {"esp": 2, "sas": 1, "reused": 1}


@pytest.mark.parametrize(
    ("source", "destination", "outside"),
    [("10.2.0.9", "10.1.0.9", 0), ("10.3.0.9", "10.1.0.9", 1), ("10.2.0.9", "10.1.1.9", 1)],
)
def test_what_is_delivered_outside_the_selectors_is_found(source: str, destination: str, outside: int) -> None:
    watch = Watch(PLAN)
    watch.packet(packet(17, bytes(8), source, destination), "vpn1", socket.PACKET_HOST)
    watch.packet(packet(17, bytes(8), destination, source), "vpn1", socket.PACKET_OUTGOING)
    assert watch.counts["outside"] == outside
    assert watch.counts["delivered"] == 1


def test_a_key_that_comes_again_is_found(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("out 00001000 aa\nin 00001001 bb\nout 00001002 aa\n")
    assert recorded.installed_twice(file) == ["out 00001002 aa"]


class TestTraffic:
    @pytest.fixture
    def traffic(self) -> Iterator[inner_traffic.Traffic]:
        plan = {"pairs": [["127.0.0.1", "127.0.0.9"]], "strays": [], "addresses": [], "per_s": 1, "port": 0, "seed": 1}
        traffic = inner_traffic.Traffic(plan)
        yield traffic
        traffic.close()

    def test_what_is_lost_late_and_twice(self, traffic: inner_traffic.Traffic) -> None:
        for number in (0, 1, 4, 3, 3, 5):
            traffic._take("127.0.0.1", "127.0.0.9", inner_traffic.payload(0, number, 7, 64))
        assert (traffic.received[0], traffic.late, dict(traffic.faults)) == (5, 1, {"twice": 1})

    def test_what_is_changed_or_for_another(self, traffic: inner_traffic.Traffic) -> None:
        changed = bytearray(inner_traffic.payload(0, 0, 7, 64))
        changed[-1] ^= 1
        traffic._take("127.0.0.1", "127.0.0.9", bytes(changed))
        traffic._take("127.0.0.1", "127.0.0.8", inner_traffic.payload(0, 0, 7, 64))
        traffic._take("127.0.0.1", "127.0.0.9", inner_traffic.payload(0xFFFF, 0, 7, 64))
        assert dict(traffic.faults) == {"changed": 1, "stray": 2}
        assert traffic.received[0] == 0
