"""The SQLite file of journal and route ledger, with what must change in the same transaction: positions, actions.

The totals of the counters are in it too.

Write-ahead log with ``synchronous=FULL``: a committed transaction survives ``kill -9`` and a power cut, so a sequence
number that was handed out is never used for another event. A damaged file is set aside, never deleted.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.runtime.paths import make_private

_SCHEMA = """
CREATE TABLE IF NOT EXISTS event (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS action (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS route (number INTEGER PRIMARY KEY, ended INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS route_ended ON route (ended, number);
CREATE TABLE IF NOT EXISTS total (owner TEXT PRIMARY KEY, past TEXT NOT NULL, now TEXT NOT NULL) WITHOUT ROWID;
"""
TABLES = ("event", "fact", "action", "route", "total")
_log = logging.getLogger(__name__)


class Database:
    """One connection; used from the event loop only, its transactions are short."""

    def __init__(self, directory: Path) -> None:
        make_private(directory)
        self._path = directory / "journal.db"
        self.started_over = False
        try:
            self._connection = _open(self._path)
        except sqlite3.DatabaseError as error:
            aside = self._path.with_name(f"journal.db.damaged-{int(time.time())}")
            _log.error("the journal cannot be read (%s) and is set aside as %s", error, aside.name)
            for suffix in ("", "-wal", "-shm"):
                part = self._path.with_name(self._path.name + suffix)
                if part.exists():
                    part.rename(aside.with_name(aside.name + suffix))
            self.started_over = True
            self._connection = _open(self._path)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block in one transaction, on the disk when it returns."""
        with self._connection:  # commits, or rolls back when the block raises
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection

    def rows(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Return what a query finds."""
        return self._connection.execute(statement, values).fetchall()

    def fact(self, name: str) -> str | None:
        """Return one remembered value."""
        rows = self.rows("SELECT value FROM fact WHERE name = ?", name)
        return str(rows[0][0]) if rows else None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def set_fact(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Remember a value within a transaction."""
    connection.execute("INSERT OR REPLACE INTO fact (name, value) VALUES (?, ?)", (name, value))


def _open(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, isolation_level=None, timeout=5)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
        connection.execute("SELECT max(sequence) FROM event").fetchone()
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection
