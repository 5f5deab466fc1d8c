"""How values look to a person: states, sizes, rates, ages. Pure; one place, so that every page says the same.

Sizes are IEC (1 KiB is 1,024 octets), rates are SI (1 kbit/s is 1,000 bits per second).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from agents.contract.algorithms import SIGNATURE
from agents.contract.status import Rejections, RouteRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a state is drawn; the tone picks the colour: red stays for faults, amber for what needs a person."""

    word: str
    tone: str
    icon: str


_STATES = (
    # tunnels
    ("not-deployed", "not deployed", "off", "circle-dashed"),
    ("deploying", "deploying", "busy", "loader"),
    ("negotiating", "negotiating", "busy", "loader"),
    ("up", "up", "good", "circle-check"),
    ("partly-up", "partly up", "warn", "circle-half-2"),
    ("idle", "idle", "off", "zzz"),
    ("down", "down", "bad", "alert-circle"),
    ("unreachable", "unreachable", "bad", "plug-connected-x"),
    ("disabled", "disabled", "off", "circle-off"),
    # gateways
    ("reachable", "reachable", "good", "circle-check"),
    ("not-enrolled", "not enrolled", "warn", "circle-dashed"),
    ("never-reached", "enrolled, not read yet", "busy", "loader"),
    ("extranet", "extranet", "off", "world"),
    # deliveries and actions
    ("waiting", "waiting", "busy", "clock"),
    ("compiling", "compiling", "busy", "loader"),
    ("pushing", "pushing", "busy", "loader"),
    ("waiting-gateway", "waiting for the gateway", "warn", "clock"),
    ("accepted", "accepted", "busy", "loader"),
    ("applied", "applied", "good", "circle-check"),
    ("unchanged", "nothing to change", "off", "check"),
    ("refused", "refused", "bad", "alert-circle"),
    ("failed", "failed", "bad", "alert-circle"),
    ("superseded", "superseded", "off", "history"),
    ("taken-on", "accepted", "good", "circle-check"),
    # captures and traces
    ("running", "running", "busy", "loader"),
    ("done", "done", "good", "circle-check"),
    ("deleted", "deleted", "off", "trash"),
    ("overdue", "over by now", "off", "clock"),
    ("queued", "queued", "busy", "clock"),
    ("sent", "sent", "busy", "loader"),
    # events, health
    ("info", "info", "off", "info-circle"),
    ("warning", "warning", "warn", "alert-triangle"),
    ("error", "error", "bad", "alert-circle"),
    ("healthy", "healthy", "good", "circle-check"),
    ("unhealthy", "not healthy", "bad", "alert-circle"),
)

LOOKS: Mapping[str, Look] = MappingProxyType(
    {slug: Look(word=word, tone=tone, icon=icon) for slug, word, tone, icon in _STATES}
)

_IEC = ((2**50, "PiB"), (2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
NOTHING = "—"


def look(state: str) -> Look:
    """Return how ``state`` is drawn; raises KeyError for a state nobody defined."""
    return LOOKS[state]


def octets(value: float | None) -> str:
    """Return a size in IEC units, ``1.5 MiB``; a dash for None."""
    if value is None:
        return NOTHING
    for size, unit in _IEC:
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{int(value)} B"


def bits(value: float | None) -> str:
    """Return a rate in SI units, ``3.4 Mbit/s``; a dash for None."""
    if value is None:
        return NOTHING
    for size, unit in _SI:
        if value >= size:
            return f"{value / size:.1f} {unit}bit/s"
    return f"{value:.0f} bit/s"


def count(value: float | None) -> str:
    """Return a whole number in groups of three, ``1,234,567``; a dash for None."""
    return NOTHING if value is None else f"{int(value):,}"


def span(seconds: float | None) -> str:
    """Return a length of time in its two largest units, ``1 h 5 min``; a dash for None."""
    if seconds is None:
        return NOTHING
    whole = max(0, int(seconds))
    parts = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    for index, (value, unit) in enumerate(parts):
        if value:
            following = parts[index + 1] if index + 1 < len(parts) else (0, "")
            return f"{value} {unit}" + (f" {following[0]} {following[1]}" if following[0] and index < 3 else "")
    return "0 s"


def lapse(length: timedelta) -> str:
    """Return a short length of time: ``12 ms``, ``1.3 s``, from a minute on as :func:`span`."""
    seconds = max(0.0, length.total_seconds())
    if seconds >= 60:
        return span(seconds)
    return f"{seconds * 1_000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def age(moment: datetime, now: datetime) -> str:
    """Return how long ago ``moment`` was in one unit, the same words the page's script counts on with."""
    seconds = max(0, int((now - moment).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def ike_version(version: str, exchange_mode: str | None) -> str:
    """Return a status's IKE version and mode in words: ``IKEv1, Main Mode``."""
    word = {"v1": "IKEv1", "v2": "IKEv2"}.get(version, version)
    mode = {"main": "Main Mode", "aggressive": "Aggressive Mode"}.get(exchange_mode or "", exchange_mode or "")
    return f"{word}, {mode}" if mode else word


def proof(how: str | None) -> str:
    """Return how an end proved itself, a status's ``psk`` or signature slug, in words; a dash for None."""
    if how is None:
        return NOTHING
    if how == "psk":
        return "pre-shared key"
    row = SIGNATURE.get(how)
    return how if row is None else row.label


_CLASSES = {0: "CS6, CS7", 1: "CS4, CS5", 2: "CS2, CS3", 3: "CS0, CS1"}


def classes(queue: int) -> str:
    """Return the DSCP classes of one of four priority queues; a dash for another number."""
    return _CLASSES.get(queue, NOTHING)


def rate(kbps: int | None) -> str:
    """Return a rate that was configured, in its own unit and exact: ``800 kbit/s``; a dash for None."""
    return NOTHING if kbps is None else f"{kbps:,} kbit/s"


def refused(rejected: Rejections | None) -> int:
    """Return how many packets were refused, whatever the reason."""
    return sum(asdict(rejected).values()) if rejected is not None else 0


def cause(route: RouteRecord) -> str:
    """Return why a route is or was there, in words."""
    if route.cause == "static":
        return "a static route of the tunnel"
    return f"the networks of {route.child}" if route.child else "the tunnel's networks"
