"""What pages and the apps above ask about tunnels, keys and policies; relations come with the rows."""

from __future__ import annotations

from uuid import UUID

from django.db import models
from django.db.models import Count

from vpnconsole.vpn.models import (
    IKEPolicy,
    IKEProposal,
    IPsecPolicy,
    IPsecProposal,
    PresharedKey,
    QosPolicy,
    Tunnel,
    TunnelEnd,
)


def tunnels() -> models.QuerySet[Tunnel]:
    """Return all tunnels by name with everything below them (13 queries at most, however many tunnels)."""
    return Tunnel.objects.select_related(
        "ike_policy", "ipsec_policy", "psk", "qos_policy", "disabled_by"
    ).prefetch_related(
        "ends__gateway",
        "ends__context",
        "ends__routes",
        "selectors__manual__sas",
        "ike_policy__proposal_links__proposal",
        "ipsec_policy__proposal_links__proposal",
    )


def get_tunnel(tunnel_id: UUID) -> Tunnel:
    """Return one tunnel with everything below it; raises Tunnel.DoesNotExist."""
    return tunnels().get(pk=tunnel_id)


def tunnels_of_gateway(gateway_id: UUID) -> models.QuerySet[Tunnel]:
    """Return the tunnels with an end on a gateway, enabled or not, by name: what its document is made from."""
    ends = TunnelEnd.objects.filter(gateway_id=gateway_id).values("tunnel_id")
    return tunnels().filter(pk__in=ends)


def tunnels_matching(text: str) -> models.QuerySet[Tunnel]:
    """Return tunnels whose name, description, gateway or address holds ``text``."""
    return tunnels().filter(
        models.Q(name__icontains=text)
        | models.Q(description__icontains=text)
        | models.Q(peer_identity_value__icontains=text)
        | models.Q(
            pk__in=TunnelEnd.objects.filter(
                models.Q(gateway__name__icontains=text) | models.Q(address__icontains=text)
            ).values("tunnel_id")
        )
    )


def preshared_keys() -> models.QuerySet[PresharedKey]:
    """Return all keys by name with ``tunnel_count``; the secrets stay sealed."""
    return PresharedKey.objects.annotate(tunnel_count=Count("tunnels"))


def ike_proposals() -> models.QuerySet[IKEProposal]:
    """Return all IKE proposals by name with ``policy_count``."""
    return IKEProposal.objects.annotate(policy_count=Count("policy_links"))


def ipsec_proposals() -> models.QuerySet[IPsecProposal]:
    """Return all IPsec proposals by name with ``policy_count``."""
    return IPsecProposal.objects.annotate(policy_count=Count("policy_links"))


def ike_policies() -> models.QuerySet[IKEPolicy]:
    """Return all IKE policies by name with their proposals and ``tunnel_count`` (3 queries)."""
    return IKEPolicy.objects.annotate(tunnel_count=Count("tunnels")).prefetch_related("proposal_links__proposal")


def ipsec_policies() -> models.QuerySet[IPsecPolicy]:
    """Return all IPsec policies by name with their proposals and ``tunnel_count`` (3 queries)."""
    return IPsecPolicy.objects.annotate(tunnel_count=Count("tunnels")).prefetch_related("proposal_links__proposal")


def qos_policies() -> models.QuerySet[QosPolicy]:
    """Return all QoS policies by name with ``tunnel_count``."""
    return QosPolicy.objects.annotate(tunnel_count=Count("tunnels"))
