"""``manage.py createfirstuser NAME``: the first administrator, without the set-up page."""

from __future__ import annotations

import getpass
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from vpnconsole.accounts import services


class Command(BaseCommand):
    """Read the password from the terminal or standard input, never from the command line, where others could see it."""

    help = "Create the first user, an administrator. The password is asked for, or read from standard input."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare arguments."""
        parser.add_argument("username")
        parser.add_argument("--email", default="")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run."""
        password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
        try:
            services.create_first_user(
                username=options["username"], password=password, email=options["email"], source="command line"
            )
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        self.stdout.write(f"created {options['username']}")
