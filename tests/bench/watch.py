"""Looks at every packet of one gateway's namespace, from outside the data plane.

* ESP that leaves: per SA, sequence number and IV (AES-GCM's eight octets, RFC 4106 section 3.1) only ever go up, so no
  pair of key and IV is used twice.
* What a tunnel's link delivers is within that tunnel's selectors.

``python -m tests.bench.watch PLAN REPORT`` runs inside the namespace until SIGTERM; both files are JSON.
"""

from __future__ import annotations

import ipaddress
import json
import signal
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

_ALL = 0x0003  # ETH_P_ALL
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_RCVBUFFORCE = 33
_ESP, _UDP = 50, 17
_MOST_EXAMPLES = 20
_UDP_OCTETS = 8


class Watch:
    """What has been seen so far; ``plan`` names the outer link, each tunnel's networks, and SPIs to leave out."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._wan: str = plan["wan"]
        self._skip = frozenset(plan["skip"])
        self._links = {
            name: tuple(ipaddress.ip_network(each) for each in networks) for name, networks in plan["links"].items()
        }
        self._last: dict[tuple[bytes, int], tuple[int, int]] = {}
        self.counts: Counter[str] = Counter()
        self.examples: list[str] = []

    def packet(self, packet: bytes, link: str, kind: int) -> None:
        """Look at one IPv4 packet."""
        if len(packet) < 20 or packet[0] >> 4 != 4:
            return
        if link == self._wan and kind == socket.PACKET_OUTGOING:
            self._outer(packet)
        elif link in self._links and kind != socket.PACKET_OUTGOING:
            self._inner(packet, link)

    def _outer(self, packet: bytes) -> None:
        esp = packet[4 * (packet[0] & 15) :]
        if packet[9] == _UDP:
            ports = struct.unpack_from("!HH", esp)
            esp = esp[_UDP_OCTETS:]
            if 4500 not in ports or len(esp) < 16 or esp[:4] == bytes(4):
                return
        elif packet[9] != _ESP:
            return
        spi, sequence, iv = struct.unpack_from("!IIQ", esp)
        if spi in self._skip:
            return
        self.counts["esp"] += 1
        before = self._last.get((packet[16:20], spi))
        self._last[packet[16:20], spi] = (sequence, iv)
        if before is None:
            self.counts["sas"] += 1
        elif sequence <= before[0] or iv <= before[1]:
            self._wrong(
                "reused", f"SPI {spi:08x}: sequence number {before[0]} then {sequence}, IV {before[1]} then {iv}"
            )

    def _inner(self, packet: bytes, link: str) -> None:
        self.counts["delivered"] += 1
        near, far = self._links[link]
        source, destination = ipaddress.ip_address(packet[12:16]), ipaddress.ip_address(packet[16:20])
        if source not in far or destination not in near:
            self._wrong("outside", f"{link} delivered {source} to {destination}")

    def _wrong(self, what: str, example: str) -> None:
        self.counts[what] += 1
        if len(self.examples) < _MOST_EXAMPLES:
            self.examples.append(example)


def main() -> None:
    """Watch until SIGTERM; the report is written every second."""
    plan, report = Path(sys.argv[1]), Path(sys.argv[2])
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        ending = True

    signal.signal(signal.SIGTERM, end)
    watch = Watch(json.loads(plan.read_text()))
    # Without link header: what comes from a TUN has none either.
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
        raw.settimeout(0.2)
        told = 0.0
        while not ending:
            try:
                packet, (link, _protocol, kind, *_rest) = raw.recvfrom(65_536)
                watch.packet(packet, link, kind)
            except TimeoutError:
                pass
            if time.monotonic() - told >= 1:
                told = time.monotonic()
                _tell(watch, raw, report)
        _tell(watch, raw, report)


def _tell(watch: Watch, raw: socket.socket, report: Path) -> None:
    """Write the report; the kernel's count of what this socket missed begins anew with each asking."""
    _packets, missed = struct.unpack("=II", raw.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
    watch.counts["missed"] += missed
    fresh = report.with_suffix(".new")
    fresh.write_text(json.dumps({"counts": watch.counts, "examples": watch.examples}))
    fresh.replace(report)


if __name__ == "__main__":
    main()
