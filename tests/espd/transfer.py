"""A TCP or UDP transfer with a checksum, run inside a namespace: ``python transfer.py serve|send ADDRESS PORT OCTETS``.

The data is a stream of SHA-256 blocks, so that both ends know it without sharing a file.
"""

from __future__ import annotations

import hashlib
import socket
import sys
from collections.abc import Iterator

_BLOCK = b"".join(hashlib.sha256(bytes((index & 255, index >> 8))).digest() for index in range(4096))


def stream(octets: int) -> Iterator[bytes]:
    """Yield the data, 128 KiB at a time, each with its number in front."""
    for number in range(0, octets, len(_BLOCK)):
        yield number.to_bytes(8, "big") + _BLOCK[8:]


def serve(address: str, port: int, octets: int) -> None:
    """Take one connection, compare what comes with what should, and answer with a digest."""
    listening = socket.create_server((address, port), family=_family(address))
    print("ready", flush=True)
    connection, _peer = listening.accept()
    received = hashlib.sha256()
    left = -(-octets // len(_BLOCK)) * len(_BLOCK)
    while left and (data := connection.recv(1 << 20)):
        received.update(data)
        left -= len(data)
    connection.sendall(received.digest())
    connection.close()


def send(address: str, port: int, octets: int) -> None:
    """Send the data and say ``same`` when the other end saw what was sent."""
    connection = socket.create_connection((address, port), timeout=60)
    sent = hashlib.sha256()
    for block in stream(octets):
        sent.update(block)
        connection.sendall(block)
    answer = b""
    while part := connection.recv(32):
        answer += part
    print("same" if answer == sent.digest() else "different")


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


if __name__ == "__main__":
    {"serve": serve, "send": send}[sys.argv[1]](sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
