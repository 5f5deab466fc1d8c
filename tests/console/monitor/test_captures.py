"""Packet captures: who may, what is asked of the gateway, what comes back, what is written down."""

from __future__ import annotations

import asyncio
import dataclasses
from uuid import UUID, uuid4

import pytest
import time_machine
from django.contrib.auth.models import Permission
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import StreamingHttpResponse
from django.test import AsyncClient, Client
from django.urls import reverse
from pytest_django import DjangoCaptureOnCommitCallbacks

from agents.contract.captures import MOST_OCTETS, CaptureView
from tests.console.enrolled import MakeAgent, enrol
from tests.console.fake_agent import FakeAgent
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import captures, polling, queries, services, tasks
from vpnconsole.monitor.captures import MIB
from vpnconsole.monitor.models import CaptureJob
from vpnconsole.rollout import delivery as work
from vpnconsole.rollout import services as rollout
from vpnconsole.rollout.client import AgentBusy, AgentClient, AgentMisbehaved
from vpnconsole.rollout.models import Delivery
from vpnconsole.vpn.models import Tunnel

pytestmark = pytest.mark.usefixtures("sent")


@pytest.fixture
def deployed(paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent) -> FakeAgent:
    rollout.deploy(None, [paris.pk])
    delivery = Delivery.objects.get(gateway=paris)
    work.compile_delivery(delivery.pk)
    work.push_delivery(delivery.pk, "test")
    polling.poll(paris.pk)
    return paris_agent


def audited(action: str) -> AuditEvent:
    return AuditEvent.objects.get(action=f"tunnel.capture.{action}")


def begin(user: User, tunnel: Tunnel, gateway: Gateway, **changes: int) -> CaptureJob:
    bounds = {"seconds": 10, "octets": MIB} | changes
    return services.request_capture(user, tunnel, gateway.pk, "inner", **bounds)


