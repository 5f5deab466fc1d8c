"""A trace of what a process does, by category, switched on for a while (FEATURES A25).

The categories are AIX's. Those with ``information`` in their name record what happens to every message or packet and
cost performance. A trace ends by itself, when its time is over or its octets are full, and is kept until the next one
or the end of the process. It holds headers' facts, names of algorithms and counts: never a key, never a payload.

Whoever traces asks :meth:`Tracer.wants` first, so that a trace that is off costs one look.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from agents.contract.codec import from_plain, to_plain
from agents.contract.errors import DocumentError
from agents.contract.events import Severity
from agents.contract.traces import Category as Category
from agents.contract.traces import TraceRequest
from agents.runtime.rpc import RpcError

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
    _asked: TraceRequest | None = None
    _started_at: float = 0.0
    _deadline: float = 0.0
    _room: int = 0
    _records: list[Record] = field(default_factory=list)

    def start(self, asked: TraceRequest) -> None:
        """Begin a trace in the place of any other."""
        self.categories, self.version, self.ended_because = frozenset(asked.categories), asked.version, ""
        self._asked, self._room, self._records = asked, asked.octets, []
        self._started_at, self._deadline = self.wall(), self.clock() + asked.seconds

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

    def plain(self, *, whole: bool = True) -> dict[str, Any]:
        """Return the state and, if ``whole``, everything recorded, for the answer of the call ``trace``."""
        self._goes_on()
        asked = self._asked
        return {
            "on": sorted(str(each) for each in self.categories),
            "ended_because": self.ended_because,
            "begun": None if asked is None else {**to_plain(asked), "at": self._started_at},
            "count": len(self._records),
            "records": [asdict(record) for record in self._records] if whole else [],
        }

    def _goes_on(self) -> bool:
        if self.categories and self.clock() >= self._deadline:
            self.stop(f"{self._asked.seconds if self._asked else 0} s are over")
        return bool(self.categories)


TRACE = Tracer()
"""This process's trace."""


def answer(params: Mapping[str, Any], tracer: Tracer = TRACE) -> dict[str, Any]:
    """Answer the call ``trace``: ``action`` is ``on`` (with a TraceRequest), ``off``, ``show`` or, without what was
    recorded, ``state``. Returns :meth:`Tracer.plain`; raises RpcError ``invalid`` with the parameter that is wrong.
    """
    match params.get("action", "show"):
        case "on":
            tracer.start(check(params))
        case "off":
            tracer.stop("switched off")
        case "show" | "state":
            pass
        case _:
            raise RpcError("invalid", "action is on, off, show or state", {"path": "action"})
    return tracer.plain(whole=params.get("action") != "state")


def check(params: Mapping[str, Any]) -> TraceRequest:
    """Return what ``on`` asks for; raises RpcError ``invalid`` with the parameter that is wrong."""
    try:
        return from_plain(TraceRequest, {name: value for name, value in params.items() if name != "action"})
    except DocumentError as error:
        raise RpcError("invalid", str(error), {"path": error.path}) from None


def lines(answer: Mapping[str, Any], moment: Callable[[float], str]) -> Iterator[str]:
    """Return a trace for people: a line for each record, then how each process stands. ``answer`` is agentd's."""
    for record in answer["records"]:
        at = f"{moment(record['time'])}.{int(record['time'] % 1 * 1e6):06d}"
        yield f"{at}  {record['process']:<6}  {record['category']:<23}  {record['text']}"
    for process, state in answer["processes"].items():
        told = f"tracing {', '.join(state['on'])}" if state["on"] else state["ended_because"]
        yield f"-- {process}: {told}"
