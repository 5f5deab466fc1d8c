"""Pages about people: set-up, log-in, own password, API tokens, users and what they may do, audit trail."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.contrib.auth import login, update_session_auth_hash, views
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from vpnconsole.accounts import access, audit, queries, services
from vpnconsole.accounts.forms import (
    AccessForm,
    FirstUserForm,
    GivenPasswordForm,
    LoginForm,
    NewUserForm,
    OwnPasswordForm,
    TokenForm,
)
from vpnconsole.accounts.http import UserRequest
from vpnconsole.accounts.models import User
from vpnconsole.lib.forms import place_errors
from vpnconsole.lib.http import client_address
from vpnconsole.lib.listing import PER_PAGE, page_number

_LAST_EVENTS = 10
_BACKEND = "django.contrib.auth.backends.ModelBackend"


@method_decorator(login_not_required, name="dispatch")
class LoginView(views.LoginView):
    """Log in; a console without users leads to set-up instead."""

    template_name = "accounts/login.html"
    authentication_form = LoginForm
    redirect_authenticated_user = True

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Send the first visitor to set-up."""
        if queries.needs_set_up():
            return redirect("accounts:set-up")
        response = super().dispatch(request, *args, **kwargs)
        # A fragment that was answered by this page tells the script so (static/js/console.js).
        response["X-Login-Required"] = "1"
        return response


@login_not_required
@never_cache
@require_http_methods(["GET", "POST"])
def set_up(request: HttpRequest) -> HttpResponse:
    """Make the first user; gone once there is one."""
    if not queries.needs_set_up():
        return redirect("accounts:login")
    form = FirstUserForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        values = form.cleaned_data
        try:
            user = services.create_first_user(
                username=values["username"], password=values["password"], source=client_address(request)
            )
        except ValidationError as error:
            place_errors(error, form)
        else:
            login(request, user, backend=_BACKEND)
            messages.success(request, "You are the first user. Next: define the gateways your tunnels will end on.")
            return redirect("ui:dashboard")
    return render(request, "accounts/set_up.html", {"form": form}, status=422 if form.errors else 200)


