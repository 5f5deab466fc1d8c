"""Tunnels, gateways and events in the browser: what is observed, and the buttons."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from tests.console import cast
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor.models import ActionJob, CounterSample, EventRecord
from vpnconsole.vpn.models import Tunnel

Sent = list[tuple[str, str]]


@pytest.fixture
def client(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client


@pytest.fixture
def second(paris: Gateway, extranet: Gateway, tunnel: Tunnel) -> Tunnel:
    return cast.make_tunnel(paris, extranet)


def listed(client: Client, **parameters: str) -> list[str]:
    listing = client.get(reverse("monitor:tunnels"), parameters).context["listing"]
    return [row.name for row in listing.rows]


def test_every_tunnel_is_listed_deployed_or_not(client: Client, tunnel: Tunnel, second: Tunnel) -> None:
    assert sorted(listed(client)) == ["paris-extranet", "paris-lyon"]
    assert "not deployed" in client.get(reverse("monitor:tunnels")).content.decode()


def test_filter_by_text_state_and_gateway(client: Client, tunnel: Tunnel, second: Tunnel) -> None:
    assert listed(client, q="198.51.100.1") == ["paris-lyon"]
    assert listed(client, gateway="extranet") == ["paris-extranet"]
    assert listed(client, state="up") == []
    assert sorted(listed(client, state="not-deployed")) == ["paris-extranet", "paris-lyon"]
    assert listed(client, state="problem") == []
    assert sorted(listed(client, state="no-such-state")) == ["paris-extranet", "paris-lyon"]
    assert "No tunnel matches" in client.get(reverse("monitor:tunnels"), {"q": "nothing"}).content.decode()


def test_sort_by_column(client: Client, tunnel: Tunnel, second: Tunnel) -> None:
    assert listed(client, sort="name") == ["paris-extranet", "paris-lyon"]
    assert listed(client, sort="-name") == ["paris-lyon", "paris-extranet"]
    assert listed(client, sort="b") == ["paris-extranet", "paris-lyon"]
    assert listed(client, sort="-b") == ["paris-lyon", "paris-extranet"]
    # Neither has been up or down since any time: both are there all the same.
    assert sorted(listed(client, sort="since")) == ["paris-extranet", "paris-lyon"]


def test_unknown_things_are_not_found(client: Client) -> None:
    for name in ("monitor:tunnel", "monitor:gateway", "monitor:tunnel-series"):
        assert client.get(reverse(name, args=[uuid4()])).status_code == 404


def test_tunnel_page_says_what_is_not_deployed(client: Client, tunnel: Tunnel) -> None:
    page = client.get(reverse("monitor:tunnel", args=[tunnel.pk])).content.decode()
    assert 'data-test="pending"' in page
    assert "paris: tunnel paris-lyon added" in page
    assert cast.PLANTED not in page


def test_series_has_gaps_where_nothing_was_read(client: Client, tunnel: Tunnel) -> None:
    now = timezone.now()
    for seconds, octets in ((300, 0), (290, 12_500), (100, 99_999), (90, 112_499)):
        CounterSample.objects.create(
            tunnel=tunnel, gateway=tunnel.end_a.gateway, at=now - timedelta(seconds=seconds), bytes_in=0,
            bytes_out=octets, packets_in=0, packets_out=0,
        )  # fmt: skip
    data = client.get(reverse("monitor:tunnel-series", args=[tunnel.pk])).json()
    assert data["a_to_b"] == [pytest.approx(10_000), None, pytest.approx(10_000)]
    assert client.get(reverse("monitor:tunnel-series", args=[tunnel.pk]), {"minutes": "2"}).json()["a_to_b"] == [
        pytest.approx(10_000)
    ]
    assert client.get(reverse("monitor:tunnel-series", args=[tunnel.pk]), {"minutes": "x"}).status_code == 200


@pytest.mark.parametrize("verb", ["initiate", "rekey-ike", "rekey-child", "clear-ike", "clear-ipsec"])
def test_buttons_send_their_verb(client: Client, tunnel: Tunnel, sent: Sent, verb: str) -> None:
    Gateway.objects.update(enrolled_at=timezone.now())
    response = client.post(reverse("monitor:tunnel-action", args=[tunnel.pk]), {"verb": verb}, follow=True)
    job = ActionJob.objects.get()
    assert job.verb == verb
    assert job.requested_by is not None
    assert "was sent to paris" in response.content.decode()


def test_button_without_an_enrolled_gateway_says_why(client: Client, tunnel: Tunnel, sent: Sent) -> None:
    response = client.post(reverse("monitor:tunnel-action", args=[tunnel.pk]), {"verb": "initiate"}, follow=True)
    assert "No enrolled gateway" in response.content.decode()
    assert not ActionJob.objects.exists()


def test_unknown_verb_is_refused(client: Client, tunnel: Tunnel, sent: Sent) -> None:
    client.post(reverse("monitor:tunnel-action", args=[tunnel.pk]), {"verb": "explode"})
    assert not ActionJob.objects.exists()
    assert client.get(reverse("monitor:tunnel-action", args=[tunnel.pk])).status_code == 405


@pytest.fixture
def records(tunnel: Tunnel) -> None:
    for number, (code, severity, about) in enumerate(
        (("ike.initiate", "info", tunnel), ("ike.no-proposal", "error", tunnel), ("agent.started", "info", None)), 1
    ):
        EventRecord.objects.create(
            gateway=tunnel.end_a.gateway, sequence=number, at=timezone.now(), code=code, severity=severity,
            message=f"message {number}", tunnel=about, received="<script>alert(1)</script>" if number == 2 else None,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["agent.started", "ike.no-proposal", "ike.initiate"]),
        ({"severity": "error"}, ["ike.no-proposal"]),
        ({"code": "ike.initiate"}, ["ike.initiate"]),
        ({"code": "nonsense"}, []),
    ],
)
def test_events_filter(client: Client, records: None, parameters: dict[str, str], expected: list[str]) -> None:
    page = client.get(reverse("monitor:events"), parameters)
    assert [event.code for event in page.context["events"]] == expected


def test_events_of_a_tunnel_and_a_gateway(client: Client, records: None, tunnel: Tunnel, extranet: Gateway) -> None:
    by_tunnel = client.get(reverse("monitor:events"), {"tunnel": str(tunnel.pk)})
    assert len(by_tunnel.context["events"]) == 2
    by_gateway = client.get(reverse("monitor:events"), {"gateway": str(extranet.pk)})
    assert "No event matches" in by_gateway.content.decode()


def test_what_a_peer_sent_is_never_markup(client: Client, records: None) -> None:
    page = client.get(reverse("monitor:events")).content.decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_gateway_page_leads_to_enrolment(client: Client, paris: Gateway) -> None:
    page = client.get(reverse("monitor:gateway", args=[paris.pk])).content.decode()
    assert reverse("gateways:enrolment", args=[paris.pk]) in page
    assert "not enrolled" in page


@pytest.mark.parametrize("name", ["ui:dashboard", "monitor:tunnels", "monitor:gateways"])
def test_more_tunnels_do_not_mean_more_queries(
    client: Client, name: str, tunnel: Tunnel, paris: Gateway, lyon: Gateway, extranet: Gateway
) -> None:
    url = reverse(name)
    part = {"HX-Request": "true"}
    client.get(url, headers=part)
    with CaptureQueriesContext(connection) as before:
        client.get(url, headers=part)
    cast.make_tunnel(paris, extranet)
    cast.make_tunnel(lyon, extranet)
    with CaptureQueriesContext(connection) as after:
        client.get(url, headers=part)
    assert len(after) == len(before)
