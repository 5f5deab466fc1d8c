"""Polls against a real HTTPS agent: what is stored, what a restart or a hole does, who may poll."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from agents.contract.events import Severity
from agents.contract.status import Counters, Reason, TunnelState
from tests.console.enrolled import enrol
from tests.console.fake_agent import FakeAgent
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import polling, queries, tasks
from vpnconsole.monitor.choices import ConsoleState
from vpnconsole.monitor.models import CounterSample, EventRecord, GatewayObservation, TunnelObservation
from vpnconsole.rollout import delivery as work
from vpnconsole.rollout import services as rollout
from vpnconsole.rollout.models import Delivery
from vpnconsole.vpn.models import Tunnel

pytestmark = pytest.mark.usefixtures("sent")


@pytest.fixture
def deployed(paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent) -> FakeAgent:
    """Paris with the tunnel in force."""
    rollout.deploy(None, [paris.pk])
    delivery = Delivery.objects.get(gateway=paris)
    work.compile_delivery(delivery.pk)
    work.push_delivery(delivery.pk, "test")
    return paris_agent


def counted(bytes_in: int, bytes_out: int) -> Callable[[], Counters]:
    return lambda: Counters(bytes_in=bytes_in, bytes_out=bytes_out, packets_in=1, packets_out=2)


def observed(tunnel: Tunnel, gateway: Gateway) -> TunnelObservation:
    return TunnelObservation.objects.get(tunnel=tunnel, gateway=gateway)


def test_poll_stores_status_tunnels_and_contact(deployed: FakeAgent, paris: Gateway, tunnel: Tunnel) -> None:
    deployed.reason = Reason(code="ike.psk-mismatch", message="differs", field="preshared_keys")
    deployed.state = TunnelState.DOWN
    assert polling.poll(paris.pk)
    observation = GatewayObservation.objects.get(pk=paris.pk)
    assert observation.reachable
    assert observation.lease_until is None
    assert observation.status is not None
    assert observation.status["data_plane"]["driver"] == "userspace"
    row = observed(tunnel, paris)
    assert (row.state, row.reason and row.reason["code"]) == ("down", "ike.psk-mismatch")
    paris.refresh_from_db()
    assert paris.agent_version == "1.2.3"
    assert paris.last_contact_at is not None


def test_totals_of_an_agent_that_keeps_them_are_taken_as_they_are(
    deployed: FakeAgent, paris: Gateway, tunnel: Tunnel
) -> None:
    totals = []
    for boot_id, bytes_in in (("boot-1", 100), ("boot-2", 150), ("boot-2", 140), ("boot-2", 145)):
        deployed.boot_id, deployed.counters = boot_id, counted(bytes_in, 0)
        polling.poll(paris.pk)
        totals.append(observed(tunnel, paris).bytes_in)
    assert totals == [100, 150, 150, 155]


def test_totals_go_on_when_an_old_agent_counts_from_zero_again(
    deployed: FakeAgent, paris: Gateway, tunnel: Tunnel
) -> None:
    deployed.schema = 3
    deployed.counters = counted(100, 1000)
    polling.poll(paris.pk)
    deployed.counters = counted(150, 1600)
    polling.poll(paris.pk)
    row = observed(tunnel, paris)
    assert (row.bytes_in, row.bytes_out) == (150, 1600)
    deployed.boot_id, deployed.counters = "boot-2", counted(10, 20)
    polling.poll(paris.pk)
    row = observed(tunnel, paris)
    assert (row.bytes_in, row.bytes_out) == (160, 1620)
    assert row.rate_in_bps is None
    deployed.counters = counted(4, 5)
    polling.poll(paris.pk)
    row = observed(tunnel, paris)
    assert (row.bytes_in, row.bytes_out) == (164, 1625)


def test_daemon_that_cannot_be_asked_for_a_while_is_not_counted_twice(
    deployed: FakeAgent, paris: Gateway, tunnel: Tunnel
) -> None:
    with time_machine.travel(datetime(2026, 11, 21, 12, tzinfo=UTC), tick=False) as clock:
        deployed.counters = counted(1000, 2000)
        polling.poll(paris.pk)
        clock.shift(2)
        deployed.iked, deployed.counters = False, Counters
        polling.poll(paris.pk)
        assert observed(tunnel, paris).rate_in_bps is None
        clock.shift(2)
        deployed.iked, deployed.counters = True, counted(1500, 2600)
        polling.poll(paris.pk)
    row = observed(tunnel, paris)
    assert (row.bytes_in, row.bytes_out) == (1500, 2600)
    # Nobody knows when between the two readings it moved.
    assert row.rate_in_bps is None


def test_poll_that_outlived_its_lease_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, deployed: FakeAgent, paris: Gateway, tunnel: Tunnel
) -> None:
    deployed.counters = counted(1000, 2000)
    read_events = polling._read_events

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(polling, "_read_events", read_events)
        GatewayObservation.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
        deployed.counters = counted(1500, 2600)
        assert polling.poll(paris.pk)
        return read_events(*arguments)

    monkeypatch.setattr(polling, "_read_events", overtaken)
    polling.poll(paris.pk)
    row = observed(tunnel, paris)
    assert (row.bytes_in, row.bytes_out) == (1500, 2600)


@pytest.mark.parametrize("nonsense", [{"tunnel_id": "no-id"}, {"time": 1e300}, {"sequence": 2**70}])
def test_report_that_cannot_be_stored_is_said_and_tried_again(
    deployed: FakeAgent, paris: Gateway, tunnel: Tunnel, nonsense: dict[str, Any]
) -> None:
    deployed.emit("ike.sa-established")
    deployed.events[0] = dataclasses.replace(deployed.events[0], **nonsense)
    assert polling.poll(paris.pk)
    observation = GatewayObservation.objects.get(pk=paris.pk)
    assert "cannot be stored" in observation.error
    assert (observation.failures, observation.lease_until) == (1, None)
    deployed.events.clear()
    polling.poll(paris.pk)
    assert GatewayObservation.objects.get(pk=paris.pk).reachable


def test_rate_is_what_moved_between_two_readings(deployed: FakeAgent, paris: Gateway, tunnel: Tunnel) -> None:
    with time_machine.travel(datetime(2026, 11, 21, 12, tzinfo=UTC), tick=False) as clock:
        deployed.counters = counted(0, 0)
        polling.poll(paris.pk)
        assert observed(tunnel, paris).rate_out_bps is None
        clock.shift(2)
        deployed.counters = counted(500, 1000)
        polling.poll(paris.pk)
        row = observed(tunnel, paris)
        (shown,) = queries.tunnel_rows()
    assert (row.rate_in_bps, row.rate_out_bps) == (2000.0, 4000.0)
    assert shown.a_to_b.rate_bps == 4000.0
    assert shown.rate_bps == 6000.0


def test_samples_are_kept_every_ten_seconds_and_drawn_as_rates(
    deployed: FakeAgent, paris: Gateway, tunnel: Tunnel
) -> None:
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for step in range(11):
            deployed.counters = counted(step * 1000, step * 2000)
            polling.poll(paris.pk)
            clock.shift(2)
        assert CounterSample.objects.count() == 3
        points = queries.series(tunnel.pk, 60)
        assert [(point.a_to_b_bps, point.b_to_a_bps) for point in points] == [(8000.0, 4000.0)] * 2
        (total,) = queries.total_series(60, step_s=3600)[-1:]
        assert total.a_to_b_bps is not None
        clock.shift(120)
        deployed.counters = counted(20_000, 40_000)
        polling.poll(paris.pk)
        assert queries.series(tunnel.pk, 60)[-1].a_to_b_bps is None


def test_events_are_stored_once_and_in_order(deployed: FakeAgent, paris: Gateway, tunnel: Tunnel) -> None:
    deployed.emit("ike.sa-established", tunnel_id=str(tunnel.pk))
    deployed.emit("ike.no-proposal", received="3des", configured="aes", field="ike.proposals")
    deployed.emit("ike.sa-failed", tunnel_id="00000000-0000-4000-8000-00000000dead")
    polling.poll(paris.pk)
    polling.poll(paris.pk)
    rows = list(EventRecord.objects.order_by("sequence"))
    assert [row.sequence for row in rows] == [1, 2, 3]
    assert rows[0].tunnel == tunnel
    assert (rows[1].received, rows[1].configured, rows[1].severity) == ("3des", "aes", Severity.ERROR)
    assert rows[1].action == "Compare the IKE policies of both ends."
    assert rows[2].tunnel is None


def test_many_events_come_in_pages(monkeypatch: pytest.MonkeyPatch, deployed: FakeAgent, paris: Gateway) -> None:
    monkeypatch.setattr(polling, "EVENT_PAGE", 4)
    monkeypatch.setattr(polling, "MAX_EVENT_PAGES", 2)
    for _ in range(10):
        deployed.emit("ike.retransmit")
    polling.poll(paris.pk)
    assert EventRecord.objects.count() == 8
    polling.poll(paris.pk)
    assert EventRecord.objects.count() == 10


def test_journal_that_starts_again_is_told_apart(deployed: FakeAgent, paris: Gateway) -> None:
    for _ in range(3):
        deployed.emit("ike.retransmit")
    polling.poll(paris.pk)
    deployed.events.clear()
    deployed.emit("agent.started")
    polling.poll(paris.pk)
    assert [(row.epoch, row.sequence, row.code) for row in EventRecord.objects.order_by("id")][-1] == (
        1,
        1,
        "agent.started",
    )


def test_events_the_agent_no_longer_had_are_counted(deployed: FakeAgent, paris: Gateway) -> None:
    for _ in range(5):
        deployed.emit("ike.retransmit")
    deployed.oldest_event = 4
    polling.poll(paris.pk)
    assert GatewayObservation.objects.get().events_missed == 3
    assert EventRecord.objects.count() == 2


def test_two_lost_polls_make_a_gateway_unreachable_and_its_state_old(paris: Gateway, tunnel: Tunnel) -> None:
    with enrol(paris) as agent:
        rollout.deploy(None, [paris.pk])
        delivery = Delivery.objects.get(gateway=paris)
        work.compile_delivery(delivery.pk)
        work.push_delivery(delivery.pk, "test")
        polling.poll(paris.pk)
        polling.poll(paris.pk)
    assert agent.documents
    polling.poll(paris.pk)
    assert GatewayObservation.objects.get().reachable
    polling.poll(paris.pk)
    observation = GatewayObservation.objects.get()
    assert not observation.reachable
    assert observation.next_poll_at is not None
    paris.refresh_from_db()
    assert paris.last_contact_error
    (row,) = queries.tunnel_rows()
    assert row.state is ConsoleState.UNREACHABLE
    assert row.verdict.last_known is TunnelState.UP
    assert row.a_to_b.rate_bps is None
    gateway = next(each for each in queries.gateway_rows() if each.gateway == paris)
    assert gateway.state == "unreachable"
    assert gateway.problems


def test_gateway_that_comes_back_gets_what_waits_for_it(
    paris: Gateway, tunnel: Tunnel, sent: list[tuple[str, str]]
) -> None:
    agent = enrol(paris)
    rollout.deploy(None, [paris.pk])
    delivery = Delivery.objects.get(gateway=paris)
    work.compile_delivery(delivery.pk)
    work.push_delivery(delivery.pk, "test")
    (row,) = queries.tunnel_rows()
    assert row.state is ConsoleState.DEPLOYING
    assert row.verdict.step == "waiting for paris to answer"
    with agent:
        polling.poll(paris.pk)
    assert ("rollout.push_gateway", str(delivery.pk)) in sent


def test_one_poll_at_a_time(deployed: FakeAgent, paris: Gateway) -> None:
    polling.poll(paris.pk)
    GatewayObservation.objects.update(lease_until=timezone.now() + timedelta(seconds=5))
    assert not polling.poll(paris.pk)
    GatewayObservation.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert polling.poll(paris.pk)


def test_poll_all_asks_for_what_is_due_only(
    deployed: FakeAgent, paris: Gateway, lyon: Gateway, extranet: Gateway, sent: list[tuple[str, str]]
) -> None:
    tasks.poll_all()
    assert sent == [("monitor.poll_gateway", str(paris.pk))]
    sent.clear()
    polling.poll(paris.pk)
    GatewayObservation.objects.update(next_poll_at=timezone.now() + timedelta(seconds=5))
    tasks.poll_all()
    assert sent == []


def test_tunnel_the_gateway_no_longer_lists_is_not_counted_as_seen(
    deployed: FakeAgent, paris: Gateway, tunnel: Tunnel
) -> None:
    polling.poll(paris.pk)
    deployed.document = None
    polling.poll(paris.pk)
    assert not observed(tunnel, paris).present
    (row,) = queries.tunnel_rows()
    assert row.state is ConsoleState.NOT_DEPLOYED


def test_sweep_deletes_what_is_past_its_time(deployed: FakeAgent, paris: Gateway) -> None:
    deployed.emit("ike.retransmit")
    polling.poll(paris.pk)
    CounterSample.objects.update(at=timezone.now() - timedelta(hours=49))
    EventRecord.objects.update(at=timezone.now() - timedelta(days=31))
    tasks.sweep()
    assert not CounterSample.objects.exists()
    assert not EventRecord.objects.exists()
