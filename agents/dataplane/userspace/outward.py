"""Packets on their way out: find the SA, see that they fit, encrypt, say where they go.

A packet that does not fit its path comes back as an answer to its sender, or goes in fragments where it may be cut:
each as RFC 4301 section 8.2 has it. DSCP and ECN are copied outwards (RFC 6040 section 4.1), DF as the SA says. In
transport mode ESP goes around whole packets, and it is the outer ones that are cut (RFC 4303 section 3.3.4).
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from agents.contract.config import Mode
from agents.dataplane.base import Acquired, Selector
from agents.dataplane.userspace import drops, ip
from agents.dataplane.userspace.bundle import Bundle
from agents.dataplane.userspace.drops import Dropped
from agents.dataplane.userspace.esp import trailers_of
from agents.dataplane.userspace.esp_runs import MOST_ADDED
from agents.dataplane.userspace.fragments import LEAST_IPV6_MTU, fragment, too_big
from agents.dataplane.userspace.offload import Alike, SuperPacket
from agents.dataplane.userspace.reports import Reports
from agents.dataplane.userspace.rows import MOST, SEALED_AT_ONCE, TOGETHER, Datagram, Rows, Run
from agents.dataplane.userspace.sadb import Path, Sa, SaDatabase
from agents.dataplane.userspace.sharing import Numbers, Turn
from agents.dataplane.userspace.spd import PolicyDatabase

ACQUIRE_AGAIN_S = 5.0
"""One acquire per reqid in this time while traffic waits for an SA."""
ANSWERS_PER_S = 100.0
"""How many answers "too big" there are at most (RFC 4443 section 2.4 f)."""
MAX_CACHED_FLOWS = 4096
_TCP = 6
_RUN_OCTETS = TOGETHER * 65_535 + MOST * (60 + 60 + 4)
"""Super-packets, with IP and TCP headers and a trailer for each segment."""


@dataclass(slots=True)
class Burst:
    """Packets for one path, as a socket of its protocol takes them: ESP, AH over IPv6, or whole IPv4 packets with AH.

    ``traffic_class`` is the outer DSCP and ECN; ``dont_fragment`` forbids to cut the outer packets. One with a ``turn``
    is sent when that has come, which must be waited for and ended in any case. Where there is a ``whole``, it is the
    packets one behind the other, all in memory that is used again: :meth:`kept` is for what cannot be sent at once.
    """

    path: Path
    traffic_class: int
    packets: Sequence[Datagram]
    dont_fragment: bool = False
    turn: Turn | None = None
    whole: memoryview | None = None

    def kept(self, packets: Sequence[Datagram]) -> Burst:
        """Return a burst of some of the packets that may wait."""
        return Burst(self.path, self.traffic_class, [bytes(each) for each in packets], self.dont_fragment, self.turn)


class Outward:
    """``check_limits`` is asked after packets of an SA were counted, ``expire`` when an SA has no number left.

    ``answers`` are packets for a tunnel's own link; whoever sends them takes them out.
    """

    def __init__(
        self,
        sadb: SaDatabase,
        spd: PolicyDatabase,
        reports: Reports,
        check_limits: Callable[[Sa, float], None],
        expire: Callable[[Sa], None],
    ) -> None:
        self._sadb = sadb
        self._spd = spd
        self._reports = reports
        self._check_limits = check_limits
        self._expire = expire
        self._flows: dict[str, dict[bytes, Sa]] = {}
        self._acquired_at: dict[int, float] = {}
        self._may_answer = ANSWERS_PER_S
        self._answered_at = 0.0
        self.answers: defaultdict[str, list[bytes]] = defaultdict(list)
        self._plain = Rows(_RUN_OCTETS)
        self._sealed = tuple(Rows(_RUN_OCTETS + MOST * MOST_ADDED) for _ in range(TOGETHER))

    def forget_flows(self) -> None:
        """Look every flow up again."""
        self._flows.clear()

    def forget_acquired(self, reqid: int) -> None:
        """Ask at once when this reqid is without an SA again."""
        self._acquired_at.pop(reqid, None)

    def seal(self, tunnel_id: str, groups: Iterable[Sequence[bytes] | SuperPacket], now: float) -> list[Burst]:
        """Seal packets that the tunnel's link was given.

        Each group is packets of one flow in order, none longer than the first, one packet, or a super-packet, of which
        :data:`TOGETHER` are sealed at once at most, in memory that the next call uses again.
        """
        flows = self._flows.setdefault(tunnel_id, {})
        bursts: list[Burst] = []
        row: list[SuperPacket] = []
        memory = iter(self._sealed)
        for group in groups:
            if isinstance(group, SuperPacket):
                if row and not row[-1].goes_on_with(group):
                    bursts += self._seal_row(tunnel_id, flows, row, memory, now)
                    row = []
                row.append(group)
                continue
            if row:
                bursts += self._seal_row(tunnel_id, flows, row, memory, now)
                row = []
            burst = self._seal_group(tunnel_id, flows, group, now)
            if burst is not None:
                bursts.append(burst)
        if row:
            bursts += self._seal_row(tunnel_id, flows, row, memory, now)
        return bursts

    def _seal_row(
        self, tunnel_id: str, flows: dict[bytes, Sa], row: list[SuperPacket], memory: Iterator[Rows], now: float
    ) -> list[Burst]:
        """Seal super-packets in a row, at once where that can be done."""
        alike = Alike(row)
        if alike.full >= SEALED_AT_ONCE and row[0].is_even:
            burst = self._seal_at_once(flows, alike, memory, now)
            if burst is not None:
                return [burst]
        singly = (self._seal_group(tunnel_id, flows, packet.segments(), now) for packet in row)
        return [each for each in singly if each is not None]

    def _seal_group(self, tunnel_id: str, flows: dict[bytes, Sa], group: Sequence[bytes], now: float) -> Burst | None:
        first = group[0]
        key = ip.flow_key(first) if len(first) >= 20 else None
        sa = flows.get(key) if key is not None else None
        if sa is None:
            sa = self._route(tunnel_id, first, len(group), now)
            if sa is None:
                return None
            if key is not None:
                if len(flows) >= MAX_CACHED_FLOWS:
                    flows.clear()
                flows[key] = sa
        dont_fragment, traffic_class = _outer_bits(sa, first)
        if len(first) > sa.most_octets:
            fitting = self._fit(tunnel_id, sa, group, now)
            if not fitting:
                return None
            group, dont_fragment = fitting, sa.sets_df and len(fitting[0]) <= sa.most_octets
        count, octets = len(group), sum(map(len, group))
        turn = None if sa.numbers is None else self._turn(sa, sa.numbers, count, octets)
        if sa.sequence + count > sa.last_sequence:
            self._expire(sa)
            return None
        if sa.bundle is None:
            packets = sa.transform.seal(sa.sequence + 1, group)
            sa.sequence += count
            sa.count(octets, count, now)
        else:
            packets = self._seal_one_by_one(sa, sa.bundle, group, traffic_class, dont_fragment, now)
        if turn is not None:
            sa.all_octets, sa.all_packets = turn.octets, turn.packets
        self._check_limits(sa, now)
        return Burst(sa.path, traffic_class, packets, dont_fragment, turn)

    def _seal_at_once(self, flows: dict[bytes, Sa], group: Alike, memory: Iterator[Rows], now: float) -> Burst | None:
        """Cut and seal super-packets at once; None where their segments have to be looked at one by one.

        That is where anything is not as usual: another algorithm, too long for the path, a flow not seen before.
        """
        head, longest = group.head, group.longest
        sa = flows.get(ip.flow_key(head) or b"")
        if sa is None or sa.runs is None or longest > sa.most_octets:
            return None
        trailer = trailers_of(head, sa.transform.block)[longest % sa.transform.block]
        plain = Run(self._plain, longest + len(trailer), group.full)
        if not self._plain.fit(plain.octets, group.count) or (sealed_in := next(memory, None)) is None:
            return None
        turn = None if sa.numbers is None else self._turn(sa, sa.numbers, group.count, group.octets)
        if sa.sequence + group.count > sa.last_sequence:
            return None
        table = plain.table()
        group.fill(table)
        table[:, longest:] = np.frombuffer(trailer, np.uint8)
        sealed = sa.runs.seal(sa.sequence + 1, plain, sealed_in)
        last = group.last()
        packets, whole = _with_last(
            sealed, b"" if last is None else sa.transform.seal(sa.sequence + group.count, (last,))[0]
        )
        sa.sequence += group.count
        sa.count(group.octets, group.count, now)
        if turn is not None:
            sa.all_octets, sa.all_packets = turn.octets, turn.packets
        self._check_limits(sa, now)
        dont_fragment, traffic_class = _outer_bits(sa, head)
        return Burst(sa.path, traffic_class, packets, dont_fragment, turn, whole)

    def _turn(self, sa: Sa, numbers: Numbers, count: int, octets: int) -> Turn | None:
        """Take numbers of those that others seal for as well; where none are left, say so by ``sequence``."""
        turn = numbers.take(count, octets, sa.last_sequence)
        sa.sequence = sa.last_sequence if turn is None else turn.first - 1
        return turn

    def _seal_one_by_one(
        self, sa: Sa, bundle: Bundle, group: Sequence[bytes], traffic_class: int, dont_fragment: bool, now: float
    ) -> list[bytes]:
        sealed = []
        for packet in group:
            try:
                sealed.append(bundle.seal(sa.sequence + 1, packet, traffic_class, dont_fragment=dont_fragment))
            except Dropped as drop:
                self._reports.totals[drop.code] += 1
                continue
            sa.sequence += 1
            sa.count(len(packet), 1, now)
        return sealed

    def _fit(self, tunnel_id: str, sa: Sa, group: Sequence[bytes], now: float) -> Sequence[bytes]:
        """Return what to send of packets longer than the path takes: fragments, or nothing and an answer instead.

        An IPv6 packet of the size that every path of IPv6 takes goes as it is: then the outer one is cut, as it is
        where an IPv4 packet may be cut and the outer one too, and in transport mode unless a program forbids it.
        """
        first = group[0]
        limit = sa.most_octets
        if first[0] >> 4 == 6:
            limit = max(limit, LEAST_IPV6_MTU)
            if len(first) <= limit:
                return group
        if sa.spec.mode is Mode.TRANSPORT and len(first) <= sa.most_ever and not _forbids_fragments(first):
            if _protocol(first) == _TCP:
                self._say_too_big(tunnel_id, first, limit, now)
            return group
        if not ip.may_not_be_fragmented(first):
            if len(first) <= sa.most_ever and not sa.sets_df:
                return group
            return [piece for packet in group for piece in fragment(packet, limit)]
        self._reports.totals[drops.LOCAL_TOO_BIG] += len(group)
        self._say_too_big(tunnel_id, first, limit, now)
        return ()

    def _say_too_big(self, tunnel_id: str, packet: bytes, limit: int, now: float) -> None:
        answer = too_big(packet, limit) if self._may_answer_now(now) else None
        if answer is not None:
            self.answers[tunnel_id].append(answer)

    def _may_answer_now(self, now: float) -> bool:
        self._may_answer = min(ANSWERS_PER_S, self._may_answer + (now - self._answered_at) * ANSWERS_PER_S)
        self._answered_at = now
        if self._may_answer < 1:
            return False
        self._may_answer -= 1
        return True

    def _route(self, tunnel_id: str, packet: bytes, count: int, now: float) -> Sa | None:
        """Find the SA for an outbound packet, or count why there is none and ask for one."""
        try:
            flow = ip.parse_flow(packet)
        except ip.MalformedPacket:
            self._reports.totals[drops.LOCAL_MALFORMED] += count
            return None
        policy = self._spd.outbound(tunnel_id, flow)
        if policy is None:
            self._reports.totals[drops.LOCAL_NO_POLICY] += count
            return None
        sa = self._sadb.newest_outbound(policy.reqid)
        if sa is None:
            self._reports.totals[drops.LOCAL_NO_SA] += count
            if self.may_ask(policy.reqid, now):
                self._reports.notices.append(Acquired(reqid=policy.reqid, selector=_selector_of(flow)))
        return sa

    def may_ask(self, reqid: int, now: float) -> bool:
        """Whether it is time to ask for an SA of this reqid; takes note that it is done."""
        if now - self._acquired_at.get(reqid, -ACQUIRE_AGAIN_S) < ACQUIRE_AGAIN_S:
            return False
        self._acquired_at[reqid] = now
        return True


def _outer_bits(sa: Sa, packet: bytes) -> tuple[bool, int]:
    """Return whether the outer packets are not to be cut, and their traffic class."""
    four = packet[0] >> 4 == 4
    dont_fragment = (not four or packet[6] & 0x40 != 0) if sa.copies_df else sa.sets_df
    return dont_fragment, (packet[1] if four else ip.traffic_class(packet)) & sa.class_mask


def _with_last(run: Run, last: bytes) -> tuple[list[memoryview], memoryview]:
    """Return the packets of a run and one that is put behind it in its memory, each for itself and all in one piece."""
    memory, end = run.rows.memory, run.octets * run.count
    packets = run.pieces(0, run.octets)
    if last:
        memory[end : end + len(last)] = last
        packets.append(memory[end : end + len(last)])
    return packets, memory[: end + len(last)]


def _forbids_fragments(packet: bytes) -> bool:
    """Whether a program wants a packet of transport mode in one piece or not at all.

    Not of TCP, which always says so and hears of the path from what it is answered: should that not reach it, it goes
    on. Over IPv6 nobody can say so.
    """
    return packet[0] >> 4 == 4 and packet[9] != _TCP and ip.may_not_be_fragmented(packet)


def _protocol(packet: bytes) -> int:
    return packet[6] if packet[0] >> 4 == 6 else packet[9]


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