@require_http_methods(["GET", "POST"])
def settings(request: UserRequest) -> HttpResponse:
    """Change one's own password; who was given one sees nothing else of the console before."""
    given = request.user.must_choose_password
    form = OwnPasswordForm(request.user, request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            services.change_password(request.user, form.cleaned_data["password"])
        except ValidationError as error:
            place_errors(error, form)
        else:
            update_session_auth_hash(request, request.user)
            messages.success(request, "Your password was changed; your other sessions have ended.")
            return redirect("ui:dashboard" if given else "accounts:settings")
    template = "accounts/choose_password.html" if given else "accounts/settings.html"
    return render(request, template, {"form": form, "tab": "password"}, status=422 if form.errors else 200)


@never_cache
@require_http_methods(["GET", "POST"])
def tokens(request: UserRequest) -> HttpResponse:
    """List one's API tokens and make one; its text is in this one answer and nowhere else."""
    form = TokenForm(request.POST or None)
    text = ""
    if request.method == "POST" and form.is_valid():
        days = form.cleaned_data["days"]
        expires_at = timezone.now() + timedelta(days=days) if days else None
        try:
            _token, text = services.create_api_token(request.user, request.user, form.cleaned_data["name"], expires_at)
        except ValidationError as error:
            place_errors(error, form)
        else:
            form = TokenForm()
    context = {
        "form": form,
        "text": text,
        "tokens": queries.api_tokens_of(request.user),
        "now": timezone.now(),
        "tab": "tokens",
    }
    return render(request, "accounts/tokens.html", context, status=422 if form.errors else 200)


@require_POST
def revoke_token(request: UserRequest, token_id: int) -> HttpResponse:
    """End one of one's own API tokens."""
    token = get_object_or_404(queries.api_tokens_of(request.user), pk=token_id)
    services.revoke_api_token(request.user, token)
    messages.success(request, f"The token {token.name} was revoked and no longer works.")
    return redirect("accounts:tokens")


@never_cache
@require_http_methods(["GET", "POST"])
def users(request: UserRequest) -> HttpResponse:
    """List everybody with what they may do, and make a further user."""
    access.permit(request.user)
    form = NewUserForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        values = form.cleaned_data
        try:
            made = services.create_user(request.user, username=values["username"], password=values["password"])
        except ValidationError as error:
            place_errors(error, form)
        else:
            messages.success(request, f"{made.username} was made and can log in. Here is what they may do.")
            return redirect("accounts:user", made.pk)
    context = {"form": form, "people": access.people(), "tab": "users"}
    return render(request, "accounts/users.html", context, status=422 if form.errors else 200)


@never_cache
@require_http_methods(["GET", "POST"])
def user(request: UserRequest, user_id: int) -> HttpResponse:
    """Change what one person may do."""
    access.permit(request.user)
    person = get_object_or_404(access.people(), pk=user_id)
    form = AccessForm(request.POST if request.method == "POST" else None, initial=asdict(access.access_of(person)))
    if request.method == "POST" and form.is_valid():
        try:
            changed = access.set_access(request.user, person, form.wanted())
        except ValidationError as error:
            place_errors(error, form)
        else:
            said = "What {} may do was changed." if changed else "Nothing was changed about {}."
            messages.success(request, said.format(person.username))
            mine = person.pk == request.user.pk and not form.wanted().administrator
            return redirect("accounts:settings" if mine else "accounts:users")
    return _user_page(request, person, form, _given_password_form(request, person))


@sensitive_post_parameters()
@never_cache
@require_http_methods(["GET", "POST"])
def user_password(request: UserRequest, user_id: int) -> HttpResponse:
    """Give somebody else a password."""
    access.permit(request.user)
    person = get_object_or_404(access.people(), pk=user_id)
    form = _given_password_form(request, person, request.POST)
    if request.method == "GET" or form is None:  # the page with errors, loaded again
        return redirect("accounts:user", person.pk)
    if form.is_valid():
        values = form.cleaned_data
        revoke = values.get("revoke_tokens", False)
        try:
            services.set_password(request.user, person, values["password"], revoke_tokens=revoke)
        except ValidationError as error:
            place_errors(error, form)
        else:
            said = f"{person.username} has a new password and was logged out everywhere"
            said += "; their API tokens were revoked." if revoke else "."
            messages.success(request, f"{said} They choose one of their own at the next log-in.")
            return redirect("accounts:user", person.pk)
    return _user_page(request, person, AccessForm(initial=asdict(access.access_of(person))), form)


def _given_password_form(request: UserRequest, person: User, data: Any = None) -> GivenPasswordForm | None:
    """Return the form for a password of somebody else; for one's own the present one is asked, under Settings."""
    if person.pk == request.user.pk:
        return None
    return GivenPasswordForm(data, tokens=queries.usable_tokens_of(person).count(), prefix="given")


def _user_page(
    request: UserRequest, person: User, form: AccessForm, password_form: GivenPasswordForm | None
) -> HttpResponse:
    context = {
        "form": form,
        "password_form": password_form,
        "person": person,
        "events": queries.audit_events_of(person)[:_LAST_EVENTS],
        "tab": "users",
    }
    wrong = form.errors or (password_form is not None and password_form.errors)
    return render(request, "accounts/user.html", context, status=422 if wrong else 200)


@require_safe
def audit_trail(request: UserRequest) -> HttpResponse:
    """Show who did what, newest first, by person, action or thing."""
    text = request.GET.get("about", "").strip()
    events = queries.audit_events()
    if text:
        events = (
            events.filter(actor__icontains=text)
            | events.filter(action__icontains=text)
            | events.filter(object_name__icontains=text)
        )
    page = Paginator(events, PER_PAGE).get_page(page_number(request.GET))
    verdict = audit.verify() if request.GET.get("verify") else None
    context = {"page": page, "about": text, "verdict": verdict, "tab": "audit"}
    return render(request, "accounts/audit.html", context)
