"""What is done to tunnels: one transaction each, checked whole, audited. Nothing reaches a gateway before a deployment.

Every error of a submission comes in one ValidationError keyed as forms name fields: ``name``, ``psk``,
``end_a.gateway``, ``end_b.identity_value``, ``peers.identity_value``, ``carriage.qos_policy``,
``selectors.0.network_b``, ``selectors`` (the list as such). Pre-shared keys and policies have ``keys`` and
``policies``, manual SAs ``manual``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from vpnconsole.accounts import audit
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway
from vpnconsole.lib.errors import FieldErrors
from vpnconsole.vpn import ikev1, legacy, manual, ondemand, peers, queries, rules
from vpnconsole.vpn.choices import ConnectionTypeChoice, Side
from vpnconsole.vpn.inputs import SelectorInput, TunnelInput
from vpnconsole.vpn.models import ManualChild, SelectorPair, Tunnel, TunnelEnd, TunnelRoute


@transaction.atomic
def create_tunnel(actor: User | None, data: TunnelInput) -> Tunnel:
    """Make a tunnel; raises ValidationError by field."""
    tunnel = _store(actor, Tunnel(), data)
    audit.record(actor, "tunnel.created", tunnel)
    return tunnel


@transaction.atomic
def update_tunnel(actor: User | None, tunnel: Tunnel, data: TunnelInput) -> Tunnel:
    """Change a tunnel as a whole; raises ValidationError by field. Selector pairs that stay keep their number."""
    # A row of its own: the caller's stays as it is when the change is refused.
    current = queries.get_tunnel(tunnel.pk)
    before = _facts(current)
    stored = _store(actor, current, data)
    audit.record(actor, "tunnel.changed", stored, details={"fields": _changed(before, _facts(stored))})
    return stored


@transaction.atomic
def clone_tunnel(actor: User | None, tunnel: Tunnel, *, name: str, **changes: Any) -> Tunnel:
    """Make a like tunnel; without ``changes`` (fields of TunnelInput) the copy would clash with its model."""
    data = dataclasses.replace(TunnelInput.of(tunnel), name=name, **changes)
    copy = _store(actor, Tunnel(), data)
    audit.record(actor, "tunnel.created", copy, details={"copy_of": tunnel.name})
    return copy


@transaction.atomic
def set_enabled(actor: User | None, tunnel: Tunnel, enabled: bool) -> Tunnel:
    """Switch a tunnel on or off; raises ValidationError where it would now claim another one's packets or key."""
    tunnel = queries.get_tunnel(tunnel.pk)
    if tunnel.enabled == enabled:
        return tunnel
    if enabled:
        errors = FieldErrors()
        ends = list(tunnel.ends.all())
        others = _neighbours(tunnel, [end.gateway for end in ends])
        rules.check_endpoint_contexts(errors, ends, others)
        rules.check_traffic_unique(errors, tunnel, ends, list(tunnel.selectors.all()), others)
        if tunnel.is_manual:
            manual.check_compression(errors, ends, manual.stored(tunnel), others)
        else:
            ikev1.check_keys(errors, tunnel, ends, others)
            peers.check(errors, tunnel, ends, tunnel.selectors.all(), others)
        errors.raise_any()
    _switch(actor, tunnel, enabled)
    tunnel.save(update_fields=["enabled", "disabled_by", "disabled_at", "updated_at"])
    audit.record(actor, "tunnel.enabled" if enabled else "tunnel.disabled", tunnel)
    return tunnel


@transaction.atomic
def delete_tunnel(actor: User | None, tunnel: Tunnel) -> None:
    """Remove a tunnel; its gateways drop it with the next deployment."""
    audit.record(actor, "tunnel.deleted", tunnel, details={"gateways": [end.gateway.name for end in tunnel.ends.all()]})
    tunnel.delete()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """The rows of one submission, checked as far as each goes alone; an on-demand tunnel has one end."""

    tunnel: Tunnel
    ends: tuple[TunnelEnd, ...]
    routes: Mapping[str, Sequence[TunnelRoute]]
    pairs: list[SelectorPair]
    manual: list[manual.Draft]


def _store(actor: User | None, tunnel: Tunnel, data: TunnelInput) -> Tunnel:
    errors = FieldErrors()
    draft = _draft(errors, actor, tunnel, data)
    gateways = _locked(draft.ends)
    _check_ends(errors, draft, gateways)
    if not errors.any_below("end_a", "end_b", "kind"):
        _check_beside(errors, draft, _neighbours(tunnel, gateways))
    errors.raise_any()
    draft.tunnel.save()
    _save_ends(draft.tunnel, draft.ends, draft.routes)
    _save_pairs(draft)
    return queries.get_tunnel(draft.tunnel.pk)


