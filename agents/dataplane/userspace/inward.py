"""Packets on their way in: find the SA, verify, decrypt, check the selectors, hand over the inner packets.

Nothing here raises for what a packet contains: one that is refused is counted under its code and gone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agents.dataplane.base import Mapped
from agents.dataplane.userspace import ah, drops, ip, offload, vector
from agents.dataplane.userspace.bundle import Bundle, tunnelled
from agents.dataplane.userspace.drops import Dropped
from agents.dataplane.userspace.esp import (
    HEADER_OCTETS,
    NEXT_DUMMY,
    NEXT_ESP,
    TRAILERS_4,
    TRAILERS_6,
    strip,
)
from agents.dataplane.userspace.offload import Frame
from agents.dataplane.userspace.replay import ReplayWindow, extend
from agents.dataplane.userspace.reports import Reports
from agents.dataplane.userspace.rows import OPENED_AT_ONCE, RECEIVED_OCTETS, Datagram, Rows, Run
from agents.dataplane.userspace.sadb import Sa, SaDatabase
from agents.dataplane.userspace.spd import PolicyDatabase

MAX_CACHED_FLOWS = 4096

_FlowMark = tuple[int, slice, bytes, slice, bytes]
"""First octet of a TCP or UDP packet, and two ranges of octets that its flow's packets share."""
_FLOW_SLICES = {4: (slice(6, 10), slice(12, 24)), 6: (slice(6, 7), slice(8, 44))}
"""IPv4: fragmentation, TTL, protocol; addresses, ports (no options). IPv6: next header; addresses, ports."""
_NO_FLOW: _FlowMark = (-1, slice(0), b"", slice(0), b"")
_CHANGES_INWARDS = (ip.ECN_ECT_1, ip.ECN_CE)
"""ECN fields outside that may change the one inside (RFC 6040 section 4.2)."""

_spi_and_sequence = struct.Struct("!II").unpack_from


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a batch of packets came from; port 0 is without UDP. ``traffic_class`` is that of the outer header."""

    local_address: str
    remote_address: str
    remote_port: int
    traffic_class: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """Inner packets for one tunnel's link, in order.

    Where they are joined already, ``joined`` of them, there are ``frames`` instead, in memory that the next call of
    :meth:`Inward.run` uses again.
    """

    tunnel_id: str
    packets: list[bytes]
    frames: Sequence[Frame] = ()
    joined: int = 0


HandOver = Callable[[int, Arrival, Datagram], bool]
"""Gives an ESP packet of this SPI to the engine whose it is; returns false where it is nobody else's."""


