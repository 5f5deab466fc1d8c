"""Celery's side of the rollout: thin, idempotent, ids only. A lost task is found again by :func:`sweep`."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from uuid import UUID

from celery import shared_task
from celery.app.task import Task
from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.utils import timezone

from vpnconsole.rollout import delivery as work
from vpnconsole.rollout.choices import DeliveryState
from vpnconsole.rollout.models import Delivery, GatewayRollout, Revision

logger = logging.getLogger(__name__)

SWEEP_EVERY_S = 10
STALE_S = 10
UNCONFIRMED_S = 30
KEPT_REVISIONS = 50


@shared_task(name="rollout.compile_gateway")
def compile_gateway(delivery_id: str) -> None:
    """Compile one delivery and have it pushed."""
    if work.compile_delivery(UUID(delivery_id)):
        push_gateway.delay(delivery_id)


@shared_task(name="rollout.push_gateway", bind=True)
def push_gateway(self: Task[[str], None], delivery_id: str, /) -> None:
    """Push one delivery; killed in the middle, the same task is handed out again and takes over its own lease."""
    work.push_delivery(UUID(delivery_id), str(self.request.id))


@shared_task(name="rollout.sweep")
def sweep() -> None:
    """Find what fell by the wayside and send it on; takes no hint, may run at any time."""
    now = timezone.now()
    _reopen_lost(now)
    for delivery_id in uncompiled(now).values_list("pk", flat=True):
        compile_gateway.apply_async((str(delivery_id),), expires=SWEEP_EVERY_S * 2)
    for delivery_id in unpushed(now).values_list("pk", flat=True):
        push_gateway.apply_async((str(delivery_id),), expires=SWEEP_EVERY_S * 2)
    _prune()


def uncompiled(now: datetime) -> QuerySet[Delivery]:
    """Deliveries whose compile task got lost."""
    stale = Q(state=DeliveryState.WAITING, updated_at__lt=now - timedelta(seconds=STALE_S))
    dead = Q(state=DeliveryState.COMPILING, claimed_until__lt=now)
    return Delivery.objects.filter(stale | dead, revision=None)


def unpushed(now: datetime) -> QuerySet[Delivery]:
    """Deliveries that are due: lost before the push, worker dead, time to try again, or never confirmed."""
    due = (
        Q(state=DeliveryState.WAITING, updated_at__lt=now - timedelta(seconds=STALE_S))
        | Q(state=DeliveryState.WAITING_GATEWAY, next_attempt_at__lte=now)
        | Q(state=DeliveryState.PUSHING, claimed_until__lt=now)
        | Q(state=DeliveryState.ACCEPTED, updated_at__lt=now - timedelta(seconds=UNCONFIRMED_S))
    )
    return Delivery.objects.filter(due, revision__isnull=False)


def resume_waiting(gateway_id: UUID) -> None:
    """Send on what waited for this gateway to answer; called when a poll reached it."""
    waiting = Delivery.objects.filter(
        gateway_id=gateway_id, state=DeliveryState.WAITING_GATEWAY, awaits_contact=True, revision__isnull=False
    )
    for delivery_id in waiting.values_list("pk", flat=True):
        push_gateway.apply_async((str(delivery_id),), expires=SWEEP_EVERY_S * 2)


def _reopen_lost(now: datetime) -> None:
    """Deliver again to gateways that no longer hold what they once had in force (a reinstalled machine)."""
    newest = Revision.objects.filter(gateway=OuterRef("gateway")).order_by("-generation")
    behind = GatewayRollout.objects.annotate(
        newest_id=Subquery(newest.values("pk")[:1]), newest_generation=Subquery(newest.values("generation")[:1])
    ).filter(accepted_generation__lt=F("newest_generation"), read_at__gt=now - timedelta(minutes=1))
    for row in behind:
        last = Delivery.objects.filter(gateway_id=row.gateway_id).order_by("-deployment__created_at").first()
        if last is None or last.revision_id != row.newest_id or last.updated_at > row.read_at:
            continue
        reopened = Delivery.objects.filter(
            pk=last.pk, state__in=(DeliveryState.APPLIED, DeliveryState.UNCHANGED)
        ).update(
            state=DeliveryState.WAITING,
            step="Delivered again: the gateway no longer holds it",
            percent=40,
            finished_at=None,
            updated_at=now - timedelta(seconds=STALE_S + 1),
        )
        if reopened:
            logger.warning("= gateway=%s holds generation=%s", row.gateway_id, row.accepted_generation)


def _prune() -> None:
    for gateway_id in Revision.objects.order_by().values_list("gateway_id", flat=True).distinct():
        rows = Revision.objects.filter(gateway_id=gateway_id).order_by("-generation")
        floor = rows.values_list("generation", flat=True)[KEPT_REVISIONS : KEPT_REVISIONS + 1].first()
        if floor is not None:
            rows.filter(generation__lte=floor).delete()
