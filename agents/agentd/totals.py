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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from agents.agentd.database import Database, set_fact
from agents.agentd.iked_link import IkedView
from agents.contract.status import ChildStatus, Counters, NamedCount, Rejections, TunnelStatus

SAVE_EVERY_S = 5.0
_BOOT = "totals_boot_id"
_GATEWAY = "gateway"
"""No tunnel's id and no child's owner, which has a slash in it."""

Counts = Mapping[str, int]


@dataclass(slots=True)
class _Row:
    """``past`` are the runs before, ``now`` is what the run says that ``boot_id`` names."""

    past: dict[str, int] = field(default_factory=dict)
    now: dict[str, int] = field(default_factory=dict)
    saved: bool = False

    def fold(self) -> None:
        """The run is over."""
        for name, count in self.now.items():
            self.past[name] = self.past.get(name, 0) + count
        self.now, self.saved = {}, False

    def take(self, counts: Counts) -> None:
        if any(counts.get(name, 0) < count for name, count in self.now.items()):
            self.fold()  # iked forgot a tunnel and has it again
        told = {name: count for name, count in counts.items() if count}
        if told != self.now:
            self.now, self.saved = told, False

    def total(self) -> dict[str, int]:
        return {name: self.past.get(name, 0) + self.now.get(name, 0) for name in self.past.keys() | self.now.keys()}


class Totals:
    """The totals of one gateway; ``clock`` returns seconds that do not jump."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._saved_at = float("-inf")
        self._boot_id = database.fact(_BOOT) or ""
        self._rows: dict[str, _Row] = {}
        self._dropped: set[str] = set()
        for owner, past, now in database.rows("SELECT owner, past, now FROM total"):
            self._rows[str(owner)] = _Row(past=json.loads(str(past)), now=json.loads(str(now)), saved=True)

    def take(self, view: IkedView, boot_id: str) -> None:
        """Take what ``iked`` says in the run ``boot_id``."""
        if not boot_id:
            return  # it has not said yet which run this is
        if boot_id != self._boot_id:
            for row in self._rows.values():
                row.fold()
            self._boot_id = boot_id
        self._row(_GATEWAY).take({each.name: each.count for each in view.ipsec_counts})
        for tunnel in view.tunnels.values():
            self._row(tunnel.id).take(_counts(tunnel.counters, tunnel.rejected))
            for child in tunnel.children:
                self._row(_owner(tunnel, child)).take(_counts(child.counters, child.rejected))
        if self._clock() - self._saved_at >= SAVE_EVERY_S:
            self.save()

    def keep(self, tunnel_ids: Iterable[str]) -> None:
        """Forget every tunnel but these."""
        kept = {_GATEWAY, *tunnel_ids}
        for owner in [owner for owner in self._rows if owner.partition("/")[0] not in kept]:
            del self._rows[owner]
            self._dropped.add(owner)

    def total(self, tunnel: TunnelStatus) -> TunnelStatus:
        """Return a tunnel's status with the counts of all runs."""
        counters, rejected = self._sums(tunnel.id)
        return dataclasses.replace(
            tunnel,
            counters=counters,
            rejected=rejected,
            children=tuple(self._child(tunnel, child) for child in tunnel.children),
        )

    def ipsec(self) -> tuple[NamedCount, ...]:
        """Return what the gateway counted in all runs."""
        return tuple(NamedCount(name=name, count=count) for name, count in sorted(self._row(_GATEWAY).total().items()))

    def save(self) -> None:
        """Bring what moved to the disk."""
        self._saved_at = self._clock()
        moved = [(owner, row) for owner, row in self._rows.items() if not row.saved]
        if not moved and not self._dropped:
            return
        with self._database.transaction() as connection:
            set_fact(connection, _BOOT, self._boot_id)
            connection.executemany("DELETE FROM total WHERE owner = ?", [(owner,) for owner in self._dropped])
            connection.executemany(
                "INSERT OR REPLACE INTO total (owner, past, now) VALUES (?, ?, ?)",
                [(owner, json.dumps(row.past), json.dumps(row.now)) for owner, row in moved],
            )
        self._dropped.clear()
        for _, row in moved:
            row.saved = True

    def _row(self, owner: str) -> _Row:
        self._dropped.discard(owner)
        return self._rows.setdefault(owner, _Row())

    def _child(self, tunnel: TunnelStatus, child: ChildStatus) -> ChildStatus:
        counters, rejected = self._sums(_owner(tunnel, child))
        return dataclasses.replace(child, counters=counters, rejected=rejected)

    def _sums(self, owner: str) -> tuple[Counters, Rejections]:
        row = self._rows.get(owner)
        total = {} if row is None else row.total()
        refused = {field.name for field in dataclasses.fields(Rejections)}
        passed = {field.name for field in dataclasses.fields(Counters)}
        return (
            Counters(**{name: count for name, count in total.items() if name in passed}),
            Rejections(**{name: count for name, count in total.items() if name in refused}),
        )


def _owner(tunnel: TunnelStatus, child: ChildStatus) -> str:
    return f"{tunnel.id}/{child.name}"


def _counts(counters: Counters, rejected: Rejections) -> dict[str, int]:
    return dataclasses.asdict(counters) | dataclasses.asdict(rejected)