def test_a_capture_is_asked_for_runs_and_is_ended(
    alice: User,
    paris: Gateway,
    tunnel: Tunnel,
    deployed: FakeAgent,
    sent: list[tuple[str, ...]],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        job = begin(alice, tunnel, paris)
    assert sent[-1] == ("monitor.start_capture", str(job.pk))
    for _ in range(2):
        tasks.start_capture(str(job.pk))
    (asked,) = deployed.capture_requests
    assert (asked.id, asked.tunnel_id, asked.view) == (str(job.pk), str(tunnel.pk), CaptureView.INNER)
    assert (asked.seconds, asked.octets) == (10, MIB)
    assert sent[-1] == ("monitor.poll_gateway", str(paris.pk))
    assert audited("start").details["gateway"] == "paris"
    polling.poll(paris.pk)
    (row,) = queries.tunnel_detail(tunnel.pk).plane.captures
    assert (row.state, row.job, row.gateway_name) == ("running", job, "paris")
    with django_capture_on_commit_callbacks(execute=True):
        stop = services.request_stop(alice, tunnel, paris.pk, job.pk)
    assert sent[-1] == ("monitor.stop", str(stop.pk))
    tasks.stop(str(stop.pk))
    assert sent[-1] == ("monitor.poll_gateway", str(paris.pk))
    polling.poll(paris.pk)
    (row,) = queries.tunnel_detail(tunnel.pk).plane.captures
    assert row.status is not None
    assert (row.state, row.status.packets, row.status.ended_because) == ("done", 7, "stopped")
    assert audited("stop").object_name == "tunnel paris-lyon"
    deployed.captures.clear()
    polling.poll(paris.pk)
    (row,) = queries.tunnel_detail(tunnel.pk).plane.captures
    assert row.state == "deleted"


def test_what_cannot_be_asked_for_is_refused_before_anything_is_stored(
    alice: User, paris: Gateway, tunnel: Tunnel, deployed: FakeAgent
) -> None:
    for changes, field in (({"seconds": 601}, "seconds"), ({"octets": MOST_OCTETS + 1}, "octets")):
        with pytest.raises(ValidationError) as caught:
            begin(alice, tunnel, paris, **changes)
        assert list(caught.value.message_dict) == [field]
    with pytest.raises(ValidationError):
        services.request_capture(alice, tunnel, paris.pk, "everything", 10, MIB)
    with pytest.raises(ValidationError):
        services.request_capture(alice, tunnel, uuid4(), "inner", 10, MIB)
    assert not CaptureJob.objects.exists()
    assert not AuditEvent.objects.filter(action__startswith="tunnel.capture").exists()


def test_only_who_may_see_traffic_captures(bob: User, paris: Gateway, tunnel: Tunnel, deployed: FakeAgent) -> None:
    with pytest.raises(PermissionDenied):
        begin(bob, tunnel, paris)
    with pytest.raises(PermissionDenied):
        services.request_stop(bob, tunnel, paris.pk, uuid4())
    with pytest.raises(PermissionDenied):
        captures.open_download(bob, tunnel, paris.pk, uuid4())
    assert not AuditEvent.objects.filter(action__startswith="tunnel.capture").exists()
    bob.user_permissions.add(Permission.objects.get(codename="capture_traffic"))
    assert begin(User.objects.get(pk=bob.pk), tunnel, paris).requested_by == bob


def test_a_gateway_that_refuses_or_is_silent_is_told(
    alice: User, paris: Gateway, tunnel: Tunnel, deployed: FakeAgent
) -> None:
    first, second = begin(alice, tunnel, paris), begin(alice, tunnel, paris)
    tasks.start_capture(str(first.pk))
    tasks.start_capture(str(second.pk))
    second.refresh_from_db()
    assert (second.state, second.message) == ("failed", "A capture is running already.")
    deployed.document = None
    third = begin(alice, tunnel, paris)
    tasks.start_capture(str(third.pk))
    third.refresh_from_db()
    assert third.state == "refused"
    assert "deploy first" in third.message


def test_a_capture_of_another_tunnel_is_not_given_out_under_this_ones_name(
    alice: User, paris: Gateway, tunnel: Tunnel, deployed: FakeAgent
) -> None:
    for ask in (services.request_stop, captures.open_download):
        with pytest.raises(ValidationError, match="no such capture of this tunnel"):
            ask(alice, tunnel, paris.pk, uuid4())


def test_an_agent_of_an_older_version_is_not_asked(alice: User, paris: Gateway, tunnel: Tunnel, client: Client) -> None:
    agent = enrol(paris)
    agent.schema = 3
    with agent:
        rollout.deploy(None, [paris.pk])
        delivery = Delivery.objects.get(gateway=paris)
        work.compile_delivery(delivery.pk)
        work.push_delivery(delivery.pk, "test")
        polling.poll(paris.pk)
        with AgentClient(paris) as talk, pytest.raises(AgentMisbehaved, match="too old"):
            talk.stop_capture(str(uuid4()))
        client.force_login(alice)
        page = client.get(reverse("monitor:tunnel", args=[tunnel.pk])).content.decode()
    assert 'data-test="capture-form"' not in page
    assert "of an older version" in page
    detail = queries.tunnel_detail(tunnel.pk)
    assert [end.rejected for end in detail.plane.ends if end.gateway_name == "paris"] == [None]


def test_the_page_offers_what_may_be_done(
    alice: User, bob: User, paris: Gateway, tunnel: Tunnel, deployed: FakeAgent, client: Client
) -> None:
    url = reverse("monitor:tunnel", args=[tunnel.pk])
    client.force_login(bob)
    page = client.get(url).content.decode()
    assert 'data-test="capture-refusal"' in page
    assert 'data-test="capture-form"' not in page
    start = reverse("monitor:capture-start", args=[tunnel.pk])
    wanted = {"gateway": str(paris.pk), "view": "outer", "seconds": "60", "octets": str(8 * MIB)}
    assert client.post(start, wanted).status_code == 403
    client.force_login(alice)
    page = client.get(url).content.decode()
    assert 'data-test="capture-form"' in page
    assert "On paris the tunnel has no interface of its own" in page
    (told,) = deployed.status().tunnels
    deployed.more = {"tunnels": (dataclasses.replace(told, interface="vpn12345678"),)}
    polling.poll(paris.pk)
    assert "no interface of its own" not in client.get(url).content.decode()
    page = client.post(start, wanted, follow=True).content.decode()
    assert "A capture of outer packets begins on paris." in page
    assert CaptureJob.objects.get().octets == 8 * MIB
    page = client.post(start, {**wanted, "seconds": "1"}, follow=True).content.decode()
    assert "At most: Select a valid choice" in page
    assert CaptureJob.objects.count() == 1
    assert client.get(start).status_code == 405


def test_forged_requests_are_refused(alice: User, paris: Gateway, tunnel: Tunnel, deployed: FakeAgent) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    capture = [tunnel.pk, paris.pk, uuid4()]
    for url in (
        reverse("monitor:capture-start", args=[tunnel.pk]),
        reverse("monitor:capture-stop", args=capture),
        reverse("monitor:capture-download", args=capture),
    ):
        assert strict.post(url).status_code == 403
    assert Client().post(reverse("monitor:capture-download", args=capture)).status_code == 302  # to the log-in


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_a_file_is_passed_on_as_it_comes(alice: User, paris: Gateway, tunnel: Tunnel, start_agent: MakeAgent) -> None:
    agent = start_agent(paris)
    rollout.deploy(None, [paris.pk])
    delivery = Delivery.objects.get(gateway=paris)
    work.compile_delivery(delivery.pk)
    work.push_delivery(delivery.pk, "test")
    job = begin(alice, tunnel, paris)
    tasks.start_capture(str(job.pk))
    agent.capture_file = b"\x0a\x0d\x0d\x0a" + bytes(range(256)) * 2_000

    async def fetch() -> tuple[StreamingHttpResponse, list[bytes]]:
        browser = AsyncClient()
        await browser.aforce_login(alice)
        url = reverse("monitor:capture-download", args=[tunnel.pk, paris.pk, job.pk])
        refused = await browser.post(url)
        assert refused.status_code == 302
        await asyncio.to_thread(_end, paris, job.pk)
        response = await browser.post(url)
        assert isinstance(response, StreamingHttpResponse)
        return response, [piece async for piece in response]

    response, pieces = asyncio.run(fetch())
    assert b"".join(pieces) == agent.capture_file
    assert len(pieces) > 1
    assert response["Content-Type"] == "application/x-pcapng"
    assert response["Content-Length"] == str(len(agent.capture_file))
    assert response["Cache-Control"].startswith("max-age=0, no-cache, no-store")
    name = f"paris-lyon-paris-{str(job.pk)[:8]}.pcapng"
    assert response["Content-Disposition"] == f'attachment; filename="{name}"'
    assert audited("download").details == {"gateway": "paris", "capture": str(job.pk)}


def _end(gateway: Gateway, capture_id: UUID) -> None:
    from django.db import connection

    with AgentClient(gateway) as talk:
        talk.stop_capture(str(capture_id))
    connection.close()


def test_the_client_names_what_the_agent_refuses(paris: Gateway, deployed: FakeAgent) -> None:
    with AgentClient(paris) as agent:
        with pytest.raises(AgentBusy, match="no such capture"):
            agent.stop_capture(str(uuid4()))
        with pytest.raises(AgentBusy, match="is running"), agent.fetch_capture(str(uuid4())):
            pass


def test_orders_that_got_lost_are_sent_again_and_old_ones_given_up(
    alice: User, paris: Gateway, tunnel: Tunnel, deployed: FakeAgent, sent: list[tuple[str, ...]]
) -> None:
    with time_machine.travel("2026-11-21T12:00:00Z", tick=False) as clock:
        job = begin(alice, tunnel, paris)
        clock.shift(20)
        tasks.sweep()
        assert ("monitor.start_capture", str(job.pk)) in sent
        clock.shift(100)
        tasks.sweep()
    job.refresh_from_db()
    assert (job.state, job.message) == ("failed", "not sent in time: no worker was free")
