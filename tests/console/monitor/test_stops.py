"""Ends of captures and traces that the agent hears or does not hear: what the pages say, and that one can try again."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from agents.contract.traces import MOST_OCTETS
from tests.console.fake_agent import FakeAgent
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.accounts.services import create_api_token
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import polling, queries, services, stops, tasks, traces
from vpnconsole.monitor.captures import MIB
from vpnconsole.monitor.dataplane import CaptureRow
from vpnconsole.monitor.models import CaptureJob, GatewayObservation, StopJob, TraceJob
from vpnconsole.monitor.traces import TraceInput, TraceRow
from vpnconsole.rollout import delivery as work
from vpnconsole.rollout import services as rollout
from vpnconsole.rollout.models import Delivery
from vpnconsole.vpn.models import Tunnel

pytestmark = pytest.mark.usefixtures("sent")


@pytest.fixture
def capture(alice: User, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent) -> CaptureJob:
    """A capture of ten minutes that runs."""
    rollout.deploy(None, [paris.pk])
    delivery = Delivery.objects.get(gateway=paris)
    work.compile_delivery(delivery.pk)
    work.push_delivery(delivery.pk, "test")
    polling.poll(paris.pk)
    job = services.request_capture(alice, tunnel, paris.pk, "inner", 600, MIB)
    tasks.start_capture(str(job.pk))
    polling.poll(paris.pk)
    return job


@pytest.fixture
def trace(alice: User, paris: Gateway, paris_agent: FakeAgent) -> TraceJob:
    """A trace of five minutes that runs."""
    polling.poll(paris.pk)
    job = services.request_trace(alice, paris, TraceInput(categories=["error"], seconds=300, octets=MOST_OCTETS))
    tasks.start_trace(str(job.pk))
    polling.poll(paris.pk)
    return job


def away(gateway: Gateway) -> None:
    """Let nobody listen where the agent is expected."""
    Gateway.objects.filter(pk=gateway.pk).update(agent_port=1)


def back(gateway: Gateway, agent: FakeAgent) -> None:
    Gateway.objects.filter(pk=gateway.pk).update(agent_port=agent.port)


def unheard(gateway: Gateway, minutes: int) -> None:
    """Let the gateway not have been heard for so long."""
    then = timezone.now() - timedelta(minutes=minutes)
    GatewayObservation.objects.filter(pk=gateway.pk).update(reachable=False, reachable_since=then, read_at=then)


def capture_row(tunnel: Tunnel) -> CaptureRow:
    (row,) = queries.tunnel_detail(tunnel.pk).plane.captures
    return row


def trace_row(gateway: Gateway) -> TraceRow:
    row, _ = queries.gateway_detail(gateway.pk)
    (found,) = traces.gateway_traces(row).rows
    return found


def press(client: Client, name: str, *where: object) -> str:
    """Press the button, let the worker do it, and return the page."""
    known = set(StopJob.objects.values_list("pk", flat=True))
    answer = client.post(reverse(name, args=where))
    (job,) = StopJob.objects.exclude(pk__in=known)
    tasks.stop(str(job.pk))
    return client.get(answer["Location"]).content.decode()


def test_a_capture_that_does_not_hear_its_end_is_told_as_running_and_can_be_ended_later(
    alice: User, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent, capture: CaptureJob, client: Client
) -> None:
    client.force_login(alice)
    away(paris)
    page = press(client, "monitor:capture-stop", tunnel.pk, paris.pk, capture.pk)
    assert "paris is told to end the capture; beside it stands whether it heard." in page
    assert 'data-test="stop-failed"' in page
    assert "127.0.0.1:1" in page
    assert "Sent again when" in page
    assert "it goes on until then, or until its limit, in 9 min" in page
    assert "Try again to stop" in page
    row = capture_row(tunnel)
    assert row.stop is not None
    assert (row.state, row.stop.state, row.stop.job.requested_by) == ("running", "failed", alice)
    assert paris_agent.captures[str(capture.pk)].running
    back(paris, paris_agent)
    page = press(client, "monitor:capture-stop", tunnel.pk, paris.pk, capture.pk)
    assert 'data-test="stop-heard"' in page
    assert 'data-test="stop-failed"' not in page
    assert 'data-test="capture-stop"' not in page
    polling.poll(paris.pk)
    row = capture_row(tunnel)
    assert (row.state, row.stop) == ("done", None)
    assert AuditEvent.objects.filter(action="tunnel.capture.stop", actor="alice").count() == 2


def test_a_trace_that_does_not_hear_its_end_is_told_as_running_and_can_be_ended_later(
    alice: User, paris: Gateway, paris_agent: FakeAgent, trace: TraceJob, client: Client
) -> None:
    client.force_login(alice)
    away(paris)
    page = press(client, "monitor:trace-stop", paris.pk, trace.pk)
    assert 'data-test="stop-failed"' in page
    assert "it goes on until then, or until its limit, in 4 min" in page
    assert "Try again to stop" in page
    unheard(paris, 1)
    page = client.get(reverse("monitor:gateway", args=[paris.pk])).content.decode()
    assert 'data-test="traces-silent"' in page
    assert "Try again to stop" in page
    assert 'data-test="trace-download"' not in page
    back(paris, paris_agent)
    assert 'data-test="stop-heard"' in press(client, "monitor:trace-stop", paris.pk, trace.pk)
    polling.poll(paris.pk)
    row = trace_row(paris)
    assert (row.state, row.stop, row.endings) == ("done", None, (("", "switched off"),))


def test_while_nobody_knows_yet_nothing_is_claimed(
    alice: User, paris: Gateway, tunnel: Tunnel, capture: CaptureJob, client: Client
) -> None:
    client.force_login(alice)
    url = reverse("monitor:tunnel", args=[tunnel.pk])
    assert 'data-test="capture-stop"' in client.get(url).content.decode()
    job = services.request_stop(alice, tunnel, paris.pk, capture.pk)
    page = client.get(url).content.decode()
    assert 'data-test="stop-sent"' in page
    assert 'data-test="capture-stop"' not in page
    StopJob.objects.filter(pk=job.pk).update(created_at=timezone.now() - timedelta(seconds=91))
    page = client.get(url).content.decode()
    assert "not sent in time: no worker was free. Sent again when" in page
    assert "Try again to stop" in page


def test_an_end_that_was_not_heard_is_sent_again_when_the_gateway_is_heard(
    alice: User,
    paris: Gateway,
    tunnel: Tunnel,
    paris_agent: FakeAgent,
    capture: CaptureJob,
    sent: list[tuple[str, ...]],
) -> None:
    """By the poll that finds it, one order at a time, until it is heard."""
    with time_machine.travel(timezone.now(), tick=False) as clock:
        away(paris)
        given_up = services.request_stop(alice, tunnel, paris.pk, capture.pk)
        tasks.stop(str(given_up.pk))
        clock.shift(1)
        job = services.request_stop(alice, tunnel, paris.pk, capture.pk)
        tasks.stop(str(job.pk))
        again = ("monitor.stop", str(job.pk))
        clock.shift(20)
        sent.clear()
        tasks.poll_gateway(str(paris.pk))
        assert sent == []
        back(paris, paris_agent)
        for _ in range(2):
            tasks.poll_gateway(str(paris.pk))
        assert sent == [again]
        row = capture_row(tunnel)
        assert row.stop is not None
        assert row.stop.state == "sent"
        away(paris)
        tasks.stop(str(job.pk))
        back(paris, paris_agent)
        tasks.poll_gateway(str(paris.pk))
        assert sent == [again]  # not at once
        clock.shift(11)
        tasks.poll_gateway(str(paris.pk))
        assert sent == [again, again]
        tasks.sweep()  # which gives old orders up, and not what is on its way
        tasks.stop(str(job.pk))
        job.refresh_from_db()
        assert job.state == "accepted"
        clock.shift(60)
        tasks.poll_gateway(str(paris.pk))
    assert (capture_row(tunnel).state, capture_row(tunnel).stop) == ("done", None)
    assert AuditEvent.objects.filter(action="tunnel.capture.stop").count() == 2
    given_up.refresh_from_db()
    assert given_up.state == "failed"


def test_the_end_of_what_is_over_is_not_sent_again(
    alice: User, paris: Gateway, paris_agent: FakeAgent, trace: TraceJob, sent: list[tuple[str, ...]]
) -> None:
    away(paris)
    job = services.request_trace_stop(alice, paris, trace.pk)
    tasks.stop(str(job.pk))
    back(paris, paris_agent)
    StopJob.objects.filter(pk=job.pk).update(sent_at=timezone.now() - timedelta(minutes=1))
    polling.poll(paris.pk)
    StopJob.objects.filter(pk=job.pk).update(created_at=timezone.now() - stops.LONGEST)
    assert stops.send_again(paris.pk) == []
    StopJob.objects.filter(pk=job.pk).update(created_at=timezone.now())
    assert paris_agent.trace is not None
    ended = [dataclasses.replace(each, running=False) for each in paris_agent.trace.processes]
    paris_agent.trace = dataclasses.replace(paris_agent.trace, processes=tuple(ended))
    polling.poll(paris.pk)
    assert stops.send_again(paris.pk) == []
    running = [dataclasses.replace(each, running=True) for each in ended]
    paris_agent.trace = dataclasses.replace(paris_agent.trace, processes=tuple(running))
    polling.poll(paris.pk)
    assert stops.send_again(paris.pk) == [job.pk]


def test_what_its_gateway_has_no_more_has_ended(
    alice: User, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent, capture: CaptureJob
) -> None:
    paris_agent.captures.clear()
    job = services.request_stop(alice, tunnel, paris.pk, capture.pk)
    assert stops.perform(job.pk) == paris.pk
    job.refresh_from_db()
    assert (job.state, job.message) == ("accepted", "no such capture")
    assert stops.perform(job.pk) is None
    polling.poll(paris.pk)
    assert (capture_row(tunnel).state, capture_row(tunnel).stop) == ("deleted", None)


def test_what_is_over_by_its_limit_needs_no_end_any_more(
    alice: User, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent, capture: CaptureJob, client: Client
) -> None:
    client.force_login(alice)
    url = reverse("monitor:tunnel", args=[tunnel.pk])
    away(paris)
    press(client, "monitor:capture-stop", tunnel.pk, paris.pk, capture.pk)
    unheard(paris, 3)
    assert (capture_row(tunnel).state, capture_row(tunnel).overdue) == ("running", False)
    page = client.get(url).content.decode()
    assert "paris does not answer; as it was" in page
    assert "Try again to stop" in page
    unheard(paris, 11)
    assert (capture_row(tunnel).state, capture_row(tunnel).stop) == ("overdue", None)
    page = client.get(url).content.decode()
    assert "its time was over" in page
    assert 'data-test="stop-failed"' not in page
    assert 'data-test="capture-stop"' not in page


def test_the_api_tells_it_too(alice: User, paris: Gateway, tunnel: Tunnel, capture: CaptureJob, client: Client) -> None:
    _, text = create_api_token(alice, alice, "test")
    away(paris)
    tasks.stop(str(services.request_stop(alice, tunnel, paris.pk, capture.pk).pk))
    answer = client.get(f"/api/v1/tunnels/{tunnel.pk}", headers={"authorization": f"Bearer {text}"}).json()
    (told,) = answer["captures"]
    assert (told["state"], told["stop"]["state"]) == ("running", "failed")
    assert "127.0.0.1:1" in told["stop"]["message"]


def test_orders_that_got_lost_are_sent_again_and_old_ones_given_up(
    alice: User, paris: Gateway, trace: TraceJob, sent: list[tuple[str, ...]]
) -> None:
    with time_machine.travel(timezone.now(), tick=False) as clock:
        job = services.request_trace_stop(alice, paris, trace.pk)
        clock.shift(20)
        tasks.sweep()
        assert ("monitor.stop", str(job.pk)) in sent
        clock.shift(100)
        tasks.sweep()
    job.refresh_from_db()
    assert (job.state, job.message) == ("failed", "not sent in time: no worker was free")
