"""Refused packets as events (FEATURES A22): few events, every packet in one of them.

A peer, or whoever writes its address on a packet, can cause as many as it likes. So the first of a kind and tunnel is
told at once and after that their number every :data:`EVERY_S`; counting is done elsewhere and does not wait.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agents.contract.status import Rejections
from agents.contract.traffic import Mode
from agents.dataplane.base import SaId, SaProtocol, SaSpec
from agents.ike.outputs import Report

EVERY_S = 10.0

FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "esp.integrity": "integrity",
        "esp.replay": "replayed",
        "esp.late": "late",
        "esp.malformed": "malformed",
        "esp.policy": "selectors",
        "esp.mode": "mode",
    }
)
"""The field of Rejections that counts what an event code tells of."""

_SENTENCES = {
    "esp.integrity": "authentication failure, possibly mismatching keys",
    "esp.replay": "repeated packet",
    "esp.late": "late packet falling out of the window",
    "esp.no-sa": "no inbound SA found",
    "esp.malformed": "malformed inside",
    "esp.policy": "outside the traffic selectors",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Packets refused by one SA for one reason; ``sa`` and ``spec`` are None where no SA was found for them."""

    code: str
    count: int
    sa: SaId | None = None
    spec: SaSpec | None = None


@dataclass(slots=True)
class _Flow:
    told_at: float
    waiting: int = 0
    last: Refused | None = None


def larger(one: Rejections, other: Rejections) -> Rejections:
    """Return the larger count of each field."""
    names = [field.name for field in dataclasses.fields(Rejections)]
    return Rejections(**{name: max(getattr(one, name), getattr(other, name)) for name in names})


class RejectionReports:
    """Turns refused packets into reports; ``clock`` returns seconds that do not jump."""

    def __init__(self, report: Callable[[Report], None], clock: Callable[[], float]) -> None:
        self._report = report
        self._clock = clock
        self._flows: dict[tuple[str, str | None], _Flow] = {}

    def add(self, refused: Refused) -> None:
        """Tell of packets now or with the next of their kind."""
        key = (refused.code, refused.spec.tunnel_id if refused.spec is not None else None)
        flow = self._flows.setdefault(key, _Flow(told_at=float("-inf")))
        flow.waiting += refused.count
        flow.last = refused
        if self._clock() - flow.told_at >= EVERY_S:
            self._tell(flow)

    def flush(self) -> None:
        """Tell what has waited long enough; call every few seconds. A kind that stays away is forgotten."""
        now = self._clock()
        for key, flow in tuple(self._flows.items()):
            if now - flow.told_at < EVERY_S:
                continue
            if flow.waiting:
                self._tell(flow)
            else:
                del self._flows[key]

    def _tell(self, flow: _Flow) -> None:
        last, count = flow.last, flow.waiting
        assert last is not None
        flow.told_at, flow.waiting = self._clock(), 0
        attributes = {"count": str(count)}
        if last.sa is not None:
            attributes |= {"spi": f"{last.sa.spi:08x}", "protocol": str(last.sa.protocol)}
        self._report(
            Report(
                code=last.code,
                message=f"{count} {_protocol(last)} packet{'s' if count != 1 else ''} refused: {_sentence(last)}",
                tunnel_id=last.spec.tunnel_id if last.spec is not None else None,
                attributes=attributes,
            )
        )


def _protocol(refused: Refused) -> str:
    """Return the protocol as people write it; what belongs to no SA may be either."""
    spec = refused.spec
    if spec is None:
        return "IPsec"
    if spec.ah is None:
        return "ESP"
    return "AH" if spec.id.protocol is SaProtocol.AH else "AH and ESP"


def _sentence(refused: Refused) -> str:
    if refused.code == "esp.mode" and refused.spec is not None:
        here = refused.spec.mode
        there = Mode.TRANSPORT if here is Mode.TUNNEL else Mode.TUNNEL
        return f"encapsulation mode differs, received in {there} mode where {here} mode is expected"
    return _SENTENCES.get(refused.code, "see the code")
