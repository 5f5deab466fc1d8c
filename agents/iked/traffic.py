"""Traffic counters per SA and per tunnel, kept across rekeys.

The data plane counts per SA and forgets an SA's counters with it. Here a tunnel's total is what its past SAs counted
last plus what its present ones count, so it never runs backwards while this process lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from agents.contract.status import Counters
from agents.dataplane.base import Direction, Driver, SaId, SaSpec, SaState

_NONE = Counters()

HeardChild = tuple[str, int]
"""A tunnel's id and the inbound SPI of one of its children."""


@dataclass(slots=True)
class _Counted:
    """One SA; ``pair_spi`` is the SPI of the child's inbound SA, which names the child towards the engine."""

    tunnel_id: str
    direction: Direction
    pair_spi: int
    counters: Counters = _NONE


class Traffic:
    """The counters of every SA that ``iked`` has installed."""

    def __init__(self) -> None:
        self._sas: dict[SaId, _Counted] = {}
        self._by_spi: dict[tuple[str, Direction, int], _Counted] = {}
        self._past: dict[str, Counters] = {}
        self._spoke: set[HeardChild] = set()
        self._listing: asyncio.Task[frozenset[HeardChild]] | None = None
        self._queued: asyncio.Task[frozenset[HeardChild]] | None = None

    def __len__(self) -> int:
        return len(self._sas)

    def started(self, spec: SaSpec, pair_spi: int) -> None:
        """An SA was installed; ``pair_spi`` names its child."""
        counted = _Counted(tunnel_id=spec.tunnel_id, direction=spec.direction, pair_spi=pair_spi)
        self._sas[spec.id] = counted
        self._by_spi[spec.tunnel_id, spec.direction, spec.spi] = counted

    def moved(self, old: SaId, new: SaId) -> None:
        """An SA has another destination address now."""
        counted = self._sas.pop(old, None)
        if counted is not None:
            self._sas[new] = counted

    def ended(self, sa: SaId) -> None:
        """An SA is gone; what it counted last stays in its tunnel's total."""
        counted = self._sas.pop(sa, None)
        if counted is not None:
            self._by_spi.pop((counted.tunnel_id, counted.direction, sa.spi), None)
            self._past[counted.tunnel_id] = self._past.get(counted.tunnel_id, Counters()) + counted.counters

    def all_ended(self) -> None:
        """The data plane lost everything."""
        for sa in tuple(self._sas):
            self.ended(sa)

    def forget(self, tunnel_id: str) -> None:
        """A tunnel is no longer configured: its total is not told any more."""
        self._past.pop(tunnel_id, None)

    def child_of(self, sa: SaId) -> tuple[str, int] | None:
        """Return the tunnel and the inbound SPI of the child an SA belongs to."""
        counted = self._sas.get(sa)
        return None if counted is None else (counted.tunnel_id, counted.pair_spi)

    def of_sa(self, tunnel_id: str, direction: Direction, spi: int) -> Counters:
        """Return what one SA has counted so far."""
        counted = self._by_spi.get((tunnel_id, direction, spi))
        return Counters() if counted is None else counted.counters

    def totals(self) -> dict[str, Counters]:
        """Return the total of every tunnel that has one."""
        totals = dict(self._past)
        for counted in self._sas.values():
            totals[counted.tunnel_id] = totals.get(counted.tunnel_id, Counters()) + counted.counters
        return totals

    def update(self, states: Iterable[SaState]) -> frozenset[HeardChild]:
        """Take the data plane's counters; returns the children that have received packets since the last time."""
        heard = set()
        for state in states:
            counted = self._sas.get(state.id)
            if counted is None:
                continue
            if state.counters.packets_in > counted.counters.packets_in:
                heard.add((counted.tunnel_id, counted.pair_spi))
            if state.counters.packets_out > counted.counters.packets_out:
                self._spoke.add((counted.tunnel_id, counted.pair_spi))
            counted.counters = state.counters
        return frozenset(heard)

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