class Inward:
    """``check_limits`` is asked after packets of an SA were counted."""

    def __init__(
        self,
        sadb: SaDatabase,
        spd: PolicyDatabase,
        reports: Reports,
        check_limits: Callable[[Sa, float], None],
        hand_over: HandOver | None = None,
    ) -> None:
        self._sadb = sadb
        self._spd = spd
        self._reports = reports
        self._check_limits = check_limits
        self._hand_over = hand_over
        self._plain = Rows(RECEIVED_OCTETS)

    def esp(self, arrival: Arrival, datagrams: Sequence[Datagram], now: float) -> list[Delivery]:
        """Open ESP packets that came from one place; those of one tunnel in a row make one delivery."""
        table = self._sadb.inbound_at(arrival.local_address)
        deliveries: list[Delivery] = []
        index = 0
        while index < len(datagrams):
            if len(datagrams[index]) < HEADER_OCTETS:
                self._reports.reject(drops.MALFORMED, None)
                index += 1
                continue
            spi, _sequence = _spi_and_sequence(datagrams[index])
            sa = table.get(spi)
            if sa is None:
                if self._hand_over is None or not self._hand_over(spi, arrival, datagrams[index]):
                    self._reports.reject(drops.NO_SA, None)
                index += 1
                continue
            packets = _packets_of(sa, deliveries)
            if sa.bundle is None:
                index = self._open_run(sa, arrival, datagrams, index, packets, now)
            else:
                self._open_one(sa, sa.bundle, arrival, datagrams[index], packets, now)
                index += 1
            self._check_limits(sa, now)
        return deliveries

    def ah(self, arrival: Arrival, whole: Sequence[bytes], now: float) -> list[Delivery]:
        """Open AH packets, whole ones with their IP header, that came from one place."""
        table = self._sadb.inbound_ah_at(arrival.local_address)
        deliveries: list[Delivery] = []
        for packet in whole:
            sa = None
            try:
                parsed = ah.parse(packet)
                sa = table.get(parsed.spi)
                if sa is None or sa.bundle is None:
                    raise Dropped(drops.NO_SA, "AH")
                inner = _under_ah(sa, sa.bundle, arrival, parsed)
                self._deliver(sa, arrival, inner, _packets_of(sa, deliveries), now)
            except Dropped as drop:
                self._reports.reject(drop.code, sa)
            if sa is not None:
                self._check_limits(sa, now)
        return deliveries

    def _open_one(
        self, sa: Sa, bundle: Bundle, arrival: Arrival, datagram: Datagram, packets: list[bytes], now: float
    ) -> None:
        """Open an ESP packet of an SA that is more than ESP in tunnel mode."""
        try:
            if bundle.ah is not None:
                raise Dropped(drops.MODE, "ESP without the AH agreed on")
            top_before = sa.window.top
            packet = _decrypted(sa, bundle, arrival, datagram)
            if sa.window.top > top_before:
                self._note_mapping(sa, arrival)
            self._deliver(sa, arrival, packet, packets, now)
        except Dropped as drop:
            self._reports.reject(drop.code, sa)

    def _deliver(self, sa: Sa, arrival: Arrival, packet: bytes, packets: list[bytes], now: float) -> None:
        """Check one inner packet against the selectors and hand it over; raises :class:`Dropped`."""
        if not packet:
            return
        self._permit(sa, packet)
        packet = _with_outer_ecn(packet, arrival.traffic_class & 3)
        packets.append(packet)
        sa.count(len(packet), 1, now)

    def _open_run(
        self,
        sa: Sa,
        arrival: Arrival,
        datagrams: Sequence[Datagram],
        start: int,
        packets: list[bytes],
        now: float,
    ) -> int:
        """Open packets of one SA from ``start`` on; return the index of the first that is of another, or the end.

        The usual is looked at with as few steps as can be: the next sequence number.
        """
        spi, window, open_packet, extended = sa.spec.spi, sa.window, sa.transform.open, sa.extended
        top_before = top = window.top
        opened: list[bytes] = []
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
                    opened.append(open_packet(datagram, sequence >> 32))
                    top = sequence
                else:
                    window.advance(top)
                    code = window.check(sequence)
                    if code is not None:
                        raise Dropped(code, "window")
                    opened.append(open_packet(datagram, sequence >> 32))
                    window.accept(sequence)
                    top = window.top
            except Dropped as drop:
                self._reports.reject(drop.code, sa)
        else:
            index = len(datagrams)
        window.advance(top)
        if top > top_before:
            self._note_mapping(sa, arrival)
        self._take(sa, arrival, opened, packets, now)
        return index

    def run(self, arrival: Arrival, run: Run, now: float) -> list[Delivery]:
        """Open ESP packets of one length that came from one place, those of one SA and in order at once."""
        sa = opened = None
        if run.count >= OPENED_AT_ONCE and run.octets >= HEADER_OCTETS:
            spi, first = _spi_and_sequence(run.rows.memory)
            sa = self._sadb.inbound_at(arrival.local_address).get(spi)
            opened = None if sa is None else self._open_at_once(sa, first, run)
        if sa is None or opened is None:
            return self.esp(arrival, run.copies(), now)
        self._note_mapping(sa, arrival)
        frames = self._join(sa, arrival, opened, now)
        delivery = Delivery(sa.spec.tunnel_id, [], frames, run.count if frames else 0)
        if not frames:
            self._take(sa, arrival, opened.copies(), delivery.packets, now)
        self._check_limits(sa, now)
        return [delivery]

    def _open_at_once(self, sa: Sa, first: int, run: Run) -> Run | None:
        """Open packets that are all of this SA, new and in a row; None where they are not."""
        window, heads = sa.window, run.table()
        if sa.runs is None:
            return None
        sequence = extend(first, window.top) if sa.extended else first
        if not window.top < sequence <= sa.last_sequence - run.count or (heads[:, :4] != heads[0, :4]).any():
            return None
        if not vector.rise(heads[:, 4:HEADER_OCTETS], 1).all():
            return None
        opened = sa.runs.open(run, sequence, self._plain)
        if opened is not None:
            window.accept(sequence)
            window.advance(sequence + run.count - 1)
        return opened

    def _join(self, sa: Sa, arrival: Arrival, opened: Run, now: float) -> list[Frame]:
        """Return plaintexts as frames, checked; none where each has to be looked at by itself."""
        first = opened.first()
        octets, trailer = _usual(first, sa.transform.block)
        if octets < 20 or first[octets:] != trailer or arrival.traffic_class & 3 in _CHANGES_INWARDS:
            return []
        if (opened.table()[:, octets:] != np.frombuffer(trailer, np.uint8)).any():
            return []
        frames = offload.join(opened, octets)
        if frames is None:
            return []
        try:
            self._permit(sa, first[:octets])
        except Dropped:
            return []
        sa.count(octets * opened.count, opened.count, now)
        return frames

    def _take(self, sa: Sa, arrival: Arrival, opened: list[bytes], packets: list[bytes], now: float) -> None:
        """Take plaintexts apart, check the inner packets and hand them over.

        What is usual is looked at with as few steps as can be: no octet but an IP packet and the shortest trailer, the
        flow of the packet before.
        """
        align = sa.transform.block - 1
        trailers_4, trailers_6 = TRAILERS_4[align + 1], TRAILERS_6[align + 1]
        ecn = arrival.traffic_class & 3
        marked = ecn in _CHANGES_INWARDS
        octets, count_before = 0, len(packets)
        flow = _NO_FLOW
        for plain in opened:
            try:
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
                if marked:
                    packet = _with_outer_ecn(packet, ecn)
            except Dropped as drop:
                self._reports.reject(drop.code, sa)
                continue
            packets.append(packet)
            octets += len(packet)
        if len(packets) > count_before:
            sa.count(octets, len(packets) - count_before, now)

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
            self._reports.notices.append(Mapped(id=sa.spec.id, address=seen[0], port=seen[1]))


