"""People, their API tokens and the audit trail."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NoReturn

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils import timezone


class User(AbstractUser):
    """A person who may log in; after somebody else gave them a password, only to choose one of their own."""

    must_choose_password = models.BooleanField(default=False, editable=False)


class ApiToken(models.Model):
    """A bearer token; only its digest is kept, the text is shown once."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, unique=True)
    digest = models.CharField(max_length=64)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"API token {self.name}"


class AuditError(Exception):
    """An attempt to change or remove a record of the audit trail."""


class AuditQuerySet(models.QuerySet["AuditEvent"]):
    """Reads only; inserts go through :mod:`vpnconsole.accounts.audit`."""

    def update(self, **_values: Any) -> NoReturn:
        """Refuse."""
        raise AuditError("audit records are not changed")

    def delete(self) -> NoReturn:
        """Refuse."""
        raise AuditError("audit records are not deleted")


class AuditEvent(models.Model):
    """Who did what to which thing. Append-only; each record holds the hash of the one before it.

    Names are copied, not referred to, so that a record still reads when its person or thing is gone.
    """

    at = models.DateTimeField()
    actor = models.CharField(max_length=150, help_text="user name, or what acted where no person did")
    actor_id = models.CharField(max_length=64, blank=True)
    action = models.CharField(max_length=100)
    object_type = models.CharField(max_length=100, blank=True)
    object_id = models.CharField(max_length=64, blank=True)
    object_name = models.CharField(max_length=255, blank=True)
    details = models.JSONField(default=dict)
    previous_hash = models.CharField(max_length=64, unique=True)
    hash = models.CharField(max_length=64, unique=True)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["object_type", "object_id"])]

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.object_name}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert; raises :class:`AuditError` for a record that exists already."""
        if not self._state.adding:
            raise AuditError("audit records are not changed")
        super().save(*args, **kwargs)

    def delete(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refuse."""
        raise AuditError("audit records are not deleted")

    def expected_hash(self) -> str:
        """Return the SHA-256 over this record's content and the hash before it."""
        content = {
            "at": self.at.isoformat(),
            "actor": self.actor,
            "actor_id": self.actor_id,
            "action": self.action,
            "object_type": self.object_type,
            "object_id": self.object_id,
            "object_name": self.object_name,
            "details": self.details,
            "previous_hash": self.previous_hash,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class AuditHead(models.Model):
    """The end of the chain (one row): serialises writers and shows when records at the end were cut off."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    hash = models.CharField(max_length=64)
    count = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="audit_head_is_one_row")]

    def __str__(self) -> str:
        return f"audit trail of {self.count} records"
