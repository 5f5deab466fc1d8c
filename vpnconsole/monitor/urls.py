"""Addresses of this app."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from vpnconsole.monitor import views
from vpnconsole.monitor.live import live

app_name = "monitor"
urlpatterns: list[URLPattern | URLResolver] = [
    path("live/", live, name="live"),
    path("tunnels/", views.tunnels, name="tunnels"),
    path("tunnels/<uuid:tunnel_id>/", views.tunnel, name="tunnel"),
    path("tunnels/<uuid:tunnel_id>/series/", views.tunnel_series, name="tunnel-series"),
    path("tunnels/<uuid:tunnel_id>/actions/", views.tunnel_action, name="tunnel-action"),
    path("gateways/", views.gateways, name="gateways"),
    path("gateways/<uuid:gateway_id>/", views.gateway, name="gateway"),
    path("events/", views.events, name="events"),
]
