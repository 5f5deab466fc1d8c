"""The userspace data plane without its sockets: inner packets in, ESP datagrams out, and the reverse, in batches.

``outbound`` and ``inbound`` never raise for what a packet contains: a packet that is refused is counted under its code
and gone. Times are arguments (any clock that does not jump). Deliberately not here: files, sockets, segmentation
(:mod:`agents.dataplane.userspace.offload`), the TTL of forwarded packets (the kernel has decremented it before the
TUN), and DF (outer IPv4 packets go without it; the link's MTU keeps them small).
"""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from agents.dataplane.base import (
    Acquired,
    DataplaneError,
    Expired,
    Mapped,
    Notice,
    PolicySpec,
    Rejected,
    SaId,
    SaSpec,
    SaState,
    Selector,
    UdpEncapsulation,
)
from agents.dataplane.userspace import drops, ip
from agents.dataplane.userspace.drops import Dropped
from agents.dataplane.userspace.esp import (
    HEADER_OCTETS,
    NEXT_DUMMY,
    NEXT_IPV4,
    NEXT_IPV6,
    TRAILERS_4,
    TRAILERS_6,
    strip,
)
from agents.dataplane.userspace.replay import extend
from agents.dataplane.userspace.sadb import Path, Sa, SaDatabase
from agents.dataplane.userspace.spd import PolicyDatabase

ACQUIRE_AGAIN_S = 5.0
"""One acquire per reqid in this time while traffic waits for an SA."""
MAX_CACHED_FLOWS = 4096

_NEXT_VERSION = {NEXT_IPV4: 4, NEXT_IPV6: 6}

_FlowMark = tuple[int, slice, bytes, slice, bytes]
"""First octet of a TCP or UDP packet, and two ranges of octets that its flow's packets share."""
_FLOW_SLICES = {4: (slice(6, 10), slice(12, 24)), 6: (slice(6, 7), slice(8, 44))}
"""IPv4: fragmentation, TTL, protocol; addresses, ports (no options). IPv6: next header; addresses, ports."""
_NO_FLOW: _FlowMark = (-1, slice(0), b"", slice(0), b"")

_spi_and_sequence = struct.Struct("!II").unpack_from


@dataclass(frozen=True, slots=True)
class Burst:
    """ESP packets for one path, without UDP header; ``traffic_class`` is the outer DSCP and ECN."""

    path: Path
    traffic_class: int
    packets: list[bytes]


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a batch of ESP packets came from; port 0 is plain ESP. ``traffic_class`` is that of the outer header."""

    local_address: str
    remote_address: str
    remote_port: int
    traffic_class: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """Inner packets for one tunnel's link, in order."""

    tunnel_id: str
    packets: list[bytes]


