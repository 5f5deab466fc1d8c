"""What the pages and the API show of counters, refused packets, queues, routes and the filter."""

from __future__ import annotations

import dataclasses
import time
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from agents.contract.status import (
    ChildSaStatus,
    ChildStatus,
    Counters,
    FilterCounters,
    NamedCount,
    QueueStatus,
    Rejections,
    RouteRecord,
)
from tests.console.fake_agent import FakeAgent
from vpnconsole.accounts.models import User
from vpnconsole.accounts.services import create_api_token
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import polling, queries
from vpnconsole.monitor.dataplane import REASONS
from vpnconsole.monitor.models import CounterSample
from vpnconsole.rollout import delivery as work
from vpnconsole.rollout import services as rollout
from vpnconsole.rollout.models import Delivery
from vpnconsole.vpn.models import Tunnel

pytestmark = pytest.mark.usefixtures("sent")
REFUSED = Rejections(integrity=1_200, selectors=3)


@pytest.fixture
def page_of(alice: User, client: Client) -> Any:
    client.force_login(alice)

    def get(name: str, *arguments: object) -> str:
        return client.get(reverse(name, args=arguments)).content.decode()

    return get


@pytest.fixture
def told(paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent) -> FakeAgent:
    """An agent that tells everything, read once."""
    rollout.deploy(None, [paris.pk])
    delivery = Delivery.objects.get(gateway=paris)
    work.compile_delivery(delivery.pk)
    work.push_delivery(delivery.pk, "test")
    (row,) = paris_agent.status().tunnels
    now = time.time()
    sa = ChildSaStatus(
        spi_in="c0000001", spi_out="c0000002", encryption="aes-128-gcm-16", integrity=None, group=None,
        udp_encapsulation=False, local_ts=("10.1.0.0/24",), remote_ts=("10.2.0.0/24",), installed_at=now,
        rekey_at=None, expires_at=None, counters=Counters(bytes_in=1_024), rejected=Rejections(late=5),
    )  # fmt: skip
    child = ChildStatus(name="pair-1", up=True, sas=(sa,), counters=Counters(bytes_in=5 * 2**30), rejected=REFUSED)
    route = RouteRecord(
        network="10.2.0.0/24", interface="vpn12345678", gateway=None, context="blue", cost=5, tunnel_id=row.id,
        child="pair-1", spis=("c0000001",), cause="selector", since=now - 60,
    )  # fmt: skip
    tunnel_status = dataclasses.replace(
        row,
        children=(child,),
        rejected=REFUSED,
        queues=(QueueStatus(queue=3, packets=11, bytes=900, dropped_packets=77, depth_packets=4),),
        rate_kbps=8_000,
        filter=FilterCounters(admitted_ike=2, admitted_ipsec=3, dropped_clear=19, dropped_leaving=23),
    )
    paris_agent.more = {
        "tunnels": (tunnel_status,),
        "route_ledger": (
            route,
            dataclasses.replace(route, network="10.3.0.0/16", child=None, spis=(), cause="static"),
            dataclasses.replace(route, spis=("c0000000",), since=now - 900, until=now - 60),
            dataclasses.replace(route, network="10.9.0.0/16", tunnel_id="another"),
        ),
        "data_plane_counts": (NamedCount(name="XfrmInNoStates", count=6),),
        "ipsec_counts": (NamedCount(name="esp.in", count=42), NamedCount(name="rejected.late", count=8)),
    }
    polling.poll(paris.pk)
    return paris_agent


def test_the_tunnel_page_says_what_was_refused_and_what_helps(told: FakeAgent, tunnel: Tunnel, page_of: Any) -> None:
    page = page_of("monitor:tunnel", tunnel.pk)
    assert 'data-test="refused-integrity"' in page
    assert "1,200" in page
    assert "Failed authentication" in page
    assert "Mirror the protected networks on both ends." in page
    assert "Too late" not in page
    assert "5 refused" in page
    assert "in all 5.0 GiB" in page


def test_the_tunnel_page_shows_queues_routes_and_filter(told: FakeAgent, tunnel: Tunnel, page_of: Any) -> None:
    page = page_of("monitor:tunnel", tunnel.pk)
    for text in (
        "CS0, CS1",
        "11 packets, 900 B",
        "paris sends 8,000 kbit/s at most",
        "<strong>77</strong>",
        "<strong>19</strong>",
        "<strong>23</strong>",
        "blue",
        "cost 5",
    ):
        assert text in page
    assert "the networks of pair-1" in page
    assert "a static route of the tunnel" in page
    assert "Withdrawn on paris" in page
    assert "c0000000" in page
    assert "10.9.0.0/16" not in page


def test_the_gateway_page_shows_ipsecstat_and_the_data_planes_own(
    told: FakeAgent, paris: Gateway, page_of: Any
) -> None:
    page = page_of("monitor:gateway", paris.pk)
    assert 'data-test="ipsecstat"' in page
    for text in ("Incoming ESP packets", "not available", "XfrmInNoStates", "packets refused: too late"):
        assert text in page


def test_what_an_older_agent_does_not_tell_is_not_shown_as_nothing(
    told: FakeAgent, paris: Gateway, tunnel: Tunnel, page_of: Any
) -> None:
    told.more = {"schema": 3}
    polling.poll(paris.pk)
    page = page_of("monitor:tunnel", tunnel.pk)
    assert "The agents do not tell what they refuse" in page
    assert 'data-test="queues"' not in page
    assert 'data-test="routes"' not in page
    assert 'data-test="ipsecstat"' not in page_of("monitor:gateway", paris.pk)


def test_the_last_hour_of_refusals_comes_from_the_samples(told: FakeAgent, paris: Gateway, tunnel: Tunnel) -> None:
    assert CounterSample.objects.get().rejected == 1_203
    now = timezone.now()
    CounterSample.objects.all().delete()
    for minutes, count in ((90, 0), (50, 10), (40, 25), (30, 5), (20, 6)):
        CounterSample.objects.create(
            tunnel=tunnel, gateway=paris, at=now - timedelta(minutes=minutes), bytes_in=0, bytes_out=0, packets_in=0,
            packets_out=0, rejected=count,
        )  # fmt: skip
    assert queries.tunnel_detail(tunnel.pk).plane.refused_lately == 16


def test_the_api_gives_the_same(told: FakeAgent, alice: User, paris: Gateway, tunnel: Tunnel, client: Client) -> None:
    _, token = create_api_token(alice, alice, "test")
    header = {"Authorization": f"Bearer {token}"}
    plain = client.get(f"/api/v1/tunnels/{tunnel.pk}", headers=header).json()
    assert plain["refused"][0]["packets"]["paris"] == 1_200
    assert [each["network"] for each in plain["routes"]["paris"]] == ["10.2.0.0/24", "10.3.0.0/16", "10.2.0.0/24"]
    assert plain["pairs"][0]["total"]["bytes_in"] == 5 * 2**30
    assert plain["status"]["a"]["rate_kbps"] == 8_000
    plain = client.get(f"/api/v1/gateways/{paris.pk}", headers=header).json()
    assert (plain["ipsecstat"]["Incoming ESP packets"], plain["ipsecstat"]["Srcrte packets allowed"]) == (42, None)
    assert plain["data_plane_counts"] == {"XfrmInNoStates": 6}


def test_every_reason_has_words_and_a_hint() -> None:
    assert set(REASONS) == {field.name for field in dataclasses.fields(Rejections)}