def _check_ends(errors: FieldErrors, draft: _Draft, gateways: Sequence[Gateway]) -> None:
    if draft.tunnel.is_on_demand:
        if gateways:
            ondemand.check_end(errors, draft.ends[0])
        return
    end_a, end_b = draft.ends
    known = [end.gateway_id for end in draft.ends if end.gateway_id]
    if len(gateways) == 2 or (len(known) == 2 and end_a.gateway_id == end_b.gateway_id):
        rules.check_ends(errors, end_a, end_b, starts=not draft.tunnel.is_manual)


def _check_beside(errors: FieldErrors, draft: _Draft, others: Sequence[Tunnel]) -> None:
    """Note what the tunnel does not go with: its neighbours on the same gateways, its policies, its makes of peer."""
    tunnel, ends = draft.tunnel, draft.ends
    if not tunnel.is_manual and not errors.any_below("peers"):
        negotiated = [other for other in others if not other.is_manual]
        rules.check_endpoints_unique(errors, tunnel, ends, negotiated)
        ondemand.check_peers_unique(errors, tunnel, ends, negotiated)
    if tunnel.enabled:
        rules.check_endpoint_contexts(errors, ends, others)
    if tunnel.enabled and not errors.any_below("selectors"):
        rules.check_traffic_unique(errors, tunnel, ends, draft.pairs, others)
    if tunnel.is_manual:
        legacy.check_manual(errors, [each.sas for each in draft.manual], ends)
        if not errors.any_below("selectors"):
            manual.check_spis(errors, ends, draft.manual, others)
            if tunnel.enabled:
                manual.check_compression(errors, ends, draft.manual, others)
            _check_manual_modes(errors, draft)
    elif not errors.any_below("version", "ike_policy", "ipsec_policy"):
        _check_policies(errors, draft, [other for other in others if not other.is_manual])


def _check_manual_modes(errors: FieldErrors, draft: _Draft) -> None:
    for index, each in enumerate(draft.manual):
        rules.check_transport(errors, "These SAs are", each.child.mode, draft.ends, {index: draft.pairs[index]})


def _check_policies(errors: FieldErrors, draft: _Draft, others: Sequence[Tunnel]) -> None:
    """Note what ends, policies and IKE version rule out of each other."""
    if not errors.any_below("selectors"):
        if not draft.tunnel.is_on_demand:
            rules.check_mode(errors, draft.tunnel, draft.ends, draft.pairs)
        ikev1.check_ports(errors, draft.tunnel, draft.pairs)
    legacy.check_tunnel(errors, draft.tunnel, draft.ends, draft.pairs)
    ikev1.check_policies(errors, draft.tunnel, draft.pairs)
    ondemand.check_policies(errors, draft.tunnel, draft.pairs)
    has_key = "psk" not in errors
    rivals = others if has_key and draft.tunnel.enabled else ()
    ikev1.check_keys(errors, draft.tunnel, draft.ends, rivals)
    peers.check(errors, draft.tunnel, draft.ends, draft.pairs, rivals)


def _draft(errors: FieldErrors, actor: User | None, tunnel: Tunnel, data: TunnelInput) -> _Draft:
    tunnel.name, tunnel.description, tunnel.kind = data.name, data.description, data.kind
    tunnel.mtu, tunnel.version = data.mtu, data.version
    tunnel.force_udp_encapsulation = data.force_udp_encapsulation and not tunnel.is_manual
    # With manual keys nothing narrows selectors, so nothing asks for routes by itself.
    tunnel.add_routes = data.add_routes and not tunnel.is_manual
    _carry(tunnel, data)
    missing = _keying(errors, tunnel, data)
    if tunnel.enabled != data.enabled:
        _switch(actor, tunnel, data.enabled)
    _clean_tunnel(errors, tunnel, missing)
    ends = _ends(errors, tunnel, data)
    routes = {side: rules.build_routes(errors, side, end) for side, end in (("a", data.end_a), ("b", data.end_b))}
    if tunnel.is_on_demand:
        ondemand.fill(errors, tunnel, data.peers, routes["a"])
    pairs = [_pair(tunnel, index, pair) for index, pair in enumerate(data.selectors, 1)]
    rules.check_selectors(errors, tunnel, pairs)
    drafts = manual.build(errors, tunnel, data.selectors) if tunnel.is_manual else []
    return _Draft(tunnel=tunnel, ends=ends, routes=routes, pairs=pairs, manual=drafts)


