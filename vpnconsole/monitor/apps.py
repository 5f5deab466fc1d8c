"""Django's entry for the app."""

from __future__ import annotations

from django.apps import AppConfig


class MonitorConfig(AppConfig):
    """The app's name and label."""

    name = "vpnconsole.monitor"
    label = "monitor"
    default_auto_field = "django.db.models.BigAutoField"
