"""What pages show of IKEv1: version and mode of an SA, events in words, the way to the field, parts of the daemon."""

from __future__ import annotations

import dataclasses
import html
import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from agents.contract import status as contract
from agents.contract.codec import to_plain
from agents.contract.events import KINDS
from tests.console.fake_agent import FakeAgent
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import polling
from vpnconsole.monitor.models import EventRecord, GatewayObservation, TunnelObservation
from vpnconsole.rollout import delivery as work
from vpnconsole.rollout import services as rollout
from vpnconsole.rollout.models import Delivery
from vpnconsole.vpn.models import Tunnel

pytestmark = pytest.mark.usefixtures("sent")

IKE_SA = contract.IkeSaStatus(
    spi_i="6f1c2a9be0d44312", spi_r="a91f03b2c7714e05", initiator=True, state="established", local="192.0.2.1:500",
    remote="198.51.100.1:500", nat_local=False, nat_remote=False, encryption="aes-256-cbc",
    integrity="hmac-sha2-256-128", prf="prf-hmac-sha2-256", group="group-14", established_at=1.0, rekey_at=None,
)  # fmt: skip


@pytest.fixture
def client(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client


def tunnel_page(client: Client, tunnel: Tunnel) -> str:
    return html.unescape(client.get(reverse("monitor:tunnel", args=[tunnel.pk])).content.decode())


def reported(gateway: Gateway, tunnel: Tunnel, sa: contract.IkeSaStatus) -> None:
    """Keep a status of the tunnel with one IKE SA, as a poll would."""
    status = contract.TunnelStatus(
        id=str(tunnel.pk), name=tunnel.name, state=contract.TunnelState.UP, since=1.0, ike_sas=(sa,)
    )
    now = timezone.now()
    TunnelObservation.objects.create(
        tunnel=tunnel, gateway=gateway, state="up", since=now, read_at=now, data=to_plain(status)
    )


@pytest.mark.parametrize(
    ("version", "mode", "words"),
    [("v2", None, "IKEv2"), ("v1", "main", "IKEv1, Main Mode"), ("v1", "aggressive", "IKEv1, Aggressive Mode")],
)
def test_an_ike_sa_shows_version_and_mode(
    client: Client, paris: Gateway, tunnel: Tunnel, version: str, mode: str | None, words: str
) -> None:
    reported(paris, tunnel, dataclasses.replace(IKE_SA, version=version, exchange_mode=mode))
    assert f'data-test="ike-version">{words}</span>' in tunnel_page(client, tunnel)


def test_the_definition_says_version_and_mode(client: Client, tunnel: Tunnel) -> None:
    assert "Main Mode" not in tunnel_page(client, tunnel)
    Tunnel.objects.update(version="v2-else-v1")
    assert "Main Mode where it is IKEv1" in tunnel_page(client, tunnel)


@pytest.mark.parametrize(
    ("code", "target"),
    [
        ("ikev1.exchange-mode-mismatch", "#id_exchange_mode"),
        ("ikev1.psk-mismatch", "#id_psk"),
        ("ikev1.psk-identity-mismatch", "#id_end_b-identity_value"),
        ("ikev1.identity-refused-by-peer", "#id_end_a-identity_value"),
        ("ikev1.pfs-mismatch", "#id_pfs_group"),
        ("ike.version-unsupported", "#id_version"),
    ],
)
def test_a_reason_leads_to_the_field_to_change(
    client: Client, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent, code: str, target: str
) -> None:
    kind = KINDS[code]
    paris_agent.state = contract.TunnelState.DOWN
    paris_agent.reason = contract.Reason(
        code=code, message=kind.summary, received="that of the peer", configured="that of ours", field=kind.field
    )
    rollout.deploy(None, [paris.pk])
    delivery = Delivery.objects.get(gateway=paris)
    work.compile_delivery(delivery.pk)
    work.push_delivery(delivery.pk, "test")
    polling.poll(paris.pk)
    page = tunnel_page(client, tunnel)
    link = re.search(r'<a href="([^"]*)" data-test="reason-place">', page)
    assert link is not None
    assert link[1].endswith(target)
    assert kind.summary in page
    assert kind.action in page
    assert "Received <code>that of the peer</code>, configured <code>that of ours</code>" in page


def test_every_family_says_what_was_received_and_what_to_do(client: Client, tunnel: Tunnel) -> None:
    families = [kind for kind in KINDS.values() if kind.code.startswith("ikev1.")]
    assert len(families) > 40
    for number, kind in enumerate(families, 1):
        EventRecord.objects.create(
            gateway=tunnel.end_a.gateway, sequence=number, at=timezone.now(), code=kind.code, severity=kind.severity,
            message=kind.summary, tunnel=tunnel, received=f"received-{number}", configured=f"configured-{number}",
        )  # fmt: skip
    page = html.unescape(client.get(reverse("monitor:events")).content.decode())
    rows = dict(re.findall(r'<tr data-test="event" data-code="([^"]*)">(.*?)</tr>', page, re.DOTALL))
    for number, kind in enumerate(families, 1):
        row = rows[kind.code]
        assert kind.summary in row
        assert f"received <code>received-{number}</code>, configured <code>configured-{number}</code>" in row
        assert (f'data-test="action">{kind.action}<' in row) is (kind.severity != "info" and bool(kind.action))


def test_components_show_health_version_and_log_level(client: Client, paris: Gateway) -> None:
    parts: tuple[dict[str, Any], ...] = (
        {"name": "iked.v1", "healthy": True, "log_level": "debug"},
        {"name": "iked.credentials", "healthy": False, "detail": "no key file"},
    )
    status = contract.GatewayStatus(
        gateway_id=str(paris.pk),
        agent_version="0.1.0",
        boot_id="b",
        observed_at=1.0,
        components=tuple(contract.ComponentHealth(version="0.9.9", **part) for part in parts),
    )
    GatewayObservation.objects.create(gateway=paris, reachable=True, read_at=timezone.now(), status=to_plain(status))
    Gateway.objects.filter(pk=paris.pk).update(enrolled_at=timezone.now())
    page = client.get(reverse("monitor:gateway", args=[paris.pk])).content.decode()
    rows = re.findall(r'<tr data-test="component-(\S+)">(.*?)</tr>', page, re.DOTALL)
    assert [name for name, _ in rows] == ["iked.v1", "iked.credentials"]
    assert all(word in rows[0][1] for word in (">healthy<", "0.9.9", "debug"))
    assert "not healthy" in rows[1][1]
    assert "no key file" in page
