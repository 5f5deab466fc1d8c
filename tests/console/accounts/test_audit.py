"""The audit trail: a chain that shows what was changed, removed or cut off."""

from __future__ import annotations

import pytest
from django.db import connection

from vpnconsole.accounts import audit, queries
from vpnconsole.accounts.models import AuditError, AuditEvent, User

pytestmark = pytest.mark.django_db


def _sql(statement: str, *values: str | int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, list(values))


def test_records_are_chained_and_name_who_what_and_which(alice: User, bob: User) -> None:
    first = audit.record(alice, "user.created", bob, details={"by": "hand"})
    second = audit.record(None, "sweep")
    third = audit.record("gateway paris", "gateway.enrolled")
    assert (first.actor, first.actor_id, first.object_type, first.object_id, first.object_name) == (
        "alice",
        str(alice.pk),
        "accounts.user",
        str(bob.pk),
        "bob",
    )
    assert (second.actor, third.actor) == ("system", "gateway paris")
    assert third.previous_hash == second.hash
    assert audit.verify() == audit.Verdict(records=3)
    assert list(queries.audit_events_of(bob)) == [first]


def test_an_empty_trail_is_intact() -> None:
    assert audit.verify().intact


def test_a_changed_record_is_named(alice: User) -> None:
    events = [audit.record(alice, f"step {number}") for number in range(3)]
    _sql("UPDATE accounts_auditevent SET actor = 'charlie' WHERE id = %s", events[1].pk)
    verdict = audit.verify()
    assert (verdict.records, verdict.problem) == (1, f"record {events[1].pk} was changed")


def test_a_removed_record_is_noticed(alice: User) -> None:
    events = [audit.record(alice, f"step {number}") for number in range(3)]
    _sql("DELETE FROM accounts_auditevent WHERE id = %s", events[1].pk)
    assert audit.verify().problem == f"a record is missing or out of place before record {events[2].pk}"


def test_a_trail_cut_off_at_its_end_is_noticed(alice: User) -> None:
    events = [audit.record(alice, f"step {number}") for number in range(3)]
    _sql("DELETE FROM accounts_auditevent WHERE id >= %s", events[1].pk)
    assert audit.verify().problem == "records at the end are missing: 3 were written, 1 are left"


def test_the_code_offers_no_way_to_change_the_past(alice: User) -> None:
    event = audit.record(alice, "step")
    with pytest.raises(AuditError):
        event.save()
    with pytest.raises(AuditError):
        event.delete()
    with pytest.raises(AuditError):
        AuditEvent.objects.update(actor="bob")
    with pytest.raises(AuditError):
        AuditEvent.objects.all().delete()


def test_deleting_a_person_keeps_what_they_did(alice: User, bob: User) -> None:
    audit.record(bob, "step")
    bob.delete()
    assert AuditEvent.objects.get().actor == "bob"
    assert audit.verify().intact