class Engine:
    """SAs, policies and the two directions. ``entropy`` returns unpredictable octets (CBC needs them)."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._notices: list[Notice] = []
        self._rejected: Counter[tuple[str, SaId | None]] = Counter()
        self._totals: Counter[str] = Counter()
        self.clear()

    def clear(self) -> None:
        """Forget every SA, policy and notice."""
        self._sadb = SaDatabase(self._entropy)
        self._spd = PolicyDatabase()
        self._flows: dict[str, dict[bytes, Sa]] = {}
        self._acquired_at: dict[int, float] = {}
        self._notices = []
        self._rejected.clear()

    # What the driver protocol asks for

    def add_sa(self, spec: SaSpec, now: float) -> None:
        """Install an SA; raises :class:`DataplaneError` (EEXIST, EINVAL)."""
        target = _target(spec.id)
        if spec.id in self._sadb:
            raise DataplaneError("add_sa", target, errno.EEXIST, "an SA of this SPI exists")
        if not 256 <= spec.spi <= 0xFFFFFFFF:
            raise DataplaneError("add_sa", target, errno.EINVAL, "SPIs 0 to 255 are reserved")
        try:
            _check_outer(spec)
            self._sadb.add(spec, now)
        except ValueError as error:
            raise DataplaneError("add_sa", target, errno.EINVAL, str(error)) from None
        self._acquired_at.pop(spec.reqid, None)
        self._flows.clear()

    def remove_sa(self, sa: SaId) -> None:
        """Remove an SA if it is there."""
        if self._sadb.remove(sa) is not None:
            self._flows.clear()

    def update_mapping(self, sa: SaId, source: str, destination: str, encapsulation: UdpEncapsulation | None) -> None:
        """Move an SA to other outer addresses; raises :class:`DataplaneError` (ESRCH, EEXIST, EINVAL)."""
        held = self._sadb.get(sa)
        if held is None:
            raise DataplaneError("update_mapping", _target(sa), errno.ESRCH, "no such SA")
        spec = dataclasses.replace(held.spec, source=source, destination=destination, encapsulation=encapsulation)
        if spec.id != sa and spec.id in self._sadb:
            raise DataplaneError("update_mapping", _target(sa), errno.EEXIST, "the new id is taken")
        try:
            _check_outer(spec)
        except ValueError as error:
            raise DataplaneError("update_mapping", _target(sa), errno.EINVAL, str(error)) from None
        self._sadb.move(sa, spec)
        self._flows.clear()

    def add_policy(self, spec: PolicySpec) -> None:
        """Install or replace a policy; raises :class:`DataplaneError` (EINVAL)."""
        try:
            self._spd.add(spec)
        except ValueError as error:
            target = f"{spec.direction} {spec.selector.source} {spec.selector.destination}"
            raise DataplaneError("add_policy", target, errno.EINVAL, str(error)) from None
        self._forget_flows()

    def remove_policy(self, spec: PolicySpec) -> None:
        """Remove a policy if it is there."""
        self._spd.remove(spec)
        self._forget_flows()

    def list_sas(self) -> tuple[SaState, ...]:
        """Return every SA; ``last_used`` is on the caller's clock."""
        return tuple(sa.state() for sa in self._sadb)

    def list_policies(self) -> tuple[PolicySpec, ...]:
        """Return every policy."""
        return self._spd.specs()

    def paths(self) -> frozenset[Path]:
        """Return the outer paths of all SAs: what sockets are needed for."""
        return frozenset(sa.path for sa in self._sadb)

    def totals(self) -> dict[str, int]:
        """Return dropped packets by code since the engine was made."""
        return dict(self._totals)

    # Packets

    def outbound(self, tunnel_id: str, groups: Iterable[Sequence[bytes]], now: float) -> list[Burst]:
        """Seal packets that the tunnel's link was given.

        Each group is packets of one flow in order (the segments of one super-packet), or one packet.
        """
        flows = self._flows.setdefault(tunnel_id, {})
        bursts = []
        for group in groups:
            first = group[0]
            key = ip.flow_key(first) if len(first) >= 20 else None
            sa = flows.get(key) if key is not None else None
            if sa is None:
                sa = self._route(tunnel_id, first, len(group), now)
                if sa is None:
                    continue
                if key is not None:
                    if len(flows) >= MAX_CACHED_FLOWS:
                        flows.clear()
                    flows[key] = sa
            if sa.sequence + len(group) > sa.last_sequence:
                self._expire(sa, hard=True)
                continue
            packets = sa.transform.seal(sa.sequence + 1, group)
            sa.sequence += len(group)
            sa.count(sum(map(len, group)), len(group), now)
            bursts.append(Burst(sa.path, ip.traffic_class(first), packets))
            self._check_limits(sa, now)
        return bursts

    def inbound(self, arrival: Arrival, datagrams: Sequence[bytes | memoryview], now: float) -> list[Delivery]:
        """Open ESP packets that came from one place; those of one tunnel in a row make one delivery."""
        table = self._sadb.inbound_at(arrival.local_address)
        deliveries: list[Delivery] = []
        index = 0
        while index < len(datagrams):
            if len(datagrams[index]) < HEADER_OCTETS:
                self._reject(drops.MALFORMED, None)
                index += 1
                continue
            spi, _sequence = _spi_and_sequence(datagrams[index])
            sa = table.get(spi)
            if sa is None:
                self._reject(drops.NO_SA, None)
                index += 1
                continue
            if not deliveries or deliveries[-1].tunnel_id != sa.spec.tunnel_id:
                deliveries.append(Delivery(sa.spec.tunnel_id, []))
            index = self._open_run(sa, arrival, datagrams, index, deliveries[-1].packets, now)
            self._check_limits(sa, now)
        return deliveries

    # Time and notices

    def handle_timer(self, now: float) -> None:
        """Look at the limits in seconds; call about once a second."""
        for sa in self._sadb:
            self._check_limits(sa, now)

    @property
    def has_notices(self) -> bool:
        """Whether :meth:`take_notices` has something; rejected packets alone do not count."""
        return bool(self._notices)

    def take_notices(self) -> list[Notice]:
        """Return what there is to say since the last call."""
        notices = self._notices
        self._notices = []
        return notices

    def take_rejected(self) -> list[Rejected]:
        """Return the packets refused since the last call, summed up; for once a second or so."""
        rejected = [Rejected(code=code, count=count, id=sa) for (code, sa), count in self._rejected.items()]
        self._rejected.clear()
        return rejected

    # Inside

    def _route(self, tunnel_id: str, packet: bytes, count: int, now: float) -> Sa | None:
        """Find the SA for an outbound packet, or count why there is none and ask for one."""
        try:
            flow = ip.parse_flow(packet)
        except ip.MalformedPacket:
            self._totals[drops.LOCAL_MALFORMED] += count
            return None
        policy = self._spd.outbound(tunnel_id, flow)
        if policy is None:
            self._totals[drops.LOCAL_NO_POLICY] += count
            return None
        sa = self._sadb.newest_outbound(policy.reqid)
        if sa is None:
            self._totals[drops.LOCAL_NO_SA] += count
            if now - self._acquired_at.get(policy.reqid, -ACQUIRE_AGAIN_S) >= ACQUIRE_AGAIN_S:
                self._acquired_at[policy.reqid] = now
                self._notices.append(Acquired(reqid=policy.reqid, selector=_selector_of(flow)))
        return sa

    def _open_run(
        self,
        sa: Sa,
        arrival: Arrival,
        datagrams: Sequence[bytes | memoryview],
        start: int,
        packets: list[bytes],
        now: float,
    ) -> int:
        """Open packets of one SA from ``start`` on; return the index of the first that is of another, or the end.

        The hot loop. What is usual is looked at with as few steps as can be: the next sequence number, no octet but an
        IP packet and the shortest trailer, the flow of the packet before. Everything else takes the long way.
        """
        spi, window, open_packet, extended = sa.spec.spi, sa.window, sa.transform.open, sa.extended
        align = sa.transform.block - 1
        trailers_4, trailers_6 = TRAILERS_4[align + 1], TRAILERS_6[align + 1]
        congested = arrival.traffic_class & 3 == ip.ECN_CE
        top_before = top = window.top
        octets, count_before = 0, len(packets)
        flow = _NO_FLOW
        index = start
        for index in range(start, len(datagrams)):
            datagram = datagrams[index]
            if len(datagram) < HEADER_OCTETS:
                break
            their_spi, sequence = _spi_and_sequence(datagram)
            if their_spi != spi:
                break
            if extended:
                sequence = extend(sequence, top)
            try:
                if sequence == top + 1:
                    plain = open_packet(datagram, sequence >> 32)
                    top = sequence
                else:
                    window.advance(top)
                    code = window.check(sequence)
                    if code is not None:
                        raise Dropped(code, "window")
                    plain = open_packet(datagram, sequence >> 32)
                    window.accept(sequence)
                    top = window.top
                first = plain[0]
                if first == 0x45:
                    length, trailers = plain[2] << 8 | plain[3], trailers_4
                elif first >> 4 == 6 and len(plain) > 40:
                    length, trailers = 40 + (plain[4] << 8 | plain[5]), trailers_6
                else:
                    length, trailers = 0, trailers_4
                if length >= 20 and plain[length:] == trailers[length & align]:
                    packet = plain[:length]
                else:
                    packet = _payload(plain)
                    if not packet:
                        continue
                if first != flow[0] or packet[flow[1]] != flow[2] or packet[flow[3]] != flow[4]:
                    flow = self._permit(sa, packet)
                if congested:
                    packet = _marked(packet)
            except Dropped as drop:
                self._reject(drop.code, sa)
                continue
            packets.append(packet)
            octets += len(packet)
        else:
            index = len(datagrams)
        window.advance(top)
        if top > top_before:
            self._note_mapping(sa, arrival)
        if len(packets) > count_before:
            sa.count(octets, len(packets) - count_before, now)
        return index

    def _permit(self, sa: Sa, packet: bytes) -> _FlowMark:
        """Check the selectors (RFC 4301 section 5.2, step 4); return what later packets of the flow have in common.

        Raises :class:`Dropped`.
        """
        key = ip.flow_key(packet)
        if key is None or key not in sa.permitted:
            try:
                flow = ip.parse_flow(packet)
            except ip.MalformedPacket:
                raise Dropped(drops.MALFORMED, "inner packet") from None
            if self._spd.inbound(sa.spec.reqid, flow) is None:
                raise Dropped(drops.POLICY, "outside the traffic selectors")
            if key is None:
                return _NO_FLOW
            if len(sa.permitted) >= MAX_CACHED_FLOWS:
                sa.permitted.clear()
            sa.permitted.add(key)
        one, two = _FLOW_SLICES[packet[0] >> 4]
        return (packet[0], one, packet[one], two, packet[two])

    def _note_mapping(self, sa: Sa, arrival: Arrival) -> None:
        """Say once that an authenticated packet came from elsewhere (RFC 7296 section 2.23; encapsulated SAs only)."""
        seen, path = (arrival.remote_address, arrival.remote_port), sa.path
        if seen == (path.remote_address, path.remote_port) or not path.encapsulated or not arrival.remote_port:
            return
        if sa.told_mapping != seen:
            sa.told_mapping = seen
            self._notices.append(Mapped(id=sa.spec.id, address=seen[0], port=seen[1]))

    def _reject(self, code: str, sa: Sa | None) -> None:
        self._totals[code] += 1
        if code == drops.CONGESTION:
            return
        if sa is not None and code in sa.rejected:
            sa.rejected[code] += 1
        self._rejected[code, None if sa is None else sa.spec.id] += 1

    def _check_limits(self, sa: Sa, now: float) -> None:
        if sa.hard_reached(now):
            self._expire(sa, hard=True)
        elif not sa.soft_told and sa.soft_reached(now):
            sa.soft_told = True
            self._expire(sa, hard=False)

    def _expire(self, sa: Sa, *, hard: bool) -> None:
        if hard:
            self.remove_sa(sa.spec.id)
        self._notices.append(Expired(id=sa.spec.id, hard=hard))

    def _forget_flows(self) -> None:
        self._flows.clear()
        for sa in self._sadb:
            sa.permitted.clear()


