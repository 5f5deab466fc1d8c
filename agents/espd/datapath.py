"""The loop between TUNs and sockets: wake up, drain a bounded batch, let the engine work on it, write it out.

Everything runs in callbacks of the event loop's poller, without a task or a future per packet. What is to be done per
packet is in :mod:`agents.dataplane.userspace`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from socket import IPPROTO_ESP, IPPROTO_UDP

from agents.contract.status import QueueStatus
from agents.dataplane.base import TunnelLink
from agents.dataplane.userspace.engine import Engine
from agents.dataplane.userspace.inward import Arrival, Delivery
from agents.dataplane.userspace.ip import MalformedPacket
from agents.dataplane.userspace.offload import PLAIN_FRAME, Frame, SuperPacket, coalesce, read
from agents.dataplane.userspace.rows import RECEIVED_OCTETS, TOGETHER, Datagram, Rows
from agents.dataplane.userspace.sadb import Path
from agents.espd import trace
from agents.espd.ah_socket import AhSocket
from agents.espd.sockets import ENCAPSULATION_PORT, Batch, EspSocket, IkeMessage, RawSocket, UdpSocket, path_mtu
from agents.espd.steering import Share
from agents.espd.transmitter import Transmitter
from agents.espd.tun import FRAME_OCTETS, FRAMES, FRAMES_WITH_PRIORITIES, Tun
from agents.runtime.tracing import TRACE

READS_PER_WAKE_UP = 32
"""So that no device starves the others: super-packets count as one."""
MAIL_PER_WAKE_UP = 64

_log = logging.getLogger(__name__)
Key = tuple[str, int, int]
"""Local address, IP protocol, and UDP port or 0."""


class Datapath:
    """Devices, sockets and one engine. ``on_ike`` gets IKE messages, ``on_notice`` is called when notices wait.

    With ``share`` it is one of several that do the same work; ``on_restored`` is called when a link was made again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_ike: Callable[[IkeMessage], None],
        on_notice: Callable[[], None],
        share: Share | None = None,
        on_restored: Callable[[TunnelLink], None] = lambda _link: None,
    ) -> None:
        self.engine = Engine(os.urandom, None if share is None else self._hand_over)
        self._share = share
        self._on_restored = on_restored
        if share is not None:
            loop.add_reader(share.mail.fileno(share.worker), self._mail_readable, share)
        self._loop = loop
        self._on_ike = on_ike
        self._on_notice = on_notice
        self._rows = Rows(RECEIVED_OCTETS)
        self._frames = [memoryview(bytearray(FRAME_OCTETS)) for _ in range(TOGETHER)]
        self._tuns: dict[str, Tun] = {}
        self._links: dict[str, TunnelLink] = {}
        self._missing: dict[str, TunnelLink] = {}
        self._sockets: dict[Key, EspSocket] = {}
        self._bound: frozenset[Key] = frozenset()
        self._dropped: Counter[str] = Counter()
        self._transmitter = Transmitter(self.engine, self._socket_of, self._wait_for_room, self._wake, self._dropped)

    # Links

    @property
    def links(self) -> dict[str, TunnelLink]:
        """The links there are, by tunnel."""
        return dict(self._links)

    def open_link(self, link: TunnelLink) -> None:
        """Make or change a tunnel's device; raises OSError.

        Of several workers only the first has one with priorities, which hold within one process.
        """
        if link.queues > 1 and self._share is not None and self._share.worker:
            self.close_link(link.tunnel_id)
            return
        tun = self._tuns.get(link.tunnel_id)
        if tun is not None and tun.name != link.name:
            self.close_link(link.tunnel_id)
            tun = None
        if tun is None:
            tun = Tun(link.name, link.mtu, shared=self._share is not None)
            self._tuns[link.tunnel_id] = tun
            self._loop.add_reader(tun.fd, self._tun_readable, link.tunnel_id, tun)
        elif tun.mtu != link.mtu:
            tun.set_mtu(link.mtu)
        tun.keep(FRAMES_WITH_PRIORITIES if link.queues > 1 else FRAMES)
        self._links[link.tunnel_id] = link
        self._missing.pop(link.tunnel_id, None)
        self._transmitter.open(link.tunnel_id, link.queues, link.rate_kbps, link.mtu)
        self._let_sockets_hold_much()

    def close_link(self, tunnel_id: str) -> None:
        """Remove a tunnel's device if it is there."""
        self._missing.pop(tunnel_id, None)
        tun = self._tuns.pop(tunnel_id, None)
        if tun is not None:
            self._dropped["in.link"] += tun.dropped
            self._loop.remove_reader(tun.fd)
            tun.close()
            del self._links[tunnel_id]
            self._transmitter.close(tunnel_id)
            self._let_sockets_hold_much()

    def _lost_link(self, tunnel_id: str) -> None:
        """Somebody has removed a device: close it and make it again, now or as soon as that works.

        Of several workers the first does so and tells the others.
        """
        link = self._links[tunnel_id]
        self.close_link(tunnel_id)
        if self._share is None or not self._share.worker:
            self._missing[tunnel_id] = link
            self.restore_links()

    def restore_links(self) -> None:
        """Try to make the links again that somebody removed; call about once a second."""
        for tunnel_id, link in tuple(self._missing.items()):
            try:
                self.open_link(link)
            except OSError as error:
                _log.warning("%s cannot be made again now: %s", link.name, error)
            else:
                self.engine.repaired(tunnel_id, f"the link {link.name} was removed by somebody else and made again")
                self._on_notice()
                self._on_restored(link)

    def _let_sockets_hold_much(self) -> None:
        """Undo what priorities asked of sockets, when no link has any."""
        if not self._transmitter.bounds_sockets:
            for opened in self._sockets.values():
                opened.hold_much()

    # Sockets

    def bind(self, addresses: tuple[str, ...]) -> None:
        """Hold UDP 4500 on exactly these local addresses, and what SAs need; raises OSError."""
        bound = frozenset(_udp_4500(address) for address in addresses)
        try:
            for key in bound:
                self._need(key)
            self._bound = bound
        finally:
            self.release_sockets()

    def need_path(self, path: Path) -> None:
        """Open the socket an SA's packets go through, and see how much the path takes; raises OSError."""
        self._need(_key(path))
        # Where there is no route now, the first packet that is too long will tell.
        with contextlib.suppress(OSError):
            self.engine.narrow(path, path_mtu(path.local_address, path.remote_address), time.monotonic())

    def release_sockets(self) -> None:
        """Close the sockets that neither :meth:`bind` nor an SA asks for any more."""
        needed = self._bound | {_key(path) for path in self.engine.paths()}
        for key in [key for key in self._sockets if key not in needed]:
            opened = self._sockets.pop(key)
            self._dropped["out.unsent"] += opened.unsent
            self._loop.remove_reader(opened)
            self._loop.remove_writer(opened)
            self._transmitter.forget(opened)
            opened.close()

    def send_ike(self, local_address: str, octets: bytes, address: str, port: int) -> int | None:
        """Send an IKE message from UDP 4500, where :meth:`holds_port`; raises OSError.

        Returns the path's MTU when the message was too big for it.
        """
        return self._held(local_address).send_ike(octets, address, port)

    def keep_alive(self, local_address: str, address: str, port: int) -> None:
        """Send a NAT keepalive from UDP 4500, where :meth:`holds_port`; raises OSError."""
        self._held(local_address).keep_alive(address, port)

    def _held(self, local_address: str) -> UdpSocket:
        opened = self._sockets[_udp_4500(local_address)]
        assert isinstance(opened, UdpSocket)
        return opened

    def holds_port(self, local_address: str) -> bool:
        """Whether UDP 4500 is held on this address."""
        return _udp_4500(local_address) in self._sockets

    def _need(self, key: Key) -> None:
        if key not in self._sockets:
            opened = _open_socket(key, self._rows, self._share)
            self._sockets[key] = opened
            self._loop.add_reader(opened, self._socket_readable, opened)

    def _socket_of(self, path: Path) -> EspSocket | None:
        return self._sockets.get(_key(path))

    def _wait_for_room(self, opened: EspSocket) -> None:
        self._loop.add_writer(opened, self._writable, opened)

    def _writable(self, opened: EspSocket) -> None:
        self._loop.remove_writer(opened)
        self._transmitter.resume(opened)

    def _wake(self, tunnel_id: str, delay_s: float) -> None:
        self._loop.call_later(delay_s, lambda: self._transmitter.go_on(tunnel_id, time.monotonic()))

    # Packets

    def _tun_readable(self, tunnel_id: str, tun: Tun) -> None:
        now = time.monotonic()
        turns, ended = 0, False
        while turns < READS_PER_WAKE_UP and not ended:
            groups, ended = self._read_some(tunnel_id, tun, READS_PER_WAKE_UP - turns)
            turns += len(groups) or 1
            if TRACE.categories:
                trace.taken(tun.name, groups)
            if groups and tunnel_id in self._tuns:
                self._transmitter.send(tunnel_id, groups, now)
        if self.engine.has_answers:
            self._answer()
        if self.engine.has_notices:
            self._on_notice()

    def _read_some(self, tunnel_id: str, tun: Tun, most: int) -> tuple[list[Sequence[bytes] | SuperPacket], bool]:
        """Read up to so many frames from a link, of which there is memory for some super-packets.

        Returns their packets, and whether there are no more now.
        """
        groups: list[Sequence[bytes] | SuperPacket] = []
        memories = iter(self._frames)
        memory = next(memories)
        for _turn in range(most):
            try:
                frame = tun.read(memory)
            except OSError as error:
                _log.warning("%s is gone: %s", tun.name, error)
                trace.lost(tun.name, str(error))
                self._lost_link(tunnel_id)
                return groups, True
            if frame is None:
                return groups, True
            try:
                packets = read(frame)
            except MalformedPacket:
                self._dropped["out.malformed"] += 1
                continue
            groups.append(packets)
            if isinstance(packets, SuperPacket):
                free = next(memories, None)
                if free is None:
                    break
                memory = free
        return groups, False

    def _answer(self) -> None:
        """Tell senders on the links' side what did not fit."""
        for tunnel_id, packets in self.engine.take_answers().items():
            tun = self._tuns.get(tunnel_id)
            if tun is not None:
                tun.write([(PLAIN_FRAME, packet) for packet in packets])

    def _hand_over(self, spi: int, arrival: Arrival, datagram: Datagram) -> bool:
        """Give an ESP packet to the worker whose it is; returns false where it is this one."""
        share = self._share
        if share is None or spi % share.workers == share.worker:
            return False
        if not share.mail.send(spi % share.workers, arrival, datagram):
            self._dropped["in.hand-over"] += 1
        return True

    def _mail_readable(self, share: Share) -> None:
        """Take what came to another worker."""
        now = time.monotonic()
        arrived: list[Delivery] = []
        for _turn in range(MAIL_PER_WAKE_UP):
            found = share.mail.receive(share.worker)
            if found is None:
                break
            arrived += self.engine.inbound(found[0], (found[1],), now)
        self._deliver(arrived)

    def _socket_readable(self, opened: EspSocket) -> None:
        """Receive what is there before anything is written, so that runs of segments get as long as they can.

        What is joined already is written at once.
        """
        now = time.monotonic()
        arrived: list[Delivery] = []
        turn = 0
        while turn < READS_PER_WAKE_UP:
            batch = opened.receive()
            if batch is None:
                break
            turn += 1 if batch.run is None else TOGETHER
            found = self._opened(batch, now)
            arrived += found
            if any(delivery.joined for delivery in found):
                self._deliver(arrived)
                arrived = []
        self._deliver(arrived)
        if opened.has_more:
            # What is no longer in the kernel wakes nobody up.
            self._loop.call_soon(self._go_on, opened)

    def _go_on(self, opened: EspSocket) -> None:
        if opened in self._sockets.values():
            self._socket_readable(opened)

    def _opened(self, batch: Batch, now: float) -> list[Delivery]:
        for message in batch.ike:
            self._on_ike(message)
        deliveries: list[Delivery] = []
        if batch.run is not None and not TRACE.categories:
            deliveries = self.engine.inbound_run(batch.arrival, batch.run, now)
        elif batch.run is not None:
            deliveries = self.engine.inbound(batch.arrival, batch.run.copies(), now)
        if batch.esp:
            deliveries += self.engine.inbound(batch.arrival, batch.esp, now)
        if batch.ah:
            deliveries += self.engine.inbound_ah(batch.arrival, batch.ah, now)
        if TRACE.categories:
            came = len(batch.esp) + len(batch.ah) + (0 if batch.run is None else batch.run.count)
            trace.opened(batch.arrival, came, deliveries)
        return deliveries

    def _deliver(self, arrived: Sequence[Delivery]) -> None:
        """Write what arrived to its links, in order."""
        by_link: defaultdict[str, list[Delivery]] = defaultdict(list)
        for delivery in arrived:
            by_link[delivery.tunnel_id].append(delivery)
        for tunnel_id, deliveries in by_link.items():
            tun = self._tuns.get(tunnel_id)
            if tun is None:
                self._dropped["in.no-link"] += sum(len(each.packets) + each.joined for each in deliveries)
            else:
                tun.write(_frames(deliveries))
        if self.engine.has_notices:
            self._on_notice()

    # State

    def queues(self) -> dict[str, tuple[QueueStatus, ...]]:
        """Return the queues of the links that have several."""
        return self._transmitter.statuses()

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
        for tunnel_id in (*self._tuns, *self._missing):
            self.close_link(tunnel_id)


def _frames(deliveries: Sequence[Delivery]) -> list[Frame]:
    """Return what to write for what came for one link, in order."""
    frames: list[Frame] = []
    packets: list[bytes] = []
    for delivery in deliveries:
        packets += delivery.packets
        if delivery.frames:
            frames += [*coalesce(packets), *delivery.frames]
            packets = []
    return frames + coalesce(packets)


def _key(path: Path) -> Key:
    return path.local_address, IPPROTO_UDP if path.local_port else path.protocol, path.local_port


def _udp_4500(local_address: str) -> Key:
    return local_address, IPPROTO_UDP, ENCAPSULATION_PORT


def _open_socket(key: Key, rows: Rows, share: Share | None) -> EspSocket:
    address, protocol, port = key
    if protocol == IPPROTO_UDP:
        return UdpSocket(address, port, rows, share)
    return RawSocket(address, share) if protocol == IPPROTO_ESP else AhSocket(address, share)