def _ends(errors: FieldErrors, tunnel: Tunnel, data: TunnelInput) -> tuple[TunnelEnd, ...]:
    if tunnel.is_on_demand:
        answering = dataclasses.replace(data.end_a, connection_type=ConnectionTypeChoice.RESPONDER_ONLY)
        return (rules.build_end(errors, Side.A, answering),)
    ends = rules.build_end(errors, Side.A, data.end_a), rules.build_end(errors, Side.B, data.end_b)
    if tunnel.is_manual:
        for end in ends:
            end.route_cost = 0  # that of routes which selectors ask for: there are none
    return ends


def _carry(tunnel: Tunnel, data: TunnelInput) -> None:
    tunnel.attachment, tunnel.df_bit = data.carriage.attachment, data.carriage.df_bit
    tunnel.copy_dscp, tunnel.qos_policy = data.carriage.copy_dscp, data.carriage.qos_policy
    tunnel.clamp_tcp_mss = data.carriage.clamp_tcp_mss
    tunnel.peer_identity_type, tunnel.peer_identity_value, tunnel.most_peers = "", "", 50


def _keying(errors: FieldErrors, tunnel: Tunnel, data: TunnelInput) -> list[str]:
    """Set policies and key and return which of them are missing; a tunnel with manual keys has none."""
    missing = []
    for field, label in (("ike_policy", "an IKE policy"), ("ipsec_policy", "an IPsec policy"), ("psk", "a key")):
        row = None if tunnel.is_manual else getattr(data, field)
        if row is None and not tunnel.is_manual:
            errors.add(field, f"Choose {label}.", "required")
            missing.append(field)
        setattr(tunnel, field, row)
    return missing


def _pair(tunnel: Tunnel, number: int, data: SelectorInput) -> SelectorPair:
    values = {field.name: getattr(data, field.name) for field in dataclasses.fields(data) if field.name != "manual"}
    if tunnel.is_manual:
        values["ipsec_policy"] = None  # nothing is negotiated
    place = min(number, rules.MOST_SELECTORS)
    return SelectorPair(place=place, seq=place, **values)


def _clean_tunnel(errors: FieldErrors, tunnel: Tunnel, missing: Sequence[str]) -> None:
    errors.clean("", tunnel, without=missing)
    if missing and "name" not in errors and Tunnel.objects.exclude(pk=tunnel.pk).filter(name=tunnel.name).exists():
        errors.add("name", "Another tunnel has this name already.", "unique")


def _switch(actor: User | None, tunnel: Tunnel, enabled: bool) -> None:
    tunnel.enabled = enabled
    tunnel.disabled_by = None if enabled else actor
    tunnel.disabled_at = None if enabled else timezone.now()


def _locked(ends: Sequence[TunnelEnd]) -> list[Gateway]:
    """Return the gateways, locked so that two submissions cannot each miss the other's tunnel."""
    ids = {end.gateway_id for end in ends if end.gateway_id}
    return list(Gateway.objects.select_for_update().filter(pk__in=ids).order_by("pk"))


def _neighbours(tunnel: Tunnel, gateways: Sequence[Gateway]) -> list[Tunnel]:
    ends = TunnelEnd.objects.filter(gateway__in=gateways).values("tunnel_id")
    return list(queries.tunnels().filter(pk__in=ends).exclude(pk=tunnel.pk))


def _save_ends(tunnel: Tunnel, ends: Sequence[TunnelEnd], routes: Mapping[str, Sequence[TunnelRoute]]) -> None:
    tunnel.ends.exclude(side__in=[end.side for end in ends]).delete()
    for end in ends:
        values = {name: getattr(end, name) for name in _END_FIELDS}
        row, _made = TunnelEnd.objects.update_or_create(tunnel=tunnel, side=end.side, defaults=values)
        row.routes.all().delete()
        for route in routes[end.side]:
            route.end = row
            route.save()


_END_FIELDS = (
    "gateway", "address", "identity_type", "identity_value", "connection_type", "context", "endpoint_context",
    "route_cost",
)  # fmt: skip


