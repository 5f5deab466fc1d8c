"""Actions: which end is asked, what comes back, and that an old order is not carried out late."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from agents.contract.actions import Verb
from tests.console.enrolled import enrol
from tests.console.fake_agent import FakeAgent
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import actions, services, tasks
from vpnconsole.monitor.choices import JobState
from vpnconsole.monitor.models import ActionJob, GatewayObservation
from vpnconsole.rollout import delivery as work
from vpnconsole.rollout import services as rollout
from vpnconsole.rollout.models import Delivery
from vpnconsole.vpn.models import Tunnel, TunnelEnd

pytestmark = pytest.mark.usefixtures("sent")


def deploy(gateway: Gateway) -> None:
    rollout.deploy(None, [gateway.pk])
    delivery = Delivery.objects.get(gateway=gateway)
    work.compile_delivery(delivery.pk)
    work.push_delivery(delivery.pk, "test")


def test_action_reaches_the_agent_and_is_audited(
    alice: User,
    paris: Gateway,
    tunnel: Tunnel,
    paris_agent: FakeAgent,
    sent: list[tuple[str, str]],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    deploy(paris)
    with django_capture_on_commit_callbacks(execute=True):
        job = services.request_action(alice, tunnel, "rekey-child")
    assert sent == [("monitor.perform_action", str(job.pk))]
    tasks.perform_action(str(job.pk))
    job.refresh_from_db()
    assert (job.state, job.message) == (JobState.ACCEPTED, "rekey-child begun")
    (action,) = paris_agent.actions
    assert (action.id, action.verb, action.tunnel_id) == (str(job.pk), Verb.REKEY_CHILD, str(tunnel.pk))
    assert sent[-1] == ("monitor.poll_gateway", str(paris.pk))
    assert AuditEvent.objects.filter(action="tunnel.action.rekey-child", actor="alice").exists()
    tasks.perform_action(str(job.pk))
    assert len(paris_agent.actions) == 1


def test_unknown_tunnel_and_silent_gateway_are_told(alice: User, paris: Gateway, tunnel: Tunnel) -> None:
    agent = enrol(paris)
    job = services.request_action(alice, tunnel, "clear-ike")
    actions.perform(job.pk)
    job.refresh_from_db()
    assert job.state == JobState.FAILED
    with agent:
        job = services.request_action(alice, tunnel, "clear-ike")
        actions.perform(job.pk)
    job.refresh_from_db()
    assert job.state == JobState.REFUSED
    assert "deploy first" in job.message


def test_reachable_end_is_asked_and_a_responder_does_not_start(
    alice: User, paris: Gateway, lyon: Gateway, tunnel: Tunnel
) -> None:
    enrol(paris)
    enrol(lyon)
    assert services.request_action(alice, tunnel, "clear-ike").gateway == paris
    GatewayObservation.objects.create(gateway=lyon, reachable=True)
    assert services.request_action(alice, tunnel, "clear-ike").gateway == lyon
    assert services.request_action(alice, tunnel, "clear-ike", paris.pk).gateway == paris
    TunnelEnd.objects.filter(gateway=lyon).update(connection_type="responder-only")
    assert services.request_action(alice, tunnel, "initiate").gateway == paris
    with pytest.raises(ValidationError) as caught:
        services.request_action(alice, tunnel, "initiate", lyon.pk)
    assert "verb" in caught.value.message_dict


@pytest.mark.parametrize("verb", ["", "explode", "INITIATE"])
def test_unknown_verb_is_refused(verb: str, alice: User, tunnel: Tunnel) -> None:
    with pytest.raises(ValidationError) as caught:
        services.request_action(alice, tunnel, verb)
    assert list(caught.value.message_dict) == ["verb"]


def test_no_enrolled_end_is_refused(alice: User, tunnel: Tunnel) -> None:
    with pytest.raises(ValidationError) as caught:
        services.request_action(alice, tunnel, "clear-ike")
    assert list(caught.value.message_dict) == ["gateway"]


def test_lost_order_is_sent_again_but_not_for_ever(
    alice: User, paris: Gateway, tunnel: Tunnel, sent: list[tuple[str, str]]
) -> None:
    enrol(paris)
    job = services.request_action(alice, tunnel, "clear-ike")
    tasks.sweep()
    assert sent == []
    ActionJob.objects.update(created_at=timezone.now() - timedelta(seconds=20))
    tasks.sweep()
    assert sent == [("monitor.perform_action", str(job.pk))]
    ActionJob.objects.update(created_at=timezone.now() - timedelta(minutes=5))
    tasks.sweep()
    job.refresh_from_db()
    assert job.state == JobState.FAILED
    assert actions.perform(job.pk) is None
