"""Tunnels: the services' whole path from input to rows, and every refusal beside its field."""

from __future__ import annotations

import dataclasses
from typing import Any
from uuid import uuid4

import pytest
from django.core.exceptions import ValidationError
from pytest_django import DjangoAssertNumQueries

from tests.console import cast
from vpnconsole.accounts import audit
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.gateways.models import Gateway
from vpnconsole.gateways.services import AddressInput, GatewayInput, create_gateway
from vpnconsole.vpn import keys, queries, services
from vpnconsole.vpn.inputs import CarriageInput, EndInput, SelectorInput, TunnelInput
from vpnconsole.vpn.models import PresharedKey, SelectorPair, Tunnel

pytestmark = pytest.mark.django_db


def _errors(data: TunnelInput, tunnel: Tunnel | None = None) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        services.update_tunnel(None, tunnel, data) if tunnel else services.create_tunnel(None, data)
    return dict(caught.value.message_dict)


def _pair(network_a: str = "10.1.0.0/24", network_b: str = "10.2.0.0/24", **more: Any) -> SelectorInput:
    return SelectorInput(network_a=network_a, network_b=network_b, **more)


def _last() -> AuditEvent:
    event = AuditEvent.objects.first()
    assert event is not None
    return event


def test_a_tunnel_is_made_with_both_ends_filled_in(
    alice: User, paris: Gateway, lyon: Gateway, psk: PresharedKey
) -> None:
    tunnel = services.create_tunnel(alice, cast.tunnel_input(paris, lyon, psk))
    assert (tunnel.end_a.gateway, tunnel.end_a.address) == (paris, cast.PARIS_ADDRESS)
    assert (tunnel.end_b.identity_type, tunnel.end_b.identity_value) == ("ipv4", cast.LYON_ADDRESS)
    assert [(pair.seq, str(pair)) for pair in tunnel.selectors.all()] == [(1, "10.1.0.0/24 - 10.2.0.0/24")]
    assert (tunnel.enabled, tunnel.add_routes, tunnel.mtu) == (True, True, None)
    event = _last()
    assert (event.actor, event.action, event.object_id) == ("alice", "tunnel.created", str(tunnel.pk))


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [
        ("", "", ("ipv4", cast.PARIS_ADDRESS)),
        ("ipv4", "", ("ipv4", cast.PARIS_ADDRESS)),
        ("", "paris.example", ("fqdn", "paris.example")),
        ("fqdn", " paris.example ", ("fqdn", "paris.example")),
        ("dn", "CN=paris,O=Example", ("dn", "CN=paris,O=Example")),
        ("email", "ops@paris.example", ("email", "ops@paris.example")),
        ("key-id", "C0FFEE", ("key-id", "c0ffee")),
        ("ipv6", "2001:DB8::1", ("ipv6", "2001:db8::1")),
        ("fqdn", cast.PARIS_ADDRESS, ("fqdn", cast.PARIS_ADDRESS)),
    ],
)
def test_identities_are_brought_into_the_contract_s_form(
    paris: Gateway, lyon: Gateway, psk: PresharedKey, kind: str, value: str, stored: tuple[str, str]
) -> None:
    end = EndInput(gateway=paris, address=cast.PARIS_ADDRESS, identity_type=kind, identity_value=value)
    tunnel = services.create_tunnel(None, cast.tunnel_input(paris, lyon, psk, end_a=end))
    assert (tunnel.end_a.identity_type, tunnel.end_a.identity_value) == stored


