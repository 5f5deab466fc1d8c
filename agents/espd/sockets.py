"""The sockets ESP and AH go through: UDP with segmentation offload in both directions (RFC 3948), raw protocols 50, 51.

Here: one object per local address, sending bursts and receiving batches. What is in them is the engine's. Sends never
wait: what the kernel has no room for is handed back, a datagram that it does not take is counted and gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agents.dataplane import outer
from agents.dataplane.userspace.inward import Arrival
from agents.dataplane.userspace.outward import Burst
from agents.dataplane.userspace.rows import Datagram, Rows, Run
from agents.dataplane.userspace.vector import WORTH
from agents.espd import steering
from agents.espd.steering import Share

ENCAPSULATION_PORT = 4500
NON_ESP_MARKER = bytes(4)
_KEEPALIVE = b"\xff"

# Not in the socket module: linux/udp.h, linux/in.h, linux/in6.h.
_UDP_SEGMENT, _UDP_GRO = 103, 104
_IP_MTU_DISCOVER, _IP_FREEBIND, _PMTUDISC_DONT, _PMTUDISC_DO = 10, 15, 0, 2
_IP_MTU, _IPV6_MTU = 14, 24
_IPV6_MTU_DISCOVER, _IPV6_FREEBIND = 23, 78
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER_OCTETS = 4 << 20
_LITTLE_OCTETS = 64 << 10
"""As setsockopt takes it: the kernel doubles it and counts its own overhead in."""
_LITTLE_WAITING_OCTETS = 96 << 10
"""So counted; the kernel says that there is room again when half of the doubled buffer is left."""
_SIOCOUTQ = 0x5411

_MAX_SEGMENTS = 64
_MOST_OCTETS = 65_536
_MOST_TOGETHER = 64
"""Packets of a raw socket in one batch: about what one UDP receive brings."""
_MAX_DATAGRAM_OCTETS = 65000
_RUNS_UNTIL_GSO_RETRY = 1000
_u16 = struct.Struct("=H").pack
_int = struct.Struct("=i")

_Control = list[tuple[int, int, bytes]]
_GSO_REFUSED = frozenset({errno.EINVAL, errno.EMSGSIZE, errno.EIO, errno.EOPNOTSUPP, errno.ENOPROTOOPT})


@dataclass(frozen=True, slots=True)
class IkeMessage:
    """A datagram that carried the non-ESP marker, without it."""

    arrival: Arrival
    octets: bytes


@dataclass(slots=True)
class Batch:
    """What one receive brought from one place: ESP packets, whole IP packets with AH, and IKE messages.

    ``run`` are ESP packets of one length before the others, in memory that the next receive uses again.
    """

    arrival: Arrival
    run: Run | None = field(default=None, kw_only=True)
    esp: Sequence[bytes | memoryview] = ()
    ike: Sequence[IkeMessage] = ()
    ah: Sequence[bytes] = ()


class EspSocket(Protocol):
    """One local address (and port) that packets leave from and arrive at.

    ``too_big_for`` is what a path takes where the last burst had something longer, for the caller to take out;
    ``holds_little`` is whether :meth:`hold_little` was asked for; with ``has_more``, the next :meth:`receive` has
    something even if the kernel has nothing.
    """

    unsent: int
    too_big_for: int | None
    holds_little: bool

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        ...

    @property
    def has_more(self) -> bool:
        """Whether something was received already that has not been returned."""
        ...

    def send(self, burst: Burst) -> Sequence[Datagram]:
        """Send a burst; returns the packets that the kernel has no room for now."""
        ...

    def receive(self) -> Batch | None:
        """Return what is there, None when nothing is."""
        ...

    def hold_little(self) -> None:
        """Take little more than is on its way out."""
        ...

    def hold_much(self) -> None:
        """Take what comes, as at the beginning."""
        ...

    def close(self) -> None:
        """Let go of the address."""
        ...


class _Socket:
    """What UDP and raw sockets have in common."""

    def __init__(self, address: str, kind: int, protocol: int, port: int, *, shared: bool = False) -> None:
        self.address = address
        self.unsent = 0
        self.too_big_for: int | None = None
        self.holds_little = False
        self._version_6 = ":" in address
        self._socket = _open(address, kind, protocol, port, shared=shared)
        self._discovery = (
            (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER) if self._version_6 else (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
        )
        self._forbids_fragments = False
        self._tos = _traffic_class_option(address)

    def fileno(self) -> int:
        """See :class:`EspSocket`."""
        return self._socket.fileno()

    @property
    def has_more(self) -> bool:
        """See :class:`EspSocket`."""
        return False

    def close(self) -> None:
        """See :class:`EspSocket`."""
        self._socket.close()

    def hold_little(self) -> None:
        """See :class:`EspSocket`."""
        if not self.holds_little:
            self.holds_little = True
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LITTLE_OCTETS)

    def hold_much(self) -> None:
        """See :class:`EspSocket`."""
        if self.holds_little:
            self.holds_little = False
            _set_buffer(self._socket, _SO_SNDBUFFORCE, socket.SO_SNDBUF)

    def _forbid_fragments(self, forbid: bool) -> None:
        """Let the kernel set DF and cut nothing itself, or the opposite."""
        if forbid is not self._forbids_fragments:
            self._forbids_fragments = forbid
            self._socket.setsockopt(*self._discovery, _PMTUDISC_DO if forbid else _PMTUDISC_DONT)

    def _control(self, burst: Burst) -> _Control:
        return [(*self._tos, _int.pack(burst.traffic_class))] if burst.traffic_class else []

    def _send_each(self, packets: Sequence[Datagram], control: _Control, target: tuple[str, int]) -> int:
        """Send packets one by one; returns how many were dealt with before the kernel had no room."""
        for sent, packet in enumerate(packets):
            try:
                if control:
                    self._socket.sendmsg((packet,), control, 0, target)
                else:
                    self._socket.sendto(packet, target)
            except BlockingIOError:
                return sent
            except OSError as error:
                self.unsent += 1
                if error.errno == errno.EMSGSIZE and self._forbids_fragments:
                    self.too_big_for = path_mtu(self.address, target[0])
        return len(packets)


def _set_buffer(opened: socket.socket, forced: int, plain: int) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, forced, _BUFFER_OCTETS)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, plain, _BUFFER_OCTETS)


def _open(address: str, kind: int, protocol: int, port: int, *, shared: bool) -> socket.socket:
    """Bind a socket that needs no MTU from the kernel: ESP packets may be fragmented on their way."""
    version_6 = ":" in address
    opened = socket.socket(socket.AF_INET6 if version_6 else socket.AF_INET, kind | socket.SOCK_NONBLOCK, protocol)
    with contextlib.ExitStack() as undo:
        undo.callback(opened.close)
        outer.mark(opened)
        if version_6:
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _set_buffer(opened, _SO_RCVBUFFORCE, socket.SO_RCVBUF)
        _set_buffer(opened, _SO_SNDBUFFORCE, socket.SO_SNDBUF)
        opened.bind((address, port))
        undo.pop_all()
    return opened


class UdpSocket(_Socket):
    """UDP on one local address and port, with ``share`` other workers too; raises OSError when it cannot be bound.

    ``rows`` is memory of ``RECEIVED_OCTETS`` to receive into, which sockets that are read in turns may have in common.
    """

    def __init__(self, address: str, port: int, rows: Rows, share: Share | None = None) -> None:
        super().__init__(address, socket.SOCK_DGRAM, 0, port, shared=share is not None)
        if share is not None:
            steering.by_spi(self._socket, share.workers)
        self.port = port
        self._socket.setsockopt(socket.SOL_UDP, _UDP_GRO, 1)
        self._rows = rows
        self._kept: Batch | None = None
        # A path whose MTU is below a segment refuses segmentation offload: for a while, such segments go one by one.
        self._too_long_for_gso = 65536
        self._runs_until_retry = 0

    def send(self, burst: Burst) -> Sequence[Datagram]:
        """See :class:`EspSocket`. Runs of equal length go in one call, a shorter last packet with them."""
        packets = burst.packets
        lengths = list(map(len, packets))
        target = (burst.path.remote_address, burst.path.remote_port)
        control = self._control(burst)
        self._forbid_fragments(burst.dont_fragment)
        start = at = 0
        while start < len(packets):
            size = lengths[start]
            most = start + max(1, min(_MAX_SEGMENTS, _MAX_DATAGRAM_OCTETS // size))
            end = start + _run_length(lengths[start:most])
            run = packets[start:end]
            octets = sum(lengths[start:end])
            # In one piece: the kernel takes that in less time than it takes to tell it of many.
            whole = b"".join(run) if burst.whole is None else burst.whole[at : at + octets]
            sent = self._send(run, whole, size, control, target)
            if start + sent < end:
                return packets[start + sent :]
            start, at = end, at + octets
        return ()

    def _send(
        self,
        run: Sequence[Datagram],
        whole: Datagram,
        size: int,
        control: _Control,
        target: tuple[str, int],
    ) -> int:
        """Send a run; returns how many were dealt with before the kernel had no room."""
        if len(run) > 1 and size < self._too_long_for_gso:
            try:
                self._socket.sendmsg([whole], [*control, (socket.SOL_UDP, _UDP_SEGMENT, _u16(size))], 0, target)
                return len(run)
            except BlockingIOError:
                return 0
            except OSError as error:
                if error.errno not in _GSO_REFUSED:
                    self.unsent += len(run)
                    return len(run)
                self._too_long_for_gso = size
                self._runs_until_retry = _RUNS_UNTIL_GSO_RETRY
        elif len(run) > 1:
            self._runs_until_retry -= 1
            if self._runs_until_retry <= 0:
                self._too_long_for_gso = 65536
        return self._send_each(run, control, target)

    def send_ike(self, octets: bytes, address: str, port: int) -> int | None:
        """Send an IKE message behind the non-ESP marker, with DF; raises OSError.

        One that the path is known to be too narrow for goes in IP fragments instead, and the path's MTU is returned.
        What a router says of it by ICMP the kernel keeps for the next one: ESP needs no error queue that could stop it.
        """
        datagram, target = NON_ESP_MARKER + octets, (address, port)
        self._forbid_fragments(True)
        try:
            self._send_at_once(datagram, target)
            return None
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
        self._forbid_fragments(False)
        self._send_at_once(datagram, target)
        return path_mtu(self.address, address)

    def _send_at_once(self, datagram: bytes, target: tuple[str, int]) -> None:
        """Send what must not be lost because tunnels fill the little that the socket holds; raises OSError."""
        try:
            self._socket.sendto(datagram, target)
        except BlockingIOError:
            if not self.holds_little:
                raise
            self.hold_much()
            try:
                self._socket.sendto(datagram, target)
            finally:
                self.hold_little()

    def keep_alive(self, address: str, port: int) -> None:
        """Send a NAT keepalive (RFC 3948 section 2.3); raises OSError."""
        self._send_at_once(_KEEPALIVE, (address, port))

    @property
    def has_more(self) -> bool:
        """See :class:`EspSocket`."""
        return self._kept is not None

    def receive(self) -> Batch | None:
        """See :class:`EspSocket`. The kernel joins equal datagrams of one sender, the last may be shorter.

        As long as it goes on so, what it joined is received one behind the other, to be worked on at once.
        """
        batch, self._kept = self._kept or self._receive_one(None), None
        while batch is not None and batch.run is not None and not batch.esp:
            if not batch.run.has_room(_MAX_SEGMENTS, _MOST_OCTETS):
                break
            more = self._receive_one(batch)
            if more is None or more.run is None:
                self._kept = more
                break
            batch = more
        return batch

    def _receive_one(self, before: Batch | None) -> Batch | None:
        """Receive what the kernel has joined, behind a run that it may go on; what goes on is given back with it."""
        run = None if before is None else before.run
        begin = 0 if run is None else run.octets * run.count
        memory = self._rows.memory[begin : begin + _MOST_OCTETS]
        try:
            length, control, _flags, sender = self._socket.recvmsg_into((memory,), 128)
        except BlockingIOError:
            return None
        except OSError:
            # An ICMP error that an earlier send caused: nothing was received, and the socket is as good as before.
            return Batch(Arrival(self.address, "", 0, 0), ())
        size, traffic_class = length, 0
        for level, kind, value in control:
            if level == socket.SOL_UDP and kind == _UDP_GRO:
                (size,) = _int.unpack(value)
            elif level == self._tos[0] and kind in (socket.IP_TOS, socket.IPV6_TCLASS):
                traffic_class = int.from_bytes(value, sys.byteorder)
        arrival = Arrival(self.address, sender[0], sender[1], traffic_class)
        if not length:
            return Batch(arrival, ())
        # The first octet of every datagram: none of them zero means that no marker is among them.
        esp_only = size > 3 and length % size != 1 and 0 not in bytes(memory[:length:size])
        if run is not None and before is not None:
            goes_on = arrival == before.arrival and size == run.octets
            count = run.count + length // size if goes_on else 0
        else:
            count = length // size if length >= WORTH * size else 0
        if esp_only and self._rows.fit(size, count):
            rest = (bytes(memory[length - length % size : length]),) if length % size else ()
            return Batch(arrival, rest, run=Run(self._rows, size, count))
        # One copy of all, since slices of bytes are quicker to take and to decrypt than views are.
        octets = bytes(memory[:length])
        datagrams = [octets[at : at + size] for at in range(0, length, size)]
        return Batch(arrival, datagrams) if esp_only else _sorted(arrival, datagrams)


def path_mtu(local_address: str, remote_address: str) -> int:
    """Return what the kernel knows of the path's MTU; raises OSError."""
    v6 = ":" in remote_address
    with socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        outer.mark(probe)
        probe.bind((local_address, 0))
        probe.connect((remote_address, ENCAPSULATION_PORT))
        return probe.getsockopt(*((socket.IPPROTO_IPV6, _IPV6_MTU) if v6 else (socket.IPPROTO_IP, _IP_MTU)))


