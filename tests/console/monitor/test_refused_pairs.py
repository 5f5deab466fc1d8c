"""A refusal of one pair's SAs leads to the IPsec policy of that pair, where the gateway says which pair it is."""

from __future__ import annotations

import dataclasses
import html
import re

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from agents.contract import status as contract
from agents.contract.events import KINDS
from tests.console import cast
from tests.console.fake_agent import FakeAgent
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import polling
from vpnconsole.monitor.models import EventRecord
from vpnconsole.rollout import delivery as work
from vpnconsole.rollout import services as rollout
from vpnconsole.rollout.models import Delivery
from vpnconsole.vpn import policies
from vpnconsole.vpn.inputs import SelectorInput
from vpnconsole.vpn.models import IPsecPolicy, PresharedKey, Tunnel

pytestmark = pytest.mark.usefixtures("sent")

KIND = KINDS["child.encryption-mismatch"]
REASON = contract.Reason(
    code=KIND.code, message="No IPsec proposal of child pair-2 matches", received="aes-128-cbc",
    configured="aes-256-gcm-16", field="children.proposals",
)  # fmt: skip


@pytest.fixture
def strong() -> IPsecPolicy:
    suite = policies.save_ipsec_proposal(None, name="aes-256-gcm", encryption="aes-256-gcm-16")
    return policies.save_ipsec_policy(None, name="strong", proposals=[suite])


@pytest.fixture
def mixed(paris: Gateway, lyon: Gateway, psk: PresharedKey, strong: IPsecPolicy, paris_agent: FakeAgent) -> Tunnel:
    """A tunnel of two pairs, the second with a policy of its own, that is down at paris for :data:`REASON`."""
    pairs = [
        SelectorInput(network_a="10.1.0.0/24", network_b="10.2.0.0/24"),
        SelectorInput(network_a="10.1.9.0/24", network_b="10.2.9.0/24", ipsec_policy=strong),
    ]
    tunnel = cast.make_tunnel(paris, lyon, psk, selectors=pairs)
    paris_agent.state, paris_agent.reason = contract.TunnelState.DOWN, REASON
    rollout.deploy(None, [paris.pk])
    delivery = Delivery.objects.get(gateway=paris)
    work.compile_delivery(delivery.pk)
    work.push_delivery(delivery.pk, "test")
    polling.poll(paris.pk)
    return tunnel


def tell(tunnel: Tunnel, gateway: Gateway, reason: contract.Reason, **attributes: str) -> None:
    """Keep an event of this refusal, as a poll would."""
    EventRecord.objects.create(
        gateway=gateway, sequence=EventRecord.objects.count() + 1, at=timezone.now(), code=reason.code,
        severity=KIND.severity, message=reason.message, tunnel=tunnel, received=reason.received,
        configured=reason.configured, field=reason.field, attributes=attributes,
    )  # fmt: skip


def link(client: Client, user: User, tunnel: Tunnel) -> tuple[str, str]:
    """Return where the reason on the tunnel's page leads, and its words."""
    client.force_login(user)
    page = html.unescape(client.get(reverse("monitor:tunnel", args=[tunnel.pk])).content.decode())
    found = re.search(r'<a href="([^"]*)" data-test="reason-place">([^<]*)</a>', page)
    assert found is not None
    return found[1], found[2]


def form(tunnel: Tunnel) -> str:
    return reverse("vpn:tunnel-edit", args=[tunnel.pk]) + "#id_ipsec_policy"


def policy(row: IPsecPolicy) -> str:
    return reverse("vpn:policy-edit", args=["ipsec-policy", row.pk]) + "#id_proposals_0"


def test_it_leads_to_the_policy_of_the_pair_that_the_newest_event_names(
    client: Client, alice: User, paris: Gateway, lyon: Gateway, mixed: Tunnel, strong: IPsecPolicy
) -> None:
    assert link(client, alice, mixed)[0] == form(mixed)
    tell(mixed, paris, REASON, child="pair-1")
    assert link(client, alice, mixed)[0] == policy(mixed.policies.ipsec_policy)
    tell(mixed, paris, REASON, child="pair-2")
    tell(mixed, lyon, REASON, child="pair-1")
    tell(mixed, paris, dataclasses.replace(REASON, message="No IPsec proposal matches"), child="pair-1")
    tell(mixed, paris, dataclasses.replace(REASON, received="aes-256-cbc"), child="pair-1")
    tell(mixed, paris, dataclasses.replace(REASON, code="child.no-proposal"), child="pair-1")
    assert link(client, alice, mixed) == (policy(strong), "Change the proposals in IPsec policy strong")


@pytest.mark.parametrize("attributes", [{}, {"child": "pair-9"}, {"child": "net"}])
def test_where_no_pair_of_the_tunnel_is_named_it_leads_to_the_tunnel(
    client: Client, alice: User, paris: Gateway, mixed: Tunnel, attributes: dict[str, str]
) -> None:
    tell(mixed, paris, REASON, child="pair-2")
    tell(mixed, paris, REASON, **attributes)
    assert link(client, alice, mixed)[0] == form(mixed)
