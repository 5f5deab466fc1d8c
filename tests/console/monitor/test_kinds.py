"""On-demand and manual tunnels in lists, pages, API and actions."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from agents.contract.status import TunnelState
from tests.console import cast
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import queries
from vpnconsole.monitor.services import request_action
from vpnconsole.monitor.state import EndFacts, Report, TunnelFacts, judge
from vpnconsole.vpn.inputs import PeersInput

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("state", "peers", "label", "step"),
    [
        (TunnelState.IDLE, 0, "idle", "waiting for peers"),
        (TunnelState.UP, 1, "up (1 peer)", ""),
        (TunnelState.UP, 12, "up (12 peers)", ""),
        (TunnelState.PARTLY_UP, 3, "partly up (3 peers)", ""),
    ],
)
def test_an_on_demand_tunnel_says_how_many_peers_it_has(state: TunnelState, peers: int, label: str, step: str) -> None:
    report = Report(state=state, since=timezone.now(), peers=peers)
    here = EndFacts(gateway_name="paris", reachable=True, held=True, report=report)
    verdict = judge(
        TunnelFacts(enabled=True, ends=(here, EndFacts(gateway_name="peers", managed=False)), on_demand=True)
    )
    assert (verdict.label, verdict.step, verdict.problem) == (label, step, state is TunnelState.PARTLY_UP)


def test_lists_pages_and_api_have_them(client: Client, alice: User, paris: Gateway, lyon: Gateway) -> None:
    on_demand, manual = cast.make_on_demand(paris), cast.make_manual(paris, lyon)
    cast.make_on_demand(paris, name="anybody", peers=PeersInput(identity_type="any"))
    client.force_login(alice)
    assert [(row.name, row.kind, row.end_b.gateway_name) for row in queries.tunnel_rows()] == [
        ("anybody", "on-demand", "peers"),
        ("paris-lyon-manual", "manual", "lyon"),
        ("paris-peers", "on-demand", "peers"),
    ]
    for sort in ("state", "name", "a", "b", "bytes"):
        assert client.get(reverse("monitor:tunnels"), {"sort": sort}).status_code == 200
    assert "paris-peers" in client.get(reverse("monitor:tunnels"), {"q": "example.org"}).content.decode()
    assert "peers *.example.org" in client.get(reverse("ui:search"), {"q": "paris-peers"}).content.decode()
    page = client.get(reverse("monitor:tunnel", args=[manual.pk])).content.decode()
    assert "nothing is negotiated" in page
    assert "Set the SAs anew" in page
    assert "do-initiate" not in page
    page = client.get(reverse("monitor:tunnel", args=[on_demand.pk])).content.decode()
    assert "0 of at most 20" in page
    assert "do-initiate" not in page
    for row in (on_demand, manual):
        assert client.get(reverse("monitor:tunnel-series", args=[row.pk])).status_code == 200
        assert client.get(reverse("monitor:tunnel", args=[row.pk]), headers={"HX-Request": "true"}).status_code == 200
    assert client.get(reverse("monitor:gateway", args=[paris.pk])).status_code == 200
    assert client.get(reverse("ui:dashboard")).status_code == 200


def test_what_cannot_be_asked_is_refused_with_the_reason(alice: User, paris: Gateway, lyon: Gateway) -> None:
    Gateway.objects.update(enrolled_at=timezone.now())
    manual, on_demand = cast.make_manual(paris, lyon), cast.make_on_demand(paris)
    for verb in ("initiate", "rekey-ike", "clear-ike"):
        with pytest.raises(ValidationError, match="never negotiated"):
            request_action(alice, manual, verb)
    with pytest.raises(ValidationError, match="its peers have to start"):
        request_action(alice, on_demand, "initiate")
    assert request_action(alice, manual, "clear-ipsec").gateway == paris
    assert request_action(alice, on_demand, "clear-ike").gateway == paris
