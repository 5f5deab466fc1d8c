"""The SAs the engine holds (RFC 4301 section 4.4.2): transform, sequence number, window, counters, limits.

Counters are inner octets and packets. Times are seconds of whatever clock the caller passes. Limits are looked at once
per batch, so a hard limit of octets may be passed by the rest of one batch; the sequence number never wraps, whatever
the limits say.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agents.contract.carriage import DfBit
from agents.contract.config import Mode
from agents.contract.secret import Secret
from agents.contract.status import Counters, Rejections
from agents.dataplane.base import Direction, SaId, SaSpec, SaState
from agents.dataplane.userspace import drops, ip, sizes
from agents.dataplane.userspace.bundle import Bundle, check_encapsulation, is_plain
from agents.dataplane.userspace.esp import (
    MAX_EXTENDED_SEQUENCE,
    MAX_SEQUENCE,
    NEXT_AH,
    NEXT_ESP,
    Transform,
    build_transform,
)
from agents.dataplane.userspace.esp_runs import runs_of
from agents.dataplane.userspace.replay import ReplayWindow
from agents.dataplane.userspace.sharing import Numbers

ROOM_TO_REKEY = 1 << 28
"""A rekey is asked for so many packets before the sequence number would wrap: minutes at any speed we reach."""


@dataclass(frozen=True, slots=True)
class Path:
    """Outer addresses; port 0 is ESP or AH without UDP, as ``protocol`` says (50, 51)."""

    local_address: str
    local_port: int
    remote_address: str
    remote_port: int
    protocol: int = NEXT_ESP

    @property
    def encapsulated(self) -> bool:
        """Whether ESP goes in UDP."""
        return self.local_port != 0


def path_of(spec: SaSpec) -> Path:
    """Return an SA's outer path as this gateway sees it."""
    outbound = spec.direction is Direction.OUT
    local, remote = (spec.source, spec.destination) if outbound else (spec.destination, spec.source)
    if spec.encapsulation is None:
        return Path(local, 0, remote, 0, NEXT_ESP if spec.ah is None else NEXT_AH)
    ports = (spec.encapsulation.source_port, spec.encapsulation.destination_port)
    local_port, remote_port = ports if outbound else ports[::-1]
    return Path(local, local_port, remote, remote_port)


class Sa:
    """One SA of either direction; an inbound one uses ``window`` and ``permitted``, an outbound one ``sequence``.

    ``bundle`` is None for ESP in tunnel mode and no more; ``transform`` is there unless the SA is AH alone, and
    ``runs`` where many packets may be worked on at once. Outbound packets of more than ``most_octets`` do not fit the
    path in one piece, those of more than ``most_ever`` no path at all. ``octets`` and ``packets`` are this engine's,
    ``all_octets`` and ``all_packets`` those of every one that shares ``numbers``; ``elsewhere`` is an inbound SA that
    another one opens.
    """

    __slots__ = (
        "added_at",
        "all_octets",
        "all_packets",
        "bundle",
        "class_mask",
        "copies_df",
        "elsewhere",
        "extended",
        "last_sequence",
        "last_used",
        "most_ever",
        "most_octets",
        "numbers",
        "octets",
        "packets",
        "path",
        "permitted",
        "rejected",
        "runs",
        "sequence",
        "sets_df",
        "soft_told",
        "spec",
        "told_mapping",
        "transform",
        "window",
    )

    def __init__(self, spec: SaSpec, esp: Transform | None, bundle: Bundle | None, now: float) -> None:
        self.spec = spec
        self.path = path_of(spec)
        if esp is not None:
            self.transform = esp
        self.bundle = bundle
        self.runs = None if esp is None or bundle is not None else runs_of(esp)
        # In transport mode the header outside is the packet's own, and these settings are about another one.
        transport = spec.mode is Mode.TRANSPORT
        self.class_mask = 0xFF if spec.copy_dscp or transport else 3
        self.copies_df = spec.df_bit is DfBit.PROPAGATE or transport
        self.sets_df = spec.df_bit is DfBit.SET and not transport
        self.most_ever = self.most_octets = 0
        self.added_at = now
        self.last_used: float | None = None
        self.octets = self.all_octets = 0
        self.packets = self.all_packets = 0
        self.sequence = 0
        self.numbers: Numbers | None = None
        self.elsewhere = False
        self.extended = spec.extended_sequence_numbers
        self.last_sequence = MAX_EXTENDED_SEQUENCE if self.extended else MAX_SEQUENCE
        self.window = ReplayWindow(spec.replay_window)
        self.rejected: Counter[str] = Counter()
        self.permitted: set[bytes] = set()
        self.soft_told = False
        self.told_mapping: tuple[str, int] | None = None
        self._widen()

    def move(self, spec: SaSpec) -> None:
        """Take other outer addresses."""
        self.spec = spec
        self.path = path_of(spec)
        self.told_mapping = None
        self._widen()
        if self.bundle is not None:
            self.bundle.move(spec)

    def narrow(self, packet_octets: int | None) -> None:
        """The path takes outer packets of so many octets; None: of any length. Not asked where routers may cut them."""
        self.most_octets = self.most_ever
        if packet_octets is not None and (self.copies_df or self.sets_df):
            self.most_octets = min(self.most_ever, self._largest(packet_octets))

    def _widen(self) -> None:
        version = ipaddress.ip_address(self.spec.destination).version
        # The length in an IPv6 header is without the header.
        self.most_ever = self._largest(ip.MOST_OCTETS + (40 if version == 6 else 0))
        self.most_octets = self.most_ever

    def _largest(self, packet_octets: int) -> int:
        """Return the longest inner packet that an outer one of this length carries."""
        spec, version = self.spec, ipaddress.ip_address(self.spec.destination).version
        payload = sizes.largest_payload(
            packet_octets,
            version,
            encryption=spec.encryption,
            integrity=spec.integrity,
            ah_integrity=None if spec.ah is None else spec.ah.integrity,
            in_udp=spec.encapsulation is not None,
        )
        return payload + (sizes.HEADER_OCTETS[version] if spec.mode is Mode.TRANSPORT else 0)

    def count(self, octets: int, packets: int, now: float) -> None:
        """Count inner traffic."""
        self.octets += octets
        self.all_octets += octets
        self.packets += packets
        self.all_packets += packets
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
            or (octets and self.all_octets >= octets)
            or (packets and self.all_packets >= packets)
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
                malformed=self.rejected[drops.MALFORMED],
                selectors=self.rejected[drops.POLICY],
                mode=self.rejected[drops.MODE],
            ),
        )


