"""One word for a tunnel out of what intent, rollout and its gateways say. Pure.

The order of the rules is the order of what an operator must know first: switched off on purpose, not there yet, not
heard of, then what the gateways report, the worse of two ends first. An end that is silent does not hide what the other
says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from agents.contract.status import Reason, TunnelState
from vpnconsole.monitor.choices import PROBLEMS, ConsoleState


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one gateway last reported of the tunnel; ``peers`` is how many an on-demand tunnel has now."""

    state: TunnelState
    since: datetime
    step: str = ""
    reason: Reason | None = None
    pairs_up: int = 0
    pairs_total: int = 0
    peers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndFacts:
    """One end: who it is, whether it is heard of, whether its gateway holds the tunnel, and its report.

    ``arriving``: a delivery that is under way may bring or change the tunnel there. ``refused``: why the last delivery
    to its gateway was not taken, or empty.
    """

    gateway_name: str
    managed: bool = True
    reachable: bool = False
    heard_at: datetime | None = None
    held: bool = False
    arriving: bool = False
    refused: str = ""
    report: Report | None = None

    @property
    def live(self) -> bool:
        """Whether its report can be trusted to be of now."""
        return self.managed and self.held and self.reachable and self.report is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelFacts:
    """All that decides the state of one tunnel."""

    enabled: bool
    disabled_by: str = ""
    disabled_at: datetime | None = None
    ends: tuple[EndFacts, ...]
    on_demand: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The state, since when, and the words beside it. ``old``: what is shown was true when last heard."""

    state: ConsoleState
    label: str
    since: datetime | None = None
    step: str = ""
    reason: Reason | None = None
    sentence: str = ""
    note: str = ""
    old: bool = False
    pending: bool = False
    last_known: TunnelState | None = None
    pairs_up: int = 0
    pairs_total: int = 0

    @property
    def problem(self) -> bool:
        """Whether a person should look."""
        return self.state in PROBLEMS


def judge(facts: TunnelFacts) -> Verdict:
    """Return the console's state of a tunnel."""
    managed = [end for end in facts.ends if end.managed]
    pending = any(end.arriving for end in managed)
    if not facts.enabled:
        return _disabled(facts, managed, pending)
    arriving = [end for end in managed if end.arriving and not end.held]
    if arriving:
        return _deploying(arriving)
    held = [end for end in managed if end.held]
    if not held:
        return _not_deployed(managed)
    live = [end for end in held if end.live]
    if not live:
        return _silent(held, pending)
    verdict = _reported(managed, live, pending)
    return _with_peers(verdict, live) if facts.on_demand else verdict


def _with_peers(verdict: Verdict, live: list[EndFacts]) -> Verdict:
    """Say how many peers an on-demand tunnel has: idle is waiting for them, and each brings pairs of its own."""
    peers = max(end.report.peers for end in live if end.report is not None)
    if verdict.state is ConsoleState.IDLE:
        return replace(verdict, step="waiting for peers")
    if verdict.state in (ConsoleState.UP, ConsoleState.PARTLY_UP):
        return replace(verdict, label=f"{verdict.state.label} ({peers} {'peer' if peers == 1 else 'peers'})")
    return verdict


def _disabled(facts: TunnelFacts, managed: list[EndFacts], pending: bool) -> Verdict:
    who = f"switched off by {facts.disabled_by}" if facts.disabled_by else "switched off"
    running = [
        end.gateway_name for end in managed if end.live and end.report and end.report.state is not TunnelState.DISABLED
    ]
    return Verdict(
        state=ConsoleState.DISABLED,
        label=ConsoleState.DISABLED.label,
        since=facts.disabled_at,
        sentence=who,
        note=f"still in force on {_and(running)}: deploy to switch it off there" if running and not pending else "",
        pending=pending,
    )


def _deploying(arriving: list[EndFacts]) -> Verdict:
    silent = [end.gateway_name for end in arriving if not end.reachable]
    sentence = f"waiting for {_and(silent)} to answer" if silent else ""
    step = sentence or f"on its way to {_and([end.gateway_name for end in arriving])}"
    return Verdict(
        state=ConsoleState.DEPLOYING, label=ConsoleState.DEPLOYING.label, step=step, sentence=sentence, pending=True
    )


def _not_deployed(managed: list[EndFacts]) -> Verdict:
    refused = [end for end in managed if end.refused]
    sentence = f"{refused[0].gateway_name} refused the deployment: {refused[0].refused}" if refused else ""
    return Verdict(state=ConsoleState.NOT_DEPLOYED, label=ConsoleState.NOT_DEPLOYED.label, sentence=sentence)


def _silent(held: list[EndFacts], pending: bool) -> Verdict:
    silent = [end for end in held if not end.reachable]
    if not silent:
        # Accepted a moment ago; the next reading brings the first report.
        return Verdict(
            state=ConsoleState.DEPLOYING,
            label=ConsoleState.DEPLOYING.label,
            step="waiting for the first report",
            pending=True,
        )
    last = next((end.report for end in silent if end.report is not None), None)
    return Verdict(
        state=ConsoleState.UNREACHABLE,
        label=ConsoleState.UNREACHABLE.label,
        since=max((end.heard_at for end in silent if end.heard_at), default=None),
        reason=last.reason if last else None,
        sentence=f"{_and([end.gateway_name for end in silent])} not heard from",
        old=True,
        pending=pending,
        last_known=last.state if last else None,
        pairs_up=last.pairs_up if last else 0,
        pairs_total=last.pairs_total if last else 0,
    )


def _reported(managed: list[EndFacts], live: list[EndFacts], pending: bool) -> Verdict:
    reports = [end.report for end in live if end.report is not None]
    worst = min(reports, key=_rank)
    state = ConsoleState(worst.state.value)
    total = max(report.pairs_total for report in reports)
    up = min(report.pairs_up for report in reports)
    label = f"{state.label} ({up} of {total})" if state is ConsoleState.PARTLY_UP else str(state.label)
    same = [report for report in reports if report.state is worst.state]
    reason = worst.reason or next((report.reason for report in reports if report.reason), None)
    shown = None if state in (ConsoleState.UP, ConsoleState.IDLE) else reason
    return Verdict(
        state=state,
        label=label,
        since=max(report.since for report in same),
        step=next((report.step for report in same if report.step), ""),
        reason=shown,
        sentence=shown.message if shown else "",
        note=_note(managed, live),
        pending=pending,
        pairs_up=up,
        pairs_total=total,
    )


def _rank(report: Report) -> int:
    """Order from what a person must see first; a reason makes ``down`` weigh more than a negotiation that goes on."""
    order = {
        TunnelState.DISABLED: 0,
        TunnelState.DOWN: 1 if report.reason else 3,
        TunnelState.NEGOTIATING: 2,
        TunnelState.PARTLY_UP: 4,
        TunnelState.IDLE: 5,
        TunnelState.UP: 6,
    }
    return order[report.state]


def _note(managed: list[EndFacts], live: list[EndFacts]) -> str:
    silent = [end.gateway_name for end in managed if end.held and not end.reachable]
    absent = [end.gateway_name for end in managed if not end.held]
    parts = []
    if silent:
        parts.append(f"{_and(silent)} not heard from; this is what {_and([end.gateway_name for end in live])} says")
    if absent:
        parts.append(f"not deployed to {_and(absent)}")
    disabled = [end.gateway_name for end in live if end.report and end.report.state is TunnelState.DISABLED]
    if disabled:
        parts.append(f"switched on here, but not yet deployed to {_and(disabled)}")
    return "; ".join(parts)


def _and(names: list[str]) -> str:
    return " and ".join(names)
