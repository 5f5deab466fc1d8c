"""Echo requests from a namespace, counted as ``ping`` counts them but with more patience.

After a first answer ``ping`` waits for the others only as long as two round trips took, or one interval. Where the data
plane is a process on a busy machine that is exceeded, and an answer that is only late counts as lost.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time

from deploy.lab.netns import Namespace
from tests.kernel.guest.harness import inside

PATIENCE_S = 20.0
"""How long the rest may take where some have come and all should."""

_REQUEST, _ANSWER, _ERRORS = {4: 8, 6: 128}, {4: 0, 6: 129}, {4: (3, 11), 6: (1, 2, 3, 4)}
_HEADER = struct.Struct("!BBHHH")


def opened(namespace: Namespace, target: str, source: str | None = None) -> socket.socket:
    """Return a socket for echoes to ``target`` that belongs to ``namespace``, whoever uses it."""
    family, protocol = socket.AF_INET, socket.IPPROTO_ICMP
    if ":" in target:
        family, protocol = socket.AF_INET6, socket.IPPROTO_ICMPV6
    with inside(namespace):
        raw = socket.socket(family, socket.SOCK_RAW, protocol)
    if source is not None:
        raw.bind((source, 0))
    return raw


def answers(
    raw: socket.socket,
    target: str,
    count: int = 3,
    payload: int = 56,
    *,
    interval_s: float = 0.02,
    none_s: float = 2.0,
    rest_s: float = PATIENCE_S,
) -> int:
    """Send echo requests one after the other; return how many answers came.

    Where there is none at all ``none_s`` after the last request, nobody waits any longer; where there are some, the
    rest has another ``rest_s``.
    """
    exchange = _Exchange(raw, payload)
    for number in range(count):
        exchange.send(target, number)
        if number < count - 1:
            exchange.hear(interval_s, all_of_it=True)
    if not exchange.came:
        exchange.hear(none_s, first_only=True)
    if exchange.came:
        exchange.hear(rest_s)
    return len(exchange.came)


class _Exchange:
    """The requests of one run, told from those of others by an identifier of their own."""

    def __init__(self, raw: socket.socket, payload: int) -> None:
        self._raw = raw
        self._version = 6 if raw.family == socket.AF_INET6 else 4
        self._identifier = int.from_bytes(os.urandom(2), "big")
        self._data = (bytes(range(256)) * (payload // 256 + 1))[:payload]
        self._waiting: set[int] = set()
        self.came: set[int] = set()

    def send(self, target: str, number: int) -> None:
        """Send one request; what the kernel refuses has no answer."""
        kind = _REQUEST[self._version]
        unsummed = _HEADER.pack(kind, 0, 0, self._identifier, number) + self._data
        # The kernel writes ICMPv6's checksum itself.
        octets = _HEADER.pack(kind, 0, _checksum(unsummed), self._identifier, number) + self._data
        with contextlib.suppress(OSError):
            self._raw.sendto(octets, (target, 0))
            self._waiting.add(number)

    def hear(self, limit_s: float, *, all_of_it: bool = False, first_only: bool = False) -> None:
        """Take answers until each request has one or is refused, or for so long.

        ``all_of_it`` is for so long, ``first_only`` until one has come.
        """
        deadline = time.monotonic() + limit_s
        while (self._waiting or all_of_it) and (left := deadline - time.monotonic()) > 0:
            if first_only and self.came:
                return
            if select.select([self._raw], [], [], left)[0]:
                self._take(self._raw.recv(1 << 17))

    def _take(self, packet: bytes) -> None:
        icmp = packet if self._version == 6 else packet[_ipv4_header(packet) :]
        kind, _code, _sum, identifier, number = _HEADER.unpack_from(icmp)
        if kind == _ANSWER[self._version]:
            if identifier == self._identifier and number in self._waiting and icmp[_HEADER.size :] == self._data:
                self._waiting.discard(number)
                self.came.add(number)
        elif kind in _ERRORS[self._version]:
            quoted = icmp[_HEADER.size :]
            quoted = quoted[40 if self._version == 6 else _ipv4_header(quoted) :]
            if len(quoted) >= _HEADER.size:
                kind, _code, _sum, identifier, number = _HEADER.unpack_from(quoted)
                if (kind, identifier) == (_REQUEST[self._version], self._identifier):
                    self._waiting.discard(number)


def _ipv4_header(packet: bytes) -> int:
    return (packet[0] & 15) * 4


def _checksum(octets: bytes) -> int:
    padded = octets + bytes(len(octets) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
