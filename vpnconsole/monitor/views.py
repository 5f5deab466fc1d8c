"""Pages that show what was observed: tunnels, gateways, events, and the actions on a running tunnel.

An htmx request to a page's own address is answered by its live part alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from agents.contract.actions import Verb
from agents.contract.events import KINDS
from agents.contract.status import Reason
from vpnconsole.accounts.http import UserRequest
from vpnconsole.gateways.models import Gateway
from vpnconsole.lib.listing import PER_PAGE, list_rows, page_number
from vpnconsole.monitor import orders, queries, services, traces
from vpnconsole.monitor.capture_views import form_for
from vpnconsole.monitor.negotiation import refused_pair
from vpnconsole.monitor.queries import TunnelDetail
from vpnconsole.monitor.tables import GATEWAY_COLUMNS, TUNNEL_COLUMNS, EventFilter, TunnelFilter
from vpnconsole.monitor.trace_form import TraceForm
from vpnconsole.rollout import queries as rollout_queries
from vpnconsole.rollout import services as rollout_services
from vpnconsole.rollout.changes import Change
from vpnconsole.vpn import match, places
from vpnconsole.vpn import queries as vpn_queries
from vpnconsole.vpn.models import Tunnel
from vpnconsole.vpn.places import Place

_LONGEST_SERIES_MIN = 48 * 60
_TABLE_POINTS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One button of a tunnel's page: what it does and what that interrupts."""

    verb: Verb
    label: str
    icon: str
    says: str
    asks: bool = False


OPERATIONS = (
    Operation(
        verb=Verb.INITIATE, label="Initiate", icon="plus", says="Starts the negotiation now. Interrupts nothing."
    ),
    Operation(
        verb=Verb.REKEY_IKE, label="Rekey IKE", icon="refresh", says="New keys for the IKE SA. Traffic keeps flowing."
    ),
    Operation(
        verb=Verb.REKEY_CHILD,
        label="Rekey IPsec",
        icon="refresh",
        says="New keys for every selector pair. Traffic keeps flowing.",
    ),
    Operation(
        verb=Verb.CLEAR_IPSEC,
        label="Clear IPsec SA",
        icon="x",
        says="Deletes the traffic's SAs; the IKE SA stays. Traffic pauses until new ones are negotiated.",
        asks=True,
    ),
    Operation(
        verb=Verb.CLEAR_IKE,
        label="Clear IKE SA",
        icon="x",
        says="Deletes the IKE SA and everything under it. Traffic stops until an end negotiates anew.",
        asks=True,
    ),
)


_SET_ANEW = Operation(
    verb=Verb.CLEAR_IPSEC,
    label="Set the SAs anew",
    icon="refresh",
    says="Removes the SAs and installs them again from the manual keys at once: their counters begin anew.",
    asks=True,
)


@never_cache
@vary_on_headers("HX-Request")
@require_safe
def tunnels(request: UserRequest) -> HttpResponse:
    """List every configured tunnel with its state, however it fares."""
    rows = queries.tunnel_rows()
    chosen = TunnelFilter(request.GET)
    listing = list_rows(chosen.apply(rows), request.GET, TUNNEL_COLUMNS, "state")
    context = {"listing": listing, "filter": chosen, "any": bool(rows)}
    template = "monitor/parts/tunnels.html" if request.htmx else "monitor/tunnels.html"
    return render(request, template, context)


@never_cache
@vary_on_headers("HX-Request")
@require_safe
def tunnel(request: UserRequest, tunnel_id: UUID) -> HttpResponse:
    """One tunnel: both ends, state and reason, selector pairs and their SAs, traffic, events, what is pending."""
    try:
        detail = queries.tunnel_detail(tunnel_id)
    except Tunnel.DoesNotExist:
        raise Http404("there is no such tunnel") from None
    reason = detail.row.verdict.reason
    points = queries.series(tunnel_id, 60)
    context = {
        "detail": detail,
        "row": detail.row,
        "tunnel": detail.tunnel,
        "reason_kind": KINDS.get(reason.code) if reason else None,
        "reason_place": _place_of(detail, reason) if reason else None,
        "points": points[-_TABLE_POINTS:][::-1],
        "operations": _operations(detail.tunnel),
        "may_capture": orders.may_capture(request.user),
    }
    if request.htmx:
        return render(request, "monitor/parts/tunnel_live.html", context)
    others = [row for row in vpn_queries.tunnels() if row.pk != tunnel_id]
    context["advice"] = match.tunnel_advice(detail.tunnel, others)
    context["pending"] = _pending(detail.row)
    context["capture_form"] = form_for(detail.plane.may_capture) if detail.plane.may_capture else None
    return render(request, "monitor/tunnel.html", context)


def _place_of(detail: TunnelDetail, reason: Reason) -> Place | None:
    """Return where the verdict's reason is mended, None where no form has its field."""
    field, side = reason.field or "", detail.row.reason_side
    gateway_id = next((end.gateway_id for end in detail.row.ends if end.side == side), None)
    pair = None
    if gateway_id is not None and field.startswith("children."):
        pair = refused_pair(detail.tunnel, gateway_id, reason)
    return places.of(detail.tunnel, field, side, pair)


