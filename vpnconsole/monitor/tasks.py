"""Celery's side of the monitor: polls that never pile up, actions, and the clearing out of old rows."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from celery import shared_task
from django.db.models import Q
from django.utils import timezone

from vpnconsole.gateways import queries as gateways
from vpnconsole.monitor import actions, captures, orders, polling, stops, traces
from vpnconsole.monitor.models import ActionJob, CaptureJob, CounterSample, EventRecord, StopJob, TraceJob

POLL_EVERY_S = 2
SWEEP_EVERY_S = 30
SAMPLES_KEPT = timedelta(hours=48)
EVENTS_KEPT = timedelta(days=30)
JOBS_KEPT = timedelta(days=30)


@shared_task(name="monitor.poll_all")
def poll_all() -> None:
    """Have every gateway that is due polled; a poll that is not taken up in time expires instead of piling up."""
    now = timezone.now()
    free = Q(observation__isnull=True) | Q(observation__lease_until__isnull=True) | Q(observation__lease_until__lt=now)
    due = (
        Q(observation__isnull=True) | Q(observation__next_poll_at__isnull=True) | Q(observation__next_poll_at__lte=now)
    )
    for gateway_id in gateways.enrolled_gateways().filter(free, due).values_list("pk", flat=True):
        poll_gateway.apply_async((str(gateway_id),), expires=POLL_EVERY_S * 2)


@shared_task(name="monitor.poll_gateway")
def poll_gateway(gateway_id: str) -> None:
    """Read status and events of one gateway, and send on what it did not hear before."""
    if polling.poll(UUID(gateway_id)):
        for job_id in stops.send_again(UUID(gateway_id)):
            stop.delay(str(job_id))


@shared_task(name="monitor.perform_action")
def perform_action(job_id: str) -> None:
    """Send one action to its gateway, then look at once what came of it."""
    gateway_id = actions.perform(UUID(job_id))
    if gateway_id is not None:
        poll_gateway.delay(str(gateway_id))


@shared_task(name="monitor.start_capture")
def start_capture(job_id: str) -> None:
    """Have a gateway begin a capture, then look at once how it goes."""
    gateway_id = captures.perform(UUID(job_id))
    if gateway_id is not None:
        poll_gateway.delay(str(gateway_id))


@shared_task(name="monitor.start_trace")
def start_trace(job_id: str) -> None:
    """Have a gateway begin a trace, then look at once how it goes."""
    gateway_id = traces.perform(UUID(job_id))
    if gateway_id is not None:
        poll_gateway.delay(str(gateway_id))


@shared_task(name="monitor.stop")
def stop(job_id: str) -> None:
    """Have a gateway end a capture or trace, then look at once what came of it."""
    gateway_id = stops.perform(UUID(job_id))
    if gateway_id is not None:
        poll_gateway.delay(str(gateway_id))


@shared_task(name="monitor.sweep")
def sweep() -> None:
    """Send orders on whose task got lost, fail those too old to be meant still, delete what is past its time."""
    now = timezone.now()
    for kind, task in (
        (ActionJob, perform_action),
        (CaptureJob, start_capture),
        (TraceJob, start_trace),
        (StopJob, stop),
    ):
        orders.expire(kind, now)
        for job_id in orders.lost(kind, now).values_list("pk", flat=True):
            task.apply_async((str(job_id),), expires=SWEEP_EVERY_S)
        kind._default_manager.filter(created_at__lt=now - JOBS_KEPT).delete()
    CounterSample.objects.filter(at__lt=now - SAMPLES_KEPT).delete()
    EventRecord.objects.filter(at__lt=now - EVENTS_KEPT).delete()
