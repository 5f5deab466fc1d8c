"""What every page gets: the navigation and where live updates come from."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpRequest
from django.urls import reverse


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One place in the main navigation."""

    slug: str
    label: str
    url: str
    active: bool


_PLACES = (
    ("dashboard", "Dashboard", "ui:dashboard"),
    ("tunnels", "Tunnels", "monitor:tunnels"),
    ("gateways", "Gateways", "monitor:gateways"),
    ("keys", "Keys", "vpn:keys"),
    ("policies", "Policies", "vpn:policies"),
    ("changes", "Changes", "rollout:changes"),
    ("events", "Events", "monitor:events"),
    ("settings", "Settings", "accounts:settings"),
)


def console(request: HttpRequest) -> dict[str, object]:
    """Return the navigation with the place of this page marked; a place is the part of the path before it."""
    places = []
    for slug, label, name in _PLACES:
        url = reverse(name)
        active = request.path == url if slug == "dashboard" else request.path.startswith(url)
        places.append(Entry(slug=slug, label=label, url=url, active=active))
    return {"navigation": places, "live_url": reverse("monitor:live"), "search_text": request.GET.get("q", "")}
