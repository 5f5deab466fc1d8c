"""Logging in: recorded, limited, and on pages that run nothing but our own files."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse

from vpnconsole.accounts.models import AuditEvent, User

pytestmark = pytest.mark.django_db


def _log_in(client: Client, username: str, password: str) -> int:
    return client.post(reverse("accounts:login"), {"username": username, "password": password}).status_code


def _records() -> list[tuple[str, str]]:
    return list(AuditEvent.objects.order_by("id").values_list("actor", "action"))


def test_coming_and_going_is_recorded_with_the_address(alice: User) -> None:
    client = Client(REMOTE_ADDR="192.0.2.50")
    assert _log_in(client, "alice", "alicealicealice") == 302
    client.post(reverse("accounts:logout"))
    assert _records() == [("alice", "user.logged-in"), ("alice", "user.logged-out")]
    assert AuditEvent.objects.earliest("id").details == {"source": "192.0.2.50"}


def test_guessing_is_recorded_and_ends_in_a_lock_out_for_that_address(alice: User) -> None:
    guesser, elsewhere = Client(REMOTE_ADDR="192.0.2.66"), Client(REMOTE_ADDR="192.0.2.50")
    for _ in range(settings.AXES_FAILURE_LIMIT):
        _log_in(guesser, "alice", "wrong")
    assert _log_in(guesser, "alice", "alicealicealice") == 429
    assert _log_in(elsewhere, "alice", "alicealicealice") == 302
    actions = [action for _, action in _records()]
    assert actions.count("user.login-failed") >= settings.AXES_FAILURE_LIMIT - 1
    assert "user.locked-out" in actions
    assert "wrong" not in str(list(AuditEvent.objects.values()))


def test_guessing_names_does_not_fill_the_trail(alice: User) -> None:
    client = Client()
    for number in range(3):
        _log_in(client, f"guess-{number}", "wrong")
    assert _records() == []


def test_pages_say_what_a_browser_may_do(alice: User) -> None:
    response = Client().get(reverse("accounts:login"))
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "same-origin"


def test_passwords_are_kept_by_argon2() -> None:
    # Tests themselves use a cheap one (conftest); the settings module is what production reads.
    from vpnconsole import settings as module

    assert module.PASSWORD_HASHERS[0].endswith("Argon2PasswordHasher")
