"""UDP at a rate, run inside a namespace: ``python flood.py ADDRESS TOS MEGABITS SECONDS``; says how many packets it
sent."""

from __future__ import annotations

import socket
import sys
import time

OCTETS = 1_200


def flood(address: str, tos: int, megabits: float, seconds: float) -> int:
    """Send datagrams to the discard port, evenly over the time; returns how many."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        udp.setblocking(False)
        udp.connect((address, 9))
        start, sent, data = time.monotonic(), 0, bytes(OCTETS)
        while (passed := time.monotonic() - start) < seconds:
            while sent * OCTETS * 8 < passed * megabits * 1e6:
                try:
                    udp.send(data)
                except (BlockingIOError, ConnectionRefusedError):
                    break
                sent += 1
            time.sleep(0.001)
    return sent


if __name__ == "__main__":
    print(flood(sys.argv[1], int(sys.argv[2], 0), float(sys.argv[3]), float(sys.argv[4])))
