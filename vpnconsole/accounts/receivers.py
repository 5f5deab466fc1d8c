"""Log-ins in the audit trail: who came in and from where, and who was locked out.

A failed attempt is recorded only for a name that exists: guesses at other names are counted by the lock-out and would
let a stranger fill the trail.
"""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from vpnconsole.accounts import audit
from vpnconsole.accounts.models import User
from vpnconsole.lib.http import client_address


def logged_in(request: HttpRequest, user: User, **_kwargs: Any) -> None:
    """Record a log-in."""
    audit.record(user, "user.logged-in", user, details=_source(request))


def logged_out(request: HttpRequest, user: User | None, **_kwargs: Any) -> None:
    """Record a log-out; there is no user when the session had ended already."""
    if user is not None:
        audit.record(user, "user.logged-out", user, details=_source(request))


def login_failed(credentials: dict[str, Any], request: HttpRequest | None = None, **_kwargs: Any) -> None:
    """Record a wrong password for somebody who exists."""
    user = User.objects.filter(username=str(credentials.get("username", ""))[:150]).first()
    if user is not None:
        audit.record("unknown", "user.login-failed", user, details=_source(request))


def locked_out(username: str, ip_address: str, **_kwargs: Any) -> None:
    """Record that further attempts are refused for a while."""
    user = User.objects.filter(username=str(username)[:150]).first()
    if user is not None:
        audit.record("unknown", "user.locked-out", user, details={"source": ip_address})


def _source(request: HttpRequest | None) -> dict[str, object]:
    return {"source": client_address(request)} if request is not None else {}