@pytest.mark.parametrize(
    ("kind", "value", "field"),
    [
        ("ipv4", "2001:db8::1", "identity_value"),
        ("ipv4", "paris", "identity_value"),
        ("fqdn", "", "identity_value"),
        ("fqdn", "two words", "identity_value"),
        ("fqdn", "x" * 256, "identity_value"),
        ("key-id", "xyz", "identity_value"),
        ("key-id", "abc", "identity_value"),
        ("dn", "paris", "identity_value"),
        ("x509", "CN=paris", "identity_type"),
    ],
)
def test_an_impossible_identity_is_refused_beside_it(
    paris: Gateway, lyon: Gateway, psk: PresharedKey, kind: str, value: str, field: str
) -> None:
    end = EndInput(gateway=lyon, address=cast.LYON_ADDRESS, identity_type=kind, identity_value=value)
    assert list(_errors(cast.tunnel_input(paris, lyon, psk, end_b=end))) == [f"end_b.{field}"]


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"name": ""}, "name", "blank"),
        ({"name": "Paris Lyon"}, "name", "lowercase"),
        ({"psk": None}, "psk", "Choose a key"),
        ({"ike_policy": None}, "ike_policy", "Choose an IKE policy"),
        ({"ipsec_policy": None}, "ipsec_policy", "Choose an IPsec policy"),
        ({"mtu": 100}, "mtu", "256"),
        ({"selectors": []}, "selectors", "1 to 64 pairs"),
        ({"selectors": [_pair(f"10.1.{n}.0/24", f"10.2.{n}.0/24") for n in range(65)]}, "selectors", "1 to 64"),
    ],
)
def test_an_impossible_tunnel_is_refused_beside_its_field(
    paris: Gateway, lyon: Gateway, psk: PresharedKey, change: dict[str, Any], field: str, words: str
) -> None:
    errors = _errors(cast.tunnel_input(paris, lyon, psk, **change))
    assert list(errors) == [field]
    assert words in errors[field][0]
    assert not Tunnel.objects.exists()


@pytest.mark.parametrize(
    ("pairs", "field", "words"),
    [
        ([_pair("10.1.0.0/16", "10.1.2.0/24")], "selectors.0.network_b", "overlap"),
        ([_pair("10.1.0.0/24", "10.1.0.0/24")], "selectors.0.network_b", "overlap"),
        ([_pair("10.1.0.0/24", "2001:db8::/64")], "selectors.0.network_b", "is IPv4, 2001:db8::/64 is IPv6"),
        ([_pair(), _pair("10.1.0.0/25", "10.2.0.128/25")], "selectors.1.network_b", "Pair 1 (10.1.0.0/24 - 10.2.0"),
        ([_pair(), _pair()], "selectors.1.network_b", "comes first and takes every packet"),
        ([_pair(), _pair(protocol=6)], "selectors.1.network_b", "comes first and takes every packet"),
        ([_pair("10.1.0.1/24")], "selectors.0.network_a", "did you mean 10.1.0.0/24?"),
        ([_pair("")], "selectors.0.network_a", "blank"),
        ([_pair("ten")], "selectors.0.network_a", "is not a network"),
        ([_pair("0.0.0.0/0", "0.0.0.0/0")], "selectors.0.network_b", "an interface of its own"),
        ([_pair("10.1.0.0/24", "0.0.0.0/0")], "selectors.0.network_b", "turn off adding routes"),
        ([_pair(protocol=256)], "selectors.0.protocol", "255"),
        ([_pair(port_a_start=80, port_a_end=80)], "selectors.0.protocol", "Ports need a protocol"),
        ([_pair(protocol=6, port_b_start=90, port_b_end=80)], "selectors.0.port_b_end", "before the first"),
        ([_pair(protocol=6, port_a_end=65_536)], "selectors.0.port_a_end", "65535"),
    ],
)
def test_impossible_networks_are_refused_beside_them(
    paris: Gateway, lyon: Gateway, psk: PresharedKey, pairs: list[SelectorInput], field: str, words: str
) -> None:
    errors = _errors(cast.tunnel_input(paris, lyon, psk, selectors=pairs))
    assert list(errors) == [field]
    assert words in errors[field][0]


