"""Pages that change gateways. The list and the page of one gateway are in ``monitor``: they show what was observed."""

from __future__ import annotations

import shlex
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from vpnconsole.accounts.http import UserRequest
from vpnconsole.gateways import queries, services
from vpnconsole.gateways.choices import GatewayKind
from vpnconsole.gateways.forms import GatewayForm


@require_http_methods(["GET", "POST"])
def create(request: UserRequest) -> HttpResponse:
    """Define a gateway; a managed one leads on to its enrolment."""
    kind = request.GET.get("kind", GatewayKind.MANAGED)
    form = GatewayForm(request.POST or None, initial={"kind": kind})
    if request.method == "POST" and form.is_valid():
        try:
            gateway = services.create_gateway(request.user, form.to_input())
        except ValidationError as error:
            form.place(error)
        else:
            messages.success(request, f"Gateway {gateway.name} was created.")
            if gateway.is_managed:
                return redirect("gateways:enrolment", gateway.pk)
            return redirect("monitor:gateway", gateway.pk)
    return render(request, "gateways/form.html", {"form": form}, status=422 if form.errors else 200)


@require_http_methods(["GET", "POST"])
def edit(request: UserRequest, gateway_id: UUID) -> HttpResponse:
    """Change a gateway; nothing reaches it before the next deployment."""
    gateway = get_object_or_404(queries.gateways(), pk=gateway_id)
    form = GatewayForm(request.POST or None, initial=GatewayForm.initial_of(gateway))
    name = gateway.name
    if request.method == "POST" and form.is_valid():
        try:
            services.update_gateway(request.user, gateway, form.to_input())
        except ValidationError as error:
            form.place(error)
        else:
            messages.success(
                request, f"Gateway {gateway.name} was saved. What it changes for tunnels waits under Changes."
            )
            return redirect("monitor:gateway", gateway.pk)
    context = {"form": form, "gateway": gateway, "name": name}
    return render(request, "gateways/form.html", context, status=422 if form.errors else 200)


@require_http_methods(["GET", "POST"])
def delete(request: UserRequest, gateway_id: UUID) -> HttpResponse:
    """Ask, then remove a gateway; refused with their names while tunnels use it."""
    gateway = get_object_or_404(queries.gateways(), pk=gateway_id)
    problems: list[str] = []
    if request.method == "POST":
        try:
            services.delete_gateway(request.user, gateway)
        except ValidationError as error:
            problems = error.messages
        else:
            messages.success(
                request,
                f"Gateway {gateway.name} was deleted. Its agent keeps what it last accepted until it is stopped.",
            )
            return redirect("monitor:gateways")
    context = {"gateway": gateway, "problems": problems}
    return render(request, "gateways/delete.html", context, status=422 if problems else 200)


@never_cache
@require_http_methods(["GET", "POST"])
def enrolment(request: UserRequest, gateway_id: UUID) -> HttpResponse:
    """Explain enrolment; POST issues a one-time token that is in this one answer and nowhere else."""
    gateway = get_object_or_404(queries.gateways(), pk=gateway_id)
    problems: list[str] = []
    command = token_text = ""
    if request.method == "POST":
        try:
            token = services.issue_enrolment_token(request.user, gateway)
        except ValidationError as error:
            problems = error.messages
        else:
            console = settings.VPNCONSOLE_PUBLIC_URL or f"{request.scheme}://{request.get_host()}"
            command = shlex.join(
                [
                    "vpn-agent",
                    "enrol",
                    "--console",
                    console.rstrip("/"),
                    "--token-file",
                    "-",
                    "--port",
                    str(gateway.agent_port),
                ]
            )
            # Beside the command, not in it: shell histories and process lists keep arguments.
            token_text = token.text()
    context = {
        "gateway": gateway,
        "command": command,
        "token": token_text,
        "problems": problems,
        "open_token": queries.open_enrolment_token(gateway),
    }
    return render(request, "gateways/enrolment.html", context, status=422 if problems else 200)
