"""Addresses of the console: one namespace per app, and the door where gateways enrol."""

from __future__ import annotations

from django.urls import include, path

from vpnconsole.gateways.enrol import enrol_view

urlpatterns = [
    path("enrol/v1", enrol_view, name="enrol"),
    path("accounts/", include("vpnconsole.accounts.urls")),
    path("gateways/", include("vpnconsole.gateways.urls")),
    path("changes/", include("vpnconsole.rollout.urls")),
    path("api/v1/", include("vpnconsole.api.urls")),
    path("", include("vpnconsole.vpn.urls")),
    path("", include("vpnconsole.monitor.urls")),
    path("", include("vpnconsole.ui.urls")),
]
