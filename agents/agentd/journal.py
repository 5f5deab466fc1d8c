"""What happened on this gateway, numbered from 1 without gaps, kept until it is too much to keep.

Own events and those fetched from ``iked`` share one sequence. How far ``iked``'s ring was read (its ``boot_id`` and
number) is written in the same transaction as the events, so each is stored once whatever is killed when. The newest
:data:`MOST_EVENTS` are kept. After a damaged file was set aside, numbering goes on from the clock in microseconds,
far above anything used before: a reader sees a gap, never one number with two meanings.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agents.agentd.database import TABLES, Database, set_fact
from agents.contract.codec import decode, encode
from agents.contract.events import KINDS, Event, EventPage
from agents.runtime.tracing import TRACE, category_of

MOST_EVENTS = 50_000
MOST_PER_PAGE = 1_000
_PRUNE_EVERY = 1_000


@dataclass(frozen=True, slots=True)
class Entry:
    """An event of our own before it has a number."""

    code: str
    message: str
    tunnel_id: str | None = None
    received: str | None = None
    field: str | None = None
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def event(self, sequence: int) -> Event:
        """Return the event with its number; raises :class:`KeyError` for a code that is not registered."""
        kind = KINDS[self.code]
        return Event(
            sequence=sequence,
            time=time.time(),
            code=self.code,
            severity=kind.severity,
            message=self.message[:2_000],
            tunnel_id=self.tunnel_id,
            received=self.received,
            field=self.field or kind.field or None,
            attributes=dict(self.attributes),
        )


class Journal:
    """Append and read. ``on_growth`` is called after each transaction that added events."""

    def __init__(
        self, database: Database, *, keep: int = MOST_EVENTS, on_growth: Callable[[], None] | None = None
    ) -> None:
        self._database = database
        self._keep = keep
        self.on_growth = on_growth
        remembered = int(database.fact("last_sequence") or 0)
        newest = database.rows("SELECT max(sequence) FROM event")[0][0]
        self._last = max(remembered, newest if isinstance(newest, int) else 0)
        if database.started_over:
            self._last = time.time_ns() // 1000
        self._prune()

    def adopt(self, gateway_id: str) -> None:
        """Begin anew when the machine was enrolled as another gateway: events belong to one gateway."""
        if self._database.fact("gateway_id") not in (None, gateway_id):
            with self._database.transaction() as connection:
                for table in TABLES:
                    connection.execute(f"DELETE FROM {table}")  # noqa: S608 - one of the names above
            self._last = 0
        with self._database.transaction() as connection:
            set_fact(connection, "gateway_id", gateway_id)

    @property
    def last(self) -> int:
        """The number of the newest event, 0 before the first."""
        return self._last

    @property
    def oldest(self) -> int:
        """The first number still kept, ``last + 1`` when nothing is."""
        oldest = self._database.rows("SELECT min(sequence) FROM event")[0][0]
        return oldest if isinstance(oldest, int) else self._last + 1

    def append(
        self,
        code: str,
        message: str,
        *,
        tunnel_id: str | None = None,
        received: str | None = None,
        field: str | None = None,
        attributes: Mapping[str, str] | None = None,
        remember: Mapping[str, str] | None = None,
    ) -> None:
        """Store an event of our own; raises :class:`KeyError` for a code that is not registered.

        ``remember`` is written in the same transaction, for :meth:`recall`: what was told need not be told again.
        """
        entry = Entry(code, message, tunnel_id, received, field, attributes or {})
        self.append_all([entry], remember)

    def append_all(self, entries: Sequence[Entry], remember: Mapping[str, str] | None = None) -> None:
        """Store several in one transaction, which costs as much as one."""
        events = [entry.event(sequence) for sequence, entry in enumerate(entries, start=self._last + 1)]
        for event in events:
            TRACE.record(category_of(event.code, event.severity), f"{event.code}: {event.message}")
        if events:
            self._store(events, remember or {})

    def remember(self, facts: Mapping[str, str]) -> None:
        """Store for :meth:`recall` what is not worth an event."""
        self._store((), facts)

    def recall(self, name: str) -> str | None:
        """Return what was remembered under this name."""
        return self._database.fact(name)

    def ingest(self, boot_id: str, events: Sequence[Event], read_to: int) -> int:
        """Store events of ``iked`` not stored before, and how far its ring was read; returns how many were new."""
        known_boot, known = self.position()
        after = known if known_boot == boot_id else 0
        new = [event for event in events if event.sequence > after]
        numbered = [dataclasses.replace(event, sequence=self._last + index) for index, event in enumerate(new, start=1)]
        if (boot_id, read_to) != (known_boot, known):
            self._store(numbered, {"iked_boot_id": boot_id, "iked_read_to": str(max(read_to, after))})
        return len(new)

    def position(self) -> tuple[str, int]:
        """Return ``iked``'s ``boot_id`` and the number read last, ``("", 0)`` before the first time."""
        return self._database.fact("iked_boot_id") or "", int(self._database.fact("iked_read_to") or 0)

    def page(self, after: int, limit: int) -> EventPage:
        """Return up to ``limit`` events above ``after``."""
        rows = self._database.rows(
            "SELECT body FROM event WHERE sequence > ? ORDER BY sequence LIMIT ?",
            min(after, 2**63 - 1),
            max(0, min(limit, MOST_PER_PAGE)),
        )
        events = tuple(decode(Event, row[0]) for row in rows if isinstance(row[0], bytes))
        return EventPage(events=events, oldest=self.oldest, last=self._last)

    def _store(self, events: Sequence[Event], facts: Mapping[str, str]) -> None:
        last = events[-1].sequence if events else self._last
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO event (sequence, body) VALUES (?, ?)",
                [(event.sequence, encode(event)) for event in events],
            )
            for name, value in {**facts, "last_sequence": str(last)}.items():
                set_fact(connection, name, value)
        prune = last // _PRUNE_EVERY != self._last // _PRUNE_EVERY
        self._last = last
        if prune:
            self._prune()
        if events and self.on_growth is not None:
            self.on_growth()

    def _prune(self) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM event WHERE sequence <= ?", (self._last - self._keep,))
