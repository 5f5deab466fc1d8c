"""Django's handle on this app."""

from __future__ import annotations

from django.apps import AppConfig


class VPNConfig(AppConfig):
    """Name and label of the app."""

    name = "vpnconsole.vpn"
    label = "vpn"
