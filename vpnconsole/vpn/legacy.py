"""Algorithms kept for old peers only: which a tunnel uses, and whether its gateways allow them.

A managed gateway refuses them unless its operator has allowed them there; an extranet gateway is not ours to judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from django.core.exceptions import ValidationError

from agents.contract import algorithms
from vpnconsole.gateways.models import Gateway
from vpnconsole.lib.errors import FieldErrors
from vpnconsole.vpn import queries
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, ManualSa, SelectorPair, Tunnel, TunnelEnd


class _Row(Protocol):
    @property
    def label(self) -> str: ...

    @property
    def legacy(self) -> bool: ...


def labels(policy: IKEPolicy | IPsecPolicy) -> list[str]:
    """Return the legacy algorithms of a policy by the names people know, each once."""
    found: dict[str, None] = {}

    def look(slug: str | None, table: Mapping[str, _Row]) -> None:
        row = table.get(slug or "")
        if row is not None and row.legacy:
            found[row.label] = None

    if isinstance(policy, IKEPolicy):
        for ike in policy.ordered_proposals():
            look(ike.encryption, algorithms.ENCRYPTION)
            look(ike.integrity, algorithms.INTEGRITY)
            look(ike.prf, algorithms.PSEUDO_RANDOM)
            look(ike.group, algorithms.KEY_EXCHANGE)
            look(ike.additional_key_exchange, algorithms.KEY_EXCHANGE)
    else:
        look(policy.pfs_group, algorithms.KEY_EXCHANGE)
        for ipsec in policy.ordered_proposals():
            look(ipsec.encryption, algorithms.ENCRYPTION)
            look(ipsec.integrity, algorithms.INTEGRITY)
            look(ipsec.ah_integrity, algorithms.INTEGRITY)
    return list(found)


def check_tunnel(errors: FieldErrors, tunnel: Tunnel, ends: Iterable[TunnelEnd], pairs: Iterable[SelectorPair]) -> None:
    """Note policies that a managed gateway of the tunnel would refuse."""
    gateways = [end.gateway for end in ends]
    for field, policy in tunnel.policy_choices(pairs):
        if found := problem(policy, gateways):
            errors.add(field, found, "legacy")


def manual_labels(sas: Iterable[ManualSa]) -> list[str]:
    """Return the legacy algorithms of manual SAs by the names people know, each once."""
    found: dict[str, None] = {}
    for sa in sas:
        for row in _rows(sa).values():
            if row is not None and row.legacy:
                found[row.label] = None
    return list(found)


def _rows(sa: ManualSa) -> dict[str, _Row | None]:
    return {
        "encryption": algorithms.ENCRYPTION.get(sa.encryption or ""),
        "integrity": algorithms.INTEGRITY.get(sa.integrity or ""),
        "ah_integrity": algorithms.INTEGRITY.get(sa.ah_integrity or ""),
    }


def check_manual(errors: FieldErrors, pairs: Iterable[Iterable[ManualSa]], ends: Iterable[TunnelEnd]) -> None:
    """Note algorithms of manual SAs, given by pair, that a managed gateway of the tunnel would refuse."""
    refusing = [end.gateway.name for end in ends if _refuses(end.gateway)]
    if not refusing:
        return
    for index, sas in enumerate(pairs):
        for sa in sas:
            for field, row in _rows(sa).items():
                if row is not None and row.legacy:
                    errors.add(
                        f"selectors.{index}.{sa.direction}.{field}",
                        f"{row.label} is a legacy algorithm, which {' and '.join(refusing)} "
                        f"{'does' if len(refusing) == 1 else 'do'} not allow: choose another one, or allow legacy "
                        "algorithms on the gateway.",
                        "legacy",
                    )


def problem(policy: IKEPolicy | IPsecPolicy, gateways: Iterable[Gateway]) -> str:
    """Return why managed gateways among these would refuse a policy, or nothing."""
    refusing = [gateway.name for gateway in gateways if _refuses(gateway)]
    found = labels(policy) if refusing else []
    if not found:
        return ""
    return (
        f"Policy {policy.name} has {', '.join(found)}, which {' and '.join(refusing)} "
        f"{'does' if len(refusing) == 1 else 'do'} not allow: choose another policy, or allow legacy algorithms on the "
        "gateway."
    )


def check_policies(errors: FieldErrors, field: str, policies: Iterable[IKEPolicy | IPsecPolicy]) -> None:
    """Note changed policies that a gateway of a tunnel in use would now refuse."""
    for policy in policies:
        found = labels(policy)
        if not found:
            continue
        using = queries.tunnels_using(policy).values("pk")
        ends = TunnelEnd.objects.filter(tunnel__in=using).select_related("gateway", "tunnel")
        refusing = sorted({f"{end.tunnel.name} on {end.gateway.name}" for end in ends if _refuses(end.gateway)})
        if refusing:
            errors.add(
                field,
                f"{', '.join(found)} would be refused by {', '.join(refusing[:5])}: "
                "allow legacy algorithms there first.",
                "legacy",
            )


def refuse_end_of_legacy(gateway: Gateway, **_kwargs: object) -> None:
    """Receiver: refuse to forbid legacy algorithms on a gateway whose tunnels use them."""
    using = [tunnel.name for tunnel in queries.tunnels_of_gateway(gateway.pk) if _uses(tunnel)]
    if using:
        raise ValidationError(
            {"allow_legacy": f"Still in use by {', '.join(using[:5])}: give them other policies first."}, code="in_use"
        )


def _uses(tunnel: Tunnel) -> bool:
    if tunnel.is_manual:
        return bool(manual_labels(sa for pair in tunnel.selectors.all() for sa in pair.manual.sas.all()))
    return any(labels(policy) for _field, policy in tunnel.policy_choices(tunnel.selectors.all()))


def _refuses(gateway: Gateway) -> bool:
    return gateway.is_managed and not gateway.allow_legacy
