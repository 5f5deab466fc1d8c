"""The SAs the engine holds (RFC 4301 section 4.4.2): transform, sequence number, window, counters, limits.

Counters are inner octets and packets. Times are seconds of whatever clock the caller passes. Limits are looked at once
per batch, so a hard limit of octets may be passed by the rest of one batch; the sequence number never wraps, whatever
the limits say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agents.contract.config import Mode
from agents.contract.status import Counters, Rejections
from agents.dataplane.base import Direction, SaId, SaSpec, SaState
from agents.dataplane.userspace import drops
from agents.dataplane.userspace.esp import MAX_EXTENDED_SEQUENCE, MAX_SEQUENCE, Transform, build_transform
from agents.dataplane.userspace.replay import ReplayWindow

ROOM_TO_REKEY = 1 << 28
"""A rekey is asked for so many packets before the sequence number would wrap: minutes at any speed we reach."""


@dataclass(frozen=True, slots=True)
class Path:
    """Outer addresses; port 0 is plain ESP, protocol 50."""

    local_address: str
    local_port: int
    remote_address: str
    remote_port: int

    @property
    def encapsulated(self) -> bool:
        """Whether ESP goes in UDP."""
        return self.local_port != 0


def path_of(spec: SaSpec) -> Path:
    """Return an SA's outer path as this gateway sees it."""
    outbound = spec.direction is Direction.OUT
    local, remote = (spec.source, spec.destination) if outbound else (spec.destination, spec.source)
    if spec.encapsulation is None:
        return Path(local, 0, remote, 0)
    ports = (spec.encapsulation.source_port, spec.encapsulation.destination_port)
    local_port, remote_port = ports if outbound else ports[::-1]
    return Path(local, local_port, remote, remote_port)


class Sa:
    """One SA of either direction; an inbound one uses ``window`` and ``permitted``, an outbound one ``sequence``."""

    __slots__ = (
        "added_at",
        "extended",
        "last_sequence",
        "last_used",
        "octets",
        "packets",
        "path",
        "permitted",
        "rejected",
        "sequence",
        "soft_told",
        "spec",
        "told_mapping",
        "transform",
        "window",
    )

    def __init__(self, spec: SaSpec, transform: Transform, now: float) -> None:
        self.spec = spec
        self.path = path_of(spec)
        self.transform = transform
        self.added_at = now
        self.last_used: float | None = None
        self.octets = 0
        self.packets = 0
        self.sequence = 0
        self.extended = spec.extended_sequence_numbers
        self.last_sequence = MAX_EXTENDED_SEQUENCE if self.extended else MAX_SEQUENCE
        self.window = ReplayWindow(spec.replay_window)
        self.rejected = {drops.INTEGRITY: 0, drops.REPLAY: 0, drops.LATE: 0}
        self.permitted: set[bytes] = set()
        self.soft_told = False
        self.told_mapping: tuple[str, int] | None = None

    def move(self, spec: SaSpec) -> None:
        """Take other outer addresses."""
        self.spec = spec
        self.path = path_of(spec)
        self.told_mapping = None

    def count(self, octets: int, packets: int, now: float) -> None:
        """Count inner traffic."""
        self.octets += octets
        self.packets += packets
        self.last_used = now

    def soft_reached(self, now: float) -> bool:
        """Whether it is time to rekey."""
        limits = self.spec.limits
        highest = self.sequence if self.spec.direction is Direction.OUT else self.window.top
        return highest >= self.last_sequence - ROOM_TO_REKEY or self._past(
            limits.soft_s, limits.soft_bytes, limits.soft_packets, now
        )

    def hard_reached(self, now: float) -> bool:
        """Whether the SA may not be used any more."""
        limits = self.spec.limits
        return self.sequence >= self.last_sequence or self._past(
            limits.hard_s, limits.hard_bytes, limits.hard_packets, now
        )

    def _past(self, seconds: int, octets: int, packets: int, now: float) -> bool:
        return bool(
            (seconds and now - self.added_at >= seconds)
            or (octets and self.octets >= octets)
            or (packets and self.packets >= packets)
        )

    def state(self) -> SaState:
        """Return what the driver protocol tells of an SA."""
        if self.spec.direction is Direction.OUT:
            counters = Counters(bytes_out=self.octets, packets_out=self.packets)
        else:
            counters = Counters(bytes_in=self.octets, packets_in=self.packets)
        return SaState(
            id=self.spec.id,
            tunnel_id=self.spec.tunnel_id,
            direction=self.spec.direction,
            reqid=self.spec.reqid,
            counters=counters,
            last_used=self.last_used,
            rejected=Rejections(
                integrity=self.rejected[drops.INTEGRITY],
                replayed=self.rejected[drops.REPLAY],
                late=self.rejected[drops.LATE],
            ),
        )


class SaDatabase:
    """SAs by id, inbound ones by local address and SPI, outbound ones by reqid, newest last."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._by_id: dict[SaId, Sa] = {}
        self._inbound: dict[str, dict[int, Sa]] = {}
        self._outbound: dict[int, list[Sa]] = {}

    def __iter__(self) -> Iterator[Sa]:
        return iter(tuple(self._by_id.values()))

    def __contains__(self, sa: SaId) -> bool:
        return sa in self._by_id

    def get(self, sa: SaId) -> Sa | None:
        """Return the SA of this id."""
        return self._by_id.get(sa)

    def add(self, spec: SaSpec, now: float) -> Sa:
        """Hold a new SA; raises ValueError when the spec is impossible. The id must be free."""
        if spec.encryption is None or spec.encryption_key is None or spec.ah is not None:
            raise ValueError("the userspace data plane carries ESP only, no AH")
        if spec.mode is not Mode.TUNNEL:
            raise ValueError(f"the userspace data plane carries tunnel mode only, no {spec.mode} mode")
        if spec.compression_cpi is not None:
            raise ValueError("the userspace data plane does not compress (IPComp)")
        transform = build_transform(
            spec.spi,
            spec.encryption,
            spec.encryption_key,
            spec.integrity,
            spec.integrity_key,
            self._entropy,
            extended=spec.extended_sequence_numbers,
        )
        sa = Sa(spec, transform, now)
        self._by_id[spec.id] = sa
        if spec.direction is Direction.OUT:
            self._outbound.setdefault(spec.reqid, []).append(sa)
        else:
            self.inbound_at(spec.destination)[spec.spi] = sa
        return sa

    def remove(self, sa: SaId) -> Sa | None:
        """Let go of an SA."""
        held = self._by_id.pop(sa, None)
        if held is None:
            return None
        if held.spec.direction is Direction.OUT:
            rows = self._outbound[held.spec.reqid]
            rows.remove(held)
            if not rows:
                del self._outbound[held.spec.reqid]
        else:
            del self._inbound[held.spec.destination][held.spec.spi]
        return held

    def move(self, sa: SaId, spec: SaSpec) -> None:
        """Give an SA another id and path; which of its reqid is newest stays as it is."""
        held = self._by_id.pop(sa)
        if held.spec.direction is Direction.IN:
            del self._inbound[held.spec.destination][held.spec.spi]
            self.inbound_at(spec.destination)[spec.spi] = held
        held.move(spec)
        self._by_id[spec.id] = held

    def inbound_at(self, local_address: str) -> dict[int, Sa]:
        """Return the live table of inbound SAs of a local address by SPI."""
        return self._inbound.setdefault(local_address, {})

    def newest_outbound(self, reqid: int) -> Sa | None:
        """Return the SA that policies of this reqid use."""
        rows = self._outbound.get(reqid)
        return rows[-1] if rows else None