@pytest.mark.parametrize(
    "pairs",
    [
        [_pair(), _pair("10.1.1.0/24"), _pair("2001:db8:1::/64", "2001:db8:2::/64")],
        [_pair(protocol=6, port_b_start=80, port_b_end=80), _pair(protocol=6, port_b_start=443, port_b_end=443)],
        [_pair(protocol=6), _pair(protocol=17)],
        [_pair(protocol=6), _pair()],
        [_pair("10.1.0.0/25", "10.2.0.0/16"), _pair("10.1.0.0/24", "10.2.0.0/24")],
        [_pair("10.1.0.1/32", "10.2.0.1/32")],
    ],
)
def test_good_pairs(paris: Gateway, lyon: Gateway, psk: PresharedKey, pairs: list[SelectorInput]) -> None:
    tunnel = services.create_tunnel(None, cast.tunnel_input(paris, lyon, psk, selectors=pairs))
    assert [SelectorInput.of(pair) for pair in tunnel.selectors.all()] == pairs


def test_everything_may_go_through_a_tunnel_that_adds_no_routes(
    paris: Gateway, lyon: Gateway, psk: PresharedKey
) -> None:
    data = cast.tunnel_input(paris, lyon, psk, selectors=[_pair("10.1.0.0/24", "0.0.0.0/0")], add_routes=False)
    assert services.create_tunnel(None, data).pk


def test_everything_at_both_ends_needs_an_interface_of_its_own_and_leaves_routes_to_others(
    paris: Gateway, lyon: Gateway, psk: PresharedKey
) -> None:
    circuit = CarriageInput(attachment="interface")
    everything = [_pair("0.0.0.0/0", "0.0.0.0/0"), _pair("::/0", "::/0")]
    data = cast.tunnel_input(paris, lyon, psk, selectors=everything, add_routes=False)
    assert "an interface of its own" in _errors(data)["selectors.1.network_b"][0]
    adding = dataclasses.replace(data, carriage=circuit, add_routes=True)
    assert "turn off adding routes" in _errors(adding)["selectors.0.network_b"][0]
    assert services.create_tunnel(None, dataclasses.replace(data, carriage=circuit)).pk
    end = EndInput(gateway=paris, address=cast.PARIS_ADDRESS, identity_type="fqdn", identity_value="b.paris")
    second = dataclasses.replace(data, name="second", end_a=end, carriage=circuit)
    assert services.create_tunnel(None, second).pk


def test_impossible_ends_are_refused_beside_them(
    paris: Gateway, lyon: Gateway, extranet: Gateway, psk: PresharedKey
) -> None:
    v6 = create_gateway(None, GatewayInput(name="v6", addresses=[AddressInput(address="2001:db8::6")]))
    abroad = create_gateway(
        None, GatewayInput(name="abroad", kind="extranet", addresses=[AddressInput(address="203.0.113.77")])
    )
    twin = create_gateway(None, GatewayInput(name="twin", addresses=[AddressInput(address=cast.PARIS_ADDRESS)]))

    def end(gateway: Gateway | None, address: str, **more: Any) -> EndInput:
        return EndInput(gateway=gateway, address=address, **more)

    a, b = end(paris, cast.PARIS_ADDRESS), end(lyon, cast.LYON_ADDRESS)
    answer, start = {"connection_type": "responder-only"}, {"connection_type": "initiator-only"}
    foreign = end(extranet, cast.EXTRANET_ADDRESS)
    table: list[tuple[EndInput, EndInput, str, str]] = [
        (end(None, cast.PARIS_ADDRESS), b, "end_a.gateway", "Choose a gateway"),
        (end(paris, "192.0.2.99"), b, "end_a.address", "paris has no address 192.0.2.99"),
        (a, end(lyon, "somewhere"), "end_b.address", "valid IPv4 or IPv6"),
        (a, end(lyon, ""), "end_b.address", "blank"),
        (a, a, "end_b.gateway", "same gateway"),
        (a, end(v6, "2001:db8::6"), "end_b.address", "IPv4 address, this one IPv6"),
        (a, end(twin, cast.PARIS_ADDRESS), "end_b.address", "same address"),
        (foreign, end(abroad, "203.0.113.77"), "end_b.gateway", "Neither gateway is managed"),
        (end(paris, a.address, **answer), end(lyon, b.address, **answer), "end_b.connection_type", "only answer"),
        (end(paris, a.address, **start), end(lyon, b.address, **start), "end_b.connection_type", "only start"),
        (dataclasses.replace(a, connection_type="never"), b, "end_a.connection_type", "valid choice"),
    ]
    for end_a, end_b, field, words in table:
        errors = _errors(dataclasses.replace(cast.tunnel_input(paris, lyon, psk), end_a=end_a, end_b=end_b))
        assert field in errors, (field, errors)
        assert set(errors) <= {field, field.replace("address", "identity_value")}, errors
        assert words in errors[field][0], errors