def _usual(plain: bytes, block: int) -> tuple[int, bytes]:
    """Return the length of the inner packet and what ends a plaintext of which no octet is more than needed."""
    length, trailers = 0, TRAILERS_4[block]
    if plain[0] == 0x45:
        length = plain[2] << 8 | plain[3]
    elif plain[0] >> 4 == 6 and len(plain) > 40:
        length, trailers = 40 + (plain[4] << 8 | plain[5]), TRAILERS_6[block]
    return length, trailers[length % block]


def _packets_of(sa: Sa, deliveries: list[Delivery]) -> list[bytes]:
    if not deliveries or deliveries[-1].tunnel_id != sa.spec.tunnel_id:
        deliveries.append(Delivery(sa.spec.tunnel_id, []))
    return deliveries[-1].packets


def _authentic(sa: Sa, bundle: Bundle, parsed: ah.Authenticated) -> bytes:
    """Return what is under AH, verified and not seen before; raises :class:`Dropped`."""
    assert bundle.ah is not None
    window = sa.window if bundle.esp is None else bundle.window
    sequence = _new(window, parsed.sequence, extended=sa.extended)
    payload = bundle.ah.open(parsed, sequence >> 32)
    window.accept(sequence)
    return payload


def _under_ah(sa: Sa, bundle: Bundle, arrival: Arrival, parsed: ah.Authenticated) -> bytes:
    """Return the inner packet of an AH packet; raises :class:`Dropped`."""
    payload = _authentic(sa, bundle, parsed)
    if bundle.esp is None:
        return bundle.unwrap(parsed.next_header, payload, arrival.traffic_class)
    if parsed.next_header != NEXT_ESP:
        raise Dropped(drops.MODE, "no ESP under AH")
    return _decrypted(sa, bundle, arrival, payload)


def _decrypted(sa: Sa, bundle: Bundle, arrival: Arrival, datagram: Datagram) -> bytes:
    """Return the inner packet of an ESP packet, verified and not seen before; raises :class:`Dropped`."""
    if len(datagram) < HEADER_OCTETS:
        raise Dropped(drops.MALFORMED, "length")
    spi, low = _spi_and_sequence(datagram)
    if spi != sa.spec.spi:
        raise Dropped(drops.MODE, "the ESP of another SA under AH")
    sequence = _new(sa.window, low, extended=sa.extended)
    plain = sa.transform.open(datagram, sequence >> 32)
    sa.window.accept(sequence)
    return bundle.unwrap(*strip(plain), arrival.traffic_class)


def _new(window: ReplayWindow, low: int, *, extended: bool) -> int:
    """Return the whole sequence number that may be new; raises :class:`Dropped`."""
    sequence = extend(low, window.top) if extended else low
    code = window.check(sequence)
    if code is not None:
        raise Dropped(code, "window")
    return sequence


def _payload(plain: bytes) -> bytes:
    """Return the inner packet of a plaintext, empty for a dummy (RFC 4303 section 2.6); raises :class:`Dropped`."""
    next_header, payload = strip(plain)
    return b"" if next_header == NEXT_DUMMY else tunnelled(next_header, payload)


def _with_outer_ecn(packet: bytes, outer: int) -> bytes:
    """Carry what routers said outside inwards; raises :class:`Dropped` when the flow cannot be told of congestion."""
    if outer not in _CHANGES_INWARDS:
        return packet
    marked = ip.with_congestion(packet, outer)
    if marked is None:
        raise Dropped(drops.CONGESTION, "outer CE, inner not ECN-capable")
    return marked
