"""Ends of captures and traces on their way to a gateway, and what came of each.

A gateway that is away hears of none of them. What was asked to end goes on there until its limit, so the order is a
row of its own, whose state stands beside the capture or trace until the gateway says that it is over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.utils import timezone

from vpnconsole.monitor import orders
from vpnconsole.monitor.choices import JobState
from vpnconsole.monitor.models import StopJob
from vpnconsole.rollout.client import AgentBusy, AgentClient


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


def last(targets: Iterable[UUID]) -> dict[UUID, Stop]:
    """Return how the last order to end each of these stands, for those that were asked to end."""
    rows = StopJob.objects.filter(target__in=list(targets)).select_related("gateway", "requested_by")
    return {job.target: Stop(state=_standing(job), job=job) for job in rows.order_by("created_at")}


def _standing(job: StopJob) -> str:
    if job.state == JobState.ACCEPTED:
        return "heard"
    # Without a worker nobody gives old orders up either.
    waits = timezone.now() - job.created_at < timedelta(seconds=orders.EXPIRES_S)
    return "sent" if job.state in orders.OPEN and waits else "failed"
