"""UDP of mixed sizes through every tunnel, each packet numbered and its octets known beforehand.

``python -m tests.bench.inner_traffic PLAN REPORT`` runs inside a gateway's namespace. It writes the report (JSON) when
it listens, every second, and at the end; it sends from the first line of its standard input on until that ends, and
then listens until nothing has come for a while. Packets whose addresses a tunnel does not protect (``strays``) are sent
too; nobody may get them.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

SIZES = (12, 40, 64, 200, 512, 576, 1_000, 1_200, 1_400, 3_000, 8_000)
"""Octets of UDP payload; the last two are more than a link's MTU and go in fragments."""
_HEADER = struct.Struct("!HIIH")  # tunnel, number, when the sender began, octets
_QUIET_S = 3.0
_BUFFER_OCTETS = 4 << 20
_STRAYS_EACH = 50
"""A stray follows so many packets."""


def payload(tunnel: int, number: int, run: int, octets: int) -> bytes:
    """Return what the packet with this number holds."""
    head = _HEADER.pack(tunnel, number, run, octets)
    return head + bytes(((tunnel + number) & 0xFF,)) * (octets - len(head))


class Traffic:
    """One gateway's side. ``pairs`` are inner addresses of each tunnel, ours and theirs, ``strays`` must not pass."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._pairs: list[tuple[str, str]] = [tuple(each) for each in plan["pairs"]]
        self._strays: list[tuple[str, str]] = [tuple(each) for each in plan["strays"]]
        self._per_s: float = plan["per_s"]
        self._port: int = plan["port"]
        self._run = int(time.time())
        self._dice = random.Random(plan["seed"])
        self._selector = selectors.DefaultSelector()
        self._sockets: dict[str, socket.socket] = {}
        for address in dict.fromkeys([*plan["addresses"], *(here for here, _ in self._pairs + self._strays)]):
            self._open(address)
        self.sent: Counter[int] = Counter()
        self.received: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.examples: list[str] = []
        self.strays_sent = 0
        self.late = 0
        """Packets that another one of their tunnel has passed."""
        self._next: Counter[int] = Counter()
        self._missing: dict[int, set[int]] = {}
        self.heard_at = time.monotonic()

    def _open(self, address: str) -> None:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_OCTETS)
        opened.bind((address, self._port))
        opened.setblocking(False)
        self._sockets[address] = opened
        self._selector.register(opened, selectors.EVENT_READ, address)

    def close(self) -> None:
        """Close the sockets."""
        self._selector.close()
        for opened in self._sockets.values():
            opened.close()

    def send(self, turn: int) -> None:
        """Send one packet through the tunnel whose turn it is."""
        tunnel = turn % len(self._pairs)
        here, there = self._pairs[tunnel]
        octets = self._dice.choice(SIZES)
        self._sockets[here].sendto(payload(tunnel, self.sent[tunnel], self._run, octets), (there, self._port))
        self.sent[tunnel] += 1
        if self._strays and turn % _STRAYS_EACH == 0:
            here, there = self._strays[self.strays_sent % len(self._strays)]
            self._sockets[here].sendto(payload(0xFFFF, self.strays_sent, self._run, 64), (there, self._port))
            self.strays_sent += 1

    def receive(self, timeout_s: float) -> bool:
        """Take what is there; returns whether the standard input has ended."""
        ended = False
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                ended = sys.stdin.read(1) == ""
            else:
                self._drain(key.data)
        return ended

    def _drain(self, address: str) -> None:
        while True:
            try:
                packet, (source, _port) = self._sockets[address].recvfrom(65_536)
            except BlockingIOError:
                return
            self._take(address, source, packet)

    def _take(self, here: str, there: str, packet: bytes) -> None:
        self.heard_at = time.monotonic()
        tunnel, number, run, octets = _HEADER.unpack_from(packet)
        if tunnel >= len(self._pairs) or self._pairs[tunnel] != (here, there):
            self._fault("stray", f"from {there} to {here}")
        elif packet != payload(tunnel, number, run, octets):
            self._fault("changed", f"tunnel {tunnel}, number {number}")
        else:
            self._number(tunnel, number)

    def _number(self, tunnel: int, number: int) -> None:
        missing = self._missing.setdefault(tunnel, set())
        if number >= self._next[tunnel]:
            missing.update(range(self._next[tunnel], number))
            self._next[tunnel] = number + 1
        elif number in missing:
            missing.remove(number)
            self.late += 1
        else:
            self._fault("twice", f"tunnel {tunnel}, number {number}")
            return
        self.received[tunnel] += 1

    def _fault(self, what: str, example: str) -> None:
        self.faults[what] += 1
        if len(self.examples) < 20:
            self.examples.append(f"{what}: {example}")

    def run(self, report: Path) -> None:
        """Send at an even pace until the standard input ends, then listen until it is quiet."""
        self.tell(report)
        sys.stdin.readline()
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)
        began, turn, told = time.monotonic(), 0, 0.0
        while not self.receive(0.005):
            due = int((time.monotonic() - began) * self._per_s)
            for _ in range(min(due - turn, 50)):  # after a pause of the machine no burst that a queue could not hold
                self.send(turn)
                turn += 1
            if due - turn > self._per_s:
                began += (due - turn) / self._per_s
            if time.monotonic() - told >= 1:
                told = time.monotonic()
                self.tell(report)
        self._selector.unregister(sys.stdin)
        self.heard_at = time.monotonic()
        while time.monotonic() - self.heard_at < _QUIET_S:
            self.receive(0.2)
        self.tell(report)

    def tell(self, report: Path) -> None:
        """Write what was sent and what came, by tunnel."""
        fresh = report.with_suffix(".new")
        found = {
            "sent": [self.sent[number] for number in range(len(self._pairs))],
            "received": [self.received[number] for number in range(len(self._pairs))],
            "faults": self.faults,
            "examples": self.examples,
            "strays_sent": self.strays_sent,
            "late": self.late,
        }
        fresh.write_text(json.dumps(found))
        fresh.replace(report)


def main() -> None:
    """Run from the command line."""
    Traffic(json.loads(Path(sys.argv[1]).read_text())).run(Path(sys.argv[2]))


if __name__ == "__main__":
    main()
