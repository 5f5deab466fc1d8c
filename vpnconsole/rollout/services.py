"""What a person may ask of the rollout: see what would change, deploy, try again. One transaction each, audited."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from agents.contract.errors import DocumentError
from agents.contract.upgrade import load_document
from vpnconsole.accounts import audit
from vpnconsole.accounts.models import User
from vpnconsole.gateways.choices import GatewayKind
from vpnconsole.gateways.models import Gateway
from vpnconsole.lib.sealed import SealError
from vpnconsole.lib.tasks import send_on_commit
from vpnconsole.rollout import snapshot, tasks
from vpnconsole.rollout.changes import Change, differences
from vpnconsole.rollout.choices import UNFINISHED, DeliveryState
from vpnconsole.rollout.compile import compile_document
from vpnconsole.rollout.models import Delivery, Deployment, Revision


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPreview:
    """What a deployment would do to one gateway. ``error`` says why it cannot be compiled, ``error_path`` where."""

    gateway_id: UUID
    gateway_name: str
    enrolled: bool
    first: bool
    changes: tuple[Change, ...] = ()
    error: str = ""
    error_path: str = ""

    @property
    def anything(self) -> bool:
        """Whether there is something to deploy."""
        return bool(self.changes) or self.first


def preview(gateway_ids: Iterable[UUID] | None = None) -> tuple[GatewayPreview, ...]:
    """Compare intent with the last revision of each managed gateway (all of them for None), by name."""
    return tuple(_preview(gateway) for gateway in _chosen(gateway_ids))


def deploy(user: User | None, gateway_ids: Iterable[UUID] | None = None, note: str = "") -> Deployment:
    """Order the present intent for the gateways (None: every managed one); what was still under way is superseded.

    Raises ValidationError when no managed gateway is chosen. Gateways that cannot be reached now get it when they can.
    """
    with transaction.atomic():
        gateways = list(_chosen(gateway_ids))
        if not gateways:
            raise ValidationError("There is no managed gateway to deploy to.", code="no_gateway")
        deployment = Deployment.objects.create(created_by=user, note=note[:200])
        Delivery.objects.filter(gateway__in=gateways, state__in=UNFINISHED).update(
            state=DeliveryState.SUPERSEDED,
            step="A newer deployment took its place",
            percent=100,
            finished_at=timezone.now(),
        )
        deliveries = Delivery.objects.bulk_create(
            Delivery(deployment=deployment, gateway=gateway) for gateway in gateways
        )
        names = [gateway.name for gateway in gateways]
        audit.record(user, "rollout.deployed", deployment, details={"gateways": names})
        for delivery in deliveries:
            send_on_commit(tasks.compile_gateway, str(delivery.pk))
    return deployment


def retry(user: User | None, delivery: Delivery) -> Delivery:
    """Try a refused, failed or waiting delivery again; a refused or failed one is compiled anew from present intent.

    Raises ValidationError when it is under way or done, or a newer deployment took its place.
    """
    with transaction.atomic():
        again = {DeliveryState.REFUSED, DeliveryState.FAILED, DeliveryState.WAITING_GATEWAY}
        newer = Delivery.objects.filter(
            gateway_id=delivery.gateway_id, deployment__created_at__gt=delivery.deployment.created_at
        )
        if newer.exists():
            raise ValidationError("A newer deployment took its place: retry that one.", code="superseded")
        moved = Delivery.objects.filter(pk=delivery.pk, state__in=again).update(
            state=DeliveryState.WAITING,
            revision=None,
            step="Waiting for a worker",
            percent=0,
            error="",
            refused_path="",
            refused_message="",
            next_attempt_at=None,
            finished_at=None,
            updated_at=timezone.now(),
        )
        if not moved:
            raise ValidationError("This delivery is under way or done: there is nothing to retry.", code="state")
        audit.record(user, "rollout.retried", delivery.deployment, details={"gateway": delivery.gateway.name})
        send_on_commit(tasks.compile_gateway, str(delivery.pk))
    delivery.refresh_from_db()
    return delivery


def _chosen(gateway_ids: Iterable[UUID] | None) -> Iterable[Gateway]:
    gateways = Gateway.objects.filter(kind=GatewayKind.MANAGED).order_by("name")
    return gateways if gateway_ids is None else gateways.filter(pk__in=list(gateway_ids))


def _preview(gateway: Gateway) -> GatewayPreview:
    latest = Revision.objects.filter(gateway=gateway).order_by("-generation").first()
    changes: tuple[Change, ...] = ()
    error, error_path = "", ""
    try:
        old = load_document(latest.document.reveal()) if latest else None
        new = compile_document(
            snapshot.take(gateway.pk), generation=old.generation if old else 1, nonce=secrets.token_hex(16)
        )
        changes = differences(old, new)
    except DocumentError as refusal:
        error, error_path = refusal.problem, refusal.path
    except SealError as lost:
        error = f"the console cannot open its own secrets: {lost}"
    return GatewayPreview(
        gateway_id=gateway.pk,
        gateway_name=gateway.name,
        enrolled=gateway.is_enrolled,
        first=latest is None,
        changes=changes,
        error=error,
        error_path=error_path,
    )
