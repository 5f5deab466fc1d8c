"""The only reader of the process environment: names, defaults and files of the console.

Everything is optional, so that settings import anywhere (type checker, tests, ``manage.py help``); what a running
console cannot do without is demanded by :func:`require_set_up`.
"""

from __future__ import annotations

import os
import secrets
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class NotSetUpError(RuntimeError):
    """The data directory lacks the keys that ``manage.py setup`` makes."""


class Environment(BaseSettings):
    """``VPNCONSOLE_*`` variables; lists are separated by commas."""

    model_config = SettingsConfigDict(env_prefix="VPNCONSOLE_", extra="ignore", hide_input_in_errors=True)

    data_dir: Path = Path(".data")
    run_dir: Path | None = None
    secret_key_file: Path | None = None
    kek_file: Path | None = None
    broker_url: str = ""
    database_url: str = Field(default="", repr=False)
    allowed_hosts: str = "localhost,127.0.0.1,[::1]"
    trusted_origins: str = ""
    public_url: str = ""
    https: bool = False
    debug: bool = False
    log_level: str = "INFO"

    @property
    def data_path(self) -> Path:
        """The data directory, absolute."""
        return self.data_dir.absolute()

    @property
    def run_path(self) -> Path:
        """Where sockets lie; set it where the data directory's path is too long for one (107 octets)."""
        return (self.run_dir or self.data_path / "run").absolute()

    @property
    def secret_key_path(self) -> Path:
        """Where Django's secret key lies."""
        return (self.secret_key_file or self.data_path / "keys" / "secret-key").absolute()

    @property
    def kek_path(self) -> Path:
        """Where the key encryption keys lie (:mod:`vpnconsole.lib.sealed`)."""
        return (self.kek_file or self.data_path / "keys" / "kek").absolute()

    @property
    def broker(self) -> str:
        """The Celery broker's URL; by default the socket of the broker the console starts for itself."""
        return self.broker_url or f"redis+socket://{self.run_path / 'broker.sock'}"

    def secret_key(self) -> str:
        """Return the stored key, or one that lasts as long as this process when there is none yet."""
        try:
            return self.secret_key_path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return secrets.token_urlsafe(48)

    def database(self) -> dict[str, Any]:
        """Return Django's entry for the default database; raises ValueError for an URL that is not PostgreSQL's."""
        if not self.database_url:
            return {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": self.data_path / "console.sqlite3",
                "OPTIONS": {
                    "timeout": 20,
                    # A transaction that reads first and writes later would otherwise fail at once when another
                    # writer comes between, without waiting for the busy timeout.
                    "transaction_mode": "IMMEDIATE",
                    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
                },
            }
        url = urlsplit(self.database_url)
        if url.scheme not in ("postgres", "postgresql"):
            raise ValueError("VPNCONSOLE_DATABASE_URL must start with postgresql://")
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(url.path.removeprefix("/")),
            "USER": unquote(url.username or ""),
            "PASSWORD": unquote(url.password or ""),
            "HOST": unquote(url.hostname or ""),
            "PORT": url.port or "",
            "CONN_MAX_AGE": 60,
            "OPTIONS": dict(parse_qsl(url.query)),
        }


@cache
def environment() -> Environment:
    """Return this process's environment, read once."""
    return Environment()


def split(text: str) -> list[str]:
    """Return the parts of a list separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def select_settings() -> None:
    """Name our settings module unless another one is chosen already."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vpnconsole.settings")


def child_environment(**changes: str) -> dict[str, str]:
    """Return the environment for a process of ours, with ``changes``."""
    return {**os.environ, **changes}


def require_set_up(chosen: Environment | None = None) -> None:
    """Raise :class:`NotSetUpError` unless the key files exist (of this process's environment, or of ``chosen``)."""
    where = chosen or environment()
    for path in (where.secret_key_path, where.kek_path):
        if not path.exists():
            raise NotSetUpError(f"{path} is missing: run `manage.py setup` first")
