"""The raw socket AH goes through (protocol 51): it covers the IP header, so that is made and read here.

Over IPv4 the header is the engine's own octet by octet, since the ICV covers the identification, which the kernel would
choose; so cutting a packet that is longer than its path is done here too. Over IPv6 the kernel makes a header all of
whose covered fields are known, and what it has taken off a packet that came is put together again from what it tells.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Sequence

from agents.dataplane.userspace import ip
from agents.dataplane.userspace.fragments import fragment
from agents.dataplane.userspace.inward import Arrival
from agents.dataplane.userspace.outward import Burst
from agents.dataplane.userspace.rows import Datagram
from agents.espd import steering
from agents.espd.sockets import Batch, RawBase, path_mtu, traffic_class_of
from agents.espd.steering import Share

ASK_AGAIN_S = 10.0
"""How long what the kernel knows of a path is remembered: it checks nothing of a header that is not its own."""
_IPV6_RECVHOPOPTS, _IPV6_HOPOPTS = 53, 54
_IPV6_RECVRTHDR, _IPV6_RTHDR = 56, 57
_IPV6_RECVDSTOPTS, _IPV6_DSTOPTS = 58, 59
_EXTENSIONS = {_IPV6_HOPOPTS: 0, _IPV6_RTHDR: 43, _IPV6_DSTOPTS: 60}
_IP_HDRINCL = 3


class AhSocket(RawBase):
    """Protocol 51 on one local address; raises OSError when it cannot be bound (root or CAP_NET_RAW).

    Of several workers' the first's receives.
    """

    def __init__(self, address: str, share: Share | None = None) -> None:
        super().__init__(address, socket.IPPROTO_AH)
        if share is not None and share.worker:
            steering.nothing(self._socket)
        self._mtu: dict[str, tuple[int, float]] = {}
        if self._version_6:
            for option in (_IPV6_RECVHOPOPTS, _IPV6_RECVRTHDR, _IPV6_RECVDSTOPTS):
                self._socket.setsockopt(socket.IPPROTO_IPV6, option, 1)
        else:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_HDRINCL, 1)

    def send(self, burst: Burst) -> Sequence[Datagram]:
        """See :class:`~agents.espd.sockets.EspSocket`."""
        if self._version_6:
            return super().send(burst)
        target = burst.path.remote_address
        most = self._most_octets(target)
        for sent, packet in enumerate(burst.packets):
            if len(packet) <= most:
                pieces: Sequence[Datagram] = [packet]
            elif burst.dont_fragment:
                self.unsent += 1
                self.too_big_for = most
                continue
            else:
                pieces = fragment(bytes(packet), most)
            for piece in pieces:
                try:
                    self._socket.sendto(piece, (target, 0))
                except BlockingIOError:
                    return burst.packets[sent:]
                except OSError as error:
                    self.unsent += 1
                    if error.errno == errno.EMSGSIZE:
                        self._mtu.pop(target, None)
                    break
        return []

    def _most_octets(self, target: str) -> int:
        octets, until = self._mtu.get(target, (0, 0.0))
        now = time.monotonic()
        if now >= until:
            try:
                octets = path_mtu(self.address, target)
            except OSError:
                return ip.MOST_OCTETS
            self._mtu[target] = octets, now + ASK_AGAIN_S
        return octets

    def receive(self) -> Batch | None:
        """See :class:`~agents.espd.sockets.EspSocket`. What comes is put together of fragments already."""
        try:
            octets, control, _flags, sender = self._socket.recvmsg(65535, 8192)
        except BlockingIOError:
            return None
        except OSError:
            return Batch(Arrival(self.address, "", 0, 0))
        remote = sender[0]
        if not self._version_6:
            return Batch(Arrival(self.address, remote, 0, octets[1]), ah=(octets,))
        packet = _with_header(remote, self.address, control, octets)
        return Batch(Arrival(self.address, remote, 0, traffic_class_of(control)), ah=(packet,))


def _with_header(source: str, destination: str, control: Sequence[tuple[int, int, bytes]], octets: bytes) -> bytes:
    """Return the packet as it was covered: IPv6 header, the extension headers before AH in their order, AH."""
    before = [
        (_EXTENSIONS[kind], value) for level, kind, value in control
        if level == socket.IPPROTO_IPV6 and kind in _EXTENSIONS
    ]  # fmt: skip
    extensions = b"".join(value for _protocol, value in before)
    here, there = (socket.inet_pton(socket.AF_INET6, each.partition("%")[0]) for each in (destination, source))
    first = before[0][0] if before else socket.IPPROTO_AH
    return ip.header(there, here, first, len(extensions) + len(octets)) + extensions + octets