def test_all_errors_of_a_form_come_at_once(paris: Gateway, lyon: Gateway) -> None:
    data = cast.tunnel_input(
        paris, lyon, None, name="No", selectors=[_pair("x")], end_b=EndInput(gateway=lyon, address="192.0.2.4")
    )
    assert set(_errors(data)) == {"name", "psk", "selectors.0.network_a", "end_b.address"}


def test_one_address_may_stand_on_many_gateways(paris: Gateway, lyon: Gateway, tunnel: Tunnel) -> None:
    # A private address may stand on any number of gateways: it is the pair with the gateway that counts.
    twin = cast.make_gateway("nice", cast.LYON_ADDRESS, "10.3.0.0/24")
    end_b = EndInput(gateway=twin, address=cast.LYON_ADDRESS, identity_value="nice.example")
    assert cast.make_tunnel(paris, twin, end_b=end_b).pk
    bordeaux = cast.make_gateway("bordeaux", "198.51.100.3", "10.4.0.0/24")
    assert cast.make_tunnel(bordeaux, twin).pk


def test_two_tunnels_alike_on_the_outside_are_refused(paris: Gateway, lyon: Gateway, tunnel: Tunnel) -> None:
    other = [_pair("10.1.7.0/24", "10.2.7.0/24")]
    alike = cast.tunnel_input(paris, lyon, cast.make_psk("k2"), name="second", selectors=other)
    turned = cast.tunnel_input(
        lyon, paris, cast.make_psk("k3"), name="third", selectors=[_pair("10.2.7.0/24", "10.1.7.0/24")]
    )
    for data in (alike, turned):
        assert list(_errors(data)) == ["end_b.identity_value"]
    end_b = dataclasses.replace(alike.end_b, identity_value="second.lyon.example")
    assert services.create_tunnel(None, dataclasses.replace(alike, end_b=end_b)).pk


def test_two_tunnels_for_the_same_packets_are_refused_while_both_are_on(
    alice: User, paris: Gateway, extranet: Gateway, tunnel: Tunnel
) -> None:
    key = cast.make_psk("k2")
    claims = [_pair("10.1.0.0/25", "10.2.0.0/24")]
    errors = _errors(cast.tunnel_input(paris, extranet, key, selectors=claims))
    assert list(errors) == ["selectors.0.network_b"]
    assert "Tunnel paris-lyon carries 10.1.0.0/24 to 10.2.0.0/24 on paris already" in errors["selectors.0.network_b"][0]
    spare = services.create_tunnel(alice, cast.tunnel_input(paris, extranet, key, selectors=claims, enabled=False))
    assert (spare.enabled, spare.disabled_by) == (False, alice)
    with pytest.raises(ValidationError, match="paris-lyon carries"):
        services.set_enabled(alice, spare, True)
    services.set_enabled(alice, tunnel, False)
    assert services.set_enabled(alice, spare, True).enabled
    nested = [_pair("10.1.0.0/25", "10.2.0.0/25")]
    assert services.update_tunnel(None, spare, cast.tunnel_input(paris, extranet, key, selectors=nested)).pk