def _run_length(lengths: list[int]) -> int:
    """Return how many packets go in one call: those as long as the first, and a shorter one behind them."""
    size = lengths[0]
    count = len(lengths)
    if lengths.count(size) < count:
        count = next(index for index, length in enumerate(lengths) if length != size)
        count += lengths[count] < size
    return count


def _sorted(arrival: Arrival, datagrams: Sequence[bytes]) -> Batch:
    """Tell ESP from IKE and keepalives (RFC 3948 sections 2.2, 2.3)."""
    esp, ike = [], []
    for datagram in datagrams:
        if datagram == _KEEPALIVE:
            continue
        if datagram[:4] == NON_ESP_MARKER:
            ike.append(IkeMessage(arrival, datagram[4:]))
        else:
            esp.append(datagram)
    return Batch(arrival, esp, ike)


class RawBase(_Socket):
    """A protocol without ports on one local address."""

    def __init__(self, address: str, protocol: int) -> None:
        super().__init__(address, socket.SOCK_RAW, protocol, 0)

    def send(self, burst: Burst) -> Sequence[Datagram]:
        """See :class:`EspSocket`.

        The kernel does not say when it has no room for a packet of a raw socket: it is lost without a word. So it is
        asked before a burst how much waits already, and before each packet where that is to be little.
        """
        self._forbid_fragments(burst.dont_fragment)
        control, target = self._control(burst), (burst.path.remote_address, 0)
        packets, start = burst.packets, 0
        step = 1 if self.holds_little else len(packets)
        while start < len(packets):
            if self._is_full():
                return packets[start:]
            sent = self._send_each(packets[start : start + step], control, target)
            if sent < min(step, len(packets) - start):
                return packets[start + sent :]
            start += sent
        return []

    def _is_full(self) -> bool:
        waiting: int = _int.unpack(fcntl.ioctl(self._socket, _SIOCOUTQ, bytes(4)))[0]
        return waiting > (_LITTLE_WAITING_OCTETS if self.holds_little else 2 * _BUFFER_OCTETS)


