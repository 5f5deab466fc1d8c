"""What a person may ask of what runs: one-shot verbs and packet captures of a tunnel, traces of a gateway; audited."""

from __future__ import annotations

from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction

from agents.contract.actions import Verb
from agents.contract.config import ConnectionType
from agents.contract.errors import FieldError
from vpnconsole.accounts import audit
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway
from vpnconsole.lib.tasks import send_on_commit
from vpnconsole.monitor import captures, orders, tasks, traces
from vpnconsole.monitor.models import ActionJob, CaptureJob, GatewayObservation, StopJob, TraceJob
from vpnconsole.monitor.traces import TraceInput
from vpnconsole.vpn.models import Tunnel, TunnelEnd


def request_action(user: User | None, tunnel: Tunnel, verb: str, gateway_id: UUID | None = None) -> ActionJob:
    """Order one verb for one end: the named gateway's, else a reachable managed one that can do it.

    Raises ValidationError keyed ``verb`` or ``gateway``.
    """
    if verb not in set(Verb):
        raise ValidationError({"verb": f"{verb!r} is not an action: use one of {', '.join(Verb)}."})
    if tunnel.is_manual and verb != Verb.CLEAR_IPSEC:
        raise ValidationError({"verb": "Manual keys are never negotiated: the only thing to do is Clear IPsec SA."})
    end = _end_for(tunnel, Verb(verb), gateway_id)
    with transaction.atomic():
        job = ActionJob.objects.create(tunnel=tunnel, gateway=end.gateway, verb=verb, requested_by=user)
        audit.record(user, f"tunnel.action.{verb}", tunnel, details={"gateway": end.gateway.name})
        send_on_commit(tasks.perform_action, str(job.pk))
    return job


def request_capture(
    user: User, tunnel: Tunnel, gateway_id: UUID | None, view: str, seconds: int, octets: int
) -> CaptureJob:
    """Order a capture at one end. Raises PermissionDenied, and ValidationError keyed by field."""
    orders.permit(user)
    gateway = captures.gateway_of(tunnel, gateway_id)
    job = CaptureJob(tunnel=tunnel, gateway=gateway, view=view, seconds=seconds, octets=octets, requested_by=user)
    try:
        captures.request_of(job)
    except ValueError as error:
        field = error.field if isinstance(error, FieldError) else "view"
        raise ValidationError({field: str(error)}) from None
    with transaction.atomic():
        job.save()
        details = {"gateway": gateway.name, "view": view, "seconds": seconds, "octets": octets, "capture": str(job.pk)}
        audit.record(user, "tunnel.capture.start", tunnel, details=details)
        send_on_commit(tasks.start_capture, str(job.pk))
    return job


def request_stop(user: User, tunnel: Tunnel, gateway_id: UUID, capture_id: UUID) -> StopJob:
    """Order the end of a capture. Raises PermissionDenied and ValidationError."""
    orders.permit(user)
    gateway = captures.gateway_of(tunnel, gateway_id)
    captures.check_known(tunnel, gateway, capture_id)
    with transaction.atomic():
        details = {"gateway": gateway.name, "capture": str(capture_id)}
        audit.record(user, "tunnel.capture.stop", tunnel, details=details)
        job = StopJob.objects.create(gateway=gateway, tunnel=tunnel, target=capture_id, requested_by=user)
        send_on_commit(tasks.stop, str(job.pk))
    return job


def request_trace(user: User, gateway: Gateway, wanted: TraceInput) -> TraceJob:
    """Order a trace of a gateway. Raises PermissionDenied, and ValidationError keyed by field."""
    orders.permit(user)
    traces.check_asked(gateway)
    job = TraceJob(
        gateway=gateway,
        categories=list(wanted.categories),
        seconds=wanted.seconds,
        octets=wanted.octets,
        version=wanted.version,
        requested_by=user,
    )
    try:
        traces.request_of(job)
    except ValueError as error:
        field = error.field if isinstance(error, FieldError) else "categories"
        raise ValidationError({field: str(error)}) from None
    with transaction.atomic():
        job.save()
        details = {
            "categories": job.categories,
            "seconds": job.seconds,
            "octets": job.octets,
            "packets": f"IPv{job.version}" if job.version else "",
            "trace": str(job.pk),
        }
        audit.record(user, "gateway.trace.start", gateway, details=details)
        send_on_commit(tasks.start_trace, str(job.pk))
    return job


def request_trace_stop(user: User, gateway: Gateway, trace_id: UUID) -> StopJob:
    """Order the end of a trace. Raises PermissionDenied and ValidationError."""
    orders.permit(user)
    traces.check_asked(gateway)
    traces.check_known(gateway, trace_id)
    with transaction.atomic():
        audit.record(user, "gateway.trace.stop", gateway, details={"trace": str(trace_id)})
        job = StopJob.objects.create(gateway=gateway, target=trace_id, requested_by=user)
        send_on_commit(tasks.stop, str(job.pk))
    return job


def _end_for(tunnel: Tunnel, verb: Verb, gateway_id: UUID | None) -> TunnelEnd:
    if not tunnel.enabled and verb is Verb.INITIATE:
        raise ValidationError({"verb": "The tunnel is switched off: switch it on and deploy first."})
    ends = [end for end in tunnel.ends.select_related("gateway") if end.gateway.is_managed and end.gateway.is_enrolled]
    if gateway_id is not None:
        ends = [end for end in ends if end.gateway_id == gateway_id]
    if not ends:
        raise ValidationError({"gateway": "No enrolled gateway of this tunnel can be asked."})
    if verb is Verb.INITIATE:
        ends = [end for end in ends if end.connection_type != ConnectionType.RESPONDER_ONLY]
        if not ends:
            who = "its peers have to start" if tunnel.is_on_demand else "the other end has to start"
            raise ValidationError({"verb": f"This end only answers: {who}."})
    reachable = set(
        GatewayObservation.objects.filter(pk__in=[end.gateway_id for end in ends], reachable=True).values_list(
            "pk", flat=True
        )
    )
    return min(ends, key=lambda end: (end.gateway_id not in reachable, end.side))
