"""The userspace data plane without its sockets: inner packets in, ESP and AH packets out, and the reverse, in batches.

``outbound``, ``inbound`` and ``inbound_ah`` never raise for what a packet contains: a packet that is refused is counted
under its code and gone. Times are arguments (any clock that does not jump). Deliberately not here: files, sockets,
segmentation (:mod:`agents.dataplane.userspace.offload`), and the TTL of forwarded packets (the kernel has decremented
it before the TUN).
"""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
from collections.abc import Callable, Iterable, Sequence

from agents.dataplane.base import (
    Acquired,
    DataplaneError,
    Expired,
    Notice,
    PolicySpec,
    Rejected,
    Repaired,
    SaId,
    SaSpec,
    SaState,
    UdpEncapsulation,
)
from agents.dataplane.userspace.inward import Arrival, Delivery, HandOver, Inward
from agents.dataplane.userspace.offload import SuperPacket
from agents.dataplane.userspace.outward import Burst, Outward
from agents.dataplane.userspace.reports import Reports
from agents.dataplane.userspace.rows import Datagram, Run
from agents.dataplane.userspace.sadb import Path, Sa, SaDatabase
from agents.dataplane.userspace.sharing import Numbers
from agents.dataplane.userspace.spd import PolicyDatabase

PATH_AGAIN_S = 600.0
"""What a path was told to take is forgotten after this time: it may have become wider (RFC 1191 section 6.3)."""


