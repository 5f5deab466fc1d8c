"""Django's entry for the app."""

from __future__ import annotations

from django.apps import AppConfig


class RolloutConfig(AppConfig):
    """The app's name and label."""

    name = "vpnconsole.rollout"
    label = "rollout"
    default_auto_field = "django.db.models.BigAutoField"
