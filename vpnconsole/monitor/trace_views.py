"""Begin, end and download traces of a gateway."""

from __future__ import annotations

from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from vpnconsole.accounts.http import UserRequest
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway
from vpnconsole.lib.forms import place_errors
from vpnconsole.lib.sealed import SealError
from vpnconsole.monitor import downloads, services, traces
from vpnconsole.monitor.trace_form import TraceForm
from vpnconsole.monitor.views import gateway_page
from vpnconsole.rollout.client import AgentError


@require_http_methods(["GET", "POST"])
def start(request: UserRequest, gateway_id: UUID) -> HttpResponse:
    """Order a trace; the page shows how it goes. Where something is wrong the page comes again with what was chosen."""
    gateway = get_object_or_404(Gateway, pk=gateway_id)
    if request.method == "GET":  # the page with errors, loaded again
        return redirect("monitor:gateway", gateway.pk)
    form = TraceForm(request.POST)
    if form.is_valid():
        try:
            services.request_trace(request.user, gateway, form.wanted())
        except ValidationError as error:
            place_errors(error, form, {"seconds": "minutes"})
        else:
            messages.success(request, f"A trace begins on {gateway.name}.")
            return redirect("monitor:gateway", gateway.pk)
    return gateway_page(request, gateway_id, form)


@require_POST
def stop(request: UserRequest, gateway_id: UUID, trace_id: UUID) -> HttpResponse:
    """Order the end of a trace."""
    gateway = get_object_or_404(Gateway, pk=gateway_id)
    try:
        services.request_trace_stop(request.user, gateway, trace_id)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    else:
        messages.success(request, f"{gateway.name} is told to end the trace; beside it stands whether it heard.")
    return redirect("monitor:gateway", gateway.pk)


@never_cache
@require_POST
async def download(request: HttpRequest, gateway_id: UUID, trace_id: UUID) -> HttpResponseBase:
    """Pass a trace's text on as it comes."""
    user = await request.auser()
    if not isinstance(user, User):
        raise PermissionDenied
    gateway = await sync_to_async(get_object_or_404)(Gateway, pk=gateway_id)
    try:
        opened = await sync_to_async(traces.open_download)(user, gateway, trace_id)
    except (ValidationError, AgentError, SealError) as error:
        text = " ".join(error.messages) if isinstance(error, ValidationError) else str(error)
        await sync_to_async(messages.error)(request, f"The trace cannot be downloaded: {text}")
        return redirect("monitor:gateway", gateway_id)
    return downloads.passed_on(opened)
