"""What people may do: who changes it, what is written down, and that an administrator always stays."""

from __future__ import annotations

import dataclasses

import pytest
from django.contrib.auth.models import Group, Permission
from django.core.exceptions import PermissionDenied, ValidationError
from django.test import Client
from django.urls import reverse

from vpnconsole.accounts import access, services
from vpnconsole.accounts.access import CAPTURE_TRAFFIC, Access
from vpnconsole.accounts.models import AuditEvent, User

GOOD = "seven-copper-lanterns"
OPERATOR = Access(administrator=False, capture=False, active=True)
CAPTURING = dataclasses.replace(OPERATOR, capture=True)
ADMINISTRATOR = dataclasses.replace(OPERATOR, administrator=True)


def again(user: User) -> User:
    """The user as the next request would have it."""
    return User.objects.get(pk=user.pk)


def changes() -> list[tuple[str, str, dict[str, object]]]:
    events = AuditEvent.objects.filter(action="user.access-changed").order_by("id")
    return [(event.actor, event.object_name, event.details) for event in events]


def test_the_permission_is_given_and_taken_away_and_each_is_recorded(alice: User, bob: User) -> None:
    assert access.access_of(bob) == OPERATOR
    assert access.set_access(alice, bob, CAPTURING)
    assert again(bob).has_perm(CAPTURE_TRAFFIC)
    assert not access.set_access(alice, bob, CAPTURING)
    assert access.set_access(alice, bob, OPERATOR)
    assert not again(bob).has_perm(CAPTURE_TRAFFIC)
    assert changes() == [
        ("alice", "bob", {"given": ["captures and traces"], "taken": []}),
        ("alice", "bob", {"given": [], "taken": ["captures and traces"]}),
    ]


def test_an_administrator_is_made_and_unmade(alice: User, bob: User) -> None:
    assert access.set_access(alice, bob, ADMINISTRATOR)
    assert again(bob).is_superuser
    assert again(bob).is_staff
    assert not access.access_of(again(bob)).capture
    assert access.set_access(again(bob), alice, OPERATOR)
    assert not again(alice).is_superuser
    assert [(actor, name) for actor, name, _ in changes()] == [("alice", "bob"), ("bob", "alice")]


def test_only_administrators_change_anything(alice: User, bob: User, charlie: User) -> None:
    access.set_access(alice, bob, CAPTURING)
    for actor in (bob, charlie):
        with pytest.raises(PermissionDenied):
            access.set_access(again(actor), charlie, CAPTURING)
        with pytest.raises(PermissionDenied):
            services.create_user(again(actor), username="dora", password=GOOD)
    assert (access.access_of(charlie), len(changes())) == (OPERATOR, 1)


def test_who_was_an_administrator_when_the_request_began_is_none_any_more(alice: User, bob: User) -> None:
    access.set_access(alice, bob, ADMINISTRATOR)
    access.set_access(again(bob), again(alice), OPERATOR)
    assert alice.is_superuser  # as her own request, begun before, still has it
    with pytest.raises(PermissionDenied):
        access.set_access(alice, bob, OPERATOR)
    assert again(bob).is_superuser


