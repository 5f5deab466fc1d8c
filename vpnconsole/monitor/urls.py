"""Addresses of this app."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from vpnconsole.monitor import capture_views, trace_views, views
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
    path("gateways/<uuid:gateway_id>/traces/", trace_views.start, name="trace-start"),
    path("gateways/<uuid:gateway_id>/traces/<uuid:trace_id>/stop/", trace_views.stop, name="trace-stop"),
    path("gateways/<uuid:gateway_id>/traces/<uuid:trace_id>/file/", trace_views.download, name="trace-download"),
    path("events/", views.events, name="events"),
]
