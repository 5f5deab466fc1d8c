"""Temp."""

from __future__ import annotations

from typing import Any


class Machine:
    """Temp."""

    def __init__(self, *a: Any) -> None:
        raise NotImplementedError