@pytest.mark.parametrize(
    ("wanted", "field"),
    [(OPERATOR, "administrator"), (dataclasses.replace(ADMINISTRATOR, active=False), "active")],
)
def test_the_last_administrator_stays(alice: User, bob: User, wanted: Access, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        access.set_access(alice, alice, wanted)
    assert list(caught.value.message_dict) == [field]
    access.set_access(alice, bob, dataclasses.replace(ADMINISTRATOR, active=False))
    with pytest.raises(ValidationError, match="last administrator who can log in"):
        access.set_access(alice, alice, wanted)
    assert (again(alice).is_superuser, again(alice).is_active) == (True, True)
    access.set_access(alice, bob, ADMINISTRATOR)
    assert access.set_access(alice, alice, wanted)


def test_who_may_not_log_in_is_out_at_once(alice: User, bob: User, client: Client) -> None:
    client.force_login(bob, backend="django.contrib.auth.backends.ModelBackend")
    _token, text = services.create_api_token(bob, bob, "ci")
    assert client.get(reverse("ui:dashboard")).status_code == 200
    access.set_access(alice, bob, dataclasses.replace(OPERATOR, active=False))
    assert client.get(reverse("ui:dashboard")).status_code == 302
    assert services.authenticate_api_token(text) is None
    assert changes()[-1][2] == {"given": [], "taken": ["log in"]}


def test_what_a_group_gives_is_shown_and_not_taken_away_in_vain(alice: User, bob: User) -> None:
    group = Group.objects.create(name="watchers")
    group.permissions.add(Permission.objects.get(codename="capture_traffic"))
    bob.groups.add(group)
    assert access.access_of(bob) == CAPTURING
    with pytest.raises(ValidationError, match="from the group watchers") as caught:
        access.set_access(alice, bob, dataclasses.replace(OPERATOR, active=False))
    assert list(caught.value.message_dict) == ["capture"]
    assert (again(bob).is_active, changes()) == (True, [])


def test_administrators_have_the_page_and_nobody_else(alice: User, bob: User, client: Client) -> None:
    pages = (reverse("accounts:users"), reverse("accounts:user", args=[bob.pk]))
    for url in pages:
        assert client.get(url).status_code == 302  # to the log-in
    access.set_access(alice, bob, CAPTURING)
    client.force_login(bob)
    assert 'data-test="tab-users"' not in client.get(reverse("accounts:settings")).content.decode()
    for url in pages:
        for answer in (client.get(url), client.post(url, {"administrator": "on", "active": "on"})):
            assert answer.status_code == 403
            assert "Only administrators" in answer.content.decode()
    assert not again(bob).is_superuser
    client.force_login(alice)
    assert 'data-test="tab-users"' in client.get(reverse("accounts:settings")).content.decode()
    page = client.get(pages[0]).content.decode()
    assert "as administrator" in page
    assert page.index('data-test="user-alice"') < page.index('data-test="user-bob"')
    assert client.get(reverse("accounts:user", args=[999_999])).status_code == 404


def test_a_user_is_made_and_given_what_they_need(alice: User, client: Client) -> None:
    client.force_login(alice)
    users = reverse("accounts:users")
    values = {"username": "dora", "password": GOOD, "password_again": GOOD}
    response = client.post(users, {**values, "password_again": "another"})
    assert (response.status_code, User.objects.filter(username="dora").exists()) == (422, False)
    response = client.post(users, {**values, "username": "alice"})
    assert "already exists" in response.content.decode()
    response = client.post(users, values)
    dora = User.objects.get(username="dora")
    page = reverse("accounts:user", args=[dora.pk])
    assert response["Location"] == page
    assert GOOD not in str(list(AuditEvent.objects.values_list("details", flat=True)))
    assert "user.created" in client.get(page).content.decode()
    response = client.post(page, {"capture": "on", "active": "on"}, follow=True)
    assert "What dora may do was changed." in response.content.decode()
    assert again(dora).has_perm(CAPTURE_TRAFFIC)
    assert "given: captures and traces" in client.get(page).content.decode()
    response = client.post(page, {"capture": "on", "active": "on"}, follow=True)
    assert "Nothing was changed about dora." in response.content.decode()


def test_the_page_refuses_to_lock_everybody_out_and_lets_one_of_two_step_down(
    alice: User, bob: User, client: Client
) -> None:
    client.force_login(alice)
    mine = reverse("accounts:user", args=[alice.pk])
    response = client.post(mine, {"active": "on"})
    assert response.status_code == 422
    assert "last administrator" in " ".join(response.context["form"].errors["administrator"])
    access.set_access(alice, bob, ADMINISTRATOR)
    response = client.post(mine, {"active": "on"})
    assert response["Location"] == reverse("accounts:settings")
    assert client.get(mine).status_code == 403


def test_forged_requests_are_refused(alice: User, bob: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    for url in (reverse("accounts:users"), reverse("accounts:user", args=[bob.pk])):
        assert strict.post(url, {"capture": "on", "active": "on"}).status_code == 403
    assert access.access_of(bob) == OPERATOR
