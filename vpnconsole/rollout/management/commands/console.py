"""``manage.py console``: run the whole console in the foreground until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from vpnconsole.env import Environment, NotSetUpError, child_environment, environment, require_set_up
from vpnconsole.lib.broker import BrokerMissingError
from vpnconsole.lib.processes import StartError, Supervisor, console_specs


class Command(BaseCommand):
    """Start broker, worker, beat and web; keep them up."""

    help = "Run broker, Celery worker, beat and web server together, in the foreground."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Take address, port and data directory."""
        parser.add_argument("--bind", default="127.0.0.1", help="address the web server listens on")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--data", type=Path, help="data directory; overrides VPNCONSOLE_DATA_DIR")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run until told to end."""
        chosen = Environment(data_dir=options["data"]) if options["data"] else environment()
        try:
            require_set_up(chosen)
            specs = console_specs(
                data_dir=chosen.data_path,
                run_dir=chosen.run_path,
                bind=options["bind"],
                port=options["port"],
                environment=child_environment(VPNCONSOLE_DATA_DIR=str(chosen.data_path)),
                own_broker=not chosen.broker_url,
            )
            asyncio.run(self._run(Supervisor(specs), f"http://{options['bind']}:{options['port']}/"))
        except (NotSetUpError, BrokerMissingError, StartError) as error:
            raise CommandError(str(error)) from None

    async def _run(self, supervisor: Supervisor, url: str) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.stop)
        await supervisor.run(on_ready=lambda: self.stdout.write(f"VPN Console is ready: {url}"))
