"""``manage.py setup``: data directory, keys and tables. Safe to run at every start."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from vpnconsole.env import environment
from vpnconsole.lib import sealed


class Command(BaseCommand):
    """Make what is missing; leave alone what is there."""

    help = "Create the data directory and its keys where they are missing, then bring the database up to date."

    def handle(self, *args: Any, **options: Any) -> None:
        """Run."""
        env = environment()
        for directory in (env.data_path, env.run_path, env.secret_key_path.parent, env.kek_path.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not env.secret_key_path.exists():
            _write_private(env.secret_key_path, secrets.token_urlsafe(48) + "\n")
            self.stdout.write(f"made {env.secret_key_path}")
        if not env.kek_path.exists():
            sealed.add_key(env.kek_path)
            self.stdout.write(
                f"made {env.kek_path}: back it up apart from the database, secrets cannot be read without it"
            )
        call_command("migrate", verbosity=min(int(options["verbosity"]), 1) - 1, interactive=False)
        self.stdout.write("ready")


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
