"""A packet socket: what the interfaces of this machine see, from the IP header on, with the kernel's time.

It sees packets as the IP stack hands them over: many segments may be one packet, and a checksum may not be there yet.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from agents.agentd.capture.pcapng import SNAP_OCTETS
from agents.agentd.capture.scope import NOTHING, Scope, socket_filter
from agents.agentd.errors import AgentError

_IP_PROTOCOLS = frozenset({0x0800, 0x86DD})
_EVERY_PROTOCOL = 0x0003  # ETH_P_ALL: only so are outgoing packets seen
_OTHER_HOST, _OUTGOING = 3, 4
_LOOPBACK = 772  # ARPHRD_LOOPBACK
_SO_ATTACH_FILTER, _SO_TIMESTAMPNS = 26, 35
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_BUFFER_OCTETS = 4 * 1024 * 1024
_ANCILLARY_OCTETS = socket.CMSG_SPACE(16)


class TapError(AgentError):
    """Packets cannot be seen: no right to, or no such interface."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One packet, ``time_ns`` in nanoseconds since 1970."""

    interface: str
    outbound: bool
    time_ns: int
    octets: bytes


class Tap:
    """An open socket, not blocking. Raises :class:`TapError`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._received = self._dropped = 0
        # A socket of protocol 0 receives nothing until it is bound; one for every interface cannot be bound.
        protocol = 0 if scope.interface is not None else socket.htons(_EVERY_PROTOCOL)
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, protocol)
        except OSError as error:
            raise TapError(f"packets cannot be captured here: {os.strerror(error.errno or 0)}") from None
        try:
            if program := socket_filter(scope.pairs):
                self._attach(NOTHING)
                self._drain()
                self._attach(program)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_OCTETS)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            if scope.interface is not None:
                self._socket.bind((scope.interface, _EVERY_PROTOCOL))
        except OSError as error:
            self._socket.close()
            where = scope.interface or "every interface"
            raise TapError(f"packets of {where} cannot be captured: {os.strerror(error.errno or 0)}") from None

    def _attach(self, program: Sequence[tuple[int, int, int, int]]) -> None:
        code = b"".join(struct.pack("=HBBI", *step) for step in program)
        kept = ctypes.create_string_buffer(code, len(code))
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(kept))
        )

    def _drain(self) -> None:
        """Throw away what came before there was a filter."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)

    def fileno(self) -> int:
        """Return the file descriptor, for the event loop."""
        return self._socket.fileno()

    def read(self) -> Seen | bool | None:
        """Return a packet of the scope, False for another one, None when there is none now.

        Raises :class:`TapError` when the interface is gone.
        """
        try:
            octets, ancillary, _flags, address = self._socket.recvmsg(SNAP_OCTETS, _ANCILLARY_OCTETS)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENETDOWN and self._scope.interface is None:
                return False  # one of many
            raise TapError(f"{self._scope.interface}: {os.strerror(error.errno or 0)}") from None
        interface, protocol, kind, hardware = address[:4]
        # Loopback shows each packet going out and coming in.
        if protocol not in _IP_PROTOCOLS or kind == _OTHER_HOST or (hardware == _LOOPBACK and kind == _OUTGOING):
            return False
        if len(octets) < 20 or not self._scope.wanted(octets):
            return False
        return Seen(
            interface=interface,
            outbound=kind == _OUTGOING,
            time_ns=_time_ns(ancillary),
            octets=octets,
        )

    def statistics(self) -> tuple[int, int]:
        """Return how many packets passed the filter, and how many of them found no room, since the start."""
        taken, dropped = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._received += taken
        self._dropped += dropped
        return self._received, self._dropped

    def close(self) -> None:
        """Stop seeing packets."""
        self._socket.close()


def _time_ns(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("@qq", value[:16])
            return int(seconds * 1_000_000_000 + nanoseconds)
    raise TapError("the kernel gave a packet no time")
