"""Addresses of this app."""

from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import URLPattern, URLResolver, path

from vpnconsole.accounts import views

app_name = "accounts"
urlpatterns: list[URLPattern | URLResolver] = [
    path("login/", views.LoginView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("set-up/", views.set_up, name="set-up"),
    path("settings/", views.settings, name="settings"),
    path("settings/tokens/", views.tokens, name="tokens"),
    path("settings/tokens/<int:token_id>/revoke/", views.revoke_token, name="revoke-token"),
    path("settings/users/", views.users, name="users"),
    path("settings/users/<int:user_id>/", views.user, name="user"),
    path("settings/users/<int:user_id>/password/", views.user_password, name="user-password"),
    path("settings/audit/", views.audit_trail, name="audit"),
]
