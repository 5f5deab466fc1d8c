"""People and API tokens."""

from __future__ import annotations

import io
from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.utils import timezone

from vpnconsole.accounts import queries, services
from vpnconsole.accounts.models import ApiToken, AuditEvent, User

pytestmark = pytest.mark.django_db
GOOD = "correct horse battery staple"


def test_the_first_user_is_an_administrator_and_there_is_only_one_first() -> None:
    assert queries.needs_set_up()
    alice = services.create_first_user(username="alice", password=GOOD, source="192.0.2.50")
    assert alice.is_superuser
    assert alice.check_password(GOOD)
    assert not queries.needs_set_up()
    with pytest.raises(ValidationError, match="exists already"):
        services.create_first_user(username="bob", password=GOOD)
    assert User.objects.count() == 1
    assert [event.action for event in AuditEvent.objects.all()] == ["user.created-first"]


@pytest.mark.parametrize("password", ["", "short", "administrator", "12345678901234", "alice-console"])
def test_a_weak_password_is_refused_beside_its_field(password: str) -> None:
    with pytest.raises(ValidationError) as caught:
        services.create_first_user(username="alice-console", password=password)
    assert list(caught.value.message_dict) == ["password"]
    assert queries.needs_set_up()


def test_a_taken_or_impossible_name_is_refused_beside_its_field(alice: User) -> None:
    for name in ("alice", "", "a b"):
        with pytest.raises(ValidationError) as caught:
            services.create_user(alice, username=name, password=GOOD)
        assert list(caught.value.message_dict) == ["username"]


def test_a_password_is_changed_and_only_the_fact_is_recorded(bob: User) -> None:
    services.change_password(bob, GOOD)
    bob.refresh_from_db()
    assert bob.check_password(GOOD)
    event = AuditEvent.objects.get()
    assert (event.actor, event.action, event.details) == ("bob", "user.password-changed", {})


def test_a_token_is_kept_as_a_digest_and_stands_for_its_user(bob: User) -> None:
    token, text = services.create_api_token(bob, bob, "ci")
    assert text.startswith(f"{token.prefix}_")
    assert text.removeprefix(token.prefix) not in str(ApiToken.objects.values())
    assert services.authenticate_api_token(text) == bob
    token.refresh_from_db()
    assert token.last_used_at is not None
    assert AuditEvent.objects.get().details == {}


def test_a_token_s_last_use_is_not_written_at_every_request(bob: User) -> None:
    token, text = services.create_api_token(bob, bob, "ci")
    services.authenticate_api_token(text)
    token.refresh_from_db()
    first = token.last_used_at
    services.authenticate_api_token(text)
    token.refresh_from_db()
    assert token.last_used_at == first


def test_what_is_no_good_token_stands_for_nobody(alice: User, bob: User) -> None:
    token, text = services.create_api_token(bob, bob, "ci")
    for wrong in ("", "x", text[:-1], text + "x", text.upper(), f"{token.prefix}_", token.digest, "\udcff"):
        assert services.authenticate_api_token(wrong) is None
    bob.is_active = False
    bob.save()
    assert services.authenticate_api_token(text) is None
    bob.is_active = True
    bob.save()
    assert services.authenticate_api_token(text) == bob
    services.revoke_api_token(alice, token)
    assert services.authenticate_api_token(text) is None


def test_a_token_ends_with_its_time(bob: User) -> None:
    _, text = services.create_api_token(bob, bob, "old", expires_at=timezone.now() - timedelta(seconds=1))
    assert services.authenticate_api_token(text) is None


def test_the_command_reads_the_password_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{GOOD}\n"))
    call_command("createfirstuser", "alice", stdout=io.StringIO())
    assert User.objects.get().check_password(GOOD)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{GOOD}\n"))
    with pytest.raises(CommandError, match="exists already"):
        call_command("createfirstuser", "bob")
