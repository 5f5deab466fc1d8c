"""How much each process and each part of ``iked`` logs: read and changed while it runs, kept until the process ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from agents.runtime.rpc import RpcError

ROUTER, V1, V2 = "iked.router", "iked.v1", "iked.v2"
CREDENTIALS, TUNNELS = "iked.credentials", "iked.tunnels"
PARTS = (ROUTER, V1, V2, CREDENTIALS, TUNNELS)
"""The parts of ``iked``. Where nothing is set for one, it logs what ``iked`` does."""

COMPONENTS = ("agentd", "iked", *PARTS, "espd")

LEVELS: Mapping[str, int] = MappingProxyType(
    {
        "none": logging.CRITICAL + 1,
        "errors": logging.ERROR,
        "events": logging.WARNING,
        "information": logging.INFO,
        "debug": logging.DEBUG,
    }
)
"""The levels of AIX's log (FEATURES A24), each with what those before it log; debug besides."""


def logger_of(component: str) -> logging.Logger:
    """Return the logger of a component; those below it follow."""
    return logging.getLogger(f"agents.{component}")


def component_of(logger: str, process: str) -> str:
    """Return whose log a logger of this process writes: a part of ``iked``, or the whole process."""
    part = ".".join(logger.split(".")[1:3])
    return part if part in PARTS else process


def level_of(component: str) -> str:
    """Return the level a component logs from now."""
    effective = logger_of(component).getEffectiveLevel()
    return next((name for name, number in LEVELS.items() if number <= effective), "debug")


def answer(mine: Sequence[str], params: Mapping[str, Any]) -> dict[str, Any]:
    """Answer the call ``log_level``: set ``component`` to ``level`` where they are given, return the levels of all.

    Raises RpcError ``invalid`` with the parameter that is wrong.
    """
    if params:
        component, level = str(params.get("component")), str(params.get("level"))
        if component not in mine:
            raise RpcError("invalid", f"component is one of {', '.join(mine)}", {"path": "component"})
        if level not in LEVELS:
            raise RpcError("invalid", f"level is one of {', '.join(LEVELS)}", {"path": "level"})
        logger_of(component).setLevel(LEVELS[level])
    return {"levels": {each: level_of(each) for each in mine}}
