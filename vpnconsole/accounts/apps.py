"""Django's handle on this app."""

from __future__ import annotations

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Name and label of the app; records log-ins."""

    name = "vpnconsole.accounts"
    label = "accounts"

    def ready(self) -> None:
        """Listen to the log-in machinery."""
        from axes.signals import user_locked_out
        from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed

        from vpnconsole.accounts import receivers

        user_logged_in.connect(receivers.logged_in)
        user_logged_out.connect(receivers.logged_out)
        user_login_failed.connect(receivers.login_failed)
        user_locked_out.connect(receivers.locked_out)
