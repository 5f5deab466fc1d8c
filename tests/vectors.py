"""Where the independent vectors are, and readers for them.

They are other people's work and stay where they are: in the folder that ``VPNCONSOLE_VECTORS`` names, else in
``shared/vectors`` beside the checkout. A test that reads them is marked ``needs("vectors")``.
"""

from __future__ import annotations

import functools
import json
import lzma
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(os.environ.get("VPNCONSOLE_VECTORS", Path(__file__).resolve().parents[2] / "shared" / "vectors"))

needs_vectors = pytest.mark.needs("vectors")


@functools.cache
def load(name: str) -> Any:
    """Read one JSON file, compressed or not; an empty dict where the folder is absent (its tests are then skipped)."""
    path = FOLDER / name
    if not FOLDER.is_dir():
        return {}
    octets = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    return json.loads(octets)


def frames(name: str) -> Iterator[bytes]:
    """Yield the link-layer frames of a pcap or pcapng file, little-endian as all of ours are."""
    octets = (FOLDER / name).read_bytes()
    if octets[:4] == b"\x0a\x0d\x0d\x0a":
        yield from _pcapng_frames(octets)
        return
    offset = 24
    while offset < len(octets):
        (captured,) = struct.unpack_from("<I", octets, offset + 8)
        yield octets[offset + 16 : offset + 16 + captured]
        offset += 16 + captured


def ip_packets(name: str) -> Iterator[bytes]:
    """Yield the IP packets of a pcap file of Ethernet, cooked or raw frames."""
    (link,) = struct.unpack_from("<I", (FOLDER / name).read_bytes(), 20)
    header = {1: 14, 113: 16, 276: 20, 101: 0, 228: 0, 229: 0}[link]
    return (frame[header:] for frame in frames(name))


def _pcapng_frames(octets: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(octets):
        kind, length = struct.unpack_from("<II", octets, offset)
        if kind == 6:  # Enhanced Packet Block
            (captured,) = struct.unpack_from("<I", octets, offset + 20)
            yield octets[offset + 28 : offset + 28 + captured]
        offset += length


def ike_messages(name: str) -> Iterator[bytes]:
    """Yield the IKE messages of a capture of Ethernet, IPv4 and UDP; ports 500 and 4500."""
    for frame in frames(name):
        if frame[12:14] != b"\x08\x00" or frame[23] != 17:
            continue
        udp = 14 + 4 * (frame[14] & 15)
        source, destination, length = struct.unpack_from(">HHH", frame, udp)
        payload = frame[udp + 8 : udp + length]
        if 4500 in (source, destination):
            payload = payload[4:]
        yield payload
