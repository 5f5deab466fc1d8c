"""Pre-shared keys: write-only, generated on request, revealed by a logged POST and in that one answer only."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from vpnconsole.accounts.http import UserRequest
from vpnconsole.lib.forms import place_errors
from vpnconsole.lib.sealed import SealError
from vpnconsole.vpn import keys, queries
from vpnconsole.vpn.forms.keys import GENERATE, KeyForm, KeyNameForm, KeyValueForm
from vpnconsole.vpn.models import PresharedKey


@require_safe
def key_list(request: UserRequest) -> HttpResponse:
    """List the keys; never a value."""
    rows = [(psk, keys.weakness(psk)) for psk in queries.preshared_keys()]
    return render(request, "vpn/keys.html", {"rows": rows})


@never_cache
@sensitive_post_parameters("value")
@sensitive_variables("value")
@require_http_methods(["GET", "POST"])
def key_create(request: UserRequest) -> HttpResponse:
    """Make a key, generated or typed."""
    form = KeyForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        values = form.cleaned_data
        about = {"name": values["name"], "description": values["description"]}
        try:
            if values["how"] == GENERATE:
                psk = keys.generate_psk(request.user, **about)
            else:
                psk = keys.create_psk(request.user, value=values["value"], encoding=values["encoding"], **about)
        except ValidationError as error:
            place_errors(error, form)
        else:
            messages.success(request, f"The key {psk.name} was created.")
            return redirect("vpn:key", psk.pk)
    return render(request, "vpn/key_form.html", {"form": form}, status=422 if form.errors else 200)


@never_cache
@require_http_methods(["GET", "POST"])
def key(request: UserRequest, key_id: UUID) -> HttpResponse:
    """One key: what uses it, its name and description, and what can be done with it."""
    psk = get_object_or_404(queries.preshared_keys(), pk=key_id)
    title = psk.name
    form = KeyNameForm(request.POST or None, initial={"name": psk.name, "description": psk.description})
    if request.method == "POST" and form.is_valid():
        try:
            keys.update_psk(request.user, psk, **form.cleaned_data)
        except ValidationError as error:
            place_errors(error, form)
        else:
            messages.success(request, "Saved.")
            return redirect("vpn:key", psk.pk)
    return _key_page(request, psk, name_form=form, title=title, status=422 if form.errors else 200)


@never_cache
@sensitive_variables("text")
@require_POST
def key_reveal(request: UserRequest, key_id: UUID) -> HttpResponse:
    """Show a key's text in this one answer; who saw it stands in the audit trail."""
    psk = get_object_or_404(queries.preshared_keys(), pk=key_id)
    try:
        text = keys.reveal_psk(request.user, psk)
    except SealError as error:
        messages.error(request, f"The key cannot be shown: {error}")
        return redirect("vpn:key", key_id)
    return _key_page(request, psk, text=text)


@never_cache
@sensitive_post_parameters("value")
@require_POST
def key_replace(request: UserRequest, key_id: UUID) -> HttpResponse:
    """Give a key another value; tunnels take it up with the next deployment."""
    psk = get_object_or_404(queries.preshared_keys(), pk=key_id)
    form = KeyValueForm(request.POST)
    if form.is_valid():
        values = form.cleaned_data
        try:
            if values["how"] == GENERATE:
                keys.regenerate_psk(request.user, psk)
            else:
                keys.replace_psk(request.user, psk, value=values["value"], encoding=values["encoding"])
        except ValidationError as error:
            place_errors(error, form)
        else:
            messages.success(request, "The key has a new value. Deploy to bring it to the gateways that use it.")
            return redirect("vpn:key", psk.pk)
    return _key_page(request, psk, value_form=form, status=422)


@require_POST
def key_delete(request: UserRequest, key_id: UUID) -> HttpResponse:
    """Remove a key; refused with their names while tunnels use it."""
    psk = get_object_or_404(queries.preshared_keys(), pk=key_id)
    name = psk.name
    try:
        keys.delete_psk(request.user, psk)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
        return redirect("vpn:key", key_id)
    messages.success(request, f"The key {name} was deleted.")
    return redirect("vpn:keys")


@sensitive_variables("text")
def _key_page(
    request: UserRequest,
    psk: PresharedKey,
    *,
    name_form: KeyNameForm | None = None,
    value_form: KeyValueForm | None = None,
    title: str = "",
    text: str = "",
    status: int = 200,
) -> HttpResponse:
    context = {
        "key": psk,
        "title": title or psk.name,
        "text": text,
        "weakness": keys.weakness(psk),
        "tunnels": psk.tunnels.all(),
        "name_form": name_form or KeyNameForm(initial={"name": psk.name, "description": psk.description}),
        "value_form": value_form or KeyValueForm(),
    }
    return render(request, "vpn/key.html", context, status=status)
