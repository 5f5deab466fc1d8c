"""REST v1: parse, call a service or a query, serialise. No rules of its own."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import JsonResponse

from vpnconsole.api import plain
from vpnconsole.api.doors import ApiError, ApiRequest, endpoint
from vpnconsole.monitor import queries as monitor
from vpnconsole.monitor import services as actions
from vpnconsole.monitor.models import ActionJob
from vpnconsole.rollout import queries as rollout
from vpnconsole.rollout import services as deployments_service
from vpnconsole.vpn import queries as vpn

MAX_EVENTS = 1000
MAX_MINUTES = 48 * 60


@endpoint("GET")
def tunnels(request: ApiRequest) -> JsonResponse:
    """List every configured tunnel with its state."""
    return JsonResponse({"tunnels": [plain.tunnel(row) for row in monitor.tunnel_rows()]})


@endpoint("GET")
def tunnel(request: ApiRequest, tunnel_id: UUID) -> JsonResponse:
    """Show one tunnel."""
    return JsonResponse(plain.tunnel_detail(monitor.tunnel_detail(tunnel_id)))


@endpoint("GET")
def series(request: ApiRequest, tunnel_id: UUID) -> JsonResponse:
    """Show one tunnel's traffic of the last ``minutes`` (60)."""
    vpn.get_tunnel(tunnel_id)
    minutes = _number(request, "minutes", 60, MAX_MINUTES)
    return JsonResponse({"points": plain.points(monitor.series(tunnel_id, minutes))})


@endpoint("GET")
def gateways(request: ApiRequest) -> JsonResponse:
    """List every gateway."""
    return JsonResponse({"gateways": [plain.gateway(row) for row in monitor.gateway_rows()]})


@endpoint("GET")
def gateway(request: ApiRequest, gateway_id: UUID) -> JsonResponse:
    """Show one gateway and its tunnels."""
    row, rows = monitor.gateway_detail(gateway_id)
    return JsonResponse({**plain.gateway(row), "tunnels": [plain.tunnel(each) for each in rows]})


@endpoint("GET")
def events(request: ApiRequest) -> JsonResponse:
    """List the newest events, or with ``after`` the later ones, oldest first; ``last`` is what to ask after next."""
    after = _number(request, "after", 0, 2**63 - 1) if "after" in request.GET else None
    limit = _number(request, "limit", 100, MAX_EVENTS)
    rows = monitor.events(
        tunnel_id=_uuid(request.GET.get("tunnel"), "tunnel"),
        gateway_id=_uuid(request.GET.get("gateway"), "gateway"),
        severity=request.GET.get("severity", ""),
        code=request.GET.get("code", ""),
        after=after,
    )[:limit]
    listed = [plain.event(row) for row in rows]
    return JsonResponse({"events": listed, "last": max((row["id"] for row in listed), default=after or 0)})


@endpoint("GET", "POST")
def deployments(request: ApiRequest) -> JsonResponse:
    """List the last deployments, or order one: ``gateways`` (ids; absent means all managed ones) and ``note``."""
    if request.method == "GET":
        return JsonResponse({"deployments": [plain.deployment(row) for row in rollout.deployments()[:20]]})
    chosen = request.plain.get("gateways")
    if chosen is not None and not isinstance(chosen, list):
        raise ApiError(422, "invalid", "must be a list of gateway ids", "gateways")
    gateway_ids = None if chosen is None else [_required_uuid(each, "gateways") for each in chosen]
    ordered = deployments_service.deploy(request.user, gateway_ids, _text(request.plain, "note"))
    return JsonResponse(plain.deployment(rollout.get_deployment(ordered.pk)), status=202)


@endpoint("GET")
def deployment(request: ApiRequest, deployment_id: UUID) -> JsonResponse:
    """Show how far a deployment is."""
    return JsonResponse(plain.deployment(rollout.get_deployment(deployment_id)))


@endpoint("POST")
def tunnel_actions(request: ApiRequest, tunnel_id: UUID) -> JsonResponse:
    """Order an action: ``verb``, and ``gateway`` (id) to choose the end."""
    gateway_id = _uuid(request.plain.get("gateway"), "gateway")
    job = actions.request_action(request.user, vpn.get_tunnel(tunnel_id), _text(request.plain, "verb"), gateway_id)
    return JsonResponse(plain.job(job), status=202)


@endpoint("GET")
def action(request: ApiRequest, job_id: UUID) -> JsonResponse:
    """Show what became of an action."""
    return JsonResponse(plain.job(ActionJob.objects.select_related("gateway", "requested_by").get(pk=job_id)))


def _number(request: ApiRequest, name: str, default: int, most: int) -> int:
    text = request.GET.get(name, str(default))
    if not text.isdecimal() or len(text) > 19 or int(text) > most:
        raise ApiError(422, "invalid", f"must be a number from 0 to {most}", name)
    return int(text)


def _uuid(value: Any, field: str) -> UUID | None:
    return None if value in (None, "") else _required_uuid(value, field)


def _required_uuid(value: Any, field: str) -> UUID:
    try:
        return UUID(str(value))
    except ValueError:
        raise ApiError(422, "invalid", "must be a UUID", field) from None


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise ApiError(422, "invalid", "must be text", name)
    return value
