"""Traffic counters per SA, child, tunnel and gateway, kept across rekeys.

The data plane counts per SA and forgets an SA's counters with it. Here the total of a child is what its past SAs
counted last plus what its present ones count, and a tunnel's is that of its children, so neither runs backwards while
this process lives; ``agentd`` keeps them across restarts. What the gateway counts as a whole is in
:mod:`agents.iked.ipsec_counts`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from agents.contract.status import NO_REJECTIONS, Counters, Rejections
from agents.dataplane.base import Direction, Driver, SaId, SaSpec, SaState
from agents.iked import trace
from agents.iked.ipsec_counts import IpsecCounts
from agents.iked.rejections import FIELDS, Refused, larger

_NONE = Counters()

HeardChild = tuple[str, int]
"""A tunnel's id and the inbound SPI of one of its children."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What passed and what was refused."""

    counters: Counters = _NONE
    rejected: Rejections = NO_REJECTIONS

    def __add__(self, other: Sum) -> Sum:
        return Sum(counters=self.counters + other.counters, rejected=self.rejected + other.rejected)


NOTHING = Sum()


@dataclass(slots=True)
class _Counted:
    """One SA; ``pair_spi`` is the SPI of the child's inbound SA, which names the child towards the engine.

    ``noticed`` are the rejections that notices told of; the data plane's own count of them may come before or after.
    """

    spec: SaSpec
    pair_spi: int
    child: str
    counters: Counters = _NONE
    rejected: Rejections = NO_REJECTIONS
    noticed: Rejections = NO_REJECTIONS
    expired: bool = False

    @property
    def sum(self) -> Sum:
        return Sum(counters=self.counters, rejected=self.rejected)

    @property
    def owner(self) -> tuple[str, str]:
        return self.spec.tunnel_id, self.child


