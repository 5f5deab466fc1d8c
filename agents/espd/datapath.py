"""The loop between TUNs and sockets: wake up, drain a bounded batch, let the engine work on it, write it out.

Everything runs in callbacks of the event loop's poller, without a task or a future per packet. What is to be done per
packet is in :mod:`agents.dataplane.userspace`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable

from agents.contract.status import QueueStatus
from agents.dataplane.base import TunnelLink
from agents.dataplane.userspace.engine import Burst, Engine
from agents.dataplane.userspace.ip import MalformedPacket
from agents.dataplane.userspace.offload import coalesce, segment
from agents.dataplane.userspace.sadb import Path
from agents.espd.sockets import ENCAPSULATION_PORT, EspSocket, IkeMessage, RawSocket, UdpSocket
from agents.espd.tun import Tun

READS_PER_WAKE_UP = 16
"""So that no device starves the others: super-packets count as one."""

_log = logging.getLogger(__name__)
Key = tuple[str, int]
"""Local address and UDP port, port 0 for protocol 50."""


class Datapath:
    """Devices, sockets and one engine. ``on_ike`` gets IKE messages, ``on_notice`` is called when notices wait."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_ike: Callable[[IkeMessage], None],
        on_notice: Callable[[], None],
    ) -> None:
        self.engine = Engine(os.urandom)
        self._loop = loop
        self._on_ike = on_ike
        self._on_notice = on_notice
        self._tuns: dict[str, Tun] = {}
        self._sockets: dict[Key, EspSocket] = {}
        self._bound: frozenset[Key] = frozenset()
        self._dropped: Counter[str] = Counter()

    # Links

    @property
    def links(self) -> dict[str, TunnelLink]:
        """The links there are, by tunnel."""
        return {
            tunnel_id: TunnelLink(tunnel_id=tunnel_id, name=tun.name, mtu=tun.mtu)
            for tunnel_id, tun in self._tuns.items()
        }

    def open_link(self, link: TunnelLink) -> None:
        """Make or change a tunnel's device; raises OSError."""
        tun = self._tuns.get(link.tunnel_id)
        if tun is not None and tun.name != link.name:
            self.close_link(link.tunnel_id)
            tun = None
        if tun is None:
            tun = Tun(link.name, link.mtu)
            self._tuns[link.tunnel_id] = tun
            self._loop.add_reader(tun.fd, self._tun_readable, link.tunnel_id, tun)
        elif tun.mtu != link.mtu:
            tun.set_mtu(link.mtu)

    def close_link(self, tunnel_id: str) -> None:
        """Remove a tunnel's device if it is there."""
        tun = self._tuns.pop(tunnel_id, None)
        if tun is not None:
            self._dropped["in.link"] += tun.dropped
            self._loop.remove_reader(tun.fd)
            tun.close()

    # Sockets

    def bind(self, addresses: tuple[str, ...]) -> None:
        """Hold UDP 4500 on exactly these local addresses, and what SAs need; raises OSError."""
        bound = frozenset((address, ENCAPSULATION_PORT) for address in addresses)
        try:
            for key in bound:
                self._need(key)
            self._bound = bound
        finally:
            self.release_sockets()

    def need_path(self, path: Path) -> None:
        """Open the socket an SA's packets go through; raises OSError."""
        self._need((path.local_address, path.local_port))

    def release_sockets(self) -> None:
        """Close the sockets that neither :meth:`bind` nor an SA asks for any more."""
        needed = self._bound | {(path.local_address, path.local_port) for path in self.engine.paths()}
        for key in [key for key in self._sockets if key not in needed]:
            opened = self._sockets.pop(key)
            self._dropped["out.unsent"] += opened.unsent
            self._loop.remove_reader(opened)
            opened.close()

    def send_ike(self, local_address: str, octets: bytes, address: str, port: int) -> int | None:
        """Send an IKE message from UDP 4500, where :meth:`holds_port`; raises OSError.

        Returns the path's MTU when the message was too big for it.
        """
        return self._udp_4500(local_address).send_ike(octets, address, port)

    def keep_alive(self, local_address: str, address: str, port: int) -> None:
        """Send a NAT keepalive from UDP 4500, where :meth:`holds_port`; raises OSError."""
        self._udp_4500(local_address).keep_alive(address, port)

    def _udp_4500(self, local_address: str) -> UdpSocket:
        opened = self._sockets[local_address, ENCAPSULATION_PORT]
        assert isinstance(opened, UdpSocket)
        return opened

    def holds_port(self, local_address: str) -> bool:
        """Whether UDP 4500 is held on this address."""
        return (local_address, ENCAPSULATION_PORT) in self._sockets

    def _need(self, key: Key) -> None:
        if key not in self._sockets:
            opened: EspSocket = UdpSocket(*key) if key[1] else RawSocket(key[0])
            self._sockets[key] = opened
            self._loop.add_reader(opened, self._socket_readable, opened)

    # Packets

    def _tun_readable(self, tunnel_id: str, tun: Tun) -> None:
        groups = []
        for _turn in range(READS_PER_WAKE_UP):
            try:
                frame = tun.read()
            except OSError as error:
                _log.warning("%s is gone: %s", tun.name, error)
                self.close_link(tunnel_id)
                break
            if frame is None:
                break
            try:
                groups.append(segment(frame))
            except MalformedPacket:
                self._dropped["out.malformed"] += 1
        self._transmit(self.engine.outbound(tunnel_id, groups, time.monotonic()))
        if self.engine.has_notices:
            self._on_notice()

    def _transmit(self, bursts: list[Burst]) -> None:
        """Send bursts, those of one path in a row together."""
        waiting: Burst | None = None
        for burst in bursts:
            if waiting is not None:
                if burst.path is waiting.path and burst.traffic_class == waiting.traffic_class:
                    waiting.packets.extend(burst.packets)
                    continue
                self._send(waiting)
            waiting = burst
        if waiting is not None:
            self._send(waiting)

    def _send(self, burst: Burst) -> None:
        opened = self._sockets.get((burst.path.local_address, burst.path.local_port))
        if opened is None:
            self._dropped["out.no-socket"] += len(burst.packets)
        else:
            opened.send(burst)

    def _socket_readable(self, opened: EspSocket) -> None:
        """Receive what is there before anything is written, so that runs of segments get as long as they can."""
        now = time.monotonic()
        arrived: dict[str, list[bytes]] = {}
        for _turn in range(READS_PER_WAKE_UP):
            batch = opened.receive()
            if batch is None:
                break
            for message in batch.ike:
                self._on_ike(message)
            for delivery in self.engine.inbound(batch.arrival, batch.esp, now):
                packets = arrived.setdefault(delivery.tunnel_id, delivery.packets)
                if packets is not delivery.packets:
                    packets.extend(delivery.packets)
        for tunnel_id, packets in arrived.items():
            tun = self._tuns.get(tunnel_id)
            if tun is None:
                self._dropped["in.no-link"] += len(packets)
            else:
                tun.write(coalesce(packets))
        if self.engine.has_notices:
            self._on_notice()

    # State

    def queues(self) -> dict[str, tuple[QueueStatus, ...]]:
        """Return the queues of the links that have several: none here, every link has one."""
        return {}

    def counters(self) -> dict[str, int]:
        """Return dropped packets by where and why, since the process started."""
        counters = Counter(self.engine.totals()) + self._dropped
        counters["out.unsent"] += sum(opened.unsent for opened in self._sockets.values())
        counters["in.link"] += sum(tun.dropped for tun in self._tuns.values())
        return {code: count for code, count in sorted(counters.items()) if count}

    def close(self) -> None:
        """Forget SAs, policies and links, and close everything."""
        self.engine.clear()
        self._bound = frozenset()
        self.release_sockets()
        for tunnel_id in tuple(self._tuns):
            self.close_link(tunnel_id)
