"""IKE and IPsec proposals and policies, QoS policies: five kinds of row with one sort of page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import models
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from vpnconsole.accounts.http import UserRequest
from vpnconsole.lib.forms import place_errors
from vpnconsole.vpn import policies, queries
from vpnconsole.vpn.forms.policies import (
    IKEPolicyForm,
    IKEProposalForm,
    IPsecPolicyForm,
    IPsecProposalForm,
    QosPolicyForm,
)
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, QosPolicy

MOST_USES = 20
"""How many tunnels a policy's page names; the number of all of them stands there too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One of the five kinds: its words, rows, form and the service that saves it."""

    slug: str
    label: str
    about: str
    rows: Callable[[], models.QuerySet[Any]]
    form: type[Any]
    save: Callable[..., Any]
    proposals: Callable[[], models.QuerySet[Any]] | None = None


KINDS = {
    kind.slug: kind
    for kind in (
        Kind(
            slug="ike-policy",
            label="IKE policy",
            about="How the gateways agree on keys and watch each other: proposals in order of preference, lifetimes.",
            rows=queries.ike_policies,
            form=IKEPolicyForm,
            save=policies.save_ike_policy,
            proposals=queries.ike_proposals,
        ),
        Kind(
            slug="ipsec-policy",
            label="IPsec policy",
            about="How the traffic itself is protected: proposals in order of preference, PFS, lifetimes.",
            rows=queries.ipsec_policies,
            form=IPsecPolicyForm,
            save=policies.save_ipsec_policy,
            proposals=queries.ipsec_proposals,
        ),
        Kind(
            slug="ike-proposal",
            label="IKE proposal",
            about="One suite of algorithms for the negotiation.",
            rows=queries.ike_proposals,
            form=IKEProposalForm,
            save=policies.save_ike_proposal,
        ),
        Kind(
            slug="ipsec-proposal",
            label="IPsec proposal",
            about="One suite of algorithms for the traffic.",
            rows=queries.ipsec_proposals,
            form=IPsecProposalForm,
            save=policies.save_ipsec_proposal,
        ),
        Kind(
            slug="qos-policy",
            label="QoS policy",
            about="In how many queues a tunnel's outbound packets wait, and how fast they go. Without one: one queue.",
            rows=queries.qos_policies,
            form=QosPolicyForm,
            save=policies.save_qos_policy,
        ),
    )
}


@require_safe
def policy_list(request: UserRequest) -> HttpResponse:
    """Show all five kinds on one page."""
    context = {
        "ike_policies": queries.ike_policies(),
        "ipsec_policies": queries.ipsec_policies(),
        "ike_proposals": queries.ike_proposals(),
        "ipsec_proposals": queries.ipsec_proposals(),
        "qos_policies": queries.qos_policies(),
    }
    return render(request, "vpn/policies.html", context)


@require_http_methods(["GET", "POST"])
def policy_edit(request: UserRequest, kind: str, row_id: UUID | int | None = None) -> HttpResponse:
    """Make a row of a kind, or change one."""
    sort = _kind(kind)
    row = get_object_or_404(sort.rows(), pk=row_id) if row_id is not None else None
    form = _form(sort, row, request)
    title = row.name if row is not None else ""
    if request.method == "POST" and form.is_valid():
        values = form.cleaned_data
        if sort.proposals is not None:
            values = {**form.values(), "proposals": form.chosen()}
        try:
            saved = sort.save(request.user, row, **values)
        except ValidationError as error:
            place_errors(error, form, getattr(form, "aliases", None))
        else:
            messages.success(
                request, f"{sort.label} {saved.name} was saved. Tunnels take it up with the next deployment."
            )
            return redirect("vpn:policies")
    uses = queries.uses_of(row, MOST_USES) if isinstance(row, IKEPolicy | IPsecPolicy | QosPolicy) else []
    context = {"form": form, "kind": sort, "row": row, "title": title, "used": _used(row), "uses": uses}
    return render(request, "vpn/policy_form.html", context, status=422 if form.errors else 200)


@require_POST
def policy_delete(request: UserRequest, kind: str, row_id: int) -> HttpResponse:
    """Remove a row; refused with the names of what uses it."""
    sort = _kind(kind)
    row = get_object_or_404(sort.rows(), pk=row_id)
    name = row.name
    try:
        policies.delete(request.user, row)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
        return redirect("vpn:policy-edit", kind, row_id)
    messages.success(request, f"{sort.label} {name} was deleted.")
    return redirect("vpn:policies")


def _kind(slug: str) -> Kind:
    if slug not in KINDS:
        raise Http404(f"there is no kind {slug}")
    return KINDS[slug]


def _form(sort: Kind, row: Any, request: UserRequest) -> Any:
    initial = sort.form.initial_of(row) if row is not None else None
    if sort.proposals is None:
        return sort.form(request.POST or None, initial=initial)
    chosen = row.ordered_proposals() if row is not None else []
    return sort.form(sort.proposals(), chosen, request.POST or None, initial=initial)


def _used(row: Any) -> str:
    """Say what takes a change of this row up."""
    if row is None:
        return ""
    tunnels = getattr(row, "tunnel_count", None)
    if tunnels is not None:
        return f"{tunnels} tunnel{'' if tunnels == 1 else 's'}"
    return f"{row.policy_count} polic{'y' if row.policy_count == 1 else 'ies'}"
