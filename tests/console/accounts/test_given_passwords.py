"""Passwords that an administrator gives: who may, what ends, and that the person chooses one of their own next."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.conf import settings
from django.core.exceptions import PermissionDenied, ValidationError
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from vpnconsole.accounts import access, services
from vpnconsole.accounts.access import Access
from vpnconsole.accounts.models import ApiToken, AuditEvent, User

GIVEN, OWN = "seven-copper-lanterns", "nine-tin-whistles-more"


def again(user: User) -> User:
    """The user as the next request would have it."""
    return User.objects.get(pk=user.pk)


def page_of(user: User) -> str:
    return reverse("accounts:user", args=[user.pk])


def give(client: Client, user: User, password: str = GIVEN, **more: str) -> str:
    values = {"given-password": password, "given-password_again": password, **more}
    return client.post(reverse("accounts:user-password", args=[user.pk]), values, follow=True).content.decode()


def logged_in(name: str, password: str) -> tuple[Client, int]:
    client = Client()
    answer = client.post(reverse("accounts:login"), {"username": name, "password": password})
    return client, answer.status_code


def test_a_given_password_ends_sessions_and_is_not_written_down(alice: User, bob: User) -> None:
    theirs, _ = logged_in("bob", "bob" * 3)
    mine = Client()
    mine.force_login(alice, backend="django.contrib.auth.backends.ModelBackend")
    assert theirs.get(reverse("ui:dashboard")).status_code == 200
    page = give(mine, bob)
    assert "bob has a new password and was logged out everywhere." in page
    assert 'data-test="must-choose"' in page
    assert theirs.get(reverse("ui:dashboard"))["Location"].startswith(reverse("accounts:login"))
    assert mine.get(reverse("ui:dashboard")).status_code == 200
    assert again(bob).check_password(GIVEN)
    event = AuditEvent.objects.get(action="user.password-set")
    assert (event.actor, event.object_name, event.details) == ("alice", "bob", {})
    assert GIVEN not in str(list(AuditEvent.objects.values()))
    assert GIVEN not in page


def test_the_first_thing_is_a_password_of_one_s_own(alice: User, bob: User) -> None:
    services.set_password(alice, bob, GIVEN)
    client, status = logged_in("bob", GIVEN)
    assert status == 302
    own = reverse("accounts:settings")
    for url in (reverse("ui:dashboard"), reverse("monitor:tunnels"), reverse("accounts:tokens")):
        assert client.get(url)["Location"] == own
        assert client.post(url)["Location"] == own
        assert client.get(url, headers={"HX-Request": "true"}).status_code == 403
    assert 'data-test="page-choose-password"' in client.get(own).content.decode()
    same = {"present": GIVEN, "password": GIVEN, "password_again": GIVEN}
    answer = client.post(own, same)
    assert answer.status_code == 422
    assert "the password that you were given" in answer.content.decode()
    weak = client.post(own, {**same, "password": "short", "password_again": "short"})
    assert weak.status_code == 422
    assert 'data-test="page-choose-password"' in weak.content.decode()
    answer = client.post(own, {**same, "password": OWN, "password_again": OWN})
    assert answer["Location"] == reverse("ui:dashboard")
    assert client.get(reverse("ui:dashboard")).status_code == 200
    assert not again(bob).must_choose_password
    assert client.post(own, {"present": OWN, "password": GIVEN, "password_again": GIVEN})["Location"] == own


def test_who_has_to_choose_can_log_out(alice: User, bob: User) -> None:
    services.set_password(alice, bob, GIVEN)
    client, _ = logged_in("bob", GIVEN)
    assert client.post(reverse("accounts:logout"))["Location"] == reverse("accounts:login")


def test_a_new_user_chooses_a_password_at_the_first_log_in(alice: User) -> None:
    services.create_user(alice, username="dora", password=GIVEN)
    client, _ = logged_in("dora", GIVEN)
    assert client.get(reverse("ui:dashboard"))["Location"] == reverse("accounts:settings")


def test_who_sets_the_console_up_chose_theirs_already(db: None) -> None:
    assert not services.create_first_user(username="alice", password=GIVEN).must_choose_password


@pytest.mark.parametrize("password", ["", "short", "administrator", "12345678901234", "bob-the-builder"])
def test_weak_ones_are_refused_beside_the_field_and_nothing_ends(alice: User, bob: User, password: str) -> None:
    User.objects.filter(pk=bob.pk).update(username="bob-the-builder")
    mine = Client()
    mine.force_login(alice)
    url = reverse("accounts:user-password", args=[bob.pk])
    answer = mine.post(url, {"given-password": password, "given-password_again": password})
    assert answer.status_code == 422
    assert answer.context["password_form"].errors["password"]
    assert (again(bob).password, again(bob).must_choose_password) == (bob.password, False)
    assert mine.get(url)["Location"] == page_of(bob)


def test_only_administrators_and_not_for_themselves(alice: User, bob: User, charlie: User, client: Client) -> None:
    client.force_login(bob)
    url = reverse("accounts:user-password", args=[charlie.pk])
    values = {"given-password": GIVEN, "given-password_again": GIVEN}
    assert (client.post(url, values).status_code, client.get(url).status_code) == (403, 403)
    with pytest.raises(PermissionDenied):
        services.set_password(bob, charlie, GIVEN)
    with pytest.raises(ValidationError, match="under Settings"):
        services.set_password(alice, alice, GIVEN)
    client.force_login(alice)
    assert 'data-test="given-password-form"' not in client.get(page_of(alice)).content.decode()
    client.post(reverse("accounts:user-password", args=[alice.pk]), values)
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    assert strict.post(url, values).status_code == 403
    for user in (alice, charlie):
        assert not again(user).check_password(GIVEN)


def test_who_is_no_administrator_any_more_gives_none(alice: User, bob: User, charlie: User) -> None:
    access.set_access(alice, bob, Access(administrator=True, capture=False, active=True))
    access.set_access(again(bob), again(alice), Access(administrator=False, capture=False, active=True))
    assert alice.is_superuser  # as her own request, begun before, still has it
    with pytest.raises(PermissionDenied):
        services.set_password(alice, charlie, GIVEN)


def test_what_somebody_may_do_stays_as_it_is_by_now(alice: User, bob: User) -> None:
    before = again(bob)
    access.set_access(alice, bob, Access(administrator=True, capture=False, active=False))
    services.set_password(alice, before, GIVEN)
    services.change_password(before, OWN)
    assert (again(bob).is_superuser, again(bob).is_active) == (True, False)
    assert again(alice).is_superuser


def test_tokens_work_on_unless_they_are_to_end(alice: User, bob: User, client: Client) -> None:
    _, text = services.create_api_token(bob, bob, "ci")
    services.create_api_token(bob, bob, "old", timezone.now() - timedelta(days=1))
    client.force_login(alice)
    assert "There is 1; without this they go on working." in client.get(page_of(bob)).content.decode()
    give(client, bob)
    assert services.authenticate_api_token(text) == bob
    assert "their API tokens were revoked" in give(client, bob, **{"given-revoke_tokens": "on"})
    assert services.authenticate_api_token(text) is None
    assert AuditEvent.objects.filter(action="api-token.revoked", actor="alice").count() == 1
    assert ApiToken.objects.get(name="old").revoked_at is None
    assert "revoke_tokens" not in client.get(page_of(bob)).content.decode()


def test_a_lock_out_ends_with_it(alice: User, bob: User) -> None:
    for _ in range(settings.AXES_FAILURE_LIMIT):
        logged_in("bob", "wrong")
    assert logged_in("bob", "bob" * 3)[1] == 429
    services.set_password(alice, bob, GIVEN)
    assert logged_in("bob", GIVEN)[1] == 302