def _operations(tunnel: Tunnel) -> tuple[Operation, ...]:
    """Return what can be asked of a tunnel: manual keys are only set anew, peers on demand are not called."""
    if tunnel.is_manual:
        return (_SET_ANEW,)
    if tunnel.is_on_demand:
        return tuple(each for each in OPERATIONS if each.verb is not Verb.INITIATE)
    return OPERATIONS


def _pending(row: queries.TunnelRow) -> list[tuple[str, Change]]:
    """Return what a deployment would change about one tunnel, by gateway."""
    managed = [end.gateway_id for end in row.ends if end.managed and end.gateway_id is not None]
    return [
        (preview.gateway_name, change)
        for preview in rollout_services.preview(managed)
        for change in preview.changes
        if change.tunnel_id == str(row.id)
    ]


@never_cache
@require_safe
def tunnel_series(request: UserRequest, tunnel_id: UUID) -> JsonResponse:
    """Traffic of the last ``minutes`` (60) as columns for the chart; times are Unix seconds, rates bits per second."""
    text = request.GET.get("minutes", "60")
    minutes = min(_LONGEST_SERIES_MIN, max(1, int(text))) if text.isdecimal() and len(text) < 6 else 60
    get_object_or_404(Tunnel, pk=tunnel_id)
    points = queries.series(tunnel_id, minutes)
    return JsonResponse(
        {
            "at": [point.at.timestamp() for point in points],
            "a_to_b": [point.a_to_b_bps for point in points],
            "b_to_a": [point.b_to_a_bps for point in points],
        }
    )


@require_POST
def tunnel_action(request: UserRequest, tunnel_id: UUID) -> HttpResponse:
    """Send one verb to a gateway of the tunnel; what came of it shows on the page."""
    row = get_object_or_404(vpn_queries.tunnels(), pk=tunnel_id)
    try:
        job = services.request_action(request.user, row, request.POST.get("verb", ""))
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    else:
        label = next((each.label for each in OPERATIONS if each.verb == job.verb), job.verb)
        messages.success(request, f"{label} was sent to {job.gateway.name}.")
    return redirect("monitor:tunnel", row.pk)


@never_cache
@vary_on_headers("HX-Request")
@require_safe
def gateways(request: UserRequest) -> HttpResponse:
    """List every gateway with its last contact."""
    listing = list_rows(queries.gateway_rows(), request.GET, GATEWAY_COLUMNS, "name")
    template = "monitor/parts/gateways.html" if request.htmx else "monitor/gateways.html"
    return render(request, template, {"listing": listing})


@never_cache
@vary_on_headers("HX-Request")
@require_safe
def gateway(request: UserRequest, gateway_id: UUID) -> HttpResponse:
    """One gateway: contact, agent and its parts, data plane, revision in force and pending, tunnels, events, traces."""
    return gateway_page(request, gateway_id, TraceForm())


def gateway_page(request: UserRequest, gateway_id: UUID, trace_form: TraceForm) -> HttpResponse:
    """Return a gateway's page with a form for traces, which may hold errors."""
    try:
        row, rows = queries.gateway_detail(gateway_id)
    except Gateway.DoesNotExist:
        raise Http404("there is no such gateway") from None
    context = {
        "row": row,
        "gateway": row.gateway,
        "status": row.status,
        "progress": row.progress,
        "listing": list_rows(rows, request.GET, TUNNEL_COLUMNS, "state"),
        "events": queries.events(gateway_id=gateway_id)[:15],
        "revisions": rollout_queries.revisions(gateway_id)[:5],
        "traces": traces.gateway_traces(row),
        "trace_form": trace_form,
        "may_capture": orders.may_capture(request.user),
        "own_url": reverse("monitor:gateway", args=[gateway_id]) if trace_form.errors else request.get_full_path(),
    }
    template = "monitor/parts/gateway_live.html" if request.htmx else "monitor/gateway.html"
    return render(request, template, context, status=422 if trace_form.errors else 200)


@never_cache
@vary_on_headers("HX-Request")
@require_safe
def events(request: UserRequest) -> HttpResponse:
    """List what happened on the gateways, newest first, by tunnel, gateway, severity or code."""
    chosen = EventFilter(request.GET)
    values = chosen.cleaned_data if chosen.is_valid() else {}
    wanted_tunnel, wanted_gateway = values.get("tunnel"), values.get("gateway")
    rows = queries.events(
        tunnel_id=wanted_tunnel.pk if wanted_tunnel else None,
        gateway_id=wanted_gateway.pk if wanted_gateway else None,
        severity=values.get("severity", ""),
        code=values.get("code", "").strip(),
    )
    page = Paginator(rows, PER_PAGE).get_page(page_number(request.GET))
    template = "monitor/parts/events.html" if request.htmx else "monitor/events.html"
    filtered = any(values.values())
    return render(request, template, {"page": page, "events": page.object_list, "filter": chosen, "filtered": filtered})
