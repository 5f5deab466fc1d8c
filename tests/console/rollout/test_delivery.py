"""Deliveries against a real HTTPS agent: taken, refused, conflicting, silent, taken over; and what previews say."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from agents.contract import codec
from agents.contract.status import Refusal
from tests.console import cast
from tests.console.enrolled import MakeAgent, enrol
from tests.console.fake_agent import FakeAgent, hold
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.gateways.models import Gateway
from vpnconsole.rollout import delivery as work
from vpnconsole.rollout import queries, services, snapshot, tasks
from vpnconsole.rollout.choices import DeliveryState
from vpnconsole.rollout.models import Delivery, Deployment, GatewayRollout, Revision
from vpnconsole.vpn import services as vpn
from vpnconsole.vpn.inputs import TunnelInput
from vpnconsole.vpn.models import Tunnel

pytestmark = pytest.mark.usefixtures("sent")


def deploy(user: User | None = None, *gateways: Gateway) -> Deployment:
    return services.deploy(user, [gateway.pk for gateway in gateways] if gateways else None)


def of(deployment: Deployment, gateway: Gateway) -> Delivery:
    return Delivery.objects.get(deployment=deployment, gateway=gateway)


def carry(deployment: Deployment, gateway: Gateway, claimant: str = "worker-1") -> Delivery:
    """Do what the two tasks do."""
    delivery = of(deployment, gateway)
    if work.compile_delivery(delivery.pk):
        work.push_delivery(delivery.pk, claimant)
    delivery.refresh_from_db()
    return delivery


def test_document_reaches_the_gateway_and_is_in_force(
    alice: User, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    delivery = carry(deploy(alice, paris), paris)
    assert delivery.state == DeliveryState.APPLIED
    assert delivery.percent == 100
    (document,) = paris_agent.documents
    assert document.generation == 1
    assert [row.name for row in document.tunnels] == ["paris-lyon"]
    assert document.preshared_keys[0].secret.reveal() == cast.PLANTED.encode()
    revision = delivery.revision
    assert revision is not None
    assert revision.digest == codec.digest(document)
    assert revision.created_by == alice
    assert list(revision.tunnels) == [str(tunnel.pk)]


def test_deploy_sends_ids_only_and_after_commit(
    alice: User,
    paris: Gateway,
    lyon: Gateway,
    extranet: Gateway,
    sent: list[tuple[str, str]],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        deployment = deploy(alice)
        assert sent == []
    deliveries = Delivery.objects.filter(deployment=deployment)
    assert {delivery.gateway for delivery in deliveries} == {paris, lyon}
    assert set(sent) == {("rollout.compile_gateway", str(delivery.pk)) for delivery in deliveries}
    assert AuditEvent.objects.filter(action="rollout.deployed", actor="alice").exists()


def test_nothing_to_deploy_to_is_said(extranet: Gateway) -> None:
    with pytest.raises(ValidationError, match="no managed gateway"):
        deploy()


def test_same_intent_again_is_unchanged(paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent) -> None:
    carry(deploy(None, paris), paris)
    again = carry(deploy(None, paris), paris)
    assert again.state == DeliveryState.UNCHANGED
    assert Revision.objects.filter(gateway=paris).count() == 1
    assert paris_agent.puts == 1


def test_edit_makes_the_next_generation(
    alice: User, paris: Gateway, lyon: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    carry(deploy(None, paris), paris)
    vpn.set_enabled(alice, tunnel, False)
    delivery = carry(deploy(None, paris), paris)
    assert delivery.state == DeliveryState.APPLIED
    assert [document.generation for document in paris_agent.documents] == [1, 2]
    assert not paris_agent.documents[1].tunnels[0].enabled
    assert paris_agent.documents[0].nonce != paris_agent.documents[1].nonce


def test_refused_document_says_where_and_keeps_the_old_one(
    alice: User, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    carry(deploy(None, paris), paris)
    vpn.set_enabled(alice, tunnel, False)
    paris_agent.refuse = ("tunnels[0].local.address", "192.0.2.1 is not an address of this host")
    delivery = carry(deploy(None, paris), paris)
    assert delivery.state == DeliveryState.REFUSED
    assert delivery.refused_path == "tunnels[0].local.address"
    assert delivery.refused_message == "192.0.2.1 is not an address of this host"
    assert paris_agent.document is not None
    assert paris_agent.document.generation == 1
    paris_agent.refuse = None
    services.retry(alice, delivery)
    assert carry(delivery.deployment, paris).state == DeliveryState.APPLIED
    assert paris_agent.document.generation == 2


def test_silent_gateway_is_pending_and_gets_it_when_it_appears(
    paris: Gateway, tunnel: Tunnel, sent: list[tuple[str, str]]
) -> None:
    agent = enrol(paris)
    delivery = carry(deploy(None, paris), paris)
    assert delivery.state == DeliveryState.WAITING_GATEWAY
    assert delivery.next_attempt_at is not None
    assert "127.0.0.1" in delivery.error
    assert not tasks.unpushed(timezone.now()).exists()
    assert list(tasks.unpushed(timezone.now() + timedelta(minutes=1))) == [delivery]
    tasks.resume_waiting(paris.pk)
    assert sent == [("rollout.push_gateway", str(delivery.pk))]
    with agent:
        work.push_delivery(delivery.pk, "worker-2")
    delivery.refresh_from_db()
    assert delivery.state == DeliveryState.APPLIED
    assert delivery.attempts == 2
    assert delivery.error == ""


def test_gateway_that_is_not_enrolled_is_waited_for(paris: Gateway, tunnel: Tunnel) -> None:
    delivery = carry(deploy(None, paris), paris)
    assert delivery.state == DeliveryState.WAITING_GATEWAY
    assert "enrol" in delivery.step


def test_agent_with_the_certificate_of_another_gateway_is_not_spoken_to(
    paris: Gateway, lyon: Gateway, tunnel: Tunnel
) -> None:
    with enrol(paris, issued_for=lyon) as impostor:
        delivery = carry(deploy(None, paris), paris)
    assert delivery.state == DeliveryState.WAITING_GATEWAY
    assert "certificate" in delivery.error.lower()
    assert impostor.puts == 0


def test_push_under_way_is_left_alone_until_its_lease_ends(
    paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    delivery = of(deploy(None, paris), paris)
    work.compile_delivery(delivery.pk)
    Delivery.objects.filter(pk=delivery.pk).update(
        state=DeliveryState.PUSHING, claimed_by="task-1", claimed_until=timezone.now() + timedelta(seconds=20)
    )
    work.push_delivery(delivery.pk, "task-2")
    assert paris_agent.puts == 0
    work.push_delivery(delivery.pk, "task-1")
    delivery.refresh_from_db()
    assert delivery.state == DeliveryState.APPLIED


def test_dead_workers_push_is_taken_over_when_its_lease_has_ended(
    paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    delivery = of(deploy(None, paris), paris)
    work.compile_delivery(delivery.pk)
    Delivery.objects.filter(pk=delivery.pk).update(
        state=DeliveryState.PUSHING, claimed_by="task-1", claimed_until=timezone.now() - timedelta(seconds=1)
    )
    assert list(tasks.unpushed(timezone.now())) == [delivery]
    work.push_delivery(delivery.pk, "task-2")
    delivery.refresh_from_db()
    assert delivery.state == DeliveryState.APPLIED


def test_newer_deployment_supersedes_and_the_older_revision_is_not_pushed(
    alice: User, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    old = of(deploy(None, paris), paris)
    work.compile_delivery(old.pk)
    vpn.set_enabled(alice, tunnel, False)
    new = carry(deploy(None, paris), paris)
    work.push_delivery(old.pk, "late")
    old.refresh_from_db()
    assert old.state == DeliveryState.SUPERSEDED
    assert new.state == DeliveryState.APPLIED
    assert [document.generation for document in paris_agent.documents] == [2]
    with pytest.raises(ValidationError, match="newer deployment"):
        services.retry(alice, old)


def test_console_restored_from_a_backup_continues_above_the_gateways_generation(
    paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    first = carry(deploy(None, paris), paris)
    hold(paris_agent, paris_agent.documents[0], generation=41)
    Revision.objects.all().delete()
    GatewayRollout.objects.all().delete()
    again = carry(deploy(None, paris), paris)
    assert first.pk != again.pk
    assert again.state == DeliveryState.APPLIED
    assert paris_agent.document is not None
    assert paris_agent.document.generation == 42
    assert again.revision is not None
    assert again.revision.generation == 42


def test_same_generation_with_other_content_is_adopted_too(
    paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    carry(deploy(None, paris), paris)
    hold(paris_agent, paris_agent.documents[0], nonce="f" * 32)
    GatewayRollout.objects.all().delete()
    again = carry(deploy(None, paris), paris)
    assert again.state == DeliveryState.APPLIED
    assert paris_agent.document is not None
    assert paris_agent.document.generation == 2


def test_slow_gateway_is_accepted_first_and_settled_by_its_status(
    monkeypatch: pytest.MonkeyPatch, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    monkeypatch.setattr(work, "CONFIRM_S", 0.0)
    paris_agent.applied = 0
    delivery = carry(deploy(None, paris), paris)
    assert delivery.state == DeliveryState.ACCEPTED
    paris_agent.applied = 1
    work.record_status(paris.pk, paris_agent.status())
    delivery.refresh_from_db()
    assert delivery.state == DeliveryState.APPLIED


def test_document_that_is_refused_after_all_is_shown_as_refused(
    monkeypatch: pytest.MonkeyPatch, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    monkeypatch.setattr(work, "CONFIRM_S", 0.0)
    paris_agent.applied = 0
    delivery = carry(deploy(None, paris), paris)
    paris_agent.document = None
    paris_agent.refusal = Refusal(generation=1, path="data_plane", message="the kernel has no ESP", at=1.0)
    work.record_status(paris.pk, paris_agent.status())
    delivery.refresh_from_db()
    assert (delivery.state, delivery.refused_path) == (DeliveryState.REFUSED, "data_plane")


def test_refusal_of_an_earlier_attempt_does_not_settle_the_next_one(
    monkeypatch: pytest.MonkeyPatch, alice: User, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    monkeypatch.setattr(work, "CONFIRM_S", 0.0)
    paris_agent.refuse = ("tunnels[0].local.address", "192.0.2.1 is not an address of this host")
    delivery = carry(deploy(None, paris), paris)
    assert delivery.state == DeliveryState.REFUSED
    asked_at, before = timezone.now(), paris_agent.status()
    services.retry(alice, delivery)
    assert work.compile_delivery(delivery.pk)
    Delivery.objects.update(state=DeliveryState.PUSHING, claimed_until=timezone.now())
    work.record_status(paris.pk, before)
    delivery.refresh_from_db()
    assert delivery.state == DeliveryState.PUSHING
    paris_agent.refuse, paris_agent.refusal, paris_agent.applied = None, None, 0
    work.push_delivery(delivery.pk, "worker-2")
    work.record_status(paris.pk, before, asked_at)
    delivery.refresh_from_db()
    assert delivery.state == DeliveryState.ACCEPTED
    assert GatewayRollout.objects.get(pk=paris.pk).accepted_generation == 1


def test_superseded_delivery_makes_no_revision_above_the_newer_one(
    monkeypatch: pytest.MonkeyPatch, alice: User, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    old = of(deploy(None, paris), paris)
    newer: list[Delivery] = []
    still = snapshot.still

    def held_up() -> AbstractContextManager[None]:
        monkeypatch.setattr(snapshot, "still", still)
        newer.append(of(deploy(None, paris), paris))
        assert work.compile_delivery(newer[0].pk)
        vpn.set_enabled(alice, tunnel, False)
        return still()

    monkeypatch.setattr(snapshot, "still", held_up)
    assert not work.compile_delivery(old.pk)
    assert Revision.objects.count() == 1
    work.push_delivery(newer[0].pk, "worker")
    newer[0].refresh_from_db()
    assert newer[0].state == DeliveryState.APPLIED


def test_broken_agent_is_tried_again_later(paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent) -> None:
    paris_agent.problem_status = 500
    delivery = carry(deploy(None, paris), paris)
    assert delivery.state == DeliveryState.WAITING_GATEWAY
    assert delivery.error == "HTTP 500: out of order"
    assert not delivery.awaits_contact


def test_reinstalled_gateway_gets_its_document_again(
    paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent, sent: list[tuple[str, str]]
) -> None:
    delivery = carry(deploy(None, paris), paris)
    paris_agent.document = None
    work.record_status(paris.pk, paris_agent.status())
    tasks.sweep()
    assert sent == [("rollout.push_gateway", str(delivery.pk))]
    work.push_delivery(delivery.pk, "sweep")
    delivery.refresh_from_db()
    assert delivery.state == DeliveryState.APPLIED
    assert [document.generation for document in paris_agent.documents] == [1, 1]


def test_sweep_finds_a_lost_compile(paris: Gateway, tunnel: Tunnel, sent: list[tuple[str, str]]) -> None:
    delivery = of(deploy(None, paris), paris)
    tasks.sweep()
    assert sent == []
    Delivery.objects.update(updated_at=timezone.now() - timedelta(seconds=60))
    tasks.sweep()
    assert sent == [("rollout.compile_gateway", str(delivery.pk))]


def test_impossible_intent_fails_with_its_path(paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent) -> None:
    Tunnel.objects.update(mtu=20)
    delivery = carry(deploy(None, paris), paris)
    assert delivery.state == DeliveryState.FAILED
    assert delivery.refused_path == "tunnels[0].mtu"
    (row,) = services.preview([paris.pk])
    assert row.error_path == "tunnels[0].mtu"


def test_preview_tells_each_gateway_what_changes(
    alice: User, paris: Gateway, lyon: Gateway, extranet: Gateway, tunnel: Tunnel, start_agent: MakeAgent
) -> None:
    before = services.preview()
    assert [(row.gateway_name, row.first, [str(each) for each in row.changes]) for row in before] == [
        ("lyon", True, ["tunnel paris-lyon added"]),
        ("paris", True, ["tunnel paris-lyon added"]),
    ]
    start_agent(paris)
    carry(deploy(None, paris), paris)
    vpn.update_tunnel(alice, tunnel, _with(tunnel, mtu=1300))
    (row,) = services.preview([paris.pk])
    assert [str(each) for each in row.changes] == ["tunnel paris-lyon changed: MTU: none → 1300"]
    assert cast.PLANTED not in repr(row)


def _with(tunnel: Tunnel, **changes: object) -> TunnelInput:
    import dataclasses

    return dataclasses.replace(TunnelInput.of(tunnel), **changes)  # type: ignore[arg-type]


def test_progress_knows_what_is_held_and_what_is_on_its_way(
    alice: User, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    key = str(tunnel.pk)
    assert not queries.progress_by_gateway()[paris.pk].holds(key)
    deployment = deploy(None, paris)
    assert queries.progress_by_gateway()[paris.pk].delivers(key)
    carry(deployment, paris)
    progress = queries.progress_by_gateway()[paris.pk]
    assert progress.holds(key)
    assert not progress.delivers(key)
    assert (progress.newest_generation, progress.applied_generation) == (1, 1)


def test_old_revisions_are_pruned(monkeypatch: pytest.MonkeyPatch, paris: Gateway, tunnel: Tunnel) -> None:
    monkeypatch.setattr(tasks, "KEPT_REVISIONS", 2)
    deployment = deploy(None, paris)
    work.compile_delivery(of(deployment, paris).pk)
    first = Revision.objects.get()
    for generation in (2, 3):
        Revision.objects.create(
            gateway=paris, generation=generation, document=first.document, digest="", content_digest=""
        )
    tasks.sweep()
    assert sorted(Revision.objects.values_list("generation", flat=True)) == [2, 3]


def test_unknown_delivery_is_nothing_to_do(db: None) -> None:
    missing = UUID(int=7)
    assert not work.compile_delivery(missing)
    work.push_delivery(missing, "worker")


def test_generation_made_twice_at_once_waits_for_the_sweep(
    monkeypatch: pytest.MonkeyPatch, paris: Gateway, tunnel: Tunnel
) -> None:
    delivery = of(deploy(None, paris), paris)
    store = work._store

    def twice(*arguments: Any) -> Revision:
        store(*arguments)
        return store(*arguments)

    monkeypatch.setattr(work, "_store", twice)
    assert not work.compile_delivery(delivery.pk)
    delivery.refresh_from_db()
    assert (delivery.state, delivery.revision) == (DeliveryState.WAITING, None)
    monkeypatch.undo()
    assert work.compile_delivery(delivery.pk)


def test_lost_key_file_fails_the_delivery_in_words(
    tmp_path: Path, settings: Any, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    pushed = of(deploy(None, paris), paris)
    work.compile_delivery(pushed.pk)
    settings.VPNCONSOLE_KEK_FILE = tmp_path / "lost"
    work.push_delivery(pushed.pk, "worker")
    compiled = carry(deploy(None, paris), paris)
    pushed.refresh_from_db()
    for delivery in (pushed, compiled):
        assert delivery.state == DeliveryState.FAILED
        assert "restore it from the backup" in delivery.error
