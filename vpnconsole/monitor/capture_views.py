"""Begin, end and download packet captures of a tunnel."""

from __future__ import annotations

from uuid import UUID

from asgiref.sync import sync_to_async
from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from agents.contract.captures import CaptureView
from vpnconsole.accounts.http import UserRequest
from vpnconsole.accounts.models import User
from vpnconsole.lib.sealed import SealError
from vpnconsole.monitor import captures, downloads, services
from vpnconsole.monitor.captures import MIB, OCTETS, SECONDS
from vpnconsole.monitor.dataplane import EndPlane
from vpnconsole.rollout.client import AgentError
from vpnconsole.vpn import queries as vpn_queries
from vpnconsole.vpn.models import Tunnel


def span(seconds: int) -> str:
    """Return a bound in words."""
    return f"{seconds} s" if seconds < 60 else f"{seconds // 60} min"


class CaptureForm(forms.Form):
    """Where, what, how long and how much."""

    optional = ()

    gateway = forms.TypedChoiceField(coerce=UUID, label="On")
    view = forms.ChoiceField(
        label="What",
        choices=[
            (CaptureView.OUTER.value, "Outer: ESP, AH and IKE, encrypted"),
            (CaptureView.INNER.value, "Inner: what the tunnel carries, readable"),
        ],
    )
    seconds = forms.TypedChoiceField(
        coerce=int, label="At most", initial=60, choices=[(each, span(each)) for each in SECONDS]
    )
    octets = forms.TypedChoiceField(
        coerce=int, label="Up to", initial=8 * MIB, choices=[(each, f"{each // MIB} MiB") for each in OCTETS]
    )

    def __init__(self, data: object = None, *, ends: tuple[tuple[UUID, str], ...]) -> None:
        super().__init__(data)  # type: ignore[arg-type]
        field = self.fields["gateway"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [(str(gateway_id), name) for gateway_id, name in ends]


def form_for(ends: tuple[EndPlane, ...]) -> CaptureForm:
    """Return an empty form for the ends that can capture."""
    return CaptureForm(ends=tuple((end.gateway_id, end.gateway_name) for end in ends))


@require_POST
def start(request: UserRequest, tunnel_id: UUID) -> HttpResponse:
    """Order a capture; the page shows how it goes."""
    tunnel = get_object_or_404(vpn_queries.tunnels(), pk=tunnel_id)
    form = CaptureForm(request.POST, ends=_managed(tunnel))
    if not form.is_valid():
        for bound in form:
            if bound.errors:
                messages.error(request, f"{bound.label}: {' '.join(map(str, bound.errors))}")
        return redirect("monitor:tunnel", tunnel.pk)
    values = form.cleaned_data
    try:
        job = services.request_capture(
            request.user, tunnel, values["gateway"], values["view"], values["seconds"], values["octets"]
        )
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    else:
        messages.success(request, f"A capture of {job.view} packets begins on {job.gateway.name}.")
    return redirect("monitor:tunnel", tunnel.pk)


@require_POST
def stop(request: UserRequest, tunnel_id: UUID, gateway_id: UUID, capture_id: UUID) -> HttpResponse:
    """Order the end of a capture."""
    tunnel = get_object_or_404(vpn_queries.tunnels(), pk=tunnel_id)
    try:
        job = services.request_stop(request.user, tunnel, gateway_id, capture_id)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    else:
        messages.success(request, f"{job.gateway.name} is told to end the capture; beside it stands whether it heard.")
    return redirect("monitor:tunnel", tunnel.pk)


@never_cache
@require_POST
async def download(request: HttpRequest, tunnel_id: UUID, gateway_id: UUID, capture_id: UUID) -> HttpResponseBase:
    """Pass a capture's file on as it comes."""
    user = await request.auser()
    if not isinstance(user, User):
        raise PermissionDenied
    tunnel = await sync_to_async(get_object_or_404)(vpn_queries.tunnels(), pk=tunnel_id)
    try:
        opened = await sync_to_async(captures.open_download)(user, tunnel, gateway_id, capture_id)
    except (ValidationError, AgentError, SealError) as error:
        text = " ".join(error.messages) if isinstance(error, ValidationError) else str(error)
        await sync_to_async(messages.error)(request, f"The capture cannot be downloaded: {text}")
        return redirect("monitor:tunnel", tunnel_id)
    return downloads.passed_on(opened)


def _managed(tunnel: Tunnel) -> tuple[tuple[UUID, str], ...]:
    return tuple((end.gateway_id, end.gateway.name) for end in tunnel.ends.all() if end.gateway.is_managed)
