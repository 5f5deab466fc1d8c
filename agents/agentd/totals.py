"""What tunnels, their children and the gateway have counted in all runs of ``iked``.

``iked`` counts from its start. Here its last word of each run is added up and kept in the agent's database, so totals
grow over restarts of any process. The disk follows within :data:`SAVE_EVERY_S` and when ``agentd`` ends; only when
``iked`` and ``agentd`` are killed within that time of each other are the last seconds lost. What a tunnel counted goes
with the tunnel; the gateway's own counts stay.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from operator import attrgetter, lt

from agents.agentd.database import Database, set_fact
from agents.agentd.iked_link import IkedView
from agents.contract.status import ChildStatus, Counters, NamedCount, Rejections, TunnelStatus

SAVE_EVERY_S = 5.0
_BOOT = "totals_boot_id"
_GATEWAY = "gateway"
"""No tunnel's id and no child's owner, which has a slash in it."""

_PASSED = attrgetter(*(each.name for each in dataclasses.fields(Counters)))
_REFUSED = attrgetter(*(each.name for each in dataclasses.fields(Rejections)))
Told = tuple[Counters, Rejections]
"""What a tunnel or child passed and refused."""
_NOTHING: Told = (Counters(), Rejections())


@dataclass(slots=True)
class _Row:
    """``past`` are the runs before, ``now`` is what the run says that ``boot_id`` names."""

    past: Told = _NOTHING
    now: Told = _NOTHING
    saved: bool = False

    @property
    def total(self) -> Told:
        if self.past is _NOTHING:
            return self.now  # most of the time, and there may be very many
        return self.past[0] + self.now[0], self.past[1] + self.now[1]

    def fold(self) -> None:
        """The run is over."""
        self.past, self.now, self.saved = self.total, _NOTHING, False

    def take(self, told: Told) -> None:
        if told == self.now:
            return
        if any(map(lt, _PASSED(told[0]) + _REFUSED(told[1]), _PASSED(self.now[0]) + _REFUSED(self.now[1]))):
            self.fold()  # iked forgot a tunnel and has it again
        self.now, self.saved = told, False

    def plain(self) -> tuple[dict[str, int], dict[str, int]]:
        past, now = (
            dict(zip(_NAMES, _PASSED(each[0]) + _REFUSED(each[1]), strict=True)) for each in (self.past, self.now)
        )
        return past, now


@dataclass(slots=True)
class _Named:
    """The gateway's own counts, likewise."""

    past: dict[str, int] = field(default_factory=dict)
    now: dict[str, int] = field(default_factory=dict)
    saved: bool = False

    @property
    def total(self) -> dict[str, int]:
        return {name: self.past.get(name, 0) + self.now.get(name, 0) for name in self.past.keys() | self.now.keys()}

    def fold(self) -> None:
        self.past, self.now, self.saved = self.total, {}, False

    def take(self, told: dict[str, int]) -> None:
        if told != self.now:
            self.now, self.saved = told, False

    def plain(self) -> tuple[dict[str, int], dict[str, int]]:
        return self.past, self.now


_NAMES = tuple(each.name for kind in (Counters, Rejections) for each in dataclasses.fields(kind))


class Totals:
    """The totals of one gateway; ``clock`` returns seconds that do not jump."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._save_at = float("-inf")
        self._boot_id = database.fact(_BOOT) or ""
        self._gateway = _Named()
        self._rows: dict[str, _Row] = {}
        self._dropped: set[str] = set()
        for owner, past, now in database.rows("SELECT owner, past, now FROM total"):
            before, last = json.loads(str(past)), json.loads(str(now))
            if owner == _GATEWAY:
                self._gateway = _Named(before, last, saved=True)
            else:
                self._rows[str(owner)] = _Row(_told(before), _told(last), saved=True)

    def take(self, view: IkedView, boot_id: str) -> None:
        """Take what ``iked`` says in the run ``boot_id``."""
        if not boot_id:
            return  # it has not said yet which run this is
        anew = boot_id != self._boot_id
        if anew:
            self._gateway.fold()
            for row in self._rows.values():
                row.fold()
            self._boot_id = boot_id
        self._gateway.take({each.name: each.count for each in view.ipsec_counts})
        for tunnel in view.tunnels.values():
            self._row(tunnel.id).take((tunnel.counters, tunnel.rejected))
            for child in tunnel.children:
                self._row(_owner(tunnel, child)).take((child.counters, child.rejected))
        # Nobody can say again what the run before counted.
        if anew or self._clock() >= self._save_at:
            self.save()

    def keep(self, tunnel_ids: Collection[str]) -> None:
        """Forget every tunnel but these."""
        for owner in [owner for owner in self._rows if owner.partition("/")[0] not in tunnel_ids]:
            del self._rows[owner]
            self._dropped.add(owner)

    def total(self, tunnel: TunnelStatus) -> TunnelStatus:
        """Return a tunnel's status with the counts of all runs."""
        counters, rejected = self._total(tunnel.id)
        children = tuple(self._child(tunnel, child) for child in tunnel.children)
        if (counters, rejected, children) == (tunnel.counters, tunnel.rejected, tunnel.children):
            return tunnel
        return dataclasses.replace(tunnel, counters=counters, rejected=rejected, children=children)

    def ipsec(self) -> tuple[NamedCount, ...]:
        """Return what the gateway counted in all runs."""
        return tuple(NamedCount(name=name, count=count) for name, count in sorted(self._gateway.total.items()))

    def save(self) -> None:
        """Bring what moved to the disk."""
        began = self._clock()
        self._write()
        # Very many tunnels take their time: spend no more than a twentieth of it on that.
        self._save_at = began + max(SAVE_EVERY_S, 20 * (self._clock() - began))

    def _write(self) -> None:
        rows: dict[str, _Row | _Named] = {_GATEWAY: self._gateway, **self._rows}
        moved = [(owner, row) for owner, row in rows.items() if not row.saved]
        if not moved and not self._dropped:
            return
        with self._database.transaction() as connection:
            set_fact(connection, _BOOT, self._boot_id)
            connection.executemany("DELETE FROM total WHERE owner = ?", [(owner,) for owner in self._dropped])
            connection.executemany(
                "INSERT OR REPLACE INTO total (owner, past, now) VALUES (?, ?, ?)",
                [(owner, *map(json.dumps, row.plain())) for owner, row in moved],
            )
        self._dropped.clear()
        for _, row in moved:
            row.saved = True

    def _row(self, owner: str) -> _Row:
        self._dropped.discard(owner)
        return self._rows.setdefault(owner, _Row())

    def _child(self, tunnel: TunnelStatus, child: ChildStatus) -> ChildStatus:
        counters, rejected = self._total(_owner(tunnel, child))
        if (counters, rejected) == (child.counters, child.rejected):
            return child
        return dataclasses.replace(child, counters=counters, rejected=rejected)

    def _total(self, owner: str) -> Told:
        row = self._rows.get(owner)
        return _NOTHING if row is None else row.total


def _owner(tunnel: TunnelStatus, child: ChildStatus) -> str:
    return f"{tunnel.id}/{child.name}"


def _told(plain: dict[str, int]) -> Told:
    """Read what :meth:`_Row.plain` gave; a count of a later version is left out."""
    passed = {each.name: plain.get(each.name, 0) for each in dataclasses.fields(Counters)}
    refused = {each.name: plain.get(each.name, 0) for each in dataclasses.fields(Rejections)}
    return Counters(**passed), Rejections(**refused)