class Traffic:
    """The counters of every SA that ``iked`` has installed."""

    def __init__(self) -> None:
        self.ipsec = IpsecCounts()
        self._sas: dict[SaId, _Counted] = {}
        self._by_spi: dict[tuple[str, Direction, int], _Counted] = {}
        self._past: dict[tuple[str, str], Sum] = {}
        self._spoke: set[HeardChild] = set()
        self._refused: list[Refused] = []
        self._listing: asyncio.Task[frozenset[HeardChild]] | None = None
        self._queued: asyncio.Task[frozenset[HeardChild]] | None = None

    def __len__(self) -> int:
        return len(self._sas)

    def started(self, spec: SaSpec, pair_spi: int, child: str = "") -> None:
        """An SA was installed; ``pair_spi`` and ``child`` name its child."""
        counted = _Counted(spec=spec, pair_spi=pair_spi, child=child)
        self._sas[spec.id] = counted
        self._by_spi[spec.tunnel_id, spec.direction, spec.spi] = counted
        self.ipsec.sa_added(spec)

    def moved(self, old: SaId, new: SaId) -> None:
        """An SA has another destination address now."""
        counted = self._sas.pop(old, None)
        if counted is not None:
            self._sas[new] = counted

    def expired(self, sa: SaId) -> None:
        """An SA reached the end of its lifetime; its removal will be no deletion."""
        counted = self._sas.get(sa)
        if counted is not None:
            counted.expired = True

    def ended(self, sa: SaId) -> None:
        """An SA is gone; what it counted last stays in its child's and its tunnel's total."""
        counted = self._sas.pop(sa, None)
        if counted is not None:
            self._by_spi.pop((counted.spec.tunnel_id, counted.spec.direction, sa.spi), None)
            self._past[counted.owner] = self._past.get(counted.owner, NOTHING) + counted.sum
            self.ipsec.sa_gone(counted.spec, expired=counted.expired)

    def all_ended(self) -> None:
        """The data plane lost everything."""
        for sa in tuple(self._sas):
            self.ended(sa)

    def forget(self, tunnel_id: str) -> None:
        """A tunnel is no longer configured: its total is not told any more."""
        for owner in [owner for owner in self._past if owner[0] == tunnel_id]:
            del self._past[owner]

    def child_of(self, sa: SaId) -> tuple[str, int] | None:
        """Return the tunnel and the inbound SPI of the child an SA belongs to."""
        counted = self._sas.get(sa)
        return None if counted is None else (counted.spec.tunnel_id, counted.pair_spi)

    def is_inbound(self, sa: SaId) -> bool:
        """Return whether this is an SA that packets come in on."""
        counted = self._sas.get(sa)
        return counted is not None and counted.spec.direction is Direction.IN

    def of_sa(self, tunnel_id: str, direction: Direction, spi: int) -> Sum:
        """Return what one SA has counted so far."""
        counted = self._by_spi.get((tunnel_id, direction, spi))
        return NOTHING if counted is None else counted.sum

    def by_child(self) -> dict[tuple[str, str], Sum]:
        """Return the total of every child that has one, by tunnel and name."""
        totals = dict(self._past)
        for counted in self._sas.values():
            totals[counted.owner] = totals.get(counted.owner, NOTHING) + counted.sum
        return totals

    def totals(self) -> dict[str, Sum]:
        """Return the total of every tunnel that has one."""
        totals: dict[str, Sum] = {}
        for (tunnel_id, _child), child in self.by_child().items():
            totals[tunnel_id] = totals.get(tunnel_id, NOTHING) + child
        return totals

    def update(self, states: Iterable[SaState]) -> frozenset[HeardChild]:
        """Take the data plane's counters; returns the children that have received packets since the last time."""
        heard = set()
        for state in states:
            counted = self._sas.get(state.id)
            if counted is None:
                continue
            before, now = counted.counters, state.counters
            if now.packets_in > before.packets_in:
                heard.add((counted.spec.tunnel_id, counted.pair_spi))
            if now.packets_out > before.packets_out:
                self._spoke.add((counted.spec.tunnel_id, counted.pair_spi))
            if now != before:
                self.ipsec.passed(counted.spec, before, now)
                trace.passed(counted.spec, before, now)
                counted.counters = now
            if state.rejected != counted.rejected:
                self._take_rejected(state.id, counted, state.rejected)
        return frozenset(heard)

    def noticed(self, sa: SaId, code: str, count: int) -> bool:
        """The data plane tells that an SA refused packets; False where the SA or the reason is none of ours."""
        counted, field = self._sas.get(sa), FIELDS.get(code)
        if counted is None or field is None:
            return False
        more = {field: getattr(counted.noticed, field) + count}
        counted.noticed = dataclasses.replace(counted.noticed, **more)
        self._take_rejected(sa, counted, counted.noticed)
        return True

    def take_refused(self) -> list[Refused]:
        """Return what was refused since the last time this was asked; each packet is told once."""
        refused, self._refused = self._refused, []
        return refused

    def _take_rejected(self, sa: SaId, counted: _Counted, told: Rejections) -> None:
        """A count and a notice tell of the same packets, whichever comes first: the larger one of both is the truth."""
        now = larger(counted.rejected, told)
        for code, field in FIELDS.items():
            more = getattr(now, field) - getattr(counted.rejected, field)
            if more:
                self._refused.append(Refused(code=code, count=more, sa=sa, spec=counted.spec))
                self.ipsec.refused(counted.spec, field, more)
                trace.refused(counted.spec, code, more)
        counted.rejected = now

    def take_spoke(self) -> frozenset[HeardChild]:
        """Return the children that have sent packets since the last time this was asked."""
        spoke, self._spoke = frozenset(self._spoke), set()
        return spoke

    async def refresh(self, driver: Driver) -> frozenset[HeardChild]:
        """List the data plane's SAs once for everybody who asks meanwhile; a listing begins after each asking.

        Raises DataplaneError.
        """
        if self._listing is None:
            self._listing = asyncio.create_task(self._list(driver))
            return await asyncio.shield(self._listing)
        # The listing under way may have passed the SA in question already: join the one that comes after it.
        if self._queued is None:
            self._queued = asyncio.create_task(self._list_after(self._listing, driver))
        return await asyncio.shield(self._queued)

    async def _list(self, driver: Driver) -> frozenset[HeardChild]:
        try:
            return self.update(await driver.list_sas())
        finally:
            self._listing = None

    async def _list_after(self, before: asyncio.Task[frozenset[HeardChild]], driver: Driver) -> frozenset[HeardChild]:
        await asyncio.wait([before])
        self._listing, self._queued = self._queued, None
        return await self._list(driver)
