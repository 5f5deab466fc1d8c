"""A trace of what a process does, by category, switched on for a while (FEATURES A25).

The categories are AIX's. Those with ``information`` in their name record what happens to every message or packet and
cost performance. A trace ends by itself, when its time is over or its octets are full, and is kept until the next one
or the end of the process. It holds headers' facts, names of algorithms and counts: never a key, never a payload.

Whoever traces asks :meth:`Tracer.wants` first, so that a trace that is off costs one look.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from agents.contract.events import Severity
from agents.runtime.rpc import RpcError

MOST_SECONDS = 3_600
MOST_OCTETS = 4 * 1024 * 1024
"""Per process: what three of them recorded fits one frame of the socket that hands it out."""


class Category(StrEnum):
    """What is recorded."""

    ERROR = "error"
    FILTER = "filter"
    FILTER_INFORMATION = "filter-information"
    TUNNEL = "tunnel"
    TUNNEL_INFORMATION = "tunnel-information"
    CAPSULATION = "capsulation"
    CAPSULATION_INFORMATION = "capsulation-information"
    CRYPTO = "crypto"
    CRYPTO_INFORMATION = "crypto-information"

    @property
    def costly(self) -> bool:
        """Whether recording it slows the gateway down."""
        return self.value.endswith("-information")


_BY_CODE: tuple[tuple[str, Category], ...] = (
    ("esp.policy", Category.FILTER),
    ("esp.integrity", Category.CRYPTO),
    ("esp.", Category.CAPSULATION),
    ("child.ts-", Category.FILTER),
    ("child.selectors-", Category.FILTER),
    ("child.policies-", Category.FILTER_INFORMATION),
    ("agent.filter", Category.FILTER_INFORMATION),
    ("agent.route-", Category.TUNNEL_INFORMATION),
    ("ike.psk", Category.CRYPTO),
    ("ike.certificate-", Category.CRYPTO),
    ("ike.own-certificate-", Category.CRYPTO),
    ("ike.key-", Category.CRYPTO),
    ("ike.sign-", Category.CRYPTO),
    ("drop.integrity", Category.CRYPTO),
    ("ike", Category.TUNNEL),
    ("child.", Category.TUNNEL),
    ("drop.", Category.TUNNEL),
    ("wire.", Category.TUNNEL),
    ("agent.", Category.TUNNEL),
)


def category_of(code: str, severity: Severity) -> Category:
    """Return the category that an event is recorded under; errors have one of their own."""
    if severity is Severity.ERROR:
        return Category.ERROR
    return next((category for prefix, category in _BY_CODE if code.startswith(prefix)), Category.TUNNEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line; ``version`` is 4 or 6 where it is about packets of one IP version."""

    time: float
    category: str
    text: str
    version: int | None = None


@dataclass(slots=True)
class Tracer:
    """The trace of this process. ``wall`` tells the time of records, ``clock`` when the trace is over."""

    wall: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    categories: frozenset[Category] = frozenset()
    version: int | None = None
    ended_because: str = "never switched on"
    _deadline: float = 0.0
    _seconds: int = 0
    _room: int = 0
    _records: list[Record] = field(default_factory=list)

    def start(self, categories: frozenset[Category], seconds: int, octets: int, version: int | None = None) -> None:
        """Begin a trace in the place of any other."""
        self.categories, self.version, self.ended_because = categories, version, ""
        self._seconds, self._room = seconds, octets
        self._deadline = self.clock() + seconds
        self._records = []

    def stop(self, because: str) -> None:
        """End the trace; what was recorded stays."""
        if self.categories:
            self.categories, self.ended_because = frozenset(), because

    def wants(self, category: Category) -> bool:
        """Whether to record this; a trace whose time is over ends here."""
        if category not in self.categories:
            return False
        return self._goes_on()

    def record(self, category: Category, text: str, address: str | None = None) -> None:
        """Record one line where it is wanted; ``address`` is one of the packets' that it is about."""
        if not self.wants(category):
            return
        version = None if address is None else ipaddress.ip_address(address).version
        if version is not None and self.version not in (None, version):
            return
        self._room -= len(text.encode()) + 64
        if self._room < 0:
            self.stop("its octets are full")
            return
        self._records.append(Record(time=round(self.wall(), 6), category=str(category), text=text, version=version))

    def plain(self) -> dict[str, Any]:
        """Return the state and everything recorded, for the answer of the call ``trace``."""
        self._goes_on()
        return {
            "on": sorted(str(each) for each in self.categories),
            "ended_because": self.ended_because,
            "records": [asdict(record) for record in self._records],
        }

    def _goes_on(self) -> bool:
        if self.categories and self.clock() >= self._deadline:
            self.stop(f"{self._seconds} s are over")
        return bool(self.categories)


TRACE = Tracer()
"""This process's trace."""


def answer(params: Mapping[str, Any], tracer: Tracer = TRACE) -> dict[str, Any]:
    """Answer the call ``trace``: ``action`` is ``on`` (``categories``, ``seconds``, ``octets``, ``version``), ``off``
    or ``show``. Returns :meth:`Tracer.plain`; raises RpcError ``invalid`` with the parameter that is wrong.
    """
    match params.get("action", "show"):
        case "on":
            tracer.start(*check(params))
        case "off":
            tracer.stop("switched off")
        case "show":
            pass
        case _:
            raise RpcError("invalid", "action is on, off or show", {"path": "action"})
    return tracer.plain()


def check(params: Mapping[str, Any]) -> tuple[frozenset[Category], int, int, int | None]:
    """Return categories, seconds, octets and IP version of ``on``; raises RpcError ``invalid``."""
    names = params.get("categories")
    try:
        categories = frozenset(Category(name) for name in names or ())
    except (ValueError, TypeError):
        categories = frozenset()
    if not categories:
        raise RpcError("invalid", f"categories are of {', '.join(Category)}", {"path": "categories"})
    bounds = []
    for name, most in (("seconds", MOST_SECONDS), ("octets", MOST_OCTETS)):
        value = params.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise RpcError("invalid", f"{name} is 1 to {most}", {"path": name})
        bounds.append(value)
    version = params.get("version")
    if version not in (None, 4, 6):
        raise RpcError("invalid", "version is 4 or 6, or absent for both", {"path": "version"})
    return categories, bounds[0], bounds[1], version
