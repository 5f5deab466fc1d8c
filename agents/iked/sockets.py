"""The UDP sockets of IKE: ports 500 and 4500 of every local address a tunnel names.

One socket per address and port, so that an answer leaves from the address that was spoken to. Addresses that are not on
the machine yet are bound all the same (IP_FREEBIND). The non-ESP marker of port 4500 (RFC 3948 section 2.2) is added
and taken off here. Where the data plane owns port 4500, only port 500 is bound here.

Messages go out with DF, so that the path says when they are too big for it: the kernel at once, a router by ICMP, both
by the socket's error queue. A message that does not fit goes out once more in IP fragments, since the engine may be
unable to cut it smaller.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable, Iterable

from agents.dataplane import outer
from agents.dataplane.base import DataplaneError
from agents.dataplane.kernel import sockets as kernel_sockets
from agents.ike.outputs import Path

IKE_PORT = 500
NAT_T_PORT = 4500
NON_ESP_MARKER = bytes(4)

_BATCH = 64
_BUFFER_OCTETS = 65_536
_RECEIVE_BUFFER_OCTETS = 4 * 1024 * 1024
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23
_PMTUDISC_DONT = 0
_PMTUDISC_DO = 2
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_MSG_ERRQUEUE = 0x2000
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
"""struct sock_extended_err: errno, origin, type, code, padding, info, data."""
_ERROR_CONTROL_OCTETS = 512
KEEPALIVE = b"\xff"

_log = logging.getLogger(__name__)

Receive = Callable[[bytes, Path], None]
TooBig = Callable[[Path, int], None]


class IkeSockets:
    """Holds the sockets of a set of addresses; ``receive(datagram, path)`` gets what comes.

    ``too_big(path, packet_octets)`` hears of paths that take no longer IP packets, never from within :meth:`send`.
    """

    def __init__(self, receive: Receive, too_big: TooBig = lambda _path, _octets: None) -> None:
        self._receive = receive
        self._too_big = too_big
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        self._buffer = bytearray(_BUFFER_OCTETS)
        self._view = memoryview(self._buffer)
        self._kernel_esp = False
        self.send_failures = 0

    def bind(self, addresses: Iterable[str], *, port_4500: bool, kernel_esp: bool) -> list[str]:
        """Hold exactly these addresses; returns one sentence per socket that could not be bound.

        ``kernel_esp`` prepares the sockets for the kernel's ESP: encapsulated packets are taken out before us, and no
        policy catches IKE itself.
        """
        if kernel_esp != self._kernel_esp:
            self.close()
            self._kernel_esp = kernel_esp
        ports = (IKE_PORT, NAT_T_PORT) if port_4500 else (IKE_PORT,)
        wanted = {(address, port) for address in addresses for port in ports}
        for key in self._sockets.keys() - wanted:
            self._release(key)
        problems = []
        for address, port in sorted(wanted - self._sockets.keys()):
            try:
                self._hold(address, port)
            except (OSError, DataplaneError) as error:
                reason = error.strerror if isinstance(error, OSError) else error.reason
                problems.append(f"UDP port {port} of {address} cannot be bound: {reason}")
        return problems

    def send(self, path: Path, datagram: bytes) -> bool:
        """Send an IKE message; returns False when no socket holds the path's local end.

        A datagram the kernel will not take is lost like any other: retransmission is the engine's.
        """
        holder = self._sockets.get((path.local_address, path.local_port))
        if holder is None:
            return False
        if path.local_port == NAT_T_PORT:
            datagram = NON_ESP_MARKER + datagram
        self._send(holder, path, datagram)
        return True

    def keep_alive(self, path: Path) -> bool:
        """Send a NAT keepalive (RFC 3948 section 2.3); returns False when no socket holds the path's local end."""
        holder = self._sockets.get((path.local_address, path.local_port))
        if holder is not None:
            self._send(holder, path, KEEPALIVE)
        return holder is not None

    def _send(self, holder: socket.socket, path: Path, datagram: bytes) -> None:
        target = (path.remote_address, path.remote_port)
        try:
            try:
                holder.sendto(datagram, target)
            except OSError as error:
                self._take_errors(holder, path.local_address, path.local_port)
                if error.errno == errno.EMSGSIZE:
                    _send_in_fragments(holder, datagram, target)
                else:  # perhaps what became of an earlier datagram, told now instead of sending this one
                    holder.sendto(datagram, target)
        except OSError as error:
            self.send_failures += 1
            _log.debug("a datagram to %s was not sent: %s", path.remote_address, error.strerror)

    def _take_errors(self, udp: socket.socket, address: str, port: int) -> None:
        """Empty the error queue: what is too big for its path is told, the rest is lost like any datagram."""
        for _ in range(_BATCH):
            try:
                _, control, _, target = udp.recvmsg(0, _ERROR_CONTROL_OCTETS, _MSG_ERRQUEUE)
            except OSError:
                return
            for _, kind, value in control:
                if kind not in (_IP_RECVERR, _IPV6_RECVERR) or len(value) < _EXTENDED_ERROR.size:
                    continue
                number, _, _, _, _, packet_octets, _ = _EXTENDED_ERROR.unpack_from(value)
                if number == errno.EMSGSIZE and packet_octets:
                    peer_port = target[1] or port  # the kernel's own refusal names no port
                    path = Path(local_address=address, local_port=port, remote_address=target[0], remote_port=peer_port)
                    asyncio.get_running_loop().call_soon(self._too_big, path, packet_octets)

    def close(self) -> None:
        """Give every socket back."""
        for key in tuple(self._sockets):
            self._release(key)

    def _hold(self, address: str, port: int) -> None:
        udp = open_socket(address, port)
        try:
            if self._kernel_esp:
                kernel_sockets.bypass_policies(udp)
                if port == NAT_T_PORT:
                    kernel_sockets.accept_encapsulated_esp(udp)
        except DataplaneError:
            udp.close()
            raise
        self._sockets[address, port] = udp
        asyncio.get_running_loop().add_reader(udp.fileno(), self._drain, udp, address, port)

    def _release(self, key: tuple[str, int]) -> None:
        udp = self._sockets.pop(key)
        asyncio.get_running_loop().remove_reader(udp.fileno())
        udp.close()

    def _drain(self, udp: socket.socket, address: str, port: int) -> None:
        for _ in range(_BATCH):
            try:
                length, source = udp.recvfrom_into(self._buffer)
            except BlockingIOError:
                self._take_errors(udp, address, port)  # else it keeps the socket readable
                return
            except OSError as error:
                if error.errno in (errno.EBADF, errno.ENOTSOCK):
                    return  # released while this batch was handled
                self._take_errors(udp, address, port)
                continue  # an ICMP error of an earlier datagram
            start = 0
            if port == NAT_T_PORT:
                # One octet 0xff is a NAT keepalive, another SPI an ESP packet that no data plane took: not ours.
                if length <= 4 or self._buffer[:4] != NON_ESP_MARKER:
                    continue
                start = 4
            path = Path(local_address=address, local_port=port, remote_address=source[0], remote_port=source[1])
            self._receive(bytes(self._view[start:length]), path)


def _send_in_fragments(udp: socket.socket, datagram: bytes, target: tuple[str, int]) -> None:
    """Send once without DF. Raises OSError."""
    level, option = (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
    if udp.family == socket.AF_INET6:
        level, option = (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)
    udp.setsockopt(level, option, _PMTUDISC_DONT)
    try:
        udp.sendto(datagram, target)
    finally:
        udp.setsockopt(level, option, _PMTUDISC_DO)


def open_socket(address: str, port: int) -> socket.socket:
    """Return a non-blocking UDP socket bound to an address that need not exist yet. Raises OSError."""
    v6 = ipaddress.ip_address(address).version == 6
    udp = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        outer.mark(udp)
        if v6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
            udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            udp.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
            udp.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_OCTETS)
        udp.bind((address, port))
    except OSError:
        udp.close()
        raise
    return udp
