"""Gateways: what may be entered, what may not go, and that it is written down who did it."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from tests.console import cast
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.gateways import queries, services
from vpnconsole.gateways.models import Gateway
from vpnconsole.gateways.services import AddressInput, GatewayInput
from vpnconsole.vpn.models import Tunnel

pytestmark = pytest.mark.django_db

PARIS = GatewayInput(
    name="paris",
    description="Head office",
    addresses=[AddressInput(address="192.0.2.1", label="first uplink"), AddressInput(address="2001:DB8::1")],
    protected_networks=["10.1.0.0/24", "2001:db8:1::/48"],
)


def _errors(data: GatewayInput, gateway: Gateway | None = None) -> dict[str, list[str]]:
    submit = partial(services.update_gateway, None, gateway) if gateway else partial(services.create_gateway, None)
    with pytest.raises(ValidationError) as caught:
        submit(data)
    return dict(caught.value.message_dict)


def test_a_gateway_is_made_with_canonical_addresses(alice: User) -> None:
    gateway = services.create_gateway(alice, PARIS)
    assert [row.address for row in gateway.addresses.all()] == ["192.0.2.1", "2001:db8::1"]
    assert [row.prefix for row in gateway.protected_networks.all()] == ["10.1.0.0/24", "2001:db8:1::/48"]
    assert (gateway.is_managed, gateway.is_enrolled) == (True, False)
    event = AuditEvent.objects.get()
    assert (event.actor, event.action, event.object_name) == ("alice", "gateway.created", "gateway paris")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "Paris"}, "name"),
        ({"name": "lyon"}, "name"),
        ({"kind": "other"}, "kind"),
        ({"data_plane": "fast"}, "data_plane"),
        ({"agent_host": "https://paris"}, "agent_host"),
        ({"agent_host": "paris:8470"}, "agent_host"),
        ({"agent_host": "192.0.2.300"}, "agent_host"),
        ({"agent_host": "a b"}, "agent_host"),
        ({"agent_host": "a" * 200 + "!"}, "agent_host"),
        ({"agent_host": "a..b"}, "agent_host"),
        ({"agent_port": 0}, "agent_port"),
        ({"agent_port": 70000}, "agent_port"),
        ({"addresses": [AddressInput(address="here")]}, "addresses.0.address"),
        ({"addresses": [AddressInput(address="0.0.0.0")]}, "addresses.0.address"),
        ({"addresses": [AddressInput(address="224.0.0.1")]}, "addresses.0.address"),
        ({"addresses": [AddressInput(address="fe80::1%eth0")]}, "addresses.0.address"),
        (
            {"addresses": [AddressInput(address="2001:db8::1"), AddressInput(address="2001:DB8:0::1")]},
            "addresses.1.address",
        ),
        ({"addresses": [AddressInput(address="192.0.2.1", identity="gw example")]}, "addresses.0.identity_value"),
        ({"addresses": [AddressInput(address="192.0.2.1", identity="0xabc")]}, "addresses.0.identity_value"),
        ({"protected_networks": ["10.1.0.0/24", "10.1.0.1/24"]}, "protected_networks.1.prefix"),
        ({"protected_networks": ["10.1.0.0/24", "10.1.0.0/24"]}, "protected_networks.1.prefix"),
    ],
)
def test_what_is_impossible_is_refused_beside_its_field(lyon: Gateway, change: dict[str, object], field: str) -> None:
    data = dataclasses.replace(PARIS, **change)  # type: ignore[arg-type]
    assert list(_errors(data)) == [field]
    assert set(Gateway.objects.all()) == {lyon}


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "paris", "agent-1.paris.example.", " paris "])
def test_an_agent_is_dialled_by_address_or_name(host: str) -> None:
    gateway = services.create_gateway(None, dataclasses.replace(PARIS, agent_host=host))
    assert gateway.agent_host == host.strip()


def test_all_errors_come_at_once(lyon: Gateway) -> None:
    data = dataclasses.replace(PARIS, name="lyon", addresses=[AddressInput(address="x")], protected_networks=["y"])
    assert set(_errors(data)) == {"name", "addresses.0.address", "protected_networks.0.prefix"}


def test_a_change_replaces_the_lists_and_records_which_fields(alice: User) -> None:
    gateway = services.create_gateway(None, PARIS)
    data = dataclasses.replace(PARIS, description="Moved", addresses=[AddressInput(address="192.0.2.2")])
    services.update_gateway(alice, gateway, data)
    assert [row.address for row in gateway.addresses.all()] == ["192.0.2.2"]
    assert AuditEvent.objects.first().details == {"fields": ["addresses", "description"]}  # type: ignore[union-attr]


def test_a_refused_change_changes_nothing(lyon: Gateway) -> None:
    gateway = services.create_gateway(None, PARIS)
    _errors(dataclasses.replace(PARIS, name="lyon", addresses=[]), gateway)
    stored = queries.get_gateway(gateway.pk)
    assert (stored.name, len(stored.addresses.all())) == ("paris", 2)


def test_a_gateway_with_tunnels_keeps_what_they_need(paris: Gateway, tunnel: Tunnel) -> None:
    with pytest.raises(ValidationError, match="gateway paris is used by tunnel paris-lyon"):
        services.delete_gateway(None, paris)
    moved = GatewayInput(name="paris", addresses=[AddressInput(address="192.0.2.77")])
    assert _errors(moved, paris) == {
        "addresses": ["Still in use: 192.0.2.1 by tunnel paris-lyon. Change the tunnel first."]
    }
    foreign = GatewayInput(name="paris", kind="extranet", addresses=[AddressInput(address=cast.PARIS_ADDRESS)])
    assert list(_errors(foreign, paris)) == ["kind"]
    services.update_gateway(
        None, paris, dataclasses.replace(moved, addresses=[*moved.addresses, AddressInput(address=cast.PARIS_ADDRESS)])
    )
    assert not AuditEvent.objects.filter(action="gateway.deleted").exists()


def test_a_gateway_without_tunnels_goes(alice: User, paris: Gateway) -> None:
    services.delete_gateway(alice, paris)
    assert not Gateway.objects.exists()
    assert AuditEvent.objects.filter(action="gateway.deleted", object_name="gateway paris").exists()


def test_contact_is_noted_and_a_failure_keeps_the_last_good_one(paris: Gateway) -> None:
    at = timezone.now()
    services.record_contact(paris.pk, at=at, agent_version="2.0")
    services.record_contact(paris.pk, at=timezone.now(), error="x" * 900)
    paris.refresh_from_db()
    assert (paris.last_contact_at, paris.agent_version) == (at, "2.0")
    assert paris.last_contact_error == "x" * 500
    services.record_contact(paris.pk, at=timezone.now())
    paris.refresh_from_db()
    assert paris.last_contact_error == ""


def test_lists_cost_four_queries(
    paris: Gateway, lyon: Gateway, extranet: Gateway, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(4):
        rows = [(row.name, len(row.addresses.all()), len(row.protected_networks.all())) for row in queries.gateways()]
    assert rows == [("extranet", 1, 1), ("lyon", 1, 1), ("paris", 1, 1)]
    assert list(queries.enrolled_gateways()) == []


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("", "", ""),
        ("192.0.2.77", "ipv4", "192.0.2.77"),
        ("2001:DB8::7", "ipv6", "2001:db8::7"),
        ("gw.example.net", "fqdn", "gw.example.net"),
        ("vpn@example.net", "email", "vpn@example.net"),
        ("0xCAFE01", "key-id", "cafe01"),
    ],
)
def test_an_address_may_show_an_identity_of_its_own(text: str, kind: str, value: str) -> None:
    data = GatewayInput(name="partner", kind="extranet", addresses=[AddressInput(address="203.0.113.9", identity=text)])
    row = services.create_gateway(None, data).addresses.get()
    assert (row.identity_type, row.identity_value) == (kind, value)
    assert services.identity_of(services.identity_text(row)) == (kind, value)
