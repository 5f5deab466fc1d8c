"""One-shot verbs on their way to a gateway. Sending an action twice is harmless: the agent performs an id once."""

from __future__ import annotations

from uuid import UUID

from agents.contract.actions import Action, Verb
from vpnconsole.monitor import orders
from vpnconsole.monitor.choices import JobState
from vpnconsole.monitor.models import ActionJob
from vpnconsole.rollout.client import AgentClient


def perform(job_id: UUID) -> UUID | None:
    """Send one job; returns its gateway's id when the agent took it on."""

    def send(agent: AgentClient, job: ActionJob) -> tuple[JobState, str]:
        result = agent.act(Action(id=str(job.pk), verb=Verb(job.verb), tunnel_id=str(job.tunnel_id)))
        return JobState.ACCEPTED if result.accepted else JobState.REFUSED, result.message

    return orders.carry_out(ActionJob, job_id, send)