class Engine:
    """SAs, policies and the two directions. ``entropy`` returns unpredictable octets (CBC needs them).

    ``hand_over`` is there where several engines carry the same SAs (:mod:`agents.dataplane.userspace.sharing`).
    """

    def __init__(self, entropy: Callable[[int], bytes], hand_over: HandOver | None = None) -> None:
        self._entropy = entropy
        self._hand_over = hand_over
        self._reports = Reports()
        self.clear()

    def clear(self) -> None:
        """Forget every SA, policy and notice."""
        self._sadb = SaDatabase(self._entropy)
        self._spd = PolicyDatabase()
        self._reports.forget()
        self._narrow: dict[Path, tuple[int, float]] = {}
        self._inward = Inward(self._sadb, self._spd, self._reports, self._check_limits, self._hand_over)
        self._outward = Outward(
            self._sadb, self._spd, self._reports, self._check_limits, lambda sa: self._expire(sa, hard=True)
        )

    # What the driver protocol asks for

    def add_sa(self, spec: SaSpec, now: float, numbers: Numbers | None = None, *, elsewhere: bool = False) -> None:
        """Install an SA; raises :class:`DataplaneError` (EEXIST, EINVAL).

        ``numbers`` are those of an outbound one that other engines have, too; an inbound one that one of them opens is
        ``elsewhere``.
        """
        target = _target(spec.id)
        if spec.id in self._sadb:
            raise DataplaneError("add_sa", target, errno.EEXIST, "an SA of this SPI exists")
        if not 256 <= spec.spi <= 0xFFFFFFFF:
            raise DataplaneError("add_sa", target, errno.EINVAL, "SPIs 0 to 255 are reserved")
        try:
            _check_outer(spec)
            sa = self._sadb.add(spec, now, numbers, elsewhere=elsewhere)
        except ValueError as error:
            raise DataplaneError("add_sa", target, errno.EINVAL, str(error)) from None
        if sa.path in self._narrow:
            sa.narrow(self._narrow[sa.path][0])
        self._outward.forget_acquired(spec.reqid)
        self._outward.forget_flows()

    def has(self, sa: SaId) -> bool:
        """Whether an SA is there."""
        return sa in self._sadb

    def remove_sa(self, sa: SaId) -> None:
        """Remove an SA if it is there."""
        if self._sadb.remove(sa) is not None:
            self._outward.forget_flows()

    def update_mapping(self, sa: SaId, source: str, destination: str, encapsulation: UdpEncapsulation | None) -> Path:
        """Move an SA to other outer addresses; returns its path, raises :class:`DataplaneError` (ESRCH, EEXIST,
        EINVAL)."""
        held = self._sadb.get(sa)
        if held is None:
            raise DataplaneError("update_mapping", _target(sa), errno.ESRCH, "no such SA")
        spec = dataclasses.replace(held.spec, source=source, destination=destination, encapsulation=encapsulation)
        if spec.id != sa and spec.id in self._sadb:
            raise DataplaneError("update_mapping", _target(sa), errno.EEXIST, "the new id is taken")
        try:
            _check_outer(spec)
            self._sadb.move(sa, spec)
        except ValueError as error:
            raise DataplaneError("update_mapping", _target(sa), errno.EINVAL, str(error)) from None
        if held.path in self._narrow:
            held.narrow(self._narrow[held.path][0])
        self._outward.forget_flows()
        return held.path

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
        return dict(self._reports.totals)

    # Packets

    def outbound(self, tunnel_id: str, groups: Iterable[Sequence[bytes] | SuperPacket], now: float) -> list[Burst]:
        """Seal packets that the tunnel's link was given: see :meth:`Outward.seal`."""
        return self._outward.seal(tunnel_id, groups, now)

    @property
    def shares(self) -> bool:
        """Whether others carry the same SAs: what is sealed must be sent before more is, since they may wait for it."""
        return self._hand_over is not None

    def take_answers(self) -> dict[str, list[bytes]]:
        """Return packets for tunnels' own links, by tunnel: what their senders are to be told."""
        answers = dict(self._outward.answers)
        self._outward.answers.clear()
        return answers

    @property
    def has_answers(self) -> bool:
        """Whether :meth:`take_answers` has something."""
        return bool(self._outward.answers)

    def inbound(self, arrival: Arrival, datagrams: Sequence[Datagram], now: float) -> list[Delivery]:
        """Open ESP packets that came from one place; those of one tunnel in a row make one delivery."""
        return self._inward.esp(arrival, datagrams, now)

    def inbound_run(self, arrival: Arrival, packets: Run, now: float) -> list[Delivery]:
        """Open ESP packets of one length at once where that can be done: see :meth:`Inward.run`."""
        return self._inward.run(arrival, packets, now)

    def inbound_ah(self, arrival: Arrival, packets: Sequence[bytes], now: float) -> list[Delivery]:
        """Open AH packets, each a whole IP packet with its outer header."""
        return self._inward.ah(arrival, packets, now)

    def narrow(self, path: Path, packet_octets: int, now: float) -> None:
        """Take note that a path takes outer IP packets of so many octets at most, for :data:`PATH_AGAIN_S`."""
        self._narrow[path] = packet_octets, now + PATH_AGAIN_S
        for sa in self._sadb:
            if sa.path == path:
                sa.narrow(packet_octets)

    def expired_elsewhere(self, expired: Expired) -> None:
        """Another engine has seen an SA reach its limit: say so here, unless it has been said."""
        sa = self._sadb.get(expired.id)
        if sa is None or (sa.soft_told and not expired.hard):
            return
        sa.soft_told = True
        self._expire(sa, hard=expired.hard)

    def acquired_elsewhere(self, acquired: Acquired, now: float) -> None:
        """Another engine has traffic without an SA: ask for one here, unless that was done a moment ago."""
        if self._outward.may_ask(acquired.reqid, now):
            self._reports.notices.append(acquired)

    def repaired(self, tunnel_id: str, detail: str) -> None:
        """Say that something of a tunnel was gone and is back, in a sentence; of a tunnel without policies, nothing."""
        reqid = next((spec.reqid for spec in self._spd.specs() if spec.tunnel_id == tunnel_id), None)
        if reqid is not None:
            self._reports.notices.append(Repaired(reqid=reqid, detail=detail))

    # Time and notices

    def handle_timer(self, now: float) -> None:
        """Look at the limits in seconds; call about once a second."""
        for sa in self._sadb:
            self._check_limits(sa, now)
        for path in [path for path, (_octets, until) in self._narrow.items() if now >= until]:
            del self._narrow[path]
            for sa in self._sadb:
                if sa.path == path:
                    sa.narrow(None)

    @property
    def has_notices(self) -> bool:
        """Whether :meth:`take_notices` has something; rejected packets alone do not count."""
        return bool(self._reports.notices)

    def take_notices(self) -> list[Notice]:
        """Return what there is to say since the last call."""
        return self._reports.take_notices()

    def take_rejected(self) -> list[Rejected]:
        """Return the packets refused since the last call, summed up; for once a second or so."""
        return self._reports.take_rejected()

    # Inside

    def _check_limits(self, sa: Sa, now: float) -> None:
        if sa.hard_reached(now):
            self._expire(sa, hard=True)
        elif not sa.soft_told and sa.soft_reached(now):
            sa.soft_told = True
            self._expire(sa, hard=False)

    def _expire(self, sa: Sa, *, hard: bool) -> None:
        if hard:
            if not self.has(sa.spec.id):
                # It went with an earlier packet of the same batch, and that was said.
                return
            self.remove_sa(sa.spec.id)
        self._reports.notices.append(Expired(id=sa.spec.id, hard=hard))

    def _forget_flows(self) -> None:
        self._outward.forget_flows()
        for sa in self._sadb:
            sa.permitted.clear()


def _target(sa: SaId) -> str:
    return f"{sa.protocol} {sa.spi:08x} to {sa.destination}"


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
