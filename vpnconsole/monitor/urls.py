"""Addresses of this app."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from vpnconsole.monitor import capture_views, views
from vpnconsole.monitor.live import live

app_name = "monitor"
urlpatterns: list[URLPattern | URLResolver] = [
    path("live/", live, name="live"),
    path("tunnels/", views.tunnels, name="tunnels"),
    path("tunnels/<uuid:tunnel_id>/", views.tunnel, name="tunnel"),
    path("tunnels/<uuid:tunnel_id>/series/", views.tunnel_series, name="tunnel-series"),
    path("tunnels/<uuid:tunnel_id>/actions/", views.tunnel_action, name="tunnel-action"),
    path("tunnels/<uuid:tunnel_id>/captures/", capture_views.start, name="capture-start"),
    path(
        "tunnels/<uuid:tunnel_id>/captures/<uuid:gateway_id>/<uuid:capture_id>/stop/",
        capture_views.stop,
        name="capture-stop",
    ),
    path(
        "tunnels/<uuid:tunnel_id>/captures/<uuid:gateway_id>/<uuid:capture_id>/file/",
        capture_views.download,
        name="capture-download",
    ),
    path("gateways/", views.gateways, name="gateways"),
    path("gateways/<uuid:gateway_id>/", views.gateway, name="gateway"),
    path("events/", views.events, name="events"),
]
