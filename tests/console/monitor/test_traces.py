"""Traces of a gateway: who may, what is asked of it, how the trace stands on the page, what is written down."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import StreamingHttpResponse
from django.test import AsyncClient, Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from agents.contract.traces import MOST_OCTETS, MOST_SECONDS, Category
from tests.console.enrolled import MakeAgent, enrol
from tests.console.fake_agent import FakeAgent
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import polling, queries, services, tasks, traces
from vpnconsole.monitor.models import GatewayObservation, TraceJob
from vpnconsole.monitor.traces import GatewayTraces, TraceInput
from vpnconsole.rollout.client import AgentBusy, AgentClient, AgentMisbehaved

pytestmark = pytest.mark.usefixtures("sent")

WANTED = TraceInput(categories=["error", "tunnel"], seconds=300, octets=MOST_OCTETS, version=6)


@pytest.fixture
def heard(paris: Gateway, paris_agent: FakeAgent) -> FakeAgent:
    polling.poll(paris.pk)
    return paris_agent


def shown(gateway: Gateway) -> GatewayTraces:
    row, _ = queries.gateway_detail(gateway.pk)
    return traces.gateway_traces(row)


def begin(user: User, gateway: Gateway, **changes: Any) -> TraceJob:
    return services.request_trace(user, gateway, dataclasses.replace(WANTED, **changes))


def silence(gateway: Gateway, minutes: int) -> None:
    """Let the gateway not have been heard for so long."""
    then = timezone.now() - timedelta(minutes=minutes)
    GatewayObservation.objects.filter(pk=gateway.pk).update(reachable=False, reachable_since=then, read_at=then)


def audited(action: str) -> AuditEvent:
    return AuditEvent.objects.get(action=f"gateway.trace.{action}")


def test_a_trace_is_asked_for_runs_and_is_ended(
    alice: User,
    paris: Gateway,
    heard: FakeAgent,
    sent: list[tuple[str, ...]],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        job = begin(alice, paris)
    assert sent[-1] == ("monitor.start_trace", str(job.pk))
    assert [row.state for row in shown(paris).rows] == ["queued"]
    for _ in range(2):
        tasks.start_trace(str(job.pk))
    (asked,) = heard.trace_requests
    assert (asked.id, asked.categories) == (str(job.pk), (Category.ERROR, Category.TUNNEL))
    assert (asked.seconds, asked.octets, asked.version) == (300, MOST_OCTETS, 6)
    assert [row.state for row in shown(paris).rows] == ["accepted"]
    assert sent[-1] == ("monitor.poll_gateway", str(paris.pk))
    assert audited("start").object_name == "gateway paris"
    assert audited("start").details["categories"] == ["error", "tunnel"]
    polling.poll(paris.pk)
    (row,) = shown(paris).rows
    assert (row.state, row.job) == ("running", job)
    with django_capture_on_commit_callbacks(execute=True):
        stop = services.request_trace_stop(alice, paris, job.pk)
    assert sent[-1] == ("monitor.stop", str(stop.pk))
    tasks.stop(str(stop.pk))
    assert sent[-1] == ("monitor.poll_gateway", str(paris.pk))
    polling.poll(paris.pk)
    (row,) = shown(paris).rows
    assert (row.state, row.endings) == ("done", (("", "switched off"),))
    assert audited("stop").details == {"trace": str(job.pk)}


def test_processes_that_ended_for_their_own_reasons_are_named(alice: User, paris: Gateway, heard: FakeAgent) -> None:
    tasks.start_trace(str(begin(alice, paris).pk))
    assert heard.trace is not None
    agentd, iked, espd = heard.trace.processes
    full = dataclasses.replace(espd, running=False, ended_because="its octets are full")
    heard.trace = dataclasses.replace(heard.trace, processes=(agentd, iked, full))
    polling.poll(paris.pk)
    (row,) = shown(paris).rows
    assert (row.state, row.endings) == ("running", (("espd", "its octets are full"),))


def test_a_silent_gateway_is_told_and_a_trace_whose_time_is_over_does_not_look_running(
    alice: User, paris: Gateway, heard: FakeAgent, client: Client
) -> None:
    heard.clock_wrong_s = 7_200.0
    job = begin(alice, paris)
    tasks.start_trace(str(job.pk))
    polling.poll(paris.pk)
    client.force_login(alice)
    url = reverse("monitor:gateway", args=[paris.pk])
    page = client.get(url).content.decode()
    assert "ends in 4 min 59 s" in page
    assert 'data-test="trace-stop"' in page
    silence(paris, 3)
    (row,) = shown(paris).rows
    assert (row.state, shown(paris).silent) == ("running", True)
    page = client.get(url).content.decode()
    assert 'data-test="traces-silent"' in page
    assert 'data-test="trace-stop"' not in page
    assert 'data-test="trace-download"' not in page
    assert heard.trace is not None
    heard.trace = dataclasses.replace(heard.trace, ends_at=1e300)
    polling.poll(paris.pk)
    assert shown(paris).rows[0].state == "running"
    heard.trace = dataclasses.replace(heard.trace, ends_at=heard.trace.started_at + 300)
    polling.poll(paris.pk)
    silence(paris, 6)
    (row,) = shown(paris).rows
    assert row.state == "overdue"
    assert "its time was over" in client.get(url).content.decode()


def test_an_agent_that_does_not_answer_or_refuses_is_told(alice: User, paris: Gateway, heard: FakeAgent) -> None:
    first, second = begin(alice, paris), begin(alice, paris)
    tasks.start_trace(str(first.pk))
    tasks.start_trace(str(second.pk))
    second.refresh_from_db()
    assert (second.state, second.message) == ("failed", "A trace is running already.")
    paris.agent_port = 1
    paris.save()
    third = begin(alice, paris)
    tasks.start_trace(str(third.pk))
    third.refresh_from_db()
    assert third.state == "failed"
    assert "127.0.0.1:1" in third.message


def test_a_trace_that_the_gateway_has_no_more_is_told_so(alice: User, paris: Gateway, heard: FakeAgent) -> None:
    job = begin(alice, paris)
    tasks.start_trace(str(job.pk))
    heard.trace = None
    polling.poll(paris.pk)
    assert [row.state for row in shown(paris).rows] == ["accepted"]
    GatewayObservation.objects.filter(pk=paris.pk).update(read_at=timezone.now() + timedelta(seconds=6))
    assert [row.state for row in shown(paris).rows] == ["deleted"]


def test_an_agent_of_an_older_version_is_not_asked(alice: User, paris: Gateway, client: Client) -> None:
    agent = enrol(paris)
    agent.schema = 4
    client.force_login(alice)
    url = reverse("monitor:gateway", args=[paris.pk])
    assert "has not been heard from yet" in client.get(url).content.decode()
    with agent:
        polling.poll(paris.pk)
        with AgentClient(paris) as talk, pytest.raises(AgentMisbehaved, match="too old to trace"):
            talk.stop_trace(str(uuid4()))
        job = begin(alice, paris)
        tasks.start_trace(str(job.pk))
        page = client.get(url).content.decode()
    assert 'data-test="trace-form"' not in page
    assert "cannot be traced from here" in page
    assert "too old to trace: install the present version" in page


def test_what_cannot_be_asked_for_is_refused_before_anything_is_stored(
    alice: User, paris: Gateway, extranet: Gateway, heard: FakeAgent
) -> None:
    for changes, field in (
        ({"seconds": MOST_SECONDS + 1}, "seconds"),
        ({"octets": MOST_OCTETS + 1}, "octets"),
        ({"categories": []}, "categories"),
        ({"categories": ["everything"]}, "categories"),
        ({"version": 5}, "version"),
    ):
        with pytest.raises(ValidationError) as caught:
            begin(alice, paris, **changes)
        assert list(caught.value.message_dict) == [field]
    with pytest.raises(ValidationError, match="no agent that can be asked"):
        begin(alice, extranet)
    for ask in (services.request_trace_stop, traces.open_download):
        with pytest.raises(ValidationError, match="no such trace of this gateway"):
            ask(alice, paris, uuid4())
    assert not TraceJob.objects.exists()
    assert not AuditEvent.objects.filter(action__startswith="gateway.trace").exists()


def test_only_who_may_see_traffic_traces(bob: User, paris: Gateway, heard: FakeAgent, client: Client) -> None:
    for ask in (services.request_trace_stop, traces.open_download):
        with pytest.raises(PermissionDenied):
            ask(bob, paris, uuid4())
    with pytest.raises(PermissionDenied):
        begin(bob, paris)
    client.force_login(bob)
    page = client.get(reverse("monitor:gateway", args=[paris.pk])).content.decode()
    assert 'data-test="trace-refusal"' in page
    assert 'data-test="trace-form"' not in page
    wanted = {"categories": ["error"], "minutes": "5", "octets": str(MOST_OCTETS), "version": ""}
    assert client.post(reverse("monitor:trace-start", args=[paris.pk]), wanted).status_code == 403
    assert client.post(reverse("monitor:trace-stop", args=[paris.pk, uuid4()])).status_code == 403
    assert not AuditEvent.objects.filter(action__startswith="gateway.trace").exists()


def test_the_form_asks_for_what_was_chosen_and_keeps_it_when_something_is_missing(
    alice: User, paris: Gateway, heard: FakeAgent, client: Client
) -> None:
    client.force_login(alice)
    start = reverse("monitor:trace-start", args=[paris.pk])
    wanted = {
        "categories": ["filter", "crypto-information"],
        "minutes": "15",
        "octets": str(MOST_OCTETS),
        "version": "4",
    }
    response = client.post(start, wanted, follow=True)
    assert "A trace begins on paris." in response.content.decode()
    job = TraceJob.objects.get()
    assert (job.categories, job.seconds, job.version) == (["filter", "crypto-information"], 900, 4)
    response = client.post(start, {**wanted, "categories": []})
    page = response.content.decode()
    assert (response.status_code, TraceJob.objects.count()) == (422, 1)
    assert "Choose at least one" in page
    assert '<option value="15" selected>' in page
    assert f'hx-get="{reverse("monitor:gateway", args=[paris.pk])}"' in page
    assert client.get(start).url == reverse("monitor:gateway", args=[paris.pk])  # type: ignore[attr-defined]
    assert client.post(start, {**wanted, "minutes": "600"}).status_code == 422


def test_the_live_part_of_the_page_has_the_traces_and_not_the_form(
    alice: User, paris: Gateway, extranet: Gateway, heard: FakeAgent, client: Client
) -> None:
    client.force_login(alice)
    part = client.get(reverse("monitor:gateway", args=[paris.pk]), headers={"HX-Request": "true"}).content.decode()
    assert 'id="traces" hx-swap-oob="true"' in part
    assert 'data-test="trace-form"' not in part
    assert 'id="trace' not in client.get(reverse("monitor:gateway", args=[extranet.pk])).content.decode()


def test_forged_requests_are_refused(alice: User, paris: Gateway, heard: FakeAgent) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    trace = [paris.pk, uuid4()]
    for url in (
        reverse("monitor:trace-start", args=[paris.pk]),
        reverse("monitor:trace-stop", args=trace),
        reverse("monitor:trace-download", args=trace),
    ):
        assert strict.post(url).status_code == 403
    assert Client().post(reverse("monitor:trace-download", args=trace)).status_code == 302  # to the log-in


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_the_text_is_passed_on_as_it_comes(alice: User, paris: Gateway, start_agent: MakeAgent) -> None:
    agent = start_agent(paris)
    job = begin(alice, paris)
    agent.trace_text = b"# Trace\n" + b"2026-11-27 07:00:00.000001  iked    tunnel  an SA\n" * 4_000

    async def fetch() -> tuple[StreamingHttpResponse, list[bytes]]:
        browser = AsyncClient()
        await browser.aforce_login(alice)
        url = reverse("monitor:trace-download", args=[paris.pk, job.pk])
        refused = await browser.post(url)
        assert refused.status_code == 302
        await asyncio.to_thread(_start, str(job.pk))
        response = await browser.post(url)
        assert isinstance(response, StreamingHttpResponse)
        return response, [piece async for piece in response]

    response, pieces = asyncio.run(fetch())
    assert b"".join(pieces) == agent.trace_text
    assert len(pieces) > 1
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    assert response["Content-Length"] == str(len(agent.trace_text))
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Cache-Control"].startswith("max-age=0, no-cache, no-store")
    assert response["Content-Disposition"] == f'attachment; filename="paris-trace-{str(job.pk)[:8]}.txt"'
    assert audited("download").details == {"trace": str(job.pk)}


def _start(job_id: str) -> None:
    from django.db import connection

    tasks.start_trace(job_id)
    connection.close()


def test_the_client_names_what_the_agent_refuses(paris: Gateway, heard: FakeAgent) -> None:
    with AgentClient(paris) as agent:
        with pytest.raises(AgentBusy, match="no such trace"):
            agent.stop_trace(str(uuid4()))
        with pytest.raises(AgentBusy, match="no such trace"), agent.fetch_trace(str(uuid4())):
            pass


def test_orders_that_got_lost_are_sent_again_and_old_ones_given_up(
    alice: User, paris: Gateway, heard: FakeAgent, sent: list[tuple[str, ...]]
) -> None:
    with time_machine.travel("2026-11-21T12:00:00Z", tick=False) as clock:
        job = begin(alice, paris)
        clock.shift(20)
        tasks.sweep()
        assert ("monitor.start_trace", str(job.pk)) in sent
        clock.shift(100)
        tasks.sweep()
    job.refresh_from_db()
    assert (job.state, job.message) == ("failed", "not sent in time: no worker was free")


def test_a_trace_of_the_command_line_is_shown_and_can_be_ended(alice: User, paris: Gateway, heard: FakeAgent) -> None:
    job = begin(alice, paris)
    tasks.start_trace(str(job.pk))
    job.delete()
    polling.poll(paris.pk)
    (row,) = shown(paris).rows
    assert (row.job, row.state) == (None, "running")
    services.request_trace_stop(alice, paris, row.id)
    assert audited("stop").actor == "alice"
