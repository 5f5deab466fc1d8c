"""Every page: answered for a logged-in user, refused without log-in, empty and with things in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.test import Client
from django.urls import reverse

from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor.models import CounterSample
from vpnconsole.vpn.models import IKEPolicy, IKEProposal, IPsecPolicy, IPsecProposal, PresharedKey, Tunnel

PLAIN = [
    "ui:dashboard",
    "ui:search",
    "monitor:tunnels",
    "monitor:gateways",
    "monitor:events",
    "rollout:changes",
    "rollout:pending",
    "vpn:keys",
    "vpn:key-create",
    "vpn:policies",
    "vpn:tunnel-create",
    "gateways:create",
    "accounts:settings",
    "accounts:tokens",
    "accounts:audit",
]


@pytest.fixture
def client(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client


@pytest.mark.parametrize("name", PLAIN)
def test_answers_when_there_is_nothing(client: Client, name: str) -> None:
    response = client.get(reverse(name))
    assert response.status_code == 200


@pytest.mark.parametrize("name", PLAIN)
def test_needs_log_in(db: None, name: str) -> None:
    response = Client().get(reverse(name))
    assert response.status_code == 302
    assert response["Location"].startswith(reverse("accounts:login"))


@pytest.mark.parametrize("name", PLAIN)
def test_answers_with_things_in_it(client: Client, tunnel: Tunnel, extranet: Gateway, name: str) -> None:
    response = client.get(reverse(name))
    assert response.status_code == 200


def test_pages_of_things(client: Client, tunnel: Tunnel, extranet: Gateway, psk: PresharedKey) -> None:
    urls = [
        reverse("monitor:tunnel", args=[tunnel.pk]),
        reverse("monitor:tunnel-series", args=[tunnel.pk]),
        reverse("vpn:tunnel-edit", args=[tunnel.pk]),
        reverse("vpn:tunnel-delete", args=[tunnel.pk]),
        reverse("vpn:tunnel-create") + f"?copy={tunnel.pk}",
        reverse("vpn:key", args=[psk.pk]),
        reverse("monitor:gateway", args=[extranet.pk]),
        reverse("monitor:gateway", args=[tunnel.end_a.gateway_id]),
        reverse("gateways:edit", args=[extranet.pk]),
        reverse("gateways:delete", args=[extranet.pk]),
        reverse("gateways:enrolment", args=[tunnel.end_a.gateway_id]),
    ]
    for kind, model in (
        ("ike-policy", IKEPolicy),
        ("ipsec-policy", IPsecPolicy),
        ("ike-proposal", IKEProposal),
        ("ipsec-proposal", IPsecProposal),
    ):
        row = model._default_manager.first()
        assert row is not None
        urls += [reverse("vpn:policy-create", args=[kind]), reverse("vpn:policy-edit", args=[kind, row.pk])]
    for url in urls:
        assert client.get(url).status_code == 200, url


@pytest.mark.parametrize("name", ["ui:dashboard", "monitor:tunnels", "monitor:gateways", "monitor:events"])
def test_htmx_gets_the_live_part_alone(client: Client, tunnel: Tunnel, name: str) -> None:
    part = client.get(reverse(name), headers={"HX-Request": "true"})
    assert part.status_code == 200
    assert b"<html" not in part.content
    assert "HX-Request" in part["Vary"]


def test_minute_under_way_is_not_shown_as_the_last_one(client: Client, tunnel: Tunnel) -> None:
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    for seconds, octets in ((-110, 0), (-65, 60_000), (-5, 120_000), (5, 130_000)):
        CounterSample.objects.create(
            tunnel=tunnel,
            gateway=tunnel.end_a.gateway,
            at=noon + timedelta(seconds=seconds),
            bytes_in=0,
            bytes_out=octets,
            packets_in=0,
            packets_out=0,
        )
    with time_machine.travel(noon + timedelta(seconds=6), tick=False):
        client.force_login(User.objects.get())
        page = client.get(reverse("ui:dashboard"))
    assert page.context["last_point"].at == noon - timedelta(minutes=1)
    assert page.context["last_point"].a_to_b_bps == 8000.0


def test_content_security_policy_allows_nothing_inline(client: Client, tunnel: Tunnel) -> None:
    response = client.get(reverse("monitor:tunnel", args=[tunnel.pk]))
    policy = response["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    text = response.content.decode()
    assert " style=" not in text
    assert "<script>" not in text
    assert " onclick=" not in text
    assert "hx-on" not in text


def test_search_finds_by_name_and_address(client: Client, tunnel: Tunnel, extranet: Gateway) -> None:
    by_name = client.get(reverse("ui:search"), {"q": "paris"}).content.decode()
    assert reverse("monitor:tunnel", args=[tunnel.pk]) in by_name
    by_address = client.get(reverse("ui:search"), {"q": "203.0.113.9"}).content.decode()
    assert reverse("monitor:gateway", args=[extranet.pk]) in by_address
    assert "Nothing has" in client.get(reverse("ui:search"), {"q": "no-such-thing"}).content.decode()


def test_navigation_has_no_dead_links(client: Client, tunnel: Tunnel) -> None:
    page = client.get(reverse("ui:dashboard"))
    for entry in page.context["navigation"]:
        assert client.get(entry.url).status_code == 200, entry.url
