"""How packets are carried: contexts, costs, routes, queues; and the order of the rules."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from tests.console import cast
from vpnconsole.accounts.models import AuditEvent
from vpnconsole.gateways.models import Gateway
from vpnconsole.gateways.services import AddressInput, ContextInput, GatewayInput, update_gateway
from vpnconsole.vpn import match, policies, services
from vpnconsole.vpn.inputs import CarriageInput, EndInput, RouteInput, SelectorInput, TunnelInput
from vpnconsole.vpn.models import PresharedKey, Tunnel
from vpnconsole.vpn.traffic import Traffic, covers

pytestmark = pytest.mark.django_db
INTERFACE = CarriageInput(attachment="interface")


def errors(data: TunnelInput) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        services.create_tunnel(None, data)
    return dict(caught.value.message_dict)


def with_contexts(gateway: Gateway, *contexts: ContextInput) -> Gateway:
    data = GatewayInput(
        name=gateway.name,
        kind=gateway.kind,
        addresses=[AddressInput(address=row.address) for row in gateway.addresses.all()],
        protected_networks=[row.prefix for row in gateway.protected_networks.all()],
        contexts=contexts,
    )
    return update_gateway(None, gateway, data)


def end(gateway: Gateway, **more: Any) -> EndInput:
    return EndInput(gateway=gateway, address=gateway.addresses.all()[0].address, **more)


def test_everything_is_stored_and_comes_back(paris: Gateway, lyon: Gateway, psk: PresharedKey) -> None:
    with_contexts(paris, ContextInput(name="blue", table=100), ContextInput(name="uplink-a", table=101))
    qos = policies.save_qos_policy(None, name="voice", queues=4)
    routes = (RouteInput(network="10.44.0.0/16", cost=5), RouteInput(network="10.45.0.0/16"))
    data = cast.tunnel_input(
        paris, lyon, psk,
        end_a=end(paris, context="blue", endpoint_context="uplink-a", route_cost=10, routes=routes),
        carriage=CarriageInput(
            attachment="interface", df_bit="clear", copy_dscp=False, clamp_tcp_mss=True, qos_policy=qos
        ),
    )  # fmt: skip
    stored = TunnelInput.of(services.create_tunnel(None, data))
    assert stored.carriage == data.carriage
    assert (stored.end_a.context, stored.end_a.route_cost, stored.end_a.routes) == ("blue", 10, routes)
    assert (stored.end_a.endpoint_context, stored.end_b.endpoint_context) == ("uplink-a", "local")
    assert (stored.end_b.context, stored.end_b.routes) == ("local", ())


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"context": "green"}, "end_a.context", "paris has no context green"),
        ({"endpoint_context": "green"}, "end_a.endpoint_context", "paris has no context green"),
        ({"route_cost": 65_536}, "end_a.route_cost", "65535"),
        ({"routes": [RouteInput(network="ten")]}, "end_a.routes", "is not a network"),
        ({"routes": [RouteInput(network="10.1.0.1/24")]}, "end_a.routes", "did you mean 10.1.0.0/24"),
        ({"routes": [RouteInput(network="10.1.0.0/24 x", cost=None)]}, "end_a.routes", "a network and its cost"),
        ({"routes": [RouteInput(network="10.7.0.0/24", cost=65_536)]}, "end_a.routes", "65535"),
        ({"routes": [RouteInput(network="10.7.0.0/24")] * 2}, "end_a.routes", "stands there twice"),
        ({"routes": [RouteInput(network=f"10.7.{n}.0/24") for n in range(65)]}, "end_a.routes", "At most 64"),
    ],
)
def test_impossible_routing_is_refused_beside_the_field(
    paris: Gateway, lyon: Gateway, psk: PresharedKey, change: dict[str, Any], field: str, words: str
) -> None:
    found = errors(cast.tunnel_input(paris, lyon, psk, end_a=end(paris, **change)))
    assert list(found) == [field]
    assert words in found[field][0]


def test_the_routes_of_an_extranet_gateway_are_not_ours(paris: Gateway, extranet: Gateway, psk: PresharedKey) -> None:
    far = end(extranet, routes=[RouteInput(network="10.7.0.0/24")])
    assert "extranet is not ours" in errors(cast.tunnel_input(paris, extranet, psk, end_b=far))["end_b.routes"][0]


def test_unknown_choices_are_refused(paris: Gateway, lyon: Gateway, psk: PresharedKey) -> None:
    found = errors(cast.tunnel_input(paris, lyon, psk, carriage=CarriageInput(attachment="glue", df_bit="maybe")))
    assert set(found) == {"attachment", "df_bit"}
    assert list(errors(cast.tunnel_input(paris, lyon, psk, kind="magic"))) == ["kind"]


def test_one_tunnel_stands_in_for_another_by_cost(paris: Gateway, lyon: Gateway, psk: PresharedKey) -> None:
    cast.make_tunnel(
        paris, lyon, psk, carriage=INTERFACE, end_a=end(paris, route_cost=5), end_b=end(lyon, route_cost=5)
    )
    second = end(paris, route_cost=10, identity_type="fqdn", identity_value="b.paris")
    data = cast.tunnel_input(
        paris, lyon, psk, name="backup", carriage=INTERFACE, end_a=second, end_b=end(lyon, route_cost=10)
    )
    shared = dataclasses.replace(data, carriage=CarriageInput())
    assert "give both an interface of their own" in errors(shared)["selectors.0.network_b"][0]
    Gateway.objects.update(data_plane="userspace")
    near, far = Gateway.objects.get(pk=paris.pk), Gateway.objects.get(pk=lyon.pk)
    links: dict[str, Any] = {"end_a": dataclasses.replace(second, gateway=near), "end_b": end(far, route_cost=10)}
    assert services.create_tunnel(None, dataclasses.replace(shared, name="links", **links)).pk
    Tunnel.objects.filter(name="links").delete()
    Gateway.objects.update(data_plane="auto")
    same_cost = dataclasses.replace(data, end_a=dataclasses.replace(second, route_cost=5))
    assert list(errors(same_cost)) == ["selectors.0.network_b"]
    assert services.create_tunnel(None, data).pk


def test_an_address_is_in_one_context_for_all_tunnels(paris: Gateway, lyon: Gateway, psk: PresharedKey) -> None:
    with_contexts(paris, ContextInput(name="uplink-a", table=101), ContextInput(name="uplink-b", table=102))
    first = cast.make_tunnel(paris, lyon, psk, carriage=INTERFACE, end_a=end(paris, endpoint_context="uplink-a"))

    def second(context: str, **more: Any) -> TunnelInput:
        named = end(paris, endpoint_context=context, route_cost=10, identity_type="fqdn", identity_value="b.paris")
        return cast.tunnel_input(
            paris, lyon, psk, name="backup", carriage=INTERFACE, end_a=named, end_b=end(lyon, route_cost=10), **more
        )

    for context in ("local", "uplink-b"):
        found = errors(second(context))
        assert list(found) == ["end_a.endpoint_context"]
        assert f"Tunnel {first.name} has {cast.PARIS_ADDRESS} in context uplink-a" in found["end_a.endpoint_context"][0]
    off = services.create_tunnel(None, second("uplink-b", enabled=False))
    with pytest.raises(ValidationError) as caught:
        services.set_enabled(None, off, True)
    assert list(caught.value.message_dict) == ["end_a.endpoint_context"]
    both = services.update_tunnel(None, off, second("uplink-a"))
    assert both.enabled
    moved = dataclasses.replace(TunnelInput.of(first), end_a=end(paris))
    with pytest.raises(ValidationError, match="switch one off until both are changed"):
        services.update_tunnel(None, first, moved)


def test_another_address_may_be_in_another_context(paris: Gateway, lyon: Gateway, psk: PresharedKey) -> None:
    data = GatewayInput(
        name=paris.name,
        kind=paris.kind,
        addresses=[AddressInput(address=cast.PARIS_ADDRESS), AddressInput(address="203.0.113.99")],
        protected_networks=[row.prefix for row in paris.protected_networks.all()],
        contexts=[ContextInput(name="uplink-a", table=101), ContextInput(name="uplink-b", table=102)],
    )
    two_uplinks = update_gateway(None, paris, data)
    first = EndInput(gateway=two_uplinks, address=cast.PARIS_ADDRESS, endpoint_context="uplink-a", route_cost=5)
    cast.make_tunnel(two_uplinks, lyon, psk, carriage=INTERFACE, end_a=first, end_b=end(lyon, route_cost=5))
    second = EndInput(gateway=two_uplinks, address="203.0.113.99", endpoint_context="uplink-b", route_cost=10)
    backup = cast.make_tunnel(
        two_uplinks, lyon, psk, name="backup", carriage=INTERFACE, end_a=second, end_b=end(lyon, route_cost=10)
    )
    assert TunnelInput.of(backup).end_a.endpoint_context == "uplink-b"


def test_contexts_and_qos_policies_in_use_stay(paris: Gateway, lyon: Gateway, psk: PresharedKey) -> None:
    with_contexts(paris, ContextInput(name="blue", table=100), ContextInput(name="red", table=101))
    qos = policies.save_qos_policy(None, name="voice")
    carriage = CarriageInput(qos_policy=qos)
    cast.make_tunnel(paris, lyon, psk, end_a=end(paris, context="blue"), carriage=carriage)
    with pytest.raises(ValidationError) as caught:
        with_contexts(paris, ContextInput(name="red", table=101))
    assert caught.value.message_dict["contexts"] == [
        "Context blue is used by tunnel paris-lyon: change the tunnel first."
    ]
    outside = cast.tunnel_input(paris, lyon, psk, end_a=end(paris, context="blue", endpoint_context="red"))
    services.update_tunnel(None, Tunnel.objects.get(), dataclasses.replace(outside, carriage=carriage))
    with pytest.raises(ValidationError, match="Context red is used by tunnel paris-lyon"):
        with_contexts(paris, ContextInput(name="blue", table=100))
    with pytest.raises(ValidationError, match="is used by tunnel paris-lyon"):
        policies.delete(None, qos)
    swapped = with_contexts(paris, ContextInput(name="blue", table=101), ContextInput(name="red", table=100))
    assert [(row.name, row.table) for row in swapped.contexts.all()] == [("blue", 101), ("red", 100)]
    assert Tunnel.objects.get().end_a.context == swapped.contexts.get(name="blue")


def test_a_shared_tunnel_in_a_context_is_advised_against(paris: Gateway, lyon: Gateway, psk: PresharedKey) -> None:
    with_contexts(paris, ContextInput(name="blue", table=100))
    data = cast.tunnel_input(paris, lyon, psk, end_a=end(paris, context="blue"))
    tunnel = services.create_tunnel(None, data)
    assert [each.code for each in match.tunnel_advice(tunnel)] == ["shared-in-context"]
    tunnel = services.update_tunnel(None, tunnel, dataclasses.replace(data, carriage=INTERFACE))
    assert match.tunnel_advice(tunnel) == []


# The order of the rules


def rules(tunnel: Tunnel) -> list[tuple[str, int]]:
    return [(pair.network_b, pair.seq) for pair in tunnel.selectors.all()]


def test_a_rule_that_moves_keeps_its_name(paris: Gateway, lyon: Gateway, psk: PresharedKey) -> None:
    pairs = [SelectorInput(network_a="10.1.0.0/24", network_b=f"10.2.{n}.0/24") for n in range(3)]
    tunnel = cast.make_tunnel(paris, lyon, psk, selectors=pairs)
    assert rules(tunnel) == [("10.2.0.0/24", 1), ("10.2.1.0/24", 2), ("10.2.2.0/24", 3)]
    data = dataclasses.replace(TunnelInput.of(tunnel), selectors=[pairs[2], pairs[0], pairs[1]])
    tunnel = services.update_tunnel(None, tunnel, data)
    assert rules(tunnel) == [("10.2.2.0/24", 3), ("10.2.0.0/24", 1), ("10.2.1.0/24", 2)]
    event = AuditEvent.objects.first()
    assert event is not None
    assert event.details["fields"] == ["selectors"]
    new = SelectorInput(network_a="10.1.0.0/24", network_b="10.2.9.0/24")
    tunnel = services.update_tunnel(None, tunnel, dataclasses.replace(data, selectors=[new, pairs[2], pairs[1]]))
    assert rules(tunnel) == [("10.2.9.0/24", 1), ("10.2.2.0/24", 3), ("10.2.1.0/24", 2)]


def test_a_rule_no_packet_reaches_is_refused(paris: Gateway, lyon: Gateway, psk: PresharedKey) -> None:
    narrow = SelectorInput(network_a="10.1.0.0/24", network_b="10.2.0.0/24", protocol=6)
    wide = dataclasses.replace(narrow, protocol=0)
    found = errors(cast.tunnel_input(paris, lyon, psk, selectors=[wide, narrow]))
    assert "Pair 1 (10.1.0.0/24 - 10.2.0.0/24) comes first" in found["selectors.1.network_b"][0]
    assert services.create_tunnel(None, cast.tunnel_input(paris, lyon, psk, selectors=[narrow, wide])).pk


@pytest.mark.parametrize(
    ("change", "covered"),
    [
        ({}, True),
        ({"protocol": 6}, True),
        ({"protocol": 6, "local_ports": (80, 90)}, True),
        ({"local": "10.0.0.0/7"}, False),
        ({"remote": "2001:db8::/32"}, False),
    ],
)
def test_what_covers_what(change: dict[str, Any], covered: bool) -> None:
    network = ipaddress.ip_network("10.0.0.0/8")
    one = Traffic(local=network, remote=network)
    values: dict[str, Any] = {"local": network, "remote": network}
    values |= {name: ipaddress.ip_network(each) if name in values else each for name, each in change.items()}
    assert covers(one, Traffic(**values)) is covered
    assert covers(Traffic(**values), one) is (change == {} or change == {"local": "10.0.0.0/7"})
