"""Who was given a password by somebody else chooses one of their own before they do anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.shortcuts import redirect
from django.utils.deprecation import MiddlewareMixin

from vpnconsole.accounts.models import User

#: The page to choose it on, and the way out.
_OPEN = {"accounts:settings", "accounts:logout"}


class OwnPasswordFirst(MiddlewareMixin):
    """Lead to the page for one's own password; a part of a page is refused, so that nothing is drawn into it."""

    def process_view(
        self,
        request: HttpRequest,
        view: Callable[..., Any],
        _args: Sequence[Any],
        _kwargs: Mapping[str, Any],
    ) -> HttpResponse | None:
        """Let everybody else pass, and views that need no log-in."""
        if not getattr(view, "login_required", True):
            return None
        user = request.user
        if not isinstance(user, User) or not user.must_choose_password:
            return None
        match = request.resolver_match
        if match is not None and match.view_name in _OPEN:
            return None
        if request.headers.get("HX-Request"):
            return HttpResponseForbidden("choose a password of your own first\n", content_type="text/plain")
        return redirect("accounts:settings")
