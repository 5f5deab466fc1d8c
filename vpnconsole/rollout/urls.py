"""Addresses of this app."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from vpnconsole.rollout import views

app_name = "rollout"
urlpatterns: list[URLPattern | URLResolver] = [
    path("", views.changes, name="changes"),
    path("deploy/", views.deploy, name="deploy"),
    path("pending/", views.pending, name="pending"),
    path("<uuid:deployment_id>/", views.deployment, name="deployment"),
    path("<uuid:deployment_id>/progress/", views.progress, name="progress"),
    path("deliveries/<uuid:delivery_id>/retry/", views.retry, name="retry"),
]
