"""The dashboard and the search over everything that has a name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Q
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django.views.decorators.vary import vary_on_headers

from vpnconsole.accounts import queries as account_queries
from vpnconsole.accounts.http import UserRequest
from vpnconsole.gateways import queries as gateway_queries
from vpnconsole.monitor import queries
from vpnconsole.rollout import services as rollout_services
from vpnconsole.vpn import queries as vpn_queries
from vpnconsole.vpn.models import Tunnel

_LAST_CHANGES = 8
_MINUTE = timedelta(minutes=1)
_MOST_FOUND = 20


@never_cache
@vary_on_headers("HX-Request")
@require_safe
def dashboard(request: UserRequest) -> HttpResponse:
    """Show what is wrong first, then how everything else fares; htmx gets the live part alone."""
    board = queries.dashboard()
    # The minute under way is not over: what it carried so far would look like a drop.
    whole = [point for point in board.traffic if board.read_at - point.at >= _MINUTE]
    context = {
        "board": board,
        "points": [(point.at.timestamp(), point.a_to_b_bps, point.b_to_a_bps) for point in whole],
        "last_point": whole[-1] if whole else None,
        "audit": account_queries.audit_events()[:_LAST_CHANGES],
    }
    if request.htmx:
        return render(request, "ui/parts/dashboard.html", context)
    context["undeployed"] = [row for row in rollout_services.preview() if row.changes or row.error]
    return render(request, "ui/dashboard.html", context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One thing whose name matches."""

    kind: str
    name: str
    about: str
    url: str


@require_safe
def search(request: UserRequest) -> HttpResponse:
    """Find tunnels, gateways, keys and policies by name, address or description."""
    text = request.GET.get("q", "").strip()
    found = _find(text) if text else []
    return render(request, "ui/search.html", {"text": text, "found": found})


def _ends_of(tunnel: Tunnel) -> str:
    ends = [f"{end.gateway.name} {end.address}" for end in tunnel.ends.all()]
    return " - ".join([*ends, f"peers {tunnel.peer_identity_value}"] if tunnel.is_on_demand else ends)


def _find(text: str) -> list[Found]:
    found = [
        Found(
            kind="tunnel",
            name=row.name,
            about=_ends_of(row),
            url=reverse("monitor:tunnel", args=[row.pk]),
        )
        for row in vpn_queries.tunnels_matching(text)[:_MOST_FOUND]
    ]
    named = Q(name__icontains=text) | Q(description__icontains=text)
    beside = Q(addresses__address__icontains=text) | Q(protected_networks__prefix__icontains=text)
    found += [
        Found(
            kind="gateway",
            name=row.name,
            about=", ".join(address.address for address in row.addresses.all()),
            url=reverse("monitor:gateway", args=[row.pk]),
        )
        for row in gateway_queries.gateways().filter(named | beside).distinct()[:_MOST_FOUND]
    ]
    found += [
        Found(kind="key", name=row.name, about=row.description, url=reverse("vpn:key", args=[row.pk]))
        for row in vpn_queries.preshared_keys().filter(named)[:_MOST_FOUND]
    ]
    for kind, label, rows in (
        ("ike-policy", "IKE policy", vpn_queries.ike_policies()),
        ("ipsec-policy", "IPsec policy", vpn_queries.ipsec_policies()),
        ("ike-proposal", "IKE proposal", vpn_queries.ike_proposals()),
        ("ipsec-proposal", "IPsec proposal", vpn_queries.ipsec_proposals()),
    ):
        found += [
            Found(kind=label, name=row.name, about=row.description, url=reverse("vpn:policy-edit", args=[kind, row.pk]))
            for row in rows.filter(named)[:_MOST_FOUND]
        ]
    return found
