"""Set-up, log-in, password, tokens and audit trail in the browser."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from vpnconsole.accounts.models import ApiToken, AuditEvent, User

GOOD = "seven-copper-lanterns"


def test_first_visitor_is_led_to_set_up(db: None) -> None:
    response = Client().get(reverse("accounts:login"))
    assert response.status_code == 302
    assert response["Location"] == reverse("accounts:set-up")


def test_set_up_makes_the_first_user_and_logs_in(db: None, client: Client) -> None:
    values = {"username": "alice", "password": GOOD, "password_again": GOOD}
    response = client.post(reverse("accounts:set-up"), values)
    assert response["Location"] == reverse("ui:dashboard")
    assert User.objects.get().is_superuser
    assert client.get(reverse("ui:dashboard")).status_code == 200


@pytest.mark.parametrize(
    ("password", "again", "field", "words"),
    [
        ("short", "short", "password", "too short"),
        (GOOD, GOOD + "x", "password_again", "differ"),
        ("", "", "password", "required"),
    ],
)
def test_set_up_refuses_beside_the_field(
    db: None, client: Client, password: str, again: str, field: str, words: str
) -> None:
    values = {"username": "alice", "password": password, "password_again": again}
    response = client.post(reverse("accounts:set-up"), values)
    assert response.status_code == 422
    assert words in " ".join(response.context["form"].errors[field])
    assert not User.objects.exists()
    assert 'value="alice"' in response.content.decode()


def test_set_up_is_gone_once_there_is_a_user(alice: User, client: Client) -> None:
    response = client.get(reverse("accounts:set-up"))
    assert response["Location"] == reverse("accounts:login")
    values = {"username": "mallory", "password": GOOD, "password_again": GOOD}
    client.post(reverse("accounts:set-up"), values)
    assert list(User.objects.values_list("username", flat=True)) == ["alice"]


def test_log_in_and_out(alice: User, client: Client) -> None:
    login = reverse("accounts:login")
    assert client.get(login).status_code == 200
    response = client.post(login, {"username": "alice", "password": "alice" * 3})
    assert response["Location"] == reverse("ui:dashboard")
    assert client.post(reverse("accounts:logout")).status_code == 302
    assert client.get(reverse("ui:dashboard")).status_code == 302


def test_wrong_password_says_so_without_saying_which(alice: User, client: Client) -> None:
    response = client.post(reverse("accounts:login"), {"username": "alice", "password": "wrong"})
    assert response.status_code == 200
    assert "do not belong together" in response.content.decode()


def test_many_failures_lock_with_a_page(alice: User, client: Client) -> None:
    for _ in range(8):
        response = client.post(reverse("accounts:login"), {"username": "alice", "password": "wrong"})
    assert response.status_code == 429
    assert "Too many failed log-ins" in response.content.decode()


def test_log_in_does_not_send_elsewhere(alice: User, client: Client) -> None:
    values = {"username": "alice", "password": "alice" * 3, "next": "https://elsewhere.example/"}
    assert client.post(reverse("accounts:login"), values)["Location"] == reverse("ui:dashboard")


def test_change_own_password(alice: User, client: Client) -> None:
    client.force_login(alice)
    values = {"present": "alice" * 3, "password": GOOD, "password_again": GOOD}
    assert client.post(reverse("accounts:settings"), values).status_code == 302
    alice.refresh_from_db()
    assert alice.check_password(GOOD)
    assert client.get(reverse("ui:dashboard")).status_code == 200


def test_change_own_password_needs_the_present_one(alice: User, client: Client) -> None:
    client.force_login(alice)
    values = {"present": "guess", "password": GOOD, "password_again": GOOD}
    response = client.post(reverse("accounts:settings"), values)
    assert response.status_code == 422
    assert "not your present password" in " ".join(response.context["form"].errors["present"])


def test_token_is_shown_once(alice: User, client: Client) -> None:
    client.force_login(alice)
    response = client.post(reverse("accounts:tokens"), {"name": "monitoring", "days": "30"})
    text = response.context["text"]
    assert text in response.content.decode()
    assert "no-store" in response["Cache-Control"]
    assert text not in client.get(reverse("accounts:tokens")).content.decode()


def test_token_without_name_is_refused(alice: User, client: Client) -> None:
    client.force_login(alice)
    response = client.post(reverse("accounts:tokens"), {"name": "", "days": "30"})
    assert response.status_code == 422
    assert not ApiToken.objects.exists()


def test_tokens_of_others_are_out_of_reach(alice: User, bob: User, client: Client) -> None:
    client.force_login(alice)
    client.post(reverse("accounts:tokens"), {"name": "alices", "days": "30"})
    token = ApiToken.objects.get()
    client.force_login(bob)
    assert client.post(reverse("accounts:revoke-token", args=[token.pk])).status_code == 404
    client.force_login(alice)
    client.post(reverse("accounts:revoke-token", args=[token.pk]))
    token.refresh_from_db()
    assert token.revoked_at is not None


def test_audit_trail_filters_and_checks_itself(alice: User, client: Client) -> None:
    client.force_login(alice)
    client.post(reverse("accounts:tokens"), {"name": "monitoring", "days": "0"})
    page = client.get(reverse("accounts:audit"), {"about": "api-token", "verify": "1"})
    assert [event.action for event in page.context["page"]] == ["api-token.created"]
    assert page.context["verdict"].intact
    AuditEvent.objects.model.objects.filter(action="api-token.created")._raw_delete("default")
    broken = client.get(reverse("accounts:audit"), {"verify": "1"})
    assert "The chain is broken" in broken.content.decode()
