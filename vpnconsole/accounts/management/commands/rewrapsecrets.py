"""``manage.py rewrapsecrets``: put every sealed value's data key under the current key encryption key."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import models

from vpnconsole.accounts import audit
from vpnconsole.lib import sealed


class Command(BaseCommand):
    """Walk all sealed columns; safe to end and start again at any time, and while the console runs."""

    help = "Wrap all secrets with the newest key of the key file. With --new-key, append such a key first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare arguments."""
        parser.add_argument("--new-key", action="store_true", help="append a new key to the key file first")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run."""
        if options["new_key"]:
            self.stdout.write(f"new key {sealed.add_key(Path(settings.VPNCONSOLE_KEK_FILE))}")
        ring = sealed.keyring()
        rewrapped = sum(
            _rewrap_column(model, field, ring)
            for model in apps.get_models()
            for field in model._meta.concrete_fields
            if isinstance(field, sealed.SealedField)
        )
        audit.record(None, "secrets.rewrapped", details={"key": ring.current, "values": rewrapped})
        self.stdout.write(f"{rewrapped} values are now under key {ring.current}; others were already")


def _rewrap_column(model: type[models.Model], field: sealed.SealedField, ring: sealed.Keyring) -> int:
    count = 0
    for pk, value in model._default_manager.values_list("pk", field.attname).iterator():
        if value is None or sealed.key_id_of(value) == ring.current:
            continue
        aad = field.aad(model(pk=pk))
        # Only if nobody stored another value meanwhile: that one is under the current key already.
        rows = model._default_manager.filter(pk=pk, **{field.attname: value})
        count += rows.update(**{field.attname: sealed.rewrap(value, aad, ring)})
    return count