def test_two_addresses_of_one_host_reach_the_same_peer_with_two_keys() -> None:
    ours = [AddressInput(address="10.1.1.1"), AddressInput(address="10.1.1.2")]
    aix = create_gateway(None, GatewayInput(name="aix", addresses=ours))
    peer = create_gateway(
        None, GatewayInput(name="peer", kind="extranet", addresses=[AddressInput(address="10.1.1.101")])
    )
    ike_policy, ipsec_policy = cast.default_policies()
    for number, address in enumerate(("10.1.1.1", "10.1.1.2"), 1):
        data = TunnelInput(
            name=f"host-{number}",
            end_a=EndInput(gateway=aix, address=address),
            end_b=EndInput(gateway=peer, address="10.1.1.101"),
            selectors=[_pair(f"{address}/32", "10.1.1.101/32")],
            ike_policy=ike_policy,
            ipsec_policy=ipsec_policy,
            psk=keys.generate_psk(None, name=f"host-{number}"),
        )
        services.create_tunnel(None, data)
    chosen = {tunnel.end_a.address: tunnel.preshared_key.name for tunnel in queries.tunnels_of_gateway(aix.pk)}
    assert chosen == {"10.1.1.1": "host-1", "10.1.1.2": "host-2"}


def test_a_change_keeps_rows_and_says_which_fields(alice: User, paris: Gateway, lyon: Gateway, tunnel: Tunnel) -> None:
    before = {end.side: end.pk for end in tunnel.ends.all()}
    data = dataclasses.replace(TunnelInput.of(tunnel), name="renamed", mtu=1400)
    changed = services.update_tunnel(alice, tunnel, data)
    assert {end.side: end.pk for end in changed.ends.all()} == before
    assert (changed.pk, changed.name, changed.mtu) == (tunnel.pk, "renamed", 1400)
    assert _last().details == {"fields": ["mtu", "name"]}


def test_saving_what_is_there_changes_nothing(tunnel: Tunnel) -> None:
    pairs = list(tunnel.selectors.values_list("pk", "seq"))
    services.update_tunnel(None, tunnel, TunnelInput.of(tunnel))
    assert _last().details == {"fields": []}
    assert list(tunnel.selectors.values_list("pk", "seq")) == pairs


def test_a_pair_keeps_its_number_when_its_neighbours_go(paris: Gateway, lyon: Gateway, psk: PresharedKey) -> None:
    one, two, three = (_pair(f"10.1.{n}.0/24", f"10.2.{n}.0/24") for n in range(3))
    tunnel = services.create_tunnel(None, cast.tunnel_input(paris, lyon, psk, selectors=[one, two]))
    data = TunnelInput.of(tunnel)
    tunnel = services.update_tunnel(None, tunnel, dataclasses.replace(data, selectors=[two]))
    assert [(pair.seq, pair.network_a) for pair in tunnel.selectors.all()] == [(2, "10.1.1.0/24")]
    tunnel = services.update_tunnel(None, tunnel, dataclasses.replace(data, selectors=[three, two]))
    assert [(pair.seq, pair.network_a) for pair in tunnel.selectors.all()] == [(1, "10.1.2.0/24"), (2, "10.1.1.0/24")]


def test_a_refused_change_changes_nothing(tunnel: Tunnel) -> None:
    records = AuditEvent.objects.count()
    _errors(dataclasses.replace(TunnelInput.of(tunnel), name="other", selectors=[_pair("x")]), tunnel)
    stored = queries.get_tunnel(tunnel.pk)
    assert (stored.name, len(stored.selectors.all())) == ("paris-lyon", 1)
    assert tunnel.name == "paris-lyon"
    assert AuditEvent.objects.count() == records


