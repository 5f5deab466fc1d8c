"""Addresses of the API, version 1."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from vpnconsole.api import views

app_name = "api"
urlpatterns: list[URLPattern | URLResolver] = [
    path("tunnels", views.tunnels, name="tunnels"),
    path("tunnels/<uuid:tunnel_id>", views.tunnel, name="tunnel"),
    path("tunnels/<uuid:tunnel_id>/series", views.series, name="series"),
    path("tunnels/<uuid:tunnel_id>/actions", views.tunnel_actions, name="tunnel-actions"),
    path("actions/<uuid:job_id>", views.action, name="action"),
    path("gateways", views.gateways, name="gateways"),
    path("gateways/<uuid:gateway_id>", views.gateway, name="gateway"),
    path("events", views.events, name="events"),
    path("deployments", views.deployments, name="deployments"),
    path("deployments/<uuid:deployment_id>", views.deployment, name="deployment"),
]
