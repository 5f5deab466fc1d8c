"""Addresses of this app."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from vpnconsole.ui import views

app_name = "ui"
urlpatterns: list[URLPattern | URLResolver] = [
    path("", views.dashboard, name="dashboard"),
    path("search/", views.search, name="search"),
]
