"""The last negotiation of a tunnel as steps, read from the stored events of each end (FEATURES A23).

Also which pair of selectors a refusal was about, which the events of refusals say and reasons in a status do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from agents.contract.events import KINDS, STEPS
from agents.contract.status import Reason
from vpnconsole.monitor.models import EventRecord
from vpnconsole.rollout.compile import child_name
from vpnconsole.vpn.models import SelectorPair, Tunnel

Outcome = Literal["done", "failed", "waiting", "open"]

_LABELS = {
    1: "Asked to negotiate",
    2: "IKE SA requested",
    3: "IKE SA established",
    4: "IPsec SA requested",
    5: "IPsec SA established",
    6: "SA in the data plane",
    7: "Filter rules in place",
}
_ASKED = (1, 2, 4)
"""Steps of the end that asks; the other one begins when the IKE SA stands."""
_FAILED = frozenset({"ike.sa-failed", "child.failed"})
_FIRST = {"initiator": "ike.initiate", "responder": "ike.sa-established"}
MOST_EVENTS = 60
"""Enough for a tunnel of eight pairs; of more, the steps of the last ones show."""
_MOST_ALIKE = 20
"""So many refusals that differ in their text alone are looked through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step; ``after`` is the time since the negotiation began, None where no event of it is kept."""

    number: int
    label: str
    outcome: Outcome
    at: datetime | None = None
    after: timedelta | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Negotiation:
    """The last negotiation as one gateway reported it."""

    gateway_name: str
    role: str
    began_at: datetime
    steps: tuple[Step, ...]

    @property
    def failed(self) -> Step | None:
        """The step it failed at, if it did."""
        return next((step for step in self.steps if step.outcome == "failed"), None)


def last_negotiation(gateway_name: str, newest_first: Iterable[EventRecord]) -> Negotiation | None:
    """Build the steps from the events of one end of a tunnel, None where none tells of a negotiation."""
    found: dict[int, EventRecord] = {}
    role = first = ""
    for event in newest_first:
        number = STEPS.get(event.code)
        if number is None:
            continue
        if not role:
            role = str(event.attributes.get("role", "initiator"))
            first = _FIRST.get(role, "")
        elif event.attributes.get("role", role) != role:
            break
        if event.code == "ike.sa-failed" and found:  # how the negotiation before ended
            break
        found.setdefault(number, event)
        if event.code == first:
            break
    if not found:
        return None
    began_at = min(event.at for event in found.values())
    numbers = [number for number in _LABELS if role == "initiator" or number not in _ASKED]
    return Negotiation(
        gateway_name=gateway_name, role=role, began_at=began_at, steps=tuple(_steps(numbers, found, began_at))
    )


def refused_pair(tunnel: Tunnel, gateway_id: UUID, reason: Reason) -> SelectorPair | None:
    """Return the pair that a gateway's reason is about, by the newest event of the same refusal.

    None where there is no such event any more, where it names no child, or one that the tunnel has no more.
    """
    alike = EventRecord.objects.filter(
        tunnel=tunnel,
        gateway_id=gateway_id,
        code=reason.code,
        received=reason.received,
        configured=reason.configured,
    ).order_by("-id")[:_MOST_ALIKE]
    # A reason may have less of a long text.
    event = next((each for each in alike if each.message.startswith(reason.message)), None)
    name = None if event is None else event.attributes.get("child")
    return next((pair for pair in tunnel.selectors.all() if child_name(pair.seq) == name), None)


def _steps(numbers: list[int], found: dict[int, EventRecord], began_at: datetime) -> Iterable[Step]:
    last = max(found)
    failed = any(event.code in _FAILED for event in found.values())
    for number in numbers:
        event = found.get(number)
        outcome: Outcome = "done"
        if event is not None:
            outcome = "failed" if event.code in _FAILED else "done"
        elif number > last:
            outcome = "waiting" if not failed and number == min(each for each in numbers if each > last) else "open"
        yield Step(
            number=number,
            label=KINDS[event.code].summary if event is not None and outcome == "failed" else _LABELS[number],
            outcome=outcome,
            at=event.at if event else None,
            after=event.at - began_at if event else None,
            message=_reason(event) if event is not None and outcome == "failed" else "",
        )


def _reason(event: EventRecord) -> str:
    """Say why in the words of the refusal's code."""
    cause = KINDS.get(str(event.attributes.get("cause", "")))
    return cause.summary if cause is not None else event.message
