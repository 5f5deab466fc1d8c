"""Reading captures made by others: pcap and pcapng, several link types, UDP; nothing but what tests need."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Udp:
    """One UDP datagram of a capture."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    payload: bytes


def datagrams(path: Path) -> Iterator[Udp]:
    """Yield the UDP datagrams of a capture in order."""
    octets = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for link_type, frame in _frames(octets):
        packet = _network(link_type, frame)
        if packet is not None:
            found = _udp(packet)
            if found is not None:
                yield found


def ike(path: Path) -> list[tuple[Udp, bytes]]:
    """Return the IKE messages of a capture, without non-ESP marker."""
    found = []
    for each in datagrams(path):
        ports = {each.source_port, each.destination_port}
        if 4500 in ports and each.payload[:4] == bytes(4):
            found.append((each, each.payload[4:]))
        elif 500 in ports:
            found.append((each, each.payload))
    return found


def _frames(octets: bytes) -> Iterator[tuple[int, bytes]]:
    if octets[:4] == b"\x0a\x0d\x0d\x0a":
        yield from _pcapng(octets)
        return
    order = "<" if octets[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    (link_type,) = struct.unpack_from(order + "I", octets, 20)
    offset = 24
    while offset + 16 <= len(octets):
        (length,) = struct.unpack_from(order + "I", octets, offset + 8)
        yield link_type & 0xFFFF, octets[offset + 16 : offset + 16 + length]
        offset += 16 + length


def _pcapng(octets: bytes) -> Iterator[tuple[int, bytes]]:
    offset, order = 0, "<"
    links: list[int] = []
    while offset + 12 <= len(octets):
        if octets[offset : offset + 4] == b"\x0a\x0d\x0d\x0a":
            order = "<" if octets[offset + 8 : offset + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            links = []
        kind, total = struct.unpack_from(order + "II", octets, offset)
        if kind == 1:
            links.append(struct.unpack_from(order + "H", octets, offset + 8)[0])
        elif kind == 6:
            interface, _, _, length = struct.unpack_from(order + "IIII", octets, offset + 8)
            yield links[interface], octets[offset + 28 : offset + 28 + length]
        offset += total


def _network(link_type: int, frame: bytes) -> bytes | None:
    if link_type in (101, 12, 228, 229):
        return frame
    place = {1: 12, 113: 14}.get(link_type)
    if place is None:
        return None
    kind = frame[place : place + 2]
    if kind == b"\x81\x00":
        place += 4
        kind = frame[place : place + 2]
    return frame[place + 2 :] if kind in (b"\x08\x00", b"\x86\xdd") else None


def _udp(packet: bytes) -> Udp | None:
    if packet[:1] and packet[0] >> 4 == 4:
        header = (packet[0] & 15) * 4
        fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF
        if packet[9] != 17 or fragment:
            return None
        source, destination = packet[12:16].hex(), packet[16:20].hex()
    elif packet[:1] and packet[0] >> 4 == 6 and packet[6] == 17:
        header, source, destination = 40, packet[8:24].hex(), packet[24:40].hex()
    else:
        return None
    source_port, destination_port, length = struct.unpack_from(">HHH", packet, header)
    return Udp(source, destination, source_port, destination_port, packet[header + 8 : header + length])
