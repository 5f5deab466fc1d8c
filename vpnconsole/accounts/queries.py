"""What pages ask about people, tokens and the audit trail."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from vpnconsole.accounts.models import ApiToken, AuditEvent, User


def needs_set_up() -> bool:
    """Tell whether there is no user yet, so that the set-up page is the only one."""
    return not User.objects.exists()


def api_tokens_of(user: User) -> models.QuerySet[ApiToken]:
    """Return a user's tokens, newest first."""
    return ApiToken.objects.filter(user=user)


def usable_tokens_of(user: User) -> models.QuerySet[ApiToken]:
    """Return a user's API tokens that are neither revoked nor over."""
    lasting = models.Q(expires_at=None) | models.Q(expires_at__gt=timezone.now())
    return ApiToken.objects.filter(lasting, user=user, revoked_at=None)


def audit_events() -> models.QuerySet[AuditEvent]:
    """Return the audit trail, newest first."""
    return AuditEvent.objects.all()


def audit_events_of(instance: models.Model) -> models.QuerySet[AuditEvent]:
    """Return the records about one thing, newest first."""
    return AuditEvent.objects.filter(object_type=instance._meta.label_lower, object_id=str(instance.pk))