class SaDatabase:
    """SAs by id, inbound ones by local address and SPI of ESP and of AH, outbound ones by reqid, newest last."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._by_id: dict[SaId, Sa] = {}
        self._inbound: dict[str, dict[int, Sa]] = {}
        self._inbound_ah: dict[str, dict[int, Sa]] = {}
        self._outbound: dict[int, list[Sa]] = {}

    def __iter__(self) -> Iterator[Sa]:
        return iter(tuple(self._by_id.values()))

    def __contains__(self, sa: SaId) -> bool:
        return sa in self._by_id

    def get(self, sa: SaId) -> Sa | None:
        """Return the SA of this id."""
        return self._by_id.get(sa)

    def add(self, spec: SaSpec, now: float, numbers: Numbers | None = None, *, elsewhere: bool = False) -> Sa:
        """Hold a new SA; raises ValueError when the spec is impossible. The id must be free."""
        if spec.encryption is None and spec.ah is None:
            raise ValueError("an SA needs encryption or AH")
        esp = None if spec.encryption is None else self._transform(spec, spec.encryption)
        bundle = None if is_plain(spec) else Bundle(spec, esp)
        sa = Sa(spec, esp, bundle, now)
        sa.numbers, sa.elsewhere = numbers, elsewhere
        self._check_free(spec, bundle)
        if spec.direction is Direction.OUT:
            self._outbound.setdefault(spec.reqid, []).append(sa)
        else:
            self._list_inbound(sa)
        self._by_id[spec.id] = sa
        return sa

    def _transform(self, spec: SaSpec, encryption: str) -> Transform:
        return build_transform(
            spec.spi,
            encryption,
            spec.encryption_key or Secret(b""),
            spec.integrity,
            spec.integrity_key,
            self._entropy,
            extended=spec.extended_sequence_numbers,
        )

    def _list_inbound(self, sa: Sa) -> None:
        if sa.elsewhere:
            return
        spec, bundle = sa.spec, sa.bundle
        if bundle is not None and bundle.ah is not None:
            self.inbound_ah_at(spec.destination)[bundle.ah.spi] = sa
        if spec.encryption is not None:
            self.inbound_at(spec.destination)[spec.spi] = sa

    def _check_free(self, spec: SaSpec, bundle: Bundle | None) -> None:
        """Raise ValueError where another SA has the SPI of AH around ESP: it is not part of the id."""
        if bundle is not None and bundle.ah is not None and spec.direction is Direction.IN:
            holder = self.inbound_ah_at(spec.destination).get(bundle.ah.spi)
            if holder is not None and holder.bundle is not bundle:
                raise ValueError(f"AH's SPI {bundle.ah.spi:08x} is taken")

    def _unlist_inbound(self, sa: Sa) -> None:
        if sa.elsewhere:
            return
        spec, bundle = sa.spec, sa.bundle
        if bundle is not None and bundle.ah is not None:
            del self._inbound_ah[spec.destination][bundle.ah.spi]
        if spec.encryption is not None:
            del self._inbound[spec.destination][spec.spi]

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
            self._unlist_inbound(held)
        return held

    def move(self, sa: SaId, spec: SaSpec) -> None:
        """Give an SA another id and path; which of its reqid is newest stays as it is.

        Raises ValueError for what cannot be, nothing changed.
        """
        held = self._by_id[sa]
        check_encapsulation(spec)
        self._check_free(spec, held.bundle)
        del self._by_id[sa]
        inbound = held.spec.direction is Direction.IN
        if inbound:
            self._unlist_inbound(held)
        held.move(spec)
        if inbound:
            self._list_inbound(held)
        self._by_id[spec.id] = held

    def inbound_at(self, local_address: str) -> dict[int, Sa]:
        """Return the live table of inbound SAs of a local address by ESP's SPI."""
        return self._inbound.setdefault(local_address, {})

    def inbound_ah_at(self, local_address: str) -> dict[int, Sa]:
        """Return the live table of inbound SAs of a local address by AH's SPI."""
        return self._inbound_ah.setdefault(local_address, {})

    def newest_outbound(self, reqid: int) -> Sa | None:
        """Return the SA that policies of this reqid use."""
        rows = self._outbound.get(reqid)
        return rows[-1] if rows else None
