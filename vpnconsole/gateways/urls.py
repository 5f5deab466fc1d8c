"""Addresses of this app."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from vpnconsole.gateways import views

app_name = "gateways"
urlpatterns: list[URLPattern | URLResolver] = [
    path("new/", views.create, name="create"),
    path("<uuid:gateway_id>/edit/", views.edit, name="edit"),
    path("<uuid:gateway_id>/delete/", views.delete, name="delete"),
    path("<uuid:gateway_id>/enrolment/", views.enrolment, name="enrolment"),
]
