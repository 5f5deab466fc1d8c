"""Making, changing, copying, switching and deleting tunnels. The list and a tunnel's own page are in ``monitor``."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from vpnconsole.accounts.http import UserRequest
from vpnconsole.gateways import queries as gateway_queries
from vpnconsole.gateways.profiles import PROFILES
from vpnconsole.lib.forms import place_errors, place_errors_by_prefix
from vpnconsole.vpn import keys, manual, presets, queries, services
from vpnconsole.vpn.choices import IkeVersionChoice, TunnelKindChoice
from vpnconsole.vpn.forms.fill import Known, State, fill
from vpnconsole.vpn.forms.keys import GENERATE
from vpnconsole.vpn.forms.tunnel import EXISTING, MOST_PAIRS, SIDES, TunnelForms
from vpnconsole.vpn.inputs import TunnelInput
from vpnconsole.vpn.models import PresharedKey, Tunnel

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DEPLOY = "It reaches the gateways when you deploy it under Changes."


@never_cache
@sensitive_post_parameters()
@require_http_methods(["GET", "POST"])
def create(request: UserRequest) -> HttpResponse:
    """Define a tunnel; ``?copy=`` starts from another one."""
    if request.method == "POST":
        forms = TunnelForms.bound(request.POST)
        tunnel = _save(request, forms, None)
        if tunnel is not None:
            messages.success(request, f"Tunnel {tunnel.name} was created. {_DEPLOY}")
            return redirect("monitor:tunnel", tunnel.pk)
        return _page(request, forms, None, status=422)
    return _page(request, _fresh(request), None)


@never_cache
@sensitive_post_parameters()
@require_http_methods(["GET", "POST"])
def edit(request: UserRequest, tunnel_id: UUID) -> HttpResponse:
    """Change a tunnel; the running one is not touched before the next deployment."""
    tunnel = get_object_or_404(queries.tunnels(), pk=tunnel_id)
    if request.method == "POST":
        forms = TunnelForms.bound(request.POST)
        if _save(request, forms, tunnel) is not None:
            messages.success(request, f"Tunnel {tunnel.name} was saved. {_DEPLOY}")
            return redirect("monitor:tunnel", tunnel.pk)
        tunnel = queries.get_tunnel(tunnel_id)
        return _page(request, forms, tunnel, status=422)
    return _page(request, TunnelForms.of(TunnelInput.of(tunnel)), tunnel)


@never_cache
@sensitive_post_parameters()
@require_POST
def refill(request: UserRequest) -> HttpResponse:
    """Return the form with what the chosen gateways tell filled in; also adds and removes selector pairs.

    A fragment for htmx, the whole page for a browser without scripts. Nothing of the form is saved or judged; on
    request the policies of a make are made and chosen.
    """
    bound = TunnelForms.bound(request.POST)
    state = State(
        main={name: bound.main[name].value() for name in bound.main.fields},
        ends={side: {name: form[name].value() for name in form.fields} for side, form in bound.ends.items()},
        pairs=[pair.values() for pair in bound.pairs],
        auto=bound.auto,
    )
    if _arranged(request, state.pairs):
        pass
    elif make := request.POST.get("make_defaults", ""):
        _choose_defaults(request, state, make)
    else:
        fill(
            state,
            {
                str(row.pk): Known(
                    name=row.name,
                    addresses=tuple(each.address for each in row.addresses.all()),
                    identities={
                        each.address: (each.identity_type, each.identity_value)
                        for each in row.addresses.all()
                        if each.identity_value
                    },
                    networks=tuple(each.prefix for each in row.protected_networks.all()),
                    make=row.peer.slug if row.peer.fixed else "",
                    version=row.peer.version,
                )
                for row in gateway_queries.gateways()
            },
            _usual_policies(),
        )
    peers = {name: bound.peers[name].value() for name in bound.peers.fields}
    forms = TunnelForms.showing(state.main, state.ends, state.pairs or [{}], state.auto, peers)
    tunnel = _edited(request)
    if request.htmx:
        return render(request, "vpn/parts/tunnel_fields.html", {"forms": forms, "tunnel": tunnel})
    return _page(request, forms, tunnel)


def _arranged(request: UserRequest, pairs: list[dict[str, Any]]) -> bool:
    """Add, remove or move a pair where that was asked for, and return whether it was."""
    for name, change in (("remove_pair", _remove), ("up_pair", _up), ("down_pair", _down)):
        text = request.POST.get(name, "")
        if text.isdecimal() and len(text) < 4 and int(text) < len(pairs):
            change(pairs, int(text))
            return True
    if "add_pair" in request.POST and len(pairs) < MOST_PAIRS:
        pairs.append({})
        return True
    return False


def _remove(pairs: list[dict[str, Any]], index: int) -> None:
    del pairs[index]


def _up(pairs: list[dict[str, Any]], index: int) -> None:
    if index:
        pairs[index - 1 : index + 1] = [pairs[index], pairs[index - 1]]


def _down(pairs: list[dict[str, Any]], index: int) -> None:
    pairs[index : index + 2] = pairs[index : index + 2][::-1]


def _choose_defaults(request: UserRequest, state: State, make: str) -> None:
    """Make what is known to suit a make of peer and choose it."""
    try:
        ike_policy, ipsec_policy = presets.make(request.user, make)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    else:
        for name, row in (("ike_policy", ike_policy), ("ipsec_policy", ipsec_policy)):
            state.main[name] = state.auto[name] = str(row.pk)


def _usual_policies() -> dict[str, tuple[str, str]]:
    """Return the ids of the policies that suit a version or a make, as far as there are any."""
    names = {"v2": "default", "v1": "compatible"}
    names |= {make.slug: presets.policy_name(make) for make in PROFILES.values() if make.defaults is not None}
    ike = dict(queries.ike_policies().filter(name__in=names.values()).values_list("name", "pk"))
    ipsec = dict(queries.ipsec_policies().filter(name__in=names.values()).values_list("name", "pk"))
    return {key: (str(ike[name]), str(ipsec[name])) for key, name in names.items() if name in ike and name in ipsec}


def _edited(request: UserRequest) -> Tunnel | None:
    """Return the tunnel whose form this is, None for a new one."""
    text = request.POST.get("tunnel", "")
    return get_object_or_404(queries.tunnels(), pk=UUID(text)) if _UUID.fullmatch(text) else None


@require_POST
def switch(request: UserRequest, tunnel_id: UUID) -> HttpResponse:
    """Enable or disable a tunnel."""
    tunnel = get_object_or_404(queries.tunnels(), pk=tunnel_id)
    enabled = request.POST.get("enabled") == "yes"
    try:
        services.set_enabled(request.user, tunnel, enabled)
    except ValidationError as error:
        messages.error(request, f"{tunnel.name} stays as it was. {' '.join(error.messages)}")
    else:
        messages.success(request, f"Tunnel {tunnel.name} was {'enabled' if enabled else 'disabled'}. {_DEPLOY}")
    return redirect("monitor:tunnel", tunnel.pk)


@require_http_methods(["GET", "POST"])
def delete(request: UserRequest, tunnel_id: UUID) -> HttpResponse:
    """Ask, then remove a tunnel; its gateways drop it with the next deployment."""
    tunnel = get_object_or_404(queries.tunnels(), pk=tunnel_id)
    if request.method == "POST":
        name = tunnel.name
        services.delete_tunnel(request.user, tunnel)
        messages.success(request, f"Tunnel {name} was deleted. Its gateways drop it when you deploy.")
        return redirect("monitor:tunnels")
    return render(request, "vpn/tunnel_delete.html", {"tunnel": tunnel})


@never_cache
@require_http_methods(["GET", "POST"])
def manual_keys(request: UserRequest, tunnel_id: UUID) -> HttpResponse:
    """Show the manual SAs of a tunnel; POST shows their keys once, which the audit trail says."""
    tunnel = get_object_or_404(queries.tunnels().filter(kind=TunnelKindChoice.MANUAL), pk=tunnel_id)
    shown = manual.reveal(request.user, tunnel) if request.method == "POST" else []
    return render(request, "vpn/manual_keys.html", {"tunnel": tunnel, "shown": shown})


def _fresh(request: UserRequest) -> TunnelForms:
    source = request.GET.get("copy", "")
    if _UUID.fullmatch(source):
        original = get_object_or_404(queries.tunnels(), pk=UUID(source))
        return TunnelForms.of(TunnelInput.of(original), copy=True)
    ike_policy = queries.ike_policies().filter(name="default").first() or queries.ike_policies().first()
    ipsec_policy = queries.ipsec_policies().filter(name="default").first() or queries.ipsec_policies().first()
    main = {
        "version": IkeVersionChoice.V2.value,
        "ike_policy": ike_policy.pk if ike_policy else None,
        "ipsec_policy": ipsec_policy.pk if ipsec_policy else None,
    }
    auto = {name: str(value) for name, value in main.items() if value}
    return TunnelForms.showing(main, {side: {} for side in SIDES}, [{}], auto)


def _page(request: UserRequest, forms: TunnelForms, tunnel: Tunnel | None, status: int = 200) -> HttpResponse:
    context = {
        "forms": forms,
        "tunnel": tunnel,
        "gateway_count": gateway_queries.gateways().count(),
    }
    return render(request, "vpn/tunnel_form.html", context, status=status)


def _save(request: UserRequest, forms: TunnelForms, tunnel: Tunnel | None) -> Tunnel | None:
    """Save key and tunnel together or neither; what is wrong stands beside the fields afterwards."""
    if not forms.well_formed():
        return None
    with transaction.atomic():
        psk = _key(request, forms)
        try:
            data = forms.to_input(psk)
            if tunnel is None:
                saved = services.create_tunnel(request.user, data)
            else:
                saved = services.update_tunnel(request.user, tunnel, data)
        except ValidationError as error:
            if psk is None and forms.main.cleaned_data["key_how"] != EXISTING and hasattr(error, "error_dict"):
                # The key itself was refused, which is said beside it.
                error.error_dict.pop("psk", None)
            place_errors_by_prefix(error, forms.by_prefix(), forms.main)
        if forms.failed():
            transaction.set_rollback(True)
            return None
    return saved


def _key(request: UserRequest, forms: TunnelForms) -> PresharedKey | None:
    values = forms.main.cleaned_data
    if forms.manual:
        return None
    if values["key_how"] == EXISTING:
        psk: PresharedKey | None = values["psk"]
        return psk
    name = values["key_name"] or values["name"]
    try:
        if values["key_how"] == GENERATE:
            return keys.generate_psk(request.user, name=name)
        return keys.create_psk(request.user, name=name, value=values["key_value"], encoding=values["key_encoding"])
    except ValidationError as error:
        place_errors(error, forms.main, forms.main.key_aliases)
        return None
