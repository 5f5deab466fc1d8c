"""What pages and the apps above ask about tunnels, keys and policies; relations come with the rows."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db import models
from django.db.models import Count
from django.db.models.functions import Coalesce

from vpnconsole.vpn.models import (
    IKEPolicy,
    IKEProposal,
    IPsecPolicy,
    IPsecProposal,
    PresharedKey,
    QosPolicy,
    SelectorPair,
    Tunnel,
    TunnelEnd,
)


def tunnels() -> models.QuerySet[Tunnel]:
    """Return all tunnels by name with everything below them (17 queries at most, however many tunnels)."""
    return Tunnel.objects.select_related(
        "ike_policy", "ipsec_policy", "psk", "qos_policy", "disabled_by"
    ).prefetch_related(
        "ends__gateway",
        "ends__context",
        "ends__endpoint_context",
        "ends__routes",
        "selectors__manual__sas",
        "selectors__ipsec_policy__proposal_links__proposal",
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


def tunnels_using(policy: IKEPolicy | IPsecPolicy | QosPolicy) -> models.QuerySet[Tunnel]:
    """Return the tunnels that a policy was chosen for, as a whole or by one of their pairs, by name."""
    if not isinstance(policy, IPsecPolicy):
        return tunnels().filter(pk__in=policy.tunnels.values("pk"))
    by_pair = policy.selector_pairs.values("tunnel_id")
    return tunnels().filter(models.Q(pk__in=policy.tunnels.values("pk")) | models.Q(pk__in=by_pair))


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A tunnel that uses a policy: as a whole, or for those of its pairs, by number, that chose it."""

    tunnel: Tunnel
    whole: bool
    pairs: tuple[int, ...]


def uses_of(policy: IKEPolicy | IPsecPolicy | QosPolicy, most: int) -> list[Use]:
    """Return the first tunnels that use a policy, by name."""
    found = []
    for tunnel in tunnels_using(policy)[:most]:
        rows = enumerate(tunnel.selectors.all(), 1)
        pairs = tuple(number for number, pair in rows if pair.ipsec_policy == policy)
        whole = policy in (tunnel.ike_policy, tunnel.ipsec_policy, tunnel.qos_policy)
        found.append(Use(tunnel=tunnel, whole=whole, pairs=pairs))
    return found


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
    """Return all IPsec policies by name with their proposals and ``tunnel_count`` (3 queries).

    A tunnel counts once, whether it uses the policy as a whole, for some of its pairs, or both.
    """
    outer = models.OuterRef("pk")
    pairs = SelectorPair.objects.filter(tunnel=models.OuterRef("pk"), ipsec_policy=models.OuterRef(outer))
    using = Tunnel.objects.filter(models.Q(ipsec_policy=outer) | models.Exists(pairs)).order_by()
    counted = using.annotate(one=models.Value(1)).values("one").annotate(count=Count("pk")).values("count")
    number = Coalesce(models.Subquery(counted), 0)
    return IPsecPolicy.objects.annotate(tunnel_count=number).prefetch_related("proposal_links__proposal")


def qos_policies() -> models.QuerySet[QosPolicy]:
    """Return all QoS policies by name with ``tunnel_count``."""
    return QosPolicy.objects.annotate(tunnel_count=Count("tunnels"))
