"""Packet captures on their way to a gateway and their files on the way back.

Whoever sees a capture sees what people send through a tunnel, so each step asks for the permission
``monitor.capture_traffic`` (administrators have it) and leaves a record. Files are passed on piece by piece and kept
nowhere here.
"""

from __future__ import annotations

from uuid import UUID

from django.core.exceptions import ValidationError

from agents.contract.captures import MOST_OCTETS, MOST_SECONDS, CaptureRequest, CaptureView
from vpnconsole.accounts import audit
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import downloads, orders
from vpnconsole.monitor.choices import JobState
from vpnconsole.monitor.downloads import Download
from vpnconsole.monitor.models import CaptureJob, GatewayObservation
from vpnconsole.rollout.client import AgentClient
from vpnconsole.vpn.models import Tunnel

MEDIA_TYPE = "application/x-pcapng"
MIB = 1024 * 1024
SECONDS = (10, 60, 300, MOST_SECONDS)
OCTETS = (MIB, 8 * MIB, 32 * MIB, MOST_OCTETS)


def perform(job_id: UUID) -> UUID | None:
    """Send one order; returns its gateway's id when the agent took it on. Sending it twice begins one capture."""

    def send(agent: AgentClient, job: CaptureJob) -> tuple[JobState, str]:
        agent.start_capture(request_of(job))
        return JobState.ACCEPTED, ""

    return orders.carry_out(CaptureJob, job_id, send)


def open_download(user: User, tunnel: Tunnel, gateway_id: UUID, capture_id: UUID) -> Download:
    """Begin to read a capture's file. Raises PermissionDenied, ValidationError, AgentError and SealError."""
    orders.permit(user)
    gateway = gateway_of(tunnel, gateway_id)
    check_known(tunnel, gateway, capture_id)
    name = f"{tunnel.name}-{gateway.name}-{str(capture_id)[:8]}.pcapng"
    details = {"gateway": gateway.name, "capture": str(capture_id)}
    return downloads.open_download(
        gateway,
        name,
        MEDIA_TYPE,
        fetch=lambda agent: agent.fetch_capture(str(capture_id)),
        write_down=lambda: audit.record(user, "tunnel.capture.download", tunnel, details=details),
    )


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
    told = GatewayObservation.objects.filter(pk=gateway.pk).values_list("status__captures", flat=True).first() or ()
    mine = {each["id"] for each in told if each["tunnel_id"] == str(tunnel.pk)}
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
