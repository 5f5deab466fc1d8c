"""Datagrams of many flows, run inside a namespace: ``python many_flows.py ADDRESS FLOWS DATAGRAMS OCTETS``."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack


def send(address: str, flows: int, datagrams: int, octets: int) -> None:
    """Send so many datagrams of each flow to the discard port, in turns; waits where a link has no room."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(flows)]
        for each in sockets:
            each.connect((address, 9))
        for _ in range(datagrams):
            for each in sockets:
                try:
                    each.send(bytes(octets))
                except ConnectionRefusedError:
                    each.send(bytes(octets))


if __name__ == "__main__":
    send(sys.argv[1], *map(int, sys.argv[2:5]))
