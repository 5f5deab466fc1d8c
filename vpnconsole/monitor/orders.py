"""What people order of a gateway and the way it goes: taken up once, sent, finished, given up when nobody sent it.

An order is a row; the task that carries it out has its id only. Sending one twice is harmless, because its id is the
agent's proof against doing it twice.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.utils import timezone

from vpnconsole.accounts.access import CAPTURE_TRAFFIC
from vpnconsole.accounts.models import User
from vpnconsole.lib import channel
from vpnconsole.lib.sealed import SealError
from vpnconsole.monitor.choices import JobState
from vpnconsole.monitor.models import Order
from vpnconsole.rollout.client import AgentClient, AgentError, AgentUnknownTunnel

O = TypeVar("O", bound=Order)  # noqa: E741 -- a type

#: An order that could not be sent for so long is not carried out any more: the operator has moved on.
EXPIRES_S = 90
LOST_S = 10

REFUSAL = "You may not see the traffic of tunnels. An administrator can give you the permission to capture and trace."

OPEN = (JobState.QUEUED, JobState.SENT)
NOT_SENT = "not sent in time: no worker was free"


def may_capture(user: User) -> bool:
    """Whether a person may begin, end and download captures and traces."""
    return user.has_perm(CAPTURE_TRAFFIC)


def permit(user: User) -> None:
    """Refuse who may not see traffic; raises PermissionDenied."""
    if not may_capture(user):
        raise PermissionDenied(REFUSAL)


def carry_out(kind: type[O], job_id: UUID, send: Callable[[AgentClient, O], tuple[JobState, str]]) -> UUID | None:
    """Send one order by ``send``, which returns what came of it; returns its gateway's id when the agent took it on."""
    if not _open(kind).filter(pk=job_id).update(state=JobState.SENT, sent_at=timezone.now()):
        return None
    job = kind._default_manager.select_related("gateway").get(pk=job_id)
    try:
        with AgentClient(job.gateway) as agent:
            state, message = send(agent, job)
    except AgentUnknownTunnel as error:
        state, message = JobState.REFUSED, str(error)
    except (AgentError, SealError) as error:
        state, message = JobState.FAILED, str(error)
    _open(kind).filter(pk=job_id).update(state=state, message=message, finished_at=timezone.now())
    topic, key = job.about
    channel.publish(topic, [key])
    return job.gateway_id if state is JobState.ACCEPTED else None


def lost(kind: type[O], now: datetime) -> QuerySet[O]:
    """Orders whose task seems to have got lost."""
    return _stuck(kind, now, LOST_S)


def expire(kind: type[Order], now: datetime) -> None:
    """Fail orders that waited too long."""
    _stuck(kind, now, EXPIRES_S).update(state=JobState.FAILED, message=NOT_SENT, finished_at=now)


def _stuck(kind: type[O], now: datetime, seconds: int) -> QuerySet[O]:
    """Orders that are so old and not on their way at this moment."""
    old = _open(kind).filter(created_at__lt=now - timedelta(seconds=seconds))
    return old.exclude(sent_at__gt=now - timedelta(seconds=LOST_S))


def _open(kind: type[O]) -> QuerySet[O]:
    return kind._default_manager.filter(state__in=OPEN)
