"""The events of one run of ``iked``: a bounded ring, numbered from 1, read with ``after``.

``agentd`` copies them into the journal that survives restarts. A peer can cause events without being authenticated, so
each code and tunnel may fill the ring only so fast; what was held back is counted and told with the next event.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agents.contract.codec import to_plain
from agents.contract.events import KINDS, Event, Severity
from agents.ike.outputs import Report
from agents.iked.parts import part_of
from agents.runtime.log_levels import PARTS, logger_of
from agents.runtime.logs import bound

_LOGGERS = {part: logger_of(part) for part in PARTS}
_LEVELS = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING, Severity.ERROR: logging.ERROR}
_LONGEST_MESSAGE = 2_000


@dataclass(slots=True)
class _Flow:
    """A token bucket per code and tunnel."""

    tokens: float
    at: float
    held_back: int = 0


class EventRing:
    """Keeps the last ``capacity`` events; ``burst`` at once and ``per_second`` after that, per code and tunnel."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        capacity: int = 10_000,
        burst: int = 200,
        per_second: float = 2.0,
    ) -> None:
        """``clock`` returns Unix seconds."""
        self.boot_id = str(uuid.uuid4())
        self._clock = clock
        self._events: deque[Event] = deque(maxlen=capacity)
        self._last = 0
        self._burst = burst
        self._per_second = per_second
        self._flows: dict[tuple[str, str | None], _Flow] = {}

    def add(self, report: Report) -> None:
        """Number a report and keep it, or count it when its kind comes too fast."""
        kind = KINDS[report.code]
        now = self._clock()
        held_back = self._admit(report, now)
        if held_back is None:
            return
        attributes = dict(report.attributes)
        if held_back:
            attributes["suppressed"] = str(held_back)
        self._last += 1
        message = report.message or kind.summary
        self._events.append(
            Event(
                sequence=self._last,
                time=round(now, 3),
                code=report.code,
                severity=kind.severity,
                message=message[:_LONGEST_MESSAGE],
                tunnel_id=report.tunnel_id,
                received=report.received,
                configured=report.configured,
                field=report.field or kind.field or None,
                attributes=attributes,
            )
        )
        level = _LEVELS[kind.severity]
        log = _LOGGERS[part_of(report)]
        if log.isEnabledFor(level):
            bound(log, tunnel=report.tunnel_id, trigger=report.code).log(level, "%s%s", message, _values(report))

    def page(self, after: int, boot_id: str | None, limit: int = 1_000) -> dict[str, Any]:
        """Return the events after ``after`` in plain form; those of another ``boot_id`` start from the beginning."""
        if boot_id != self.boot_id:
            after = 0
        events = [event for event in self._events if event.sequence > after][:limit]
        oldest = self._events[0].sequence if self._events else self._last + 1
        return {"boot_id": self.boot_id, "events": to_plain(events), "oldest": oldest, "last": self._last}

    def _admit(self, report: Report, now: float) -> int | None:
        key = (report.code, report.tunnel_id)
        flow = self._flows.get(key)
        if flow is None:
            self._forget_full()
            flow = self._flows[key] = _Flow(tokens=float(self._burst), at=now)
        flow.tokens = min(float(self._burst), flow.tokens + max(0.0, now - flow.at) * self._per_second)
        flow.at = now
        if flow.tokens < 1.0:
            flow.held_back += 1
            return None
        flow.tokens -= 1.0
        held_back, flow.held_back = flow.held_back, 0
        return held_back

    def _forget_full(self) -> None:
        """Drop the oldest flow when there are very many, so that tunnels that came and went leave nothing."""
        if len(self._flows) >= 20_000:
            del self._flows[next(iter(self._flows))]


def _values(report: Report) -> str:
    parts = []
    if report.received is not None:
        parts.append(f"received {report.received}")
    if report.configured is not None:
        parts.append(f"configured {report.configured}")
    return f" ({', '.join(parts)})" if parts else ""
