"""Request types for views: what middleware adds, said to the type checker."""

from __future__ import annotations

from django.http import HttpRequest
from django_htmx.middleware import HtmxDetails


class HtmxRequest(HttpRequest):
    """A request that went through django-htmx's middleware."""

    htmx: HtmxDetails


def client_address(request: HttpRequest) -> str:
    """Return the address the request came from as the web server saw it; empty when it does not say."""
    return str(request.META.get("REMOTE_ADDR", ""))
