"""What pages and the other apps ask about gateways; relations are fetched with the rows."""

from __future__ import annotations

from uuid import UUID

from django.db import models

from vpnconsole.gateways.choices import GatewayKind
from vpnconsole.gateways.models import EnrolmentToken, Gateway


def gateways() -> models.QuerySet[Gateway]:
    """Return all gateways by name, with addresses, protected networks and contexts (4 queries in all)."""
    return Gateway.objects.prefetch_related("addresses", "protected_networks", "contexts")


def get_gateway(gateway_id: UUID) -> Gateway:
    """Return one gateway with its relations; raises Gateway.DoesNotExist."""
    return gateways().get(pk=gateway_id)


def enrolled_gateways() -> models.QuerySet[Gateway]:
    """Return the managed gateways whose agent can be reached: what polls and deployments go to."""
    return Gateway.objects.filter(kind=GatewayKind.MANAGED, enrolled_at__isnull=False)


def open_enrolment_token(gateway: Gateway) -> EnrolmentToken | None:
    """Return the token that is still to be used, if there is one (it may have expired)."""
    return gateway.enrolment_tokens.filter(used_at=None, invalidated_at=None).first()
