"""Writing and checking the audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.db import models, transaction
from django.utils import timezone

from vpnconsole.accounts.models import AuditEvent, AuditHead, User

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What :func:`verify` found; ``problem`` is empty when the chain holds."""

    records: int
    problem: str = ""

    @property
    def intact(self) -> bool:
        """Whether nothing was changed, removed or inserted."""
        return not self.problem


def record(
    actor: User | str | None,
    action: str,
    target: models.Model | None = None,
    *,
    object_name: str = "",
    details: Mapping[str, object] | None = None,
) -> AuditEvent:
    """Append one record, in the caller's transaction if there is one.

    ``actor`` None is the system itself, text is something else that acted (``gateway paris``). ``details`` is JSON and
    must hold no secret.
    """
    with transaction.atomic():
        head = lock()
        event = AuditEvent(
            at=timezone.now(),
            actor=actor.get_username() if isinstance(actor, User) else (actor or "system"),
            actor_id=str(actor.pk) if isinstance(actor, User) else "",
            action=action,
            object_type=target._meta.label_lower if target is not None else "",
            object_id=str(target.pk) if target is not None else "",
            object_name=(object_name or (str(target) if target is not None else ""))[:255],
            details=dict(details or {}),
            previous_hash=head.hash,
        )
        event.hash = event.expected_hash()
        event.save()
        head.hash, head.count = event.hash, head.count + 1
        head.save(update_fields=["hash", "count"])
    return event


def lock() -> AuditHead:
    """Return the end of the chain, locked until the transaction ends."""
    AuditHead.objects.get_or_create(id=1, defaults={"hash": GENESIS})
    return AuditHead.objects.select_for_update().get(id=1)


def verify() -> Verdict:
    """Walk the whole chain and say where it first breaks."""
    previous, count = GENESIS, 0
    for event in AuditEvent.objects.order_by("id").iterator():
        if event.previous_hash != previous:
            return Verdict(records=count, problem=f"a record is missing or out of place before record {event.pk}")
        if event.expected_hash() != event.hash:
            return Verdict(records=count, problem=f"record {event.pk} was changed")
        previous, count = event.hash, count + 1
    head = AuditHead.objects.filter(id=1).first()
    if head is not None and (head.hash != previous or head.count != count):
        return Verdict(
            records=count, problem=f"records at the end are missing: {head.count} were written, {count} are left"
        )
    return Verdict(records=count)
