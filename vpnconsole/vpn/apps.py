"""Django's handle on this app."""

from __future__ import annotations

from django.apps import AppConfig


class VPNConfig(AppConfig):
    """Name and label of the app; answers what gateways ask before they change."""

    name = "vpnconsole.vpn"
    label = "vpn"

    def ready(self) -> None:
        """Connect to the gateways' questions."""
        from vpnconsole.gateways.signals import addresses_leaving, kind_changing, legacy_ending, profile_changing
        from vpnconsole.vpn.legacy import refuse_end_of_legacy
        from vpnconsole.vpn.services import refuse_address_in_use, refuse_kind_in_use, refuse_unfit_profile

        addresses_leaving.connect(refuse_address_in_use)
        kind_changing.connect(refuse_kind_in_use)
        legacy_ending.connect(refuse_end_of_legacy)
        profile_changing.connect(refuse_unfit_profile)
