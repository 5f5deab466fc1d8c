"""Logging of the agent's processes: one line per record, as text for people or JSON for machines.

Records carry the ids of what they are about in ``extra``: ``tunnel``, ``ike_sa``, ``child_sa`` and, for something
dropped, ``trigger``. :func:`bound` gives a logger with some of them set. A :class:`~agents.contract.secret.Secret`
has an empty text form, so it never shows here; parameters of calls and documents are not logged at all.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import MutableMapping
from typing import Any

from agents.runtime.log_levels import component_of

FIELDS = ("tunnel", "ike_sa", "child_sa", "trigger")
LEVELS = ("debug", "info", "warning", "error")
FORMAT_VARIABLE = "VPN_AGENT_LOG_FORMAT"


def set_up(component: str, level: str = "info", style: str | None = None) -> None:
    """Send the root logger to standard error; ``style`` is ``text`` or ``json`` (default: the environment)."""
    style = style or os.environ.get(FORMAT_VARIABLE, "text")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(component) if style == "json" else TextFormatter(component))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("pyroute2").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--log-level`` and ``--log-format``."""
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="least level logged (default: info)")
    parser.add_argument(
        "--log-format", choices=("text", "json"), default=None, help=f"default: ${FORMAT_VARIABLE}, else text"
    )


def bound(logger: logging.Logger, **fields: str | None) -> logging.LoggerAdapter[logging.Logger]:
    """Return ``logger`` with these ids on every record."""
    return _Bound(logger, {name: value for name, value in fields.items() if value is not None})


class _Bound(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Merge the bound fields with those of the one call, which win."""
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs


class TextFormatter(logging.Formatter):
    """``2026-11-21T09:30:00.123Z info iked tunnel=... message``."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and the traceback below it where there is one."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        component = component_of(record.name, self._component)
        text = f"{_time(record)} {record.levelname.lower()} {component}{fields} {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "component": component_of(record.name, self._component),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def _fields(record: logging.LogRecord) -> dict[str, str]:
    return {name: str(record.__dict__[name]) for name in FIELDS if record.__dict__.get(name) is not None}


def _time(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"