def _save_pairs(draft: _Draft) -> None:
    """Keep the number of a pair that stays: it names the child SA, and a new name would bounce it.

    Its place among the rules may change all the same, and with manual keys its networks: the SAs stay as they are.
    """
    tunnel = draft.tunnel
    rows = {row.pk: row for row in tunnel.selectors.all()}
    kept = _kept(draft, rows)
    for key, row in rows.items():
        if key not in kept.values():
            row.delete()
    taken = {rows[key].seq for key in kept.values()}
    free = (seq for seq in range(1, rules.MOST_SELECTORS + 1) if seq not in taken)
    for index, pair in enumerate(draft.pairs):
        pair.tunnel, pair.place = tunnel, index + 1
        if index in kept:
            pair.pk, pair.seq = kept[index], rows[kept[index]].seq
        else:
            pair.seq = next(free)
        pair.save(force_update=index in kept)
        if draft.manual:
            manual.save(pair, draft.manual[index])
        else:
            ManualChild.objects.filter(pair=pair).delete()


def _kept(draft: _Draft, rows: Mapping[int, SelectorPair]) -> dict[int, int]:
    """Return which stored pair each of the submission's is, by index: the same traffic, or the same manual SAs."""
    by_traffic = {_traffic(row): key for key, row in rows.items()}
    found = {index: by_traffic[key] for index, pair in enumerate(draft.pairs) if (key := _traffic(pair)) in by_traffic}
    for index, each in enumerate(draft.manual):
        known = each.pair_id
        if index not in found and known is not None and known in rows and known not in found.values():
            found[index] = known
    return found


def _traffic(pair: SelectorPair) -> SelectorInput:
    """Return what tells a pair from the others: another policy makes it no other pair."""
    return dataclasses.replace(SelectorInput.of(pair), ipsec_policy=None, manual=None)


def _facts(tunnel: Tunnel) -> dict[str, object]:
    """Return a tunnel as plain values, for telling what changed; holds names of keys, never keys."""
    data = TunnelInput.of(tunnel)
    facts: dict[str, object] = {
        field.name: getattr(data, field.name)
        for field in dataclasses.fields(data)
        if field.name not in ("end_a", "end_b", "selectors")
    }
    facts |= manual.facts(tunnel)
    for side, end in (("end_a", data.end_a), ("end_b", data.end_b)):
        for field in dataclasses.fields(end):
            facts[f"{side}.{field.name}"] = getattr(end, field.name)
    facts["selectors"] = [(_traffic(pair), pair.ipsec_policy_id) for pair in tunnel.selectors.all()]
    return facts


def _changed(before: dict[str, object], after: dict[str, object]) -> list[str]:
    return sorted(name for name in after if after[name] != before[name])


def refuse_address_in_use(gateway: Gateway, addresses: set[str], **_kwargs: object) -> None:
    """Receiver: refuse to take away addresses that tunnels end on."""
    ends = TunnelEnd.objects.filter(gateway=gateway, address__in=addresses).select_related("tunnel")
    if ends:
        used = ", ".join(sorted({f"{end.address} by {end.tunnel}" for end in ends})[:5])
        raise ValidationError({"addresses": f"Still in use: {used}. Change the tunnel first."}, code="in_use")


def refuse_unfit_profile(gateway: Gateway, profile: str, **_kwargs: object) -> None:
    """Receiver: refuse a make that rules out how a tunnel of the gateway is defined, naming the first such tunnel."""
    tunnels = list(queries.tunnels_of_gateway(gateway.pk))
    for tunnel in tunnels:
        for end in tunnel.ends.all():
            if end.gateway_id == gateway.pk:
                end.gateway.profile = profile
    for tunnel in tunnels:
        errors = FieldErrors()
        if not tunnel.is_manual:
            rest = [row for row in tunnels if row.pk != tunnel.pk]
            peers.check(errors, tunnel, list(tunnel.ends.all()), tunnel.selectors.all(), rest)
        try:
            errors.raise_any()
        except ValidationError as error:
            message = f"Tunnel {tunnel.name} does not go with it. {error.messages[0]}"
            raise ValidationError({"profile": message}, code="in_use") from None


def refuse_kind_in_use(gateway: Gateway, kind: str, **_kwargs: object) -> None:
    """Receiver: refuse to change the kind of a gateway that tunnels end on, since rules depend on it."""
    names = sorted(Tunnel.objects.filter(ends__gateway=gateway).values_list("name", flat=True))
    if names:
        raise ValidationError({"kind": f"Tunnels end here ({', '.join(names[:5])}): delete them first."}, code="in_use")
