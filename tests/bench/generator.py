"""Datagrams of many flows as fast as they go, run inside a namespace: ``python generator.py ADDRESS SECONDS FLOWS``.

Sixty at once by segmentation offload, so that making them costs little beside sealing them.
"""

from __future__ import annotations

import os
import socket
import sys
import time

from tests.bench.workers import OCTETS, TOGETHER

_UDP_SEGMENT = 103


def main(address: str, seconds: float, flows: int) -> None:
    """Send to the discard port until the time is over; gives way to everything else that wants the processor."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    sockets = []
    for _ in range(flows):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setsockopt(socket.SOL_UDP, _UDP_SEGMENT, OCTETS)
        udp.connect((address, 9))
        sockets.append(udp)
    data = bytes(OCTETS * TOGETHER)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for udp in sockets:
            try:
                udp.send(data)
            except ConnectionRefusedError:
                continue


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