def _target(sa: SaId) -> str:
    return f"esp {sa.spi:08x} to {sa.destination}"


def _payload(plain: bytes) -> bytes:
    """Return the inner packet of a plaintext, empty for a dummy (RFC 4303 section 2.6); raises :class:`Dropped`."""
    next_header, payload = strip(plain)
    if next_header == NEXT_DUMMY:
        return b""
    if not payload or _NEXT_VERSION.get(next_header) != payload[0] >> 4:
        raise Dropped(drops.MALFORMED, "next header")
    try:
        return payload[: ip.packet_length(payload)]
    except ip.MalformedPacket:
        raise Dropped(drops.MALFORMED, "inner packet") from None


def _marked(packet: bytes) -> bytes:
    """Carry congestion experienced outside inwards; raises :class:`Dropped` when the flow cannot be told."""
    marked = ip.with_congestion(packet)
    if marked is None:
        raise Dropped(drops.CONGESTION, "outer CE, inner not ECN-capable")
    return marked


def _check_outer(spec: SaSpec) -> None:
    """Refuse outer addresses that are not canonical or not of one version, and impossible ports; raises ValueError."""
    source, destination = ipaddress.ip_address(spec.source), ipaddress.ip_address(spec.destination)
    if source.version != destination.version:
        raise ValueError("source and destination are of different IP versions")
    if (str(source), str(destination)) != (spec.source, spec.destination):
        raise ValueError("outer addresses must be in canonical form")
    if spec.encapsulation is not None:
        for port in (spec.encapsulation.source_port, spec.encapsulation.destination_port):
            if not 0 < port < 65536:
                raise ValueError(f"port {port}")


def _selector_of(flow: ip.Flow) -> Selector:
    kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]
    kind, bits = (ipaddress.IPv4Address, 32) if flow.version == 4 else (ipaddress.IPv6Address, 128)
    source_ports = (0, 65535) if flow.source_port is None else (flow.source_port, flow.source_port)
    destination_ports = (0, 65535) if flow.destination_port is None else (flow.destination_port,) * 2
    return Selector(
        source=f"{kind(flow.source)}/{bits}",
        destination=f"{kind(flow.destination)}/{bits}",
        protocol=flow.protocol,
        source_ports=source_ports,
        destination_ports=destination_ports,
    )
