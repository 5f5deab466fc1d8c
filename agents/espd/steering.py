"""Which worker an ESP packet comes to: the kernel looks at its SPI, and what comes to a wrong one is handed over.

All workers hold the same UDP ports (``SO_REUSEPORT``). A classic BPF program returns the SPI modulo their number, which
the kernel takes as the place in the order they were bound in; IKE, whose first octets are zero, and keepalives come to
the first. Raw sockets each get everything, so each has a filter. Neither is relied upon: the kernel joins datagrams of
one peer whatever their SPI, and looks at the first.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from agents.dataplane.userspace.inward import Arrival
from agents.dataplane.userspace.rows import Datagram
from agents.espd.shared import Table

# linux/bpf_common.h, asm-generic/socket.h
_LD_WORD, _LD_WORD_BEHIND, _LDX_HEADER, _MOD, _EQUAL, _RETURN, _RETURN_A = 0x20, 0x40, 0xB1, 0x94, 0x15, 0x06, 0x16
_SO_ATTACH_FILTER, _SO_ATTACH_REUSEPORT_CBPF = 26, 51
_instruction = struct.Struct("=HBBI")
_program = struct.Struct("@HP")
_ALL = 0xFFFFFFFF

_head = struct.Struct("!B16s16sH")
_BUFFER_OCTETS = 4 << 20
_MOST_OCTETS = 65_535 + _head.size

_Program = Sequence[tuple[int, int, int, int]]


def _attach(opened: socket.socket, option: int, program: _Program) -> None:
    octets = b"".join(_instruction.pack(*each) for each in program)
    buffer = ctypes.create_string_buffer(octets, len(octets))
    opened.setsockopt(socket.SOL_SOCKET, option, _program.pack(len(program), ctypes.addressof(buffer)))


def by_spi(opened: socket.socket, workers: int) -> None:
    """Let datagrams to this bound UDP socket's port come to the worker of their SPI; raises OSError."""
    _attach(opened, _SO_ATTACH_REUSEPORT_CBPF, [(_LD_WORD, 0, 0, 0), (_MOD, 0, 0, workers), (_RETURN_A, 0, 0, 0)])


def only_spis_of(opened: socket.socket, worker: int, workers: int, *, version_6: bool) -> None:
    """Let a raw ESP socket have only what is for this worker; raises OSError. IPv4 ones see the IP header, too."""
    load = [(_LD_WORD, 0, 0, 0)] if version_6 else [(_LDX_HEADER, 0, 0, 0), (_LD_WORD_BEHIND, 0, 0, 0)]
    mine = [(_MOD, 0, 0, workers), (_EQUAL, 0, 1, worker), (_RETURN, 0, 0, _ALL), (_RETURN, 0, 0, 0)]
    _attach(opened, _SO_ATTACH_FILTER, [*load, *mine])


def nothing(opened: socket.socket) -> None:
    """Let a raw socket receive nothing; raises OSError."""
    _attach(opened, _SO_ATTACH_FILTER, [(_RETURN, 0, 0, 0)])


class Mail:
    """A way from every worker to every other for datagrams that came to the wrong one. Made before they are forked."""

    def __init__(self, workers: int) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(workers)]
        for one, other in pairs:
            one.setblocking(False)
            other.setblocking(False)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_OCTETS)
        self._receive = [one for one, _other in pairs]
        self._send = [other for _one, other in pairs]

    def fileno(self, worker: int) -> int:
        """Return the descriptor that is readable while something is there for this worker."""
        return self._receive[worker].fileno()

    def send(self, worker: int, arrival: Arrival, datagram: Datagram) -> bool:
        """Hand a datagram over; returns false where the other has no room for it."""
        local, remote = ipaddress.ip_address(arrival.local_address), ipaddress.ip_address(arrival.remote_address)
        head = _head.pack(arrival.traffic_class, _wide(local), _wide(remote), arrival.remote_port)
        try:
            self._send[worker].send(b"".join((head, datagram)))
        except (BlockingIOError, ConnectionError):
            return False
        return True

    def receive(self, worker: int) -> tuple[Arrival, bytes] | None:
        """Return what has been handed over to this worker, None when nothing is there."""
        try:
            octets = self._receive[worker].recv(_MOST_OCTETS)
        except BlockingIOError:
            return None
        traffic_class, local, remote, port = _head.unpack_from(octets)
        return Arrival(_narrow(local), _narrow(remote), port, traffic_class), octets[_head.size :]


def _wide(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def _narrow(octets: bytes) -> str:
    address = ipaddress.IPv6Address(octets)
    return str(address.ipv4_mapped or address)


@dataclass(frozen=True, slots=True)
class Share:
    """A worker's part: which of how many it is, and what it has in common with the others."""

    worker: int
    workers: int
    table: Table
    mail: Mail
