"""Changes: what waits to be deployed, Deploy, how each gateway fares, and the history."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from vpnconsole.accounts.http import UserRequest
from vpnconsole.lib.forms import place_errors
from vpnconsole.lib.listing import page_number
from vpnconsole.rollout import queries, services
from vpnconsole.rollout.choices import DeliveryState
from vpnconsole.rollout.forms import DeployForm
from vpnconsole.rollout.models import Delivery

_HISTORY_PER_PAGE = 20


@require_safe
def changes(request: UserRequest) -> HttpResponse:
    """Show what a deployment would change on each gateway, what is under way, and earlier deployments."""
    previews = services.preview()
    return _changes_page(request, previews, DeployForm(previews), status=200)


@require_POST
def deploy(request: UserRequest) -> HttpResponse:
    """Order a deployment to the chosen gateways and show its progress."""
    previews = services.preview()
    form = DeployForm(previews, request.POST)
    if form.is_valid():
        try:
            deployment = services.deploy(request.user, form.cleaned_data["gateways"], form.cleaned_data["note"])
        except ValidationError as error:
            place_errors(error, form)
        else:
            return redirect("rollout:deployment", deployment.pk)
    return _changes_page(request, previews, form, status=422)


def _changes_page(
    request: UserRequest, previews: tuple[services.GatewayPreview, ...], form: DeployForm, status: int
) -> HttpResponse:
    chosen = set(request.POST.getlist("gateways")) if form.is_bound else None
    rows = [
        {
            "preview": row,
            "checked": str(row.gateway_id) in chosen if chosen is not None else bool(row.changes),
        }
        for row in previews
    ]
    context = {
        "rows": rows,
        "form": form,
        "anything": any(row.anything for row in previews),
        "faulty": any(row.error for row in previews),
        "unfinished": queries.unfinished(),
        "history": Paginator(queries.deployments(), _HISTORY_PER_PAGE).get_page(page_number(request.GET)),
    }
    return render(request, "rollout/changes.html", context, status=status)


@never_cache
@require_safe
def pending(request: UserRequest) -> HttpResponse:
    """The number beside Changes in the navigation: gateways whose intent is newer than their last revision."""
    number = sum(1 for row in services.preview() if row.changes or row.error)
    return render(request, "rollout/parts/pending.html", {"number": number})


@require_safe
def deployment(request: UserRequest, deployment_id: UUID) -> HttpResponse:
    """One deployment with a progress bar per gateway."""
    return render(request, "rollout/deployment.html", _deployment_context(deployment_id))


@never_cache
@require_safe
def progress(request: UserRequest, deployment_id: UUID) -> HttpResponse:
    """The live part of a deployment's page."""
    return render(request, "rollout/parts/progress.html", _deployment_context(deployment_id))


def _deployment_context(deployment_id: UUID) -> dict[str, object]:
    row = get_object_or_404(queries.deployments(), pk=deployment_id)
    deliveries = list(row.deliveries.all())
    done = {DeliveryState.APPLIED, DeliveryState.UNCHANGED}
    return {
        "deployment": row,
        "deliveries": deliveries,
        "finished": all(delivery.finished for delivery in deliveries),
        "succeeded": all(delivery.state in done for delivery in deliveries),
        "faulty": sum(1 for delivery in deliveries if delivery.faulty),
    }


@require_POST
def retry(request: UserRequest, delivery_id: UUID) -> HttpResponse:
    """Try one gateway's part of a deployment again."""
    delivery = get_object_or_404(Delivery.objects.select_related("gateway", "deployment"), pk=delivery_id)
    try:
        services.retry(request.user, delivery)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    return redirect("rollout:deployment", delivery.deployment_id)
