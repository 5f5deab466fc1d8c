"""Ends of captures and traces on their way to a gateway, and what came of each.

A gateway that is away hears of none of them. What was asked to end goes on there until its limit, so the order is a
row of its own, whose state stands beside the capture or trace until the gateway says that it is over. An order that was
not heard is sent again by the poll that finds its gateway, as long as the gateway tells that what it ends still runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db.models import Q
from django.utils import timezone

from agents.contract import captures, traces
from vpnconsole.monitor import orders
from vpnconsole.monitor.choices import JobState
from vpnconsole.monitor.models import GatewayObservation, StopJob
from vpnconsole.rollout.client import AgentBusy, AgentClient

AGAIN = timedelta(seconds=10)
"""Between two tries at a gateway that is heard and yet does not take the order on."""
LONGEST = timedelta(seconds=max(captures.MOST_SECONDS, traces.MOST_SECONDS))
"""Whatever an order is to end is over by itself so long after it was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The last order to end something that still runs, as far as is known: ``sent`` on, ``heard`` or ``failed``."""

    state: str
    job: StopJob

    @property
    def message(self) -> str:
        """Why it failed; empty while it has not."""
        if self.state != "failed":
            return ""
        return (self.job.message or orders.NOT_SENT).removesuffix(".")


def perform(job_id: UUID) -> UUID | None:
    """Send one order; returns its gateway's id when the agent heard it. Ending something twice is harmless."""

    def send(agent: AgentClient, job: StopJob) -> tuple[JobState, str]:
        end = agent.stop_trace if job.tunnel_id is None else agent.stop_capture
        try:
            end(str(job.target))
        except AgentBusy as error:
            return JobState.ACCEPTED, str(error)  # it is gone, which is what was wanted
        return JobState.ACCEPTED, ""

    return orders.carry_out(StopJob, job_id, send)


def send_again(gateway_id: UUID) -> list[UUID]:
    """Open anew the orders that a gateway did not hear, if it is heard now; returns their ids, to be performed.

    Only the last one for each capture or trace that the gateway says still runs, so that there is one at a time.
    """
    now = timezone.now()
    due = Q(sent_at__isnull=True) | Q(sent_at__lt=now - AGAIN)
    failed = StopJob.objects.filter(due, gateway_id=gateway_id, state=JobState.FAILED, created_at__gt=now - LONGEST)
    if not failed.exists():
        return []
    rows = StopJob.objects.filter(gateway_id=gateway_id, target__in=_running(gateway_id)).order_by("created_at")
    newest = {job.target: job.pk for job in rows}
    return [
        job_id
        for job_id in newest.values()
        if failed.filter(pk=job_id).update(state=JobState.SENT, sent_at=now, finished_at=None)
    ]


def _running(gateway_id: UUID) -> list[UUID]:
    """Return the captures and the trace that run by the last poll, none where it did not reach the gateway."""
    heard = GatewayObservation.objects.filter(pk=gateway_id, reachable=True, failures=0)
    held, trace = heard.values_list("status__captures", "status__trace").first() or (None, None)
    found = [each["id"] for each in held or () if each["running"]]
    if trace and any(each["running"] for each in trace["processes"]):
        found.append(trace["id"])
    return [UUID(each) for each in found]


def last(targets: Iterable[UUID]) -> dict[UUID, Stop]:
    """Return how the last order to end each of these stands, for those that were asked to end."""
    rows = StopJob.objects.filter(target__in=list(targets)).select_related("gateway", "requested_by")
    return {job.target: Stop(state=_standing(job), job=job) for job in rows.order_by("created_at")}


def _standing(job: StopJob) -> str:
    if job.state == JobState.ACCEPTED:
        return "heard"
    # Without a worker nobody gives old orders up either.
    waits = timezone.now() - (job.sent_at or job.created_at) < timedelta(seconds=orders.EXPIRES_S)
    return "sent" if job.state in orders.OPEN and waits else "failed"
