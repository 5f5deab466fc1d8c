"""What a person may do here: be an administrator, see other people's traffic, log in at all.

Administrators may do everything. Everybody else sees and changes gateways, tunnels and keys, but neither people nor,
without the permission for it, what captures and traces show. Only administrators change any of this, and one who can
log in always stays.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from django.contrib.auth.models import Permission
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from vpnconsole.accounts import audit
from vpnconsole.accounts.models import User

CAPTURE_TRAFFIC = "monitor.capture_traffic"
"""Permission to begin, end and download packet captures and traces."""
REFUSAL = "Only administrators see and change what people may do here."

_LAST = "This is the last administrator who can log in: make somebody else one first."


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a person may do; ``capture`` is what they have of their own, without being an administrator."""

    administrator: bool
    capture: bool
    active: bool


WORDS = {"administrator": "administrator", "capture": "captures and traces", "active": "log in"}


def permit(user: User) -> None:
    """Refuse who is no administrator; raises PermissionDenied."""
    if not (user.is_active and user.is_superuser):
        raise PermissionDenied(REFUSAL)


def people() -> QuerySet[User]:
    """Return everybody by name; ``captures`` says who has that permission of their own or through a group."""
    permission = _permission()
    having = User.objects.filter(Q(user_permissions=permission) | Q(groups__permissions=permission), pk=OuterRef("pk"))
    return User.objects.annotate(captures=Exists(having)).order_by("username")


def access_of(user: User) -> Access:
    """Return what a person may do."""
    found = people().get(pk=user.pk)
    return Access(administrator=found.is_superuser, capture=found.captures, active=found.is_active)  # type: ignore[attr-defined]


@transaction.atomic
def set_access(actor: User, user: User, wanted: Access) -> bool:
    """Change what a person may do; False when nothing changed. Raises PermissionDenied, ValidationError by field.

    Everybody who changes access waits for the end of the audit trail, so that two administrators cannot take it from
    each other at the same time.
    """
    audit.lock()
    permit(User.objects.get(pk=actor.pk))
    before = access_of(user)
    _keep_an_administrator(user, before, wanted)
    _leave_groups_alone(user, before, wanted)
    changed = [each.name for each in fields(Access) if getattr(before, each.name) != getattr(wanted, each.name)]
    if not changed:
        return False
    user.is_superuser = user.is_staff = wanted.administrator
    user.is_active = wanted.active
    user.save(update_fields=["is_superuser", "is_staff", "is_active"])
    if "capture" in changed:
        change = user.user_permissions.add if wanted.capture else user.user_permissions.remove
        change(_permission())
    given = [WORDS[name] for name in changed if getattr(wanted, name)]
    taken = [WORDS[name] for name in changed if not getattr(wanted, name)]
    audit.record(actor, "user.access-changed", user, details={"given": given, "taken": taken})
    return True


def _keep_an_administrator(user: User, before: Access, wanted: Access) -> None:
    if not (before.administrator and before.active) or (wanted.administrator and wanted.active):
        return
    if not User.objects.filter(is_superuser=True, is_active=True).exclude(pk=user.pk).exists():
        raise ValidationError({"administrator" if not wanted.administrator else "active": _LAST})


def _leave_groups_alone(user: User, before: Access, wanted: Access) -> None:
    if not before.capture or wanted.capture:
        return
    if names := user.groups.filter(permissions=_permission()).values_list("name", flat=True):
        problem = f"This comes from the group {', '.join(names)}, which was not made here: take it away there."
        raise ValidationError({"capture": problem})


def _permission() -> Permission:
    app, _, codename = CAPTURE_TRAFFIC.partition(".")
    return Permission.objects.get(content_type__app_label=app, codename=codename)