class RawSocket(RawBase):
    """Protocol 50 on one local address; raises OSError when it cannot be bound (root or CAP_NET_RAW).

    Of several workers' each receives what is for its worker.
    """

    def __init__(self, address: str, share: Share | None = None) -> None:
        super().__init__(address, socket.IPPROTO_ESP)
        if share is not None:
            steering.only_spis_of(self._socket, share.worker, share.workers, version_6=self._version_6)
        self._buffer = memoryview(bytearray(65536))
        self._kept: tuple[bytes, bytes] | None = None

    @property
    def has_more(self) -> bool:
        """See :class:`EspSocket`."""
        return self._kept is not None

    def receive(self) -> Batch | None:
        """See :class:`EspSocket`. Packets in a row that have source and traffic class in common make one batch.

        The kernel hands them over one by one, so that what is done for each counts.
        """
        kept, self._kept = self._kept, None
        packets: list[bytes] = []
        common = b""
        while len(packets) < _MOST_TOGETHER:
            try:
                found = kept or self._receive_one()
            except BlockingIOError:
                break
            except OSError:
                # An ICMP error that an earlier send caused: nothing was received.
                if not packets:
                    return Batch(Arrival(self.address, "", 0, 0))
                break
            kept = None
            if packets and found[0] != common:
                self._kept = found
                break
            common = found[0]
            packets.append(found[1])
        if not packets:
            return None
        remote = socket.inet_ntop(socket.AF_INET6 if self._version_6 else socket.AF_INET, common[1:])
        return Batch(Arrival(self.address, remote, 0, common[0]), packets)

    def _receive_one(self) -> tuple[bytes, bytes]:
        """Return traffic class and source as octets, and a packet. IPv6 raw sockets take the header off themselves."""
        view = self._buffer
        if not self._version_6:
            length = self._socket.recv_into(view)
            return bytes((view[1], *view[12:16])), bytes(view[(view[0] & 15) * 4 : length])
        length, control, _flags, sender = self._socket.recvmsg_into((view,), 64)
        source = socket.inet_pton(socket.AF_INET6, sender[0].partition("%")[0])
        return bytes((traffic_class_of(control),)) + source, bytes(view[:length])


def traffic_class_of(control: Sequence[tuple[int, int, bytes]]) -> int:
    """Return the traffic class of an IPv6 packet that came, 0 where the kernel does not say."""
    for level, kind, value in control:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_TCLASS:
            return int.from_bytes(value, sys.byteorder)
    return 0


def _traffic_class_option(address: str) -> tuple[int, int]:
    if ":" in address:
        return (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
    return (socket.IPPROTO_IP, socket.IP_TOS)