def test_switching_off_says_who_and_when(bob: User, tunnel: Tunnel) -> None:
    off = services.set_enabled(bob, tunnel, False)
    assert (off.enabled, off.disabled_by) == (False, bob)
    assert off.disabled_at is not None
    records = AuditEvent.objects.count()
    assert services.set_enabled(bob, tunnel, False).disabled_at == off.disabled_at
    assert AuditEvent.objects.count() == records
    on = services.set_enabled(bob, tunnel, True)
    assert (on.enabled, on.disabled_by, on.disabled_at) == (True, None, None)
    assert _last().action == "tunnel.enabled"


def test_an_edit_keeps_who_switched_it_off(alice: User, bob: User, tunnel: Tunnel) -> None:
    off = services.set_enabled(bob, tunnel, False)
    edited = services.update_tunnel(alice, off, dataclasses.replace(TunnelInput.of(off), mtu=1300))
    assert edited.disabled_by == bob


def test_a_copy_needs_what_tells_it_apart(alice: User, tunnel: Tunnel) -> None:
    with pytest.raises(ValidationError) as caught:
        services.clone_tunnel(alice, tunnel, name="copy")
    assert "end_b.identity_value" in caught.value.message_dict
    end_b = dataclasses.replace(TunnelInput.of(tunnel).end_b, identity_type="fqdn", identity_value="two.lyon.example")
    copy = services.clone_tunnel(alice, tunnel, name="copy", end_b=end_b, selectors=[_pair("10.1.9.0/24")])
    assert copy.pk != tunnel.pk
    assert (copy.preshared_key, copy.policies.ike_policy) == (tunnel.preshared_key, tunnel.policies.ike_policy)
    assert _last().details == {"copy_of": "paris-lyon"}


def test_deleting_takes_the_rows_and_leaves_the_record(alice: User, tunnel: Tunnel) -> None:
    services.delete_tunnel(alice, tunnel)
    assert not Tunnel.objects.exists()
    assert not SelectorPair.objects.exists()
    event = _last()
    assert (event.action, event.details) == ("tunnel.deleted", {"gateways": ["paris", "lyon"]})
    assert audit.verify().intact


def test_reading_tunnels_costs_the_same_however_many(
    paris: Gateway, lyon: Gateway, tunnel: Tunnel, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(3, 8):
        gateway = cast.make_gateway(f"gw-{number}", f"198.51.100.{number}", f"10.{number}.0.0/24")
        cast.make_tunnel(paris, gateway)

    def read(tunnel: Tunnel) -> object:
        ends = [(end.gateway.name, end.address) for end in (tunnel.end_a, tunnel.end_b)]
        proposals = [*tunnel.policies.ike_policy.ordered_proposals(), *tunnel.policies.ipsec_policy.ordered_proposals()]
        return (
            ends,
            [str(pair) for pair in tunnel.selectors.all()],
            proposals,
            tunnel.preshared_key.name,
            tunnel.disabled_by,
        )

    with django_assert_num_queries(10):
        assert len([read(tunnel) for tunnel in queries.tunnels()]) == 6
    with django_assert_num_queries(10):
        assert len([read(tunnel) for tunnel in queries.tunnels_of_gateway(paris.pk)]) == 6
    assert [row.name for row in queries.tunnels_of_gateway(lyon.pk)] == ["paris-lyon"]
    assert list(queries.tunnels_of_gateway(uuid4())) == []
    assert {row.name for row in queries.tunnels_matching("GW-3")} == {"paris-gw-3"}
    assert {row.name for row in queries.tunnels_matching("198.51.100.1")} == {"paris-lyon"}


def test_storing_a_tunnel_costs_the_same_beside_many(
    paris: Gateway, lyon: Gateway, tunnel: Tunnel, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(3, 8):
        cast.make_tunnel(paris, cast.make_gateway(f"gw-{number}", f"198.51.100.{number}", f"10.{number}.0.0/24"))
    with django_assert_max_num_queries(70):
        services.update_tunnel(None, tunnel, dataclasses.replace(TunnelInput.of(tunnel), mtu=1400))
