"""Addresses of this app."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from vpnconsole.monitor.live import live

app_name = "monitor"
urlpatterns: list[URLPattern | URLResolver] = [
    path("live/", live, name="live"),
]
