"""Rows for pages: nothing configured is missing, and the number of queries does not grow with the number of tunnels."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from uuid import UUID

import pytest
import time_machine
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from tests.console import cast
from tests.console.fake_agent import FakeAgent, hold
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import polling, queries
from vpnconsole.monitor.choices import ConsoleState
from vpnconsole.monitor.models import EventRecord, TunnelObservation
from vpnconsole.rollout import delivery as work
from vpnconsole.rollout import services as rollout
from vpnconsole.rollout.models import Delivery
from vpnconsole.vpn import services as vpn
from vpnconsole.vpn.inputs import EndInput, SelectorInput
from vpnconsole.vpn.models import Tunnel

pytestmark = pytest.mark.usefixtures("sent")


def deploy(gateway: Gateway) -> None:
    rollout.deploy(None, [gateway.pk])
    delivery = Delivery.objects.filter(gateway=gateway).latest("deployment__created_at")
    work.compile_delivery(delivery.pk)
    work.push_delivery(delivery.pk, "test")


def test_every_configured_tunnel_is_listed(paris: Gateway, lyon: Gateway, extranet: Gateway, tunnel: Tunnel) -> None:
    cast.make_tunnel(paris, extranet)
    rows = queries.tunnel_rows()
    assert [(row.name, row.state) for row in rows] == [
        ("paris-extranet", ConsoleState.NOT_DEPLOYED),
        ("paris-lyon", ConsoleState.NOT_DEPLOYED),
    ]
    assert rows[0].stale


def test_detail_joins_pairs_with_what_the_gateway_says(
    paris: Gateway, lyon: Gateway, tunnel: Tunnel, paris_agent: FakeAgent, lyon_agent: FakeAgent
) -> None:
    deploy(paris)
    deploy(lyon)
    paris_agent.emit("ike.sa-established", tunnel_id=str(tunnel.pk))
    polling.poll(paris.pk)
    polling.poll(lyon.pk)
    detail = queries.tunnel_detail(tunnel.pk)
    assert detail.row.state is ConsoleState.UP
    assert [(pair.seq, pair.up, pair.seen_from) for pair in detail.pairs] == [(1, True, "paris")]
    assert detail.row.end_b.status is not None
    assert [event.code for event in detail.events] == ["ike.sa-established"]
    with pytest.raises(Tunnel.DoesNotExist):
        queries.tunnel_detail(UUID(int=1))


def test_dashboard_counts_states_and_gateways(
    paris: Gateway, lyon: Gateway, extranet: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    cast.make_tunnel(paris, extranet)
    deploy(paris)
    polling.poll(paris.pk)
    board = queries.dashboard()
    assert [(count.state, count.count) for count in board.counts] == [(ConsoleState.UP, 2)]
    assert (board.gateways_reachable, board.gateways_managed) == (1, 2)
    assert [row.state for row in board.gateways] == ["extranet", "not-enrolled", "reachable"]
    row, tunnels = queries.gateway_detail(paris.pk)
    assert (row.tunnels_up, row.tunnels_total) == (2, 2)
    assert len(tunnels) == 2
    assert row.progress is not None
    assert row.progress.applied_generation == 1


def test_queries_do_not_grow_with_the_number_of_tunnels(
    paris: Gateway,
    lyon: Gateway,
    tunnel: Tunnel,
    paris_agent: FakeAgent,
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    for index in range(8):
        data = dataclasses.replace(
            cast.tunnel_input(paris, lyon, tunnel.preshared_key),
            name=f"more-{index}",
            end_a=EndInput(gateway=paris, address=cast.PARIS_ADDRESS, identity_type="fqdn", identity_value=f"p{index}"),
            end_b=EndInput(gateway=lyon, address=cast.LYON_ADDRESS, identity_type="fqdn", identity_value=f"l{index}"),
            selectors=[SelectorInput(network_a=f"10.10.{index}.0/24", network_b=f"10.20.{index}.0/24")],
        )
        vpn.create_tunnel(None, data)
    deploy(paris)
    polling.poll(paris.pk)
    with django_assert_max_num_queries(16):
        assert len(queries.tunnel_rows()) == 9
    with django_assert_max_num_queries(32):
        queries.dashboard()


def test_events_are_filtered(paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent) -> None:
    deploy(paris)
    paris_agent.emit("ike.sa-established", tunnel_id=str(tunnel.pk))
    paris_agent.emit("ike.no-proposal")
    polling.poll(paris.pk)
    assert [row.code for row in queries.events(severity="error")] == ["ike.no-proposal"]
    assert [row.code for row in queries.events(tunnel_id=tunnel.pk)] == ["ike.sa-established"]
    first = EventRecord.objects.order_by("id").first()
    assert first is not None
    assert [row.code for row in queries.events(after=first.pk)] == ["ike.no-proposal"]


def test_without_a_worker_nothing_is_called_reachable_for_long(
    paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent
) -> None:
    deploy(paris)
    polling.poll(paris.pk)
    TunnelObservation.objects.update(rate_out_bps=4000.0)
    assert queries.tunnel_rows()[0].state is ConsoleState.UP
    assert queries.dashboard().rate_bps == 4000.0
    with time_machine.travel(timezone.now() + timedelta(minutes=2), tick=False):
        (row,) = queries.tunnel_rows()
        assert queries.dashboard().rate_bps is None
        gateway, _ = queries.gateway_detail(paris.pk)
    assert (row.state, row.verdict.old) == (ConsoleState.UNREACHABLE, True)
    assert gateway.state == "unreachable"
    assert gateway.problems == ("Not heard from: nobody has asked it lately: is the console's worker running?",)


def test_document_of_another_console_is_named(paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent) -> None:
    deploy(paris)
    hold(paris_agent, paris_agent.documents[0], generation=41)
    polling.poll(paris.pk)
    row, _ = queries.gateway_detail(paris.pk)
    assert row.problems == ("It holds generation 41, of which this console has no record: deploy",)
    deploy(paris)
    polling.poll(paris.pk)
    row, _ = queries.gateway_detail(paris.pk)
    assert row.problems == ()
    assert row.progress is not None
    assert row.progress.applied_generation == 42
