"""Where the independent vectors are, and a reader for the captures among them."""

from __future__ import annotations

import functools
import json
import lzma
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import vectors_directory

FOLDER = vectors_directory()

needs_vectors = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no vectors: {FOLDER} is absent (VPNCONSOLE_VECTORS)")


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
