"""Which route stood from when to when, and which tunnel, child and SAs put it there; it survives a restart.

Lines of routes that stand are always kept, of the others the newest :data:`MOST_ENDED`. A route found in place by a
restarted ``agentd`` keeps its line; one that went meanwhile ends at the first look.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable

from agents.agentd.database import Database
from agents.contract.codec import decode, encode
from agents.contract.errors import DocumentError
from agents.contract.status import RouteRecord

MOST_ENDED = 1_000
_log = logging.getLogger(__name__)


class RouteLedger:
    """The lines, in memory those that stand."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._standing = {_identity(record): (number, record) for number, record in self._read("WHERE ended = 0")}

    @property
    def standing(self) -> tuple[RouteRecord, ...]:
        """The routes in place now."""
        return tuple(record for _number, record in self._standing.values())

    def lines(self) -> tuple[RouteRecord, ...]:
        """Return every line kept, the oldest first."""
        return tuple(record for _number, record in self._read(""))

    def keep(self, standing: Iterable[RouteRecord], renewed: Iterable[RouteRecord] = ()) -> None:
        """Note what stands now; a line of the same route and cause goes on, unless it was put back (``renewed``)."""
        now = {_identity(record): record for record in standing}
        again = {_identity(record) for record in renewed}
        ended = {key: line for key, line in self._standing.items() if key not in now or key in again}
        begun = [key for key in now if key not in self._standing or key in again]
        if not ended and not begun:
            return
        at = time.time()
        after = {key: line for key, line in self._standing.items() if key not in ended}
        with self._database.transaction() as connection:
            for number, record in ended.values():
                body = encode(dataclasses.replace(record, until=at))
                connection.execute("UPDATE route SET ended = 1, body = ? WHERE number = ?", (body, number))
            for key in begun:
                record = dataclasses.replace(now[key], since=at)
                done = connection.execute("INSERT INTO route (ended, body) VALUES (0, ?)", (encode(record),))
                after[key] = (int(done.lastrowid or 0), record)
            connection.execute(
                "DELETE FROM route WHERE ended = 1 AND number NOT IN "
                "(SELECT number FROM route WHERE ended = 1 ORDER BY number DESC LIMIT ?)",
                (MOST_ENDED,),
            )
        self._standing = after

    def _read(self, condition: str) -> list[tuple[int, RouteRecord]]:
        rows = self._database.rows(f"SELECT number, body FROM route {condition} ORDER BY number")  # noqa: S608 - ours
        found = []
        for number, body in rows:
            try:
                found.append((int(str(number)), decode(RouteRecord, body if isinstance(body, bytes) else b"")))
            except DocumentError as error:
                _log.warning("line %s of the route ledger cannot be read and is left out: %s", number, error)
        return found


def _identity(record: RouteRecord) -> RouteRecord:
    """Return what makes two lines one: everything but the times and the SAs, which are those of when it was laid."""
    return dataclasses.replace(record, spis=(), since=0.0, until=None)
