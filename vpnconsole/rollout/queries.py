"""What pages, API and monitor ask about the rollout; no document is opened here."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from django.db.models import OuterRef, Prefetch, QuerySet, Subquery

from vpnconsole.gateways.choices import GatewayKind
from vpnconsole.gateways.models import Gateway
from vpnconsole.rollout.choices import FAULTY, UNFINISHED
from vpnconsole.rollout.models import Delivery, Deployment, GatewayRollout, Revision


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayProgress:
    """How far one gateway is: newest revision, what it holds, and the delivery under way or last refused.

    ``held_is_ours`` is False for a document this console has no record of: it was restored from an older backup.
    """

    gateway_id: UUID
    newest_generation: int = 0
    accepted_generation: int = 0
    applied_generation: int = 0
    newest_tunnels: dict[str, str] = field(default_factory=dict)
    held_tunnels: dict[str, str] = field(default_factory=dict)
    held_is_ours: bool = True
    delivery: Delivery | None = None

    @property
    def pending(self) -> bool:
        """Whether a delivery is under way."""
        return self.delivery is not None and self.delivery.state in UNFINISHED

    @property
    def refused(self) -> Delivery | None:
        """The last delivery when it was refused or failed."""
        return self.delivery if self.delivery is not None and self.delivery.state in FAULTY else None

    def holds(self, tunnel_id: str) -> bool:
        """Whether the tunnel is in the document the gateway holds."""
        return tunnel_id in self.held_tunnels

    def delivers(self, tunnel_id: str) -> bool:
        """Whether what is under way may bring or change the tunnel."""
        if not self.pending:
            return False
        assert self.delivery is not None
        if self.delivery.revision_id is None:
            return True
        return self.newest_tunnels.get(tunnel_id) != self.held_tunnels.get(tunnel_id)


def progress_by_gateway() -> dict[UUID, GatewayProgress]:
    """Return the progress of every managed gateway (a handful of queries however many there are)."""
    newest = Revision.objects.filter(gateway=OuterRef("pk")).order_by("-generation")
    held = newest.filter(digest=OuterRef("rollout__accepted_digest"))
    last = Delivery.objects.filter(gateway=OuterRef("pk")).order_by("-deployment__created_at")
    gateways = list(
        Gateway.objects.filter(kind=GatewayKind.MANAGED)
        .select_related("rollout")
        .annotate(
            newest_id=Subquery(newest.values("pk")[:1]),
            held_id=Subquery(held.values("pk")[:1]),
            last_id=Subquery(last.values("pk")[:1]),
        )
    )
    wanted = {key for gateway in gateways for key in (gateway.newest_id, gateway.held_id) if key is not None}
    revisions = {row.pk: row for row in Revision.objects.filter(pk__in=wanted).defer("document")}
    deliveries = Delivery.objects.select_related("deployment").in_bulk(
        [gateway.last_id for gateway in gateways if gateway.last_id is not None]
    )
    result = {}
    for gateway in gateways:
        mine, holds = revisions.get(gateway.newest_id), revisions.get(gateway.held_id)
        said: GatewayRollout | None = getattr(gateway, "rollout", None)
        result[gateway.pk] = GatewayProgress(
            gateway_id=gateway.pk,
            newest_generation=mine.generation if mine else 0,
            accepted_generation=said.accepted_generation if said else 0,
            applied_generation=said.applied_generation if said else 0,
            newest_tunnels=mine.tunnels if mine else {},
            held_tunnels=holds.tunnels if holds else {},
            held_is_ours=said is None or said.accepted_generation == 0 or holds is not None,
            delivery=deliveries.get(gateway.last_id) if gateway.last_id is not None else None,
        )
    return result


def deployments() -> QuerySet[Deployment]:
    """Return deployments, newest first, with their deliveries, gateways and people."""
    deliveries = Delivery.objects.select_related("gateway", "revision").defer("revision__document")
    return Deployment.objects.select_related("created_by").prefetch_related(Prefetch("deliveries", deliveries))


def get_deployment(deployment_id: UUID) -> Deployment:
    """Return one deployment with its deliveries; raises Deployment.DoesNotExist."""
    return deployments().get(pk=deployment_id)


def revisions(gateway_id: UUID) -> QuerySet[Revision]:
    """Return a gateway's revisions, newest first, without their documents."""
    return Revision.objects.filter(gateway_id=gateway_id).defer("document").select_related("created_by")


def unfinished() -> QuerySet[Delivery]:
    """Return what is still under way, oldest first."""
    return Delivery.objects.filter(state__in=UNFINISHED).select_related("gateway", "deployment")
