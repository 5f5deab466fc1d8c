"""Traces on their way to a gateway and their text on the way back, and how a gateway's traces stand.

A trace tells who speaks with whom, so it needs the same permission as a capture, and each step leaves a record. What
was recorded is on the gateway alone; the console passes it on and keeps nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from uuid import UUID

from django.core.exceptions import ValidationError
from django.utils import timezone

from agents.contract.status import TraceStatus
from agents.contract.traces import MOST_OCTETS, MOST_SECONDS, Category, TraceRequest
from vpnconsole.accounts import audit
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import downloads, orders, stops
from vpnconsole.monitor.choices import JobState
from vpnconsole.monitor.downloads import Download
from vpnconsole.monitor.models import GatewayObservation, TraceJob
from vpnconsole.monitor.queries import GatewayRow
from vpnconsole.monitor.stops import Stop
from vpnconsole.rollout.client import AgentClient

MEDIA_TYPE = "text/plain; charset=utf-8"
TELLS_SINCE_SCHEMA = 5
"""The schema of a status from which on an agent can be asked for traces and tells of them."""
MINUTES = (1, 5, 15, MOST_SECONDS // 60)
OCTETS = (MOST_OCTETS // 16, MOST_OCTETS // 4, MOST_OCTETS)
MOST_PAST = 3
_POLL = timedelta(seconds=5)
"""A reading of so soon after an order was taken on may have begun before it."""

HINTS = MappingProxyType(
    {
        Category.ERROR: "What failed, and what the data plane refuses.",
        Category.TUNNEL: "Tunnels coming up, rekeying, going down, and why.",
        Category.FILTER: "Packets outside a tunnel's networks, and traffic that found no SA.",
        Category.CAPSULATION: "Packets refused while they were unpacked: late, doubled, damaged.",
        Category.CRYPTO: "Wrong keys, failed authentication, certificates.",
        Category.TUNNEL_INFORMATION: "Every IKE message by its header, and every route.",
        Category.FILTER_INFORMATION: "Every policy and every rule of the packet filter put in place or taken out.",
        Category.CAPSULATION_INFORMATION: "How much each SA carries, and from where.",
        Category.CRYPTO_INFORMATION: "The algorithms and key lengths of each SA.",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceInput:
    """What a person asks for; ``octets`` bound each of the agent's processes."""

    categories: Sequence[str]
    seconds: int
    octets: int
    version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """A trace that the gateway has, or that was asked for; ``status`` is None unless the gateway tells of it."""

    id: UUID
    categories: tuple[str, ...]
    status: TraceStatus | None
    job: TraceJob | None
    #: When its time is over, by the console's clock.
    ends_at: datetime | None = None
    #: Whether the gateway has been asked since the order was sent.
    looked: bool = True
    #: The last order to end it.
    asked_to_stop: Stop | None = None

    @property
    def running(self) -> bool:
        """Whether it ran when the gateway was last heard."""
        return self.status is not None and self.status.running

    @property
    def overdue(self) -> bool:
        """Whether it ran when the gateway was last heard, and its time has passed since."""
        return self.running and self.ends_at is not None and self.ends_at <= timezone.now()

    @property
    def stop(self) -> Stop | None:
        """How the order to end it stands, for as long as it may be running still."""
        return self.asked_to_stop if self.state == "running" else None

    @property
    def state(self) -> str:
        """``running``, ``overdue``, ``done``, ``deleted``, or where the order is: ``queued``, ``sent``, ``accepted``,
        ``refused``, ``failed``.
        """
        if self.status is not None:
            return "overdue" if self.overdue else "running" if self.running else "done"
        assert self.job is not None
        return "deleted" if self.job.state == JobState.ACCEPTED and self.looked else self.job.state

    @property
    def endings(self) -> tuple[tuple[str, str], ...]:
        """Why it ended and in which processes; one entry where all say the same."""
        if self.status is None:
            return ()
        reasons: dict[str, list[str]] = {}
        for each in self.status.processes:
            if not each.running:
                reasons.setdefault(each.ended_because, []).append(each.process)
        everywhere = len(reasons) == 1 and not self.status.running
        return tuple(("" if everywhere else ", ".join(who), why) for why, who in reasons.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayTraces:
    """What a gateway's page shows of traces. ``why_not`` says why none can be asked for, empty where one can."""

    rows: tuple[TraceRow, ...]
    why_not: str
    #: Whether the gateway does not answer, so that all of this is as it was last heard.
    silent: bool


def gateway_traces(row: GatewayRow) -> GatewayTraces:
    """Return how the traces of one gateway stand: those asked for, the one it has, then those that came to nothing."""
    return GatewayTraces(
        rows=_rows(row),
        why_not=_why_not(row),
        silent=row.state == "unreachable",
    )


def perform(job_id: UUID) -> UUID | None:
    """Send one order; returns its gateway's id when the agent took it on. Sending it twice begins one trace."""

    def send(agent: AgentClient, job: TraceJob) -> tuple[JobState, str]:
        agent.start_trace(request_of(job))
        return JobState.ACCEPTED, ""

    return orders.carry_out(TraceJob, job_id, send)


def open_download(user: User, gateway: Gateway, trace_id: UUID) -> Download:
    """Begin to read a trace. Raises PermissionDenied, ValidationError, AgentError and SealError."""
    orders.permit(user)
    check_asked(gateway)
    check_known(gateway, trace_id)
    return downloads.open_download(
        gateway,
        f"{gateway.name}-trace-{str(trace_id)[:8]}.txt",
        MEDIA_TYPE,
        fetch=lambda agent: agent.fetch_trace(str(trace_id)),
        write_down=lambda: audit.record(user, "gateway.trace.download", gateway, details={"trace": str(trace_id)}),
    )


def check_asked(gateway: Gateway) -> None:
    """Refuse a gateway that cannot be asked for anything; raises ValidationError."""
    if not (gateway.is_managed and gateway.is_enrolled):
        raise ValidationError({"gateway": "This gateway has no agent that can be asked."})


def check_known(gateway: Gateway, trace_id: UUID) -> None:
    """Refuse a trace that is not of this gateway; raises ValidationError."""
    if TraceJob.objects.filter(pk=trace_id, gateway=gateway).exists():
        return
    told = GatewayObservation.objects.filter(pk=gateway.pk).values_list("status__trace__id", flat=True).first()
    if told != str(trace_id):
        raise ValidationError(
            {"trace": "There is no such trace of this gateway; a newer one may have taken its place."}
        )


def request_of(job: TraceJob) -> TraceRequest:
    """Return what the agent is asked; raises ValueError (FieldError) for bounds that it would not take."""
    return TraceRequest(
        id=str(job.pk),
        categories=tuple(Category(each) for each in job.categories),
        seconds=job.seconds,
        octets=job.octets,
        version=job.version,
    )


def _why_not(row: GatewayRow) -> str:
    if row.status is None:
        return "Its agent has not been heard from yet, so there is nothing to trace."
    if row.status.schema < TELLS_SINCE_SCHEMA:
        return "Its agent is of an older version that cannot be traced from here. Install the present one."
    return ""


def _rows(row: GatewayRow) -> tuple[TraceRow, ...]:
    jobs = list(TraceJob.objects.filter(gateway=row.gateway).select_related("requested_by")[:20])
    waiting: list[TraceRow] = []
    held: list[TraceRow] = []
    over: list[TraceRow] = []
    told = row.status.trace if row.status is not None else None
    for job in jobs:
        if told is not None and told.id == str(job.pk):
            continue
        looked = row.read_at is not None and job.finished_at is not None and row.read_at > job.finished_at + _POLL
        each = TraceRow(id=job.pk, categories=tuple(job.categories), status=None, job=job, looked=looked)
        (waiting if each.state in ("queued", "sent", "accepted") else over).append(each)
    if told is not None and row.status is not None and row.read_at is not None:
        held.append(
            TraceRow(
                id=UUID(told.id),
                categories=told.categories,
                status=told,
                job=next((job for job in jobs if str(job.pk) == told.id), None),
                asked_to_stop=stops.last([UUID(told.id)]).get(UUID(told.id)) if told.running else None,
                # By how long it had to go when it was told: the gateway's clock may be wrong.
                ends_at=row.read_at + _left(told.ends_at - row.status.observed_at),
            )
        )
    return (*waiting, *held, *over[:MOST_PAST])


def _left(seconds: float) -> timedelta:
    """Return the time a trace had to go; what no agent of ours says becomes as much as there can be."""
    return timedelta(seconds=max(-MOST_SECONDS, min(seconds, MOST_SECONDS)))
