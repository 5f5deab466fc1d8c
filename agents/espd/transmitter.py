"""What leaves: bursts go to their sockets, and packets wait in order of priority while a socket has no room.

A socket that a tunnel with priorities sends through holds little itself: what waits there cannot be overtaken any more.
While one is full, the tunnels that want to send through it take turns; each sends what is first among its own. A tunnel
with a rate sends no more than that either: what its path cannot take is to wait here, not in a modem on the way.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from agents.contract.status import QueueStatus
from agents.dataplane.shaping import TokenBucket, waiting_octets
from agents.dataplane.userspace.engine import Engine
from agents.dataplane.userspace.offload import SuperPacket
from agents.dataplane.userspace.outward import Burst
from agents.dataplane.userspace.queues import PriorityQueues
from agents.dataplane.userspace.rows import Datagram
from agents.dataplane.userspace.sadb import Path
from agents.dataplane.userspace.sharing import together
from agents.espd.sockets import EspSocket

PACKETS_PER_TURN = 16
"""Of one super-packet: what a packet of a higher priority may have to wait for, beside what the socket holds."""
WHOLE = 64
"""The same while nothing waits: a whole super-packet."""
CALM_AFTER_S = 1.0

Group = Sequence[bytes]


class _Lane:
    """One tunnel. ``stalled`` is sealed already and goes before everything else; while there is some, others wait.

    A second after ``stalled_at`` what it sends is taken to have room again. ``woken`` is true while it will be woken.
    """

    __slots__ = ("bucket", "queues", "stalled", "stalled_at", "tunnel_id", "woken")

    def __init__(self, tunnel_id: str, queues: int) -> None:
        self.tunnel_id = tunnel_id
        self.queues = PriorityQueues(queues)
        self.stalled: deque[Burst] = deque()
        self.stalled_at = -CALM_AFTER_S
        self.bucket: TokenBucket | None = None
        self.woken = False

    def limit(self, rate_kbps: int | None, mtu: int) -> None:
        """Hold the tunnel to a rate, or to none."""
        self.bucket = None if rate_kbps is None else TokenBucket(rate_kbps, mtu)
        self.queues.bound(None if rate_kbps is None else waiting_octets(rate_kbps, mtu))


class Transmitter:
    """``socket_of`` returns a path's socket, ``when_writable`` calls :meth:`resume` once the socket has room.

    ``wake`` calls :meth:`go_on` for a tunnel after so many seconds. ``dropped`` counts what is lost here:
    ``out.no-socket`` and ``out.full``.
    """

    def __init__(
        self,
        engine: Engine,
        socket_of: Callable[[Path], EspSocket | None],
        when_writable: Callable[[EspSocket], None],
        wake: Callable[[str, float], None],
        dropped: Counter[str],
    ) -> None:
        self._engine = engine
        self._socket_of = socket_of
        self._when_writable = when_writable
        self._wake = wake
        self._dropped = dropped
        self._lanes: dict[str, _Lane] = {}
        self._waiting: dict[EspSocket, deque[_Lane]] = {}

    @property
    def bounds_sockets(self) -> bool:
        """Whether some tunnel has priorities."""
        return any(lane.queues.count > 1 for lane in self._lanes.values())

    def open(self, tunnel_id: str, queues: int, rate_kbps: int | None, mtu: int) -> None:
        """Begin a tunnel's queues; those of the same number go on. A rate is for tunnels with priorities."""
        lane = self._lanes.get(tunnel_id)
        if lane is None or lane.queues.count != queues:
            self.close(tunnel_id)
            self._lanes[tunnel_id] = lane = _Lane(tunnel_id, queues)
        lane.limit(rate_kbps, mtu)

    def close(self, tunnel_id: str) -> None:
        """Drop what a tunnel has waiting."""
        lane = self._lanes.pop(tunnel_id, None)
        if lane is not None:
            for waiting in self._waiting.values():
                if lane in waiting:
                    waiting.remove(lane)

    def forget(self, opened: EspSocket) -> None:
        """A socket is closed: what waits for it is lost, what waits behind that goes on with the next packet."""
        for lane in self._waiting.pop(opened, ()):
            self._dropped["out.full"] += sum(len(burst.packets) for burst in lane.stalled)
            lane.stalled.clear()

    def send(self, tunnel_id: str, groups: Sequence[Group | SuperPacket], now: float) -> None:
        """Send what the tunnel's link was given, or let it wait; super-packets are best four at a time."""
        lane = self._lanes[tunnel_id]
        if lane.queues.count == 1 and not lane.stalled and not lane.queues:
            for part in together(groups) if self._engine.shares else [groups]:
                self._send_all(lane, self._engine.outbound(tunnel_id, part, now))
            return
        for group in groups:
            # One by one: a queue that nothing holds up is not to overflow because much was read at once.
            lane.queues.put(group.segments() if isinstance(group, SuperPacket) else group)
            self._drain(lane, now)

    def resume(self, opened: EspSocket) -> None:
        """Go on with the tunnels that wait for a socket, in turns, until it is full again."""
        now = time.monotonic()
        waiting = self._waiting.pop(opened, deque())
        while waiting:
            lane = waiting.popleft()
            stalled, lane.stalled = lane.stalled, deque()
            self._send_all(lane, stalled)
            self._drain(lane, now)
            behind = self._waiting.get(opened)
            if behind is not None:
                # The socket is full again; whoever has not had a turn goes before the one that has.
                behind.extendleft(reversed(waiting))
                return

    def go_on(self, tunnel_id: str, now: float) -> None:
        """Send what a tunnel's rate allows by now; the tunnel may be gone."""
        lane = self._lanes.get(tunnel_id)
        if lane is not None:
            lane.woken = False
            self._drain(lane, now)

    def statuses(self) -> dict[str, tuple[QueueStatus, ...]]:
        """Return the queues of the tunnels that have several."""
        return {lane.tunnel_id: lane.queues.statuses() for lane in self._lanes.values() if lane.queues.count > 1}

    def _drain(self, lane: _Lane, now: float) -> None:
        most = WHOLE if now - lane.stalled_at >= CALM_AFTER_S else PACKETS_PER_TURN
        while not lane.stalled and (group := self._take(lane, most, now)) is not None:
            self._send_all(lane, self._engine.outbound(lane.tunnel_id, (group,), now))

    def _take(self, lane: _Lane, most: int, now: float) -> Group | None:
        """Return what goes next, None where nothing does: nothing waits, or nothing may go yet."""
        if lane.bucket is None:
            return lane.queues.take(most)
        if not lane.queues:
            return None
        allowed = lane.bucket.packets(now)
        if not allowed:
            if not lane.woken:
                lane.woken = True
                self._wake(lane.tunnel_id, lane.bucket.wait_s)
            return None
        group = lane.queues.take(min(most, allowed))
        if group is not None:
            lane.bucket.spend(sum(map(len, group)))
        return group

    def _send_all(self, lane: _Lane, bursts: Sequence[Burst] | deque[Burst]) -> None:
        """Send bursts, those of one path in a row together."""
        together: Burst | None = None
        packets: list[Datagram] = []
        for burst in bursts:
            if together is not None:
                if (
                    burst.turn is None
                    and burst.whole is None
                    and together.whole is None
                    and burst.path is together.path
                    and burst.traffic_class == together.traffic_class
                    and burst.dont_fragment == together.dont_fragment
                ):
                    packets.extend(burst.packets)
                    continue
                self._send(lane, together)
            together = burst
            if burst.whole is None:
                together.packets = packets = list(burst.packets)
        if together is not None:
            self._send(lane, together)

    def _send(self, lane: _Lane, burst: Burst) -> None:
        turn, burst.turn = burst.turn, None
        if turn is None:
            self._send_now(lane, burst)
            return
        turn.wait()
        try:
            self._send_now(lane, burst)
        finally:
            turn.done()

    def _send_now(self, lane: _Lane, burst: Burst) -> None:
        opened = self._socket_of(burst.path)
        if opened is None:
            self._dropped["out.no-socket"] += len(burst.packets)
            return
        if lane.stalled:
            lane.stalled.append(burst.kept(burst.packets))
            return
        if lane.queues.count > 1:
            opened.hold_little()
        rest = opened.send(burst)
        if opened.too_big_for is not None:
            self._engine.narrow(burst.path, opened.too_big_for, time.monotonic())
            opened.too_big_for = None
        if not rest:
            return
        if not opened.holds_little:
            self._dropped["out.full"] += len(rest)
            return
        lane.stalled.append(burst.kept(rest))
        lane.stalled_at = time.monotonic()
        waiting = self._waiting.setdefault(opened, deque())
        waiting.append(lane)
        self._when_writable(opened)
