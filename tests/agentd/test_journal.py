"""The journal: gapless numbers, each of iked's events once, nothing lost to a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.agentd.database import Database
from agents.agentd.journal import Entry, Journal
from agents.contract.events import Event, Severity


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "journal")
    yield made
    made.close()


def event(sequence: int, message: str = "x") -> Event:
    return Event(sequence=sequence, time=1.0, code="ike.initiate", severity=Severity.INFO, message=message)


def test_numbers_start_at_one_and_have_no_gaps(database: Database) -> None:
    journal = Journal(database)
    assert (journal.oldest, journal.last) == (1, 0)
    for _ in range(3):
        journal.append("agent.started", "x")
    assert journal.last == 3
    assert [each.sequence for each in journal.page(1, 10).events] == [2, 3]
    assert journal.page(2**70, 10).events == ()


def test_several_are_one_transaction_or_none(database: Database) -> None:
    journal = Journal(database)
    journal.append_all([Entry("agent.started", "x"), Entry("agent.enrolled", "y")], {"name": "value"})
    assert [each.code for each in journal.page(0, 10).events] == ["agent.started", "agent.enrolled"]
    assert journal.recall("name") == "value"
    with pytest.raises(KeyError):
        journal.append_all([Entry("agent.started", "x"), Entry("made.up", "y")])
    journal.append_all([])
    assert journal.last == 2


def test_an_unregistered_code_cannot_be_written(database: Database) -> None:
    with pytest.raises(KeyError):
        Journal(database).append("made.up", "x")


def test_events_of_iked_are_stored_once(database: Database) -> None:
    journal = Journal(database)
    journal.append("agent.started", "x")
    assert journal.ingest("boot-1", [event(1), event(2)], 2) == 2
    assert journal.ingest("boot-1", [event(2), event(3)], 3) == 1
    assert journal.ingest("boot-1", [], 3) == 0
    assert [each.sequence for each in journal.page(0, 10).events] == [1, 2, 3, 4]


def test_a_new_run_of_iked_counts_anew(database: Database) -> None:
    journal = Journal(database)
    journal.ingest("boot-1", [event(1), event(2)], 2)
    assert journal.ingest("boot-2", [event(1, "again")], 1) == 1
    assert journal.position() == ("boot-2", 1)
    assert journal.last == 3


def test_the_oldest_go_and_numbers_go_on(tmp_path: Path) -> None:
    database = Database(tmp_path / "journal")
    journal = Journal(database, keep=100)
    journal.ingest("boot", [event(number) for number in range(1, 1_001)], 1_000)
    assert (journal.oldest, journal.last) == (901, 1_000)
    assert len(journal.page(0, 5_000).events) == 100
    database.close()
    again = Database(tmp_path / "journal")
    journal = Journal(again, keep=100)
    journal.append("agent.started", "x")
    assert journal.last == 1_001
    again.close()


def test_growth_is_told(database: Database) -> None:
    told: list[int] = []
    journal = Journal(database, on_growth=lambda: told.append(1))
    journal.append("agent.started", "x")
    journal.ingest("boot", [], 0)
    assert told == [1]


WRITER = """
import sys
from pathlib import Path
from agents.agentd.database import Database
from agents.agentd.journal import Journal
journal = Journal(Database(Path(sys.argv[1])))
while True:
    journal.append("agent.started", "x")
    print(journal.last, flush=True)
"""


def test_what_was_written_survives_kill_minus_nine(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    last_told = 0
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(directory)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(20):
            last_told = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        last_told = max([last_told, *(int(line) for line in writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()
        database = Database(directory)
        journal = Journal(database)
        assert journal.last >= last_told
        assert [each.sequence for each in journal.page(0, 1_000).events] == list(range(1, journal.last + 1))
        database.close()


def test_another_gateway_begins_anew(database: Database) -> None:
    journal = Journal(database)
    journal.adopt("one")
    journal.append("agent.started", "x", remember={"name": "value"})
    journal.adopt("one")
    assert (journal.last, journal.recall("name")) == (1, "value")
    journal.adopt("two")
    assert (journal.oldest, journal.last, journal.recall("name")) == (1, 0, None)
    journal.append("agent.started", "x")
    assert Journal(database).last == 1


def test_a_damaged_file_is_set_aside_and_no_number_is_used_twice(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    database = Database(directory)
    Journal(database).append("agent.started", "x")
    database.close()
    (directory / "journal.db").write_bytes(b"not a database" * 1_000)
    for suffix in ("-wal", "-shm"):
        (directory / f"journal.db{suffix}").unlink(missing_ok=True)
    database = Database(directory)
    journal = Journal(database)
    assert journal.oldest == journal.last + 1
    assert journal.last > 1_000_000
    journal.append("agent.started", "x")
    assert [each.sequence for each in journal.page(0, 10).events] == [journal.last]
    database.close()
    assert list(directory.glob("journal.db.damaged-*"))


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    journal = Journal(database)

    def twice() -> None:
        with database.transaction() as connection:
            connection.execute("INSERT INTO event (sequence, body) VALUES (5, x'00')")
            connection.execute("INSERT INTO event (sequence, body) VALUES (5, x'00')")

    with pytest.raises(sqlite3.IntegrityError):
        twice()
    assert journal.page(0, 10).events == ()
