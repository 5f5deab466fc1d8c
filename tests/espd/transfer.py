"""A TCP transfer with a checksum, run inside a namespace: ``python transfer.py serve ADDRESS PORT`` at one end,
``python transfer.py send ADDRESS PORT OCTETS`` at the other; with ``-`` for octets it goes on until its input ends.

The data is SHA-256 blocks with a number in front of every 128 KiB, so that nothing of it is like anything else.
"""

from __future__ import annotations

import hashlib
import itertools
import select
import socket
import sys
from collections.abc import Iterator

_BLOCK = b"".join(hashlib.sha256(bytes((index & 255, index >> 8))).digest() for index in range(4096))


def stream(octets: str) -> Iterator[bytes]:
    """Yield the data, 128 KiB at a time, each with its number in front."""
    for number in itertools.count() if octets == "-" else range(0, int(octets), len(_BLOCK)):
        yield number.to_bytes(8, "big") + _BLOCK[8:]
        if octets == "-" and select.select([sys.stdin], [], [], 0)[0]:
            return


def serve(address: str, port: int) -> None:
    """Take one connection and answer with the digest of what came."""
    listening = socket.create_server((address, port), family=_family(address))
    print("ready", flush=True)
    connection, _peer = listening.accept()
    received = hashlib.sha256()
    while data := connection.recv(1 << 20):
        received.update(data)
    connection.sendall(received.digest())
    connection.close()


def send(address: str, port: int, octets: str) -> None:
    """Send the data and say ``same`` when the other end saw what was sent."""
    connection = socket.create_connection((address, port), timeout=60)
    sent = hashlib.sha256()
    for block in stream(octets):
        sent.update(block)
        connection.sendall(block)
    connection.shutdown(socket.SHUT_WR)
    answer = b""
    while part := connection.recv(32):
        answer += part
    print("same" if answer == sent.digest() else "different")


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        send(sys.argv[2], int(sys.argv[3]), sys.argv[4])
