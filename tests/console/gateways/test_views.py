"""Gateways in the browser: define, change, enrol, delete."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from agents.contract.enrolment import Token
from tests.console import cast
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import EnrolmentToken, Gateway
from vpnconsole.vpn.models import Tunnel

FORM = {
    "name": "paris",
    "kind": "managed",
    "description": "head office",
    "addresses": "192.0.2.1 uplink\n\n2001:db8::1\n",
    "protected_networks": "10.1.0.0/24\n10.1.1.0/24",
    "agent_host": "",
    "agent_port": "8470",
    "data_plane": "auto",
}


@pytest.fixture
def client(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client


def test_create_managed_leads_to_enrolment(client: Client) -> None:
    response = client.post(reverse("gateways:create"), FORM)
    gateway = Gateway.objects.get()
    assert response["Location"] == reverse("gateways:enrolment", args=[gateway.pk])
    assert [(row.address, row.label) for row in gateway.addresses.all()] == [
        ("192.0.2.1", "uplink"),
        ("2001:db8::1", ""),
    ]
    assert [row.prefix for row in gateway.protected_networks.all()] == ["10.1.0.0/24", "10.1.1.0/24"]


def test_create_extranet_leads_to_its_page(client: Client) -> None:
    response = client.post(reverse("gateways:create"), {**FORM, "kind": "extranet"})
    assert response["Location"] == reverse("monitor:gateway", args=[Gateway.objects.get().pk])


def test_identities_stand_on_their_addresses_lines_and_come_back_to_edit(client: Client) -> None:
    lines = "192.0.2.1 [gw.example.net] first uplink\n2001:db8::1"
    page = client.post(reverse("gateways:create"), {**FORM, "kind": "extranet", "addresses": lines}, follow=True)
    assert "as Domain name <code>gw.example.net</code>" in page.content.decode()
    gateway = Gateway.objects.get()
    assert [(row.identity_type, row.identity_value, row.label) for row in gateway.addresses.all()] == [
        ("fqdn", "gw.example.net", "first uplink"),
        ("", "", ""),
    ]
    form = client.get(reverse("gateways:edit", args=[gateway.pk])).context["form"]
    assert form["addresses"].value() == lines


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "Not A Name", "lowercase"),
        ("addresses", "192.0.2.1\nnot-an-address", "Line 2"),
        ("addresses", "192.0.2.1\n192.0.2.1", "Line 2: 192.0.2.1 stands twice"),
        ("protected_networks", "10.1.0.1/24", "did you mean 10.1.0.0/24"),
        ("agent_port", "99999", "65535"),
    ],
)
def test_refused_beside_the_field_and_nothing_typed_is_lost(client: Client, field: str, value: str, words: str) -> None:
    response = client.post(reverse("gateways:create"), {**FORM, field: value})
    assert response.status_code == 422
    assert words in " ".join(response.context["form"].errors[field])
    assert "head office" in response.content.decode()
    assert value.split("\n")[-1] in response.content.decode()
    assert not Gateway.objects.exists()


def test_edit(client: Client, paris: Gateway) -> None:
    url = reverse("gateways:edit", args=[paris.pk])
    assert cast.PARIS_ADDRESS in client.get(url).content.decode()
    response = client.post(url, {**FORM, "name": "paris-2"})
    assert response["Location"] == reverse("monitor:gateway", args=[paris.pk])
    paris.refresh_from_db()
    assert paris.name == "paris-2"


def test_edit_keeps_an_address_in_use(client: Client, tunnel: Tunnel) -> None:
    gateway = tunnel.end_a.gateway
    response = client.post(reverse("gateways:edit", args=[gateway.pk]), {**FORM, "addresses": "192.0.2.77"})
    assert response.status_code == 422
    assert "Still in use" in " ".join(response.context["form"].errors["addresses"])


def test_delete_asks_first(client: Client, paris: Gateway) -> None:
    url = reverse("gateways:delete", args=[paris.pk])
    assert client.get(url).status_code == 200
    assert Gateway.objects.exists()
    assert client.post(url)["Location"] == reverse("monitor:gateways")
    assert not Gateway.objects.exists()


def test_delete_names_the_tunnels_in_the_way(client: Client, tunnel: Tunnel) -> None:
    response = client.post(reverse("gateways:delete", args=[tunnel.end_a.gateway_id]))
    assert response.status_code == 422
    assert tunnel.name in " ".join(response.context["problems"])


def test_enrolment_token_is_in_one_answer_only(client: Client, paris: Gateway) -> None:
    url = reverse("gateways:enrolment", args=[paris.pk])
    assert not EnrolmentToken.objects.exists()
    response = client.post(url)
    token = response.context["token"]
    assert Token.parse(token).id == EnrolmentToken.objects.get().pk
    assert token in response.content.decode()
    assert token not in response.context["command"]
    assert "vpn-agent enrol --console http://testserver" in response.context["command"]
    assert "no-store" in response["Cache-Control"]
    assert token not in client.get(url).content.decode()


def test_extranet_is_not_enrolled(client: Client, extranet: Gateway) -> None:
    response = client.post(reverse("gateways:enrolment", args=[extranet.pk]))
    assert response.status_code == 422
    assert not EnrolmentToken.objects.exists()


def test_the_make_of_an_extranet_gateway_is_kept_and_explained(client: Client) -> None:
    values = {**FORM, "kind": "extranet", "profile": "omnipcx-office"}
    page = client.post(reverse("gateways:create"), values, follow=True).content.decode()
    gateway = Gateway.objects.get()
    assert gateway.profile == "omnipcx-office"
    assert "may call ID PROTECT" in page
    url = reverse("gateways:edit", args=[gateway.pk])
    assert client.get(url).context["form"]["profile"].value() == "omnipcx-office"
    client.post(url, {**values, "profile": ""})
    gateway.refresh_from_db()
    assert gateway.profile == "generic"
    response = client.post(url, {**values, "profile": "made-by-nobody"})
    assert "not one of the available choices" in " ".join(response.context["form"].errors["profile"])


def test_a_make_chosen_before_the_kind_is_not_an_error(client: Client) -> None:
    client.post(reverse("gateways:create"), {**FORM, "profile": "aix"})
    assert Gateway.objects.get().profile == "generic"


def test_a_make_that_its_tunnels_rule_out_is_refused_beside_it(
    client: Client, paris: Gateway, extranet: Gateway
) -> None:
    cast.make_tunnel(paris, extranet)
    values = {**FORM, "name": "extranet", "kind": "extranet", "addresses": cast.EXTRANET_ADDRESS}
    response = client.post(reverse("gateways:edit", args=[extranet.pk]), {**values, "profile": "omnipcx-office"})
    assert response.status_code == 422
    assert "Tunnel paris-extranet does not go with it" in " ".join(response.context["form"].errors["profile"])
