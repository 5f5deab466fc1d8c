"""Django's handle on this app."""

from __future__ import annotations

from django.apps import AppConfig


class UIConfig(AppConfig):
    """Name and label of the app."""

    name = "vpnconsole.ui"
    label = "ui"
