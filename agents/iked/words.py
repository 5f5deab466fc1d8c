"""Words of status lines."""

from __future__ import annotations


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Return ``1 tunnel``, ``2 tunnels``."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"
