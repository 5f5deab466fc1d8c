"""UDP at a rate, run inside a namespace: ``python flood.py ADDRESS TOS MEGABITS``.

It says ``begun`` after a second, goes on until its standard input ends, and says how many packets it has sent.
"""

from __future__ import annotations

import select
import socket
import sys
import time

OCTETS = 1_200
BEGUN_S = 1.0


def flood(address: str, tos: int, megabits: float) -> int:
    """Send datagrams to the discard port, evenly over the time; returns how many."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        udp.setblocking(False)
        udp.connect((address, 9))
        start, sent, data, told = time.monotonic(), 0, bytes(OCTETS), False
        while not select.select([sys.stdin], [], [], 0.001)[0]:
            passed = time.monotonic() - start
            while sent * OCTETS * 8 < passed * megabits * 1e6:
                try:
                    udp.send(data)
                except (BlockingIOError, ConnectionRefusedError):
                    break
                sent += 1
            if passed > BEGUN_S and not told:
                print("begun", flush=True)
                told = True
    return sent


if __name__ == "__main__":
    print(flood(sys.argv[1], int(sys.argv[2], 0), float(sys.argv[3])))
