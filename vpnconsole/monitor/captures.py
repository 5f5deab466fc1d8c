"""Packet captures on their way to a gateway and their files on the way back.

Whoever sees a capture sees what people send through a tunnel, so each step asks for the permission
``monitor.capture_traffic`` (administrators have it) and leaves a record. Files are passed on piece by piece and kept
nowhere here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.utils import timezone

from agents.contract.captures import MOST_OCTETS, MOST_SECONDS, CaptureRequest, CaptureView
from vpnconsole.accounts import audit
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway
from vpnconsole.lib import channel
from vpnconsole.lib.sealed import SealError
from vpnconsole.monitor.actions import EXPIRES_S, LOST_S
from vpnconsole.monitor.choices import JobState
from vpnconsole.monitor.models import CaptureJob, GatewayObservation
from vpnconsole.rollout.client import AgentClient, AgentError, AgentUnknownTunnel
from vpnconsole.vpn.models import Tunnel

PERMISSION = "monitor.capture_traffic"
MIB = 1024 * 1024
SECONDS = (10, 60, 300, MOST_SECONDS)
OCTETS = (MIB, 8 * MIB, 32 * MIB, MOST_OCTETS)
REFUSAL = "You may not see the traffic of tunnels. An administrator can give you the permission to capture it."

_OPEN = (JobState.QUEUED, JobState.SENT)


def may_capture(user: User) -> bool:
    """Whether a person may begin, end and download captures."""
    return user.has_perm(PERMISSION)


def perform(job_id: UUID) -> UUID | None:
    """Send one order; returns its gateway's id when the agent took it on. Sending it twice begins one capture."""
    now = timezone.now()
    if not CaptureJob.objects.filter(pk=job_id, state__in=_OPEN).update(state=JobState.SENT, sent_at=now):
        return None
    job = CaptureJob.objects.select_related("gateway").get(pk=job_id)
    try:
        with AgentClient(job.gateway) as agent:
            agent.start_capture(request_of(job))
    except AgentUnknownTunnel as error:
        return _finish(job, JobState.REFUSED, str(error))
    except (AgentError, SealError) as error:
        return _finish(job, JobState.FAILED, str(error))
    return _finish(job, JobState.ACCEPTED, "")


def stop(gateway_id: UUID, capture_id: UUID) -> bool:
    """Tell a gateway to end a capture; False when it does not answer, and then the capture ends by itself."""
    gateway = Gateway.objects.get(pk=gateway_id)
    try:
        with AgentClient(gateway) as agent:
            agent.stop_capture(str(capture_id))
    except (AgentError, SealError):
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """An open answer; ``chunks`` are the octets of the file. :meth:`close` must be called."""

    name: str
    length: int | None
    chunks: Iterator[bytes]
    _stack: ExitStack

    def close(self) -> None:
        """Let go of the connection."""
        self._stack.close()


def open_download(user: User, tunnel: Tunnel, gateway_id: UUID, capture_id: UUID) -> Download:
    """Begin to read a capture's file. Raises PermissionDenied, ValidationError, AgentError and SealError."""
    permit(user)
    gateway = gateway_of(tunnel, gateway_id)
    check_known(tunnel, gateway, capture_id)
    details = {"gateway": gateway.name, "capture": str(capture_id)}
    with ExitStack() as stack:
        agent = stack.enter_context(AgentClient(gateway))
        length, chunks = stack.enter_context(agent.fetch_capture(str(capture_id)))
        audit.record(user, "tunnel.capture.download", tunnel, details=details)
        name = f"{tunnel.name}-{gateway.name}-{str(capture_id)[:8]}.pcapng"
        return Download(name=name, length=length, chunks=chunks, _stack=stack.pop_all())


def lost(now: datetime) -> QuerySet[CaptureJob]:
    """Orders whose task seems to have got lost."""
    return CaptureJob.objects.filter(state__in=_OPEN, created_at__lt=now - timedelta(seconds=LOST_S))


def expire(now: datetime) -> None:
    """Fail orders that waited too long."""
    old = CaptureJob.objects.filter(state__in=_OPEN, created_at__lt=now - timedelta(seconds=EXPIRES_S))
    old.update(state=JobState.FAILED, message="not sent in time: no worker was free", finished_at=now)


def permit(user: User) -> None:
    """Refuse who may not see traffic; raises PermissionDenied."""
    if not may_capture(user):
        raise PermissionDenied(REFUSAL)


def gateway_of(tunnel: Tunnel, gateway_id: UUID | None) -> Gateway:
    """Return the enrolled gateway of this id that has an end of the tunnel; raises ValidationError."""
    ends = [end.gateway for end in tunnel.ends.select_related("gateway") if end.gateway.is_enrolled]
    for gateway in ends:
        if gateway.is_managed and gateway_id in (None, gateway.pk):
            return gateway
    raise ValidationError({"gateway": "No enrolled gateway of this tunnel can be asked."})


def check_known(tunnel: Tunnel, gateway: Gateway, capture_id: UUID) -> None:
    """Refuse a capture that is not of this tunnel at this gateway; raises ValidationError."""
    if CaptureJob.objects.filter(pk=capture_id, tunnel=tunnel, gateway=gateway).exists():
        return
    status = GatewayObservation.objects.filter(pk=gateway.pk).values_list("status", flat=True).first() or {}
    mine = {each["id"] for each in status.get("captures", ()) if each["tunnel_id"] == str(tunnel.pk)}
    if str(capture_id) not in mine:
        raise ValidationError({"capture": "There is no such capture of this tunnel; it may have been deleted by now."})


def request_of(job: CaptureJob) -> CaptureRequest:
    """Return what the agent is asked; raises ValueError (FieldError) for bounds that it would not take."""
    return CaptureRequest(
        id=str(job.pk),
        tunnel_id=str(job.tunnel_id),
        view=CaptureView(job.view),
        seconds=job.seconds,
        octets=job.octets,
    )


def _finish(job: CaptureJob, state: JobState, message: str) -> UUID | None:
    CaptureJob.objects.filter(pk=job.pk, state__in=_OPEN).update(
        state=state, message=message, finished_at=timezone.now()
    )
    channel.publish("tunnel", [job.tunnel_id])
    return job.gateway_id if state is JobState.ACCEPTED else None
