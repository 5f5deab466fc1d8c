"""Plain text for people: columns, ages, sizes, times."""

from __future__ import annotations

import time
from collections.abc import Sequence

from agents.contract.status import IkeSaStatus


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return left-aligned columns under their heads."""
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [heads, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def age(seconds: float) -> str:
    """Return ``5 s``, ``3 min``, ``4 h 10 min`` or ``2 d 3 h``."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3_600, whole // 86_400
    if hours < 2:
        return f"{minutes} min"
    if days < 2:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def ike_version(sa: IkeSaStatus) -> str:
    """Return ``IKEv2``, or ``IKEv1 main mode``."""
    return f"IKE{sa.version}" + (f" {sa.exchange_mode} mode" if sa.exchange_mode else "")


def octets(count: int) -> str:
    """Return a size with a binary unit."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes everything")


def moment(unix_s: float) -> str:
    """Return local date and time to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))
