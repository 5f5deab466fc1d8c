"""Keeps our table of the packet filter as the document wants it, and reads its counters.

The table is replaced in one transaction, and only when it is to change or somebody changed it; it is planned and looked
at only when what it is made of, or anything in the packet filter, is not as at the last time. Before a document goes
to ``iked`` the table is that document's already, so that a new tunnel's first message finds it open. What was applied
is kept on the disk, so that a start has it back before ``iked`` answers and a plan can be made.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Sequence

from agents.agentd import nft
from agents.agentd.errors import HostError
from agents.agentd.host import ROUTE_PROTOCOL, Host, HostView
from agents.agentd.journal import Journal
from agents.agentd.kept_filter import KeptFilter
from agents.agentd.parts import filter as parts_filter
from agents.agentd.parts.carried import Carried
from agents.agentd.parts.filter import NOTHING_BESIDE, Beside, FilterPlan

_FACT = "filter"
_ON, _OFF, _BESIDE = "on", "off", "clamping"
"""What of ours is there: the filter, nothing, or a table that has only what is beside it."""
_Made = tuple[object, ...]
_log = logging.getLogger(__name__)


class FilterKeeper:
    """Applies what is wanted. Whether a table of ours is there is remembered across restarts."""

    def __init__(self, host: Host, journal: Journal, kept: KeptFilter) -> None:
        self._host = host
        self._journal = journal
        self._kept = kept
        self._planned: tuple[_Made, FilterPlan] | None = None
        self._applied: FilterPlan | None = None
        self._looked_like = ""
        self._generation = 0
        self._unseen = False

    @property
    def on(self) -> bool:
        """Whether our filter is there, as far as we know."""
        return self._journal.recall(_FACT) == _ON

    @property
    def _there(self) -> bool:
        return self._journal.recall(_FACT) not in (None, _OFF)

    async def hold(self) -> None:
        """Have the filter of before back where it has gone; the first pass replaces it."""
        try:
            if await self._kept.load(self._host):
                self._journal.append("agent.repaired", "The packet filter of before this start is in force again")
        except (HostError, OSError) as error:
            told = f"The packet filter of before this start could not be put back: {error}"
            self._journal.append("agent.repair-failed", told)

    async def apply(
        self,
        enabled: bool,
        tunnels: Sequence[Carried],
        view: HostView,
        *,
        kernel: bool,
        vrfs: bool,
        beside: Beside = NOTHING_BESIDE,
    ) -> list[str]:
        """Put the table right, or away; returns what is in the way. What is ``beside`` is there without the filter too.

        Where nothing else is asked for, a machine without nftables goes on without what congestion asks for, and a
        line in the log says so.
        """
        wanted = self._plan(tunnels, view, kernel=kernel, vrfs=vrfs, beside=beside) if enabled else beside.plan()
        try:
            if not enabled and not beside:
                await self._remove()
                return []
            await self._put(wanted, _ON if enabled else _BESIDE)
        except HostError as error:
            if enabled or not beside or beside.configured or self._there:
                return [f"the packet filter is not as it should be: {error}"]
            self._goes_unseen(error)
        return self._keep(enabled, wanted)

    async def _put(self, wanted: FilterPlan, now: str) -> None:
        """Make the table what is wanted, unless it is; raises :class:`HostError`."""
        generation = await self._host.filter_generation()
        if wanted == self._applied and generation == self._generation:
            return
        listed = await self._list()
        looks_like = _look(listed)
        changed_by_others = self._applied is not None and looks_like != self._looked_like
        if wanted == self._applied and not changed_by_others:
            self._generation = generation
            return
        await self._replace(wanted, listed)
        self._generation = await self._host.filter_generation()
        self._applied, self._looked_like = wanted, _look(await self._list())
        if changed_by_others:
            self._journal.append("agent.repaired", "The packet filter is as it should be again")
        self._note(now)

    def _goes_unseen(self, error: HostError) -> None:
        if not self._unseen:
            _log.warning("what cannot be told of congestion is not dropped (RFC 6040 section 4.2): %s", error)
        self._unseen = True

    async def counts(self) -> dict[str, int]:
        """Return the packets of each counter now, empty where there is no table or it cannot be read."""
        if not self._there:
            return {}
        try:
            return parts_filter.packets(await self._host.filter(parts_filter.counters()))
        except HostError:
            return {}  # the last pass has said why

    def _keep(self, enabled: bool, wanted: FilterPlan) -> list[str]:
        """Keep a filter for the next start, or none; returns what is in the way."""
        try:
            if enabled:
                self._kept.keep(wanted)
            else:
                self._kept.forget()
        except HostError as error:
            return [str(error)]
        return []

    def _note(self, now: str) -> None:
        """Remember what is there, and tell of a filter that came or went."""
        before = self._journal.recall(_FACT) or _OFF
        if before == now:
            return
        if now == _ON:
            self._journal.append("agent.filter-on", "The packet filter is in force", remember={_FACT: now})
        elif before == _ON:
            self._journal.append("agent.filter-off", "The packet filter is removed", remember={_FACT: now})
        else:
            self._journal.remember({_FACT: now})

    def _plan(
        self, tunnels: Sequence[Carried], view: HostView, *, kernel: bool, vrfs: bool, beside: Beside
    ) -> FilterPlan:
        made = (*_made(tunnels, view, kernel=kernel, vrfs=vrfs), beside)
        if self._planned is None or self._planned[0] != made:
            self._planned = (made, parts_filter.plan(tunnels, view, kernel=kernel, vrfs=vrfs, beside=beside))
        return self._planned[1]

    async def _list(self) -> tuple[nft.Command, ...]:
        try:
            return await self._host.filter(parts_filter.listing())
        except HostError as error:
            if error.errno == errno.ENOENT:
                return ()
            raise

    async def _replace(self, wanted: FilterPlan, listed: tuple[nft.Command, ...]) -> None:
        try:
            await self._host.filter(parts_filter.transaction(wanted, listed))
        except HostError:
            if not listed:
                raise
            # Somebody made objects of our names that cannot become ours: the table goes with them, and its counts.
            await self._host.filter([*parts_filter.removal(), *parts_filter.transaction(wanted, ())])

    async def _remove(self) -> None:
        if not self._kept.forget() and not self._there:
            return
        try:
            await self._host.filter(parts_filter.removal())
        except HostError as error:
            if error.errno != errno.ENOENT:
                raise
        self._applied, self._looked_like = None, ""
        self._note(_OFF)


def _made(tunnels: Sequence[Carried], view: HostView, *, kernel: bool, vrfs: bool) -> _Made:
    """Return what a plan is made of: not the counters and SPIs, which change all the time."""
    seen = tuple(
        (
            *(each.id, each.local, each.peers, each.anywhere, each.interface, each.endpoint_table),
            *((protected.local, protected.remote) for protected in each.protected),
        )
        for each in tunnels
    )
    return seen, view.addresses, tuple(r for r in view.routes if r.protocol != ROUTE_PROTOCOL), kernel, vrfs


def _look(listed: tuple[nft.Command, ...]) -> str:
    """Return the table as text that is the same for the same rules, whatever was counted."""
    rows = []
    for each in listed:
        kind, value = next(iter(each.items()))
        if kind in ("metainfo", "table"):
            continue
        kept = {name: part for name, part in value.items() if name not in ("handle", "packets", "bytes")}
        if isinstance(kept.get("elem"), list):
            kept["elem"] = sorted(kept["elem"], key=json.dumps)
        rows.append(json.dumps({kind: kept}, sort_keys=True))
    return "\n".join(rows)
