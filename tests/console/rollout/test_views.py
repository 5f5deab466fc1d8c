"""Changes in the browser: preview, Deploy, progress, retry, history."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.gateways.models import Gateway
from vpnconsole.rollout.choices import DeliveryState
from vpnconsole.rollout.models import Delivery, Deployment
from vpnconsole.vpn.inputs import TunnelInput
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, Tunnel
from vpnconsole.vpn.services import update_tunnel

Sent = list[tuple[str, str]]


@pytest.fixture
def client(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client


def test_preview_names_what_changes(client: Client, tunnel: Tunnel) -> None:
    page = client.get(reverse("rollout:changes"))
    text = page.content.decode()
    assert text.count("tunnel paris-lyon") == 2
    assert [row["checked"] for row in page.context["rows"]] == [True, True]
    assert "2" in client.get(reverse("rollout:pending")).content.decode()


def test_preview_says_how_ikev1_finds_the_key(client: Client, tunnel: Tunnel) -> None:
    url = reverse("rollout:changes")
    assert 'data-test="remark"' not in client.get(url).content.decode()
    old: dict[str, Any] = {
        "version": "v1",
        "ike_policy": IKEPolicy.objects.get(name="compatible"),
        "ipsec_policy": IPsecPolicy.objects.get(name="compatible"),
    }
    update_tunnel(None, tunnel, dataclasses.replace(TunnelInput.of(tunnel), **old))
    text = client.get(url).content.decode()
    # Each end sees the pair from its own side.
    assert "the pair of addresses 192.0.2.1 and 198.51.100.1; the identity is not known yet" in text
    assert "the pair of addresses 198.51.100.1 and 192.0.2.1; the identity is not known yet" in text
    assert "another pre-shared key" not in text


def test_lost_key_file_is_said_and_breaks_no_page(
    client: Client, tmp_path: Path, settings: Any, tunnel: Tunnel, sent: Sent
) -> None:
    settings.VPNCONSOLE_KEK_FILE = tmp_path / "lost"
    response = client.get(reverse("rollout:changes"))
    assert response.status_code == 200
    assert "cannot open its own secrets" in response.content.decode()
    assert client.get(reverse("ui:dashboard")).status_code == 200
    assert client.get(reverse("monitor:tunnel", args=[tunnel.pk])).status_code == 200
    revealed = client.post(reverse("vpn:key-reveal", args=[tunnel.psk_id]), follow=True)
    assert "cannot be shown" in revealed.content.decode()
    assert not AuditEvent.objects.filter(action="psk.revealed").exists()


def test_nothing_pending_shows_no_number(client: Client, extranet: Gateway) -> None:
    assert client.get(reverse("rollout:pending")).content.strip() == b""


def test_deploy_goes_to_its_progress(client: Client, tunnel: Tunnel, sent: Sent) -> None:
    paris = tunnel.end_a.gateway
    response = client.post(reverse("rollout:deploy"), {"gateways": [str(paris.pk)], "note": "first"})
    deployment = Deployment.objects.get()
    assert response["Location"] == reverse("rollout:deployment", args=[deployment.pk])
    assert deployment.note == "first"
    assert [row.gateway for row in deployment.deliveries.all()] == [paris]
    page = client.get(response["Location"]).content.decode()
    assert 'data-test="delivery-paris"' in page
    assert "Waiting for a worker" in page
    part = client.get(reverse("rollout:progress", args=[deployment.pk]), headers={"HX-Request": "true"})
    assert b"<html" not in part.content
    assert "first" in client.get(reverse("rollout:changes")).content.decode()


def test_deploy_without_a_gateway_is_refused(client: Client, tunnel: Tunnel, sent: Sent) -> None:
    response = client.post(reverse("rollout:deploy"), {"note": "why"})
    assert response.status_code == 422
    assert "Choose at least one gateway" in response.content.decode()
    assert 'value="why"' in response.content.decode()
    assert not Deployment.objects.exists()


def test_deploy_to_an_extranet_gateway_is_refused(client: Client, extranet: Gateway, paris: Gateway) -> None:
    response = client.post(reverse("rollout:deploy"), {"gateways": [str(extranet.pk)]})
    assert response.status_code == 422
    assert not Deployment.objects.exists()


def test_refusal_shows_the_field_and_can_be_retried(client: Client, tunnel: Tunnel, sent: Sent) -> None:
    client.post(reverse("rollout:deploy"), {"gateways": [str(tunnel.end_a.gateway_id)]})
    delivery = Delivery.objects.get()
    Delivery.objects.update(
        state=DeliveryState.REFUSED, refused_path="tunnels[0].mtu", refused_message="must be at least 256", percent=100
    )
    page = client.get(reverse("rollout:deployment", args=[delivery.deployment_id])).content.decode()
    assert "tunnels[0].mtu" in page
    assert "must be at least 256" in page
    assert "stays in force" in page
    client.post(reverse("rollout:retry", args=[delivery.pk]))
    delivery.refresh_from_db()
    assert delivery.state == DeliveryState.WAITING


def test_retry_of_what_is_done_says_so(client: Client, tunnel: Tunnel, sent: Sent) -> None:
    client.post(reverse("rollout:deploy"), {"gateways": [str(tunnel.end_a.gateway_id)]})
    Delivery.objects.update(state=DeliveryState.APPLIED)
    response = client.post(reverse("rollout:retry", args=[Delivery.objects.get().pk]), follow=True)
    assert "nothing to retry" in response.content.decode()


def test_all_applied_says_so(client: Client, tunnel: Tunnel, sent: Sent) -> None:
    client.post(reverse("rollout:deploy"), {"gateways": [str(tunnel.end_a.gateway_id)]})
    Delivery.objects.update(state=DeliveryState.APPLIED, percent=100)
    page = client.get(reverse("rollout:deployment", args=[Deployment.objects.get().pk])).content.decode()
    assert 'data-test="deployment-done"' in page
