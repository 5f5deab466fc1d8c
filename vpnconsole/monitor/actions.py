"""One-shot verbs on their way to a gateway. Sending an action twice is harmless: the agent performs an id once."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone

from agents.contract.actions import Action, Verb
from vpnconsole.lib import channel
from vpnconsole.lib.sealed import SealError
from vpnconsole.monitor.choices import JobState
from vpnconsole.monitor.models import ActionJob
from vpnconsole.rollout.client import AgentClient, AgentError, AgentUnknownTunnel

#: An order that could not be sent for so long is not carried out any more: the operator has moved on.
EXPIRES_S = 90
LOST_S = 10

_OPEN = (JobState.QUEUED, JobState.SENT)


def perform(job_id: UUID) -> UUID | None:
    """Send one job; returns its gateway's id when the agent took it on."""
    now = timezone.now()
    if not ActionJob.objects.filter(pk=job_id, state__in=_OPEN).update(state=JobState.SENT, sent_at=now):
        return None
    job = ActionJob.objects.select_related("gateway").get(pk=job_id)
    action = Action(id=str(job.pk), verb=Verb(job.verb), tunnel_id=str(job.tunnel_id))
    try:
        with AgentClient(job.gateway) as agent:
            result = agent.act(action)
    except AgentUnknownTunnel as error:
        return _finish(job, JobState.REFUSED, str(error))
    except (AgentError, SealError) as error:
        return _finish(job, JobState.FAILED, str(error))
    return _finish(job, JobState.ACCEPTED if result.accepted else JobState.REFUSED, result.message)


def _finish(job: ActionJob, state: JobState, message: str) -> UUID | None:
    ActionJob.objects.filter(pk=job.pk, state__in=_OPEN).update(
        state=state, message=message, finished_at=timezone.now()
    )
    channel.publish("tunnel", [job.tunnel_id])
    return job.gateway_id if state is JobState.ACCEPTED else None


def lost(now: datetime) -> QuerySet[ActionJob]:
    """Jobs whose task seems to have got lost."""
    return ActionJob.objects.filter(state__in=_OPEN, created_at__lt=now - timedelta(seconds=LOST_S))


def expire(now: datetime) -> None:
    """Fail jobs that waited too long."""
    old = ActionJob.objects.filter(state__in=_OPEN, created_at__lt=now - timedelta(seconds=EXPIRES_S))
    old.update(state=JobState.FAILED, message="not sent in time: no worker was free", finished_at=now)
