"""On-demand tunnels: one end, peers by identity, and what such a tunnel rules out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from tests.console import cast
from vpnconsole.gateways.models import Gateway
from vpnconsole.vpn import match, policies, queries, services
from vpnconsole.vpn.inputs import EndInput, PeersInput, RouteInput, SelectorInput, TunnelInput
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, PresharedKey, Tunnel

pytestmark = pytest.mark.django_db


def errors(data: TunnelInput) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        services.create_tunnel(None, data)
    return dict(caught.value.message_dict)


def ikev1(mode: str) -> dict[str, Any]:
    cast.default_policies()
    ike = IKEPolicy.objects.get(name="compatible")
    ipsec = IPsecPolicy.objects.get(name="compatible")
    ike = policies.save_ike_policy(None, None, name=mode, proposals=ike.ordered_proposals(), exchange_mode=mode)
    return {"ike_policy": ike, "ipsec_policy": ipsec}


def test_it_has_one_end_that_only_answers(paris: Gateway, psk: PresharedKey) -> None:
    tunnel = services.create_tunnel(None, cast.on_demand_input(paris, psk))
    assert [(end.side, end.gateway.name, end.connection_type) for end in tunnel.ends.all()] == [
        ("a", "paris", "responder-only")
    ]
    assert (tunnel.peer_identity_type, tunnel.peer_identity_value, tunnel.most_peers) == ("fqdn", "*.example.org", 20)
    assert TunnelInput.of(tunnel).peers == PeersInput(identity_value="*.example.org", most_peers=20)
    assert [row.name for row in queries.tunnels_matching("example.org")] == ["paris-peers"]


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [
        ("fqdn", "gw.example.org", "gw.example.org"),
        ("email", "*@example.org", "*@example.org"),
        ("dn", "CN=*,O=Example", "CN=*,O=Example"),
        ("key-id", "C0FFEE", "c0ffee"),
        ("any", "", "*"),
    ],
)
def test_peers_are_one_some_or_anybody(paris: Gateway, psk: PresharedKey, kind: str, value: str, stored: str) -> None:
    peers = PeersInput(identity_type=kind, identity_value=value)
    tunnel = services.create_tunnel(None, cast.on_demand_input(paris, psk, peers=peers))
    assert (tunnel.peer_identity_type, tunnel.peer_identity_value) == (kind, stored)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"peers": PeersInput(identity_value="")}, "peers.identity_value", "what the peers call themselves"),
        ({"peers": PeersInput(identity_value="two words")}, "peers.identity_value", "This identity"),
        ({"peers": PeersInput(identity_type="x509", identity_value="x")}, "peers.identity_type", "Choose"),
        ({"peers": PeersInput(identity_value="x", most_peers=0)}, "peers.most_peers", "From 1 to 8000"),
        ({"peers": PeersInput(identity_value="x", most_peers=8_001)}, "peers.most_peers", "From 1 to 8000"),
        ({"psk": None}, "psk", "Choose a key"),
    ],
)
def test_impossible_peers_are_refused_beside_the_field(
    paris: Gateway, psk: PresharedKey, change: dict[str, Any], field: str, words: str
) -> None:
    found = errors(cast.on_demand_input(paris, psk, **change))
    assert list(found) == [field]
    assert words in found[field][0]


def test_only_a_gateway_of_ours_answers_and_from_an_address_of_its_own(
    paris: Gateway, extranet: Gateway, psk: PresharedKey
) -> None:
    assert "manages" in errors(cast.on_demand_input(extranet, psk))["end_a.gateway"][0]
    elsewhere = EndInput(gateway=paris, address="192.0.2.99")
    assert "has no address" in errors(cast.on_demand_input(paris, psk, end_a=elsewhere))["end_a.address"][0]


def test_static_routes_are_refused(paris: Gateway, psk: PresharedKey) -> None:
    end = EndInput(gateway=paris, address=cast.PARIS_ADDRESS, routes=[RouteInput(network="10.7.0.0/16")])
    assert "no static routes" in errors(cast.on_demand_input(paris, psk, end_a=end))["end_a.routes"][0]


@pytest.mark.parametrize("version", ["v1", "v2-else-v1"])
def test_ikev1_needs_aggressive_mode(paris: Gateway, psk: PresharedKey, version: str) -> None:
    found = errors(cast.on_demand_input(paris, psk, version=version, **ikev1("main")))
    assert list(found) == ["ike_policy"]
    assert "Main Mode, where IKEv1 needs the key before it knows who is there" in found["ike_policy"][0]
    assert "Choose a policy with Aggressive Mode, or IKEv2" in found["ike_policy"][0]
    tunnel = services.create_tunnel(None, cast.on_demand_input(paris, psk, version=version, **ikev1("aggressive")))
    assert tunnel.exchange_mode == "aggressive"


def test_a_policy_in_use_on_demand_does_not_become_main_mode_or_transport(paris: Gateway) -> None:
    chosen = ikev1("aggressive")
    cast.make_on_demand(paris, version="v1", **chosen)
    ike, ipsec = chosen["ike_policy"], chosen["ipsec_policy"]
    with pytest.raises(ValidationError) as caught:
        policies.save_ike_policy(None, ike, name="x", proposals=ike.ordered_proposals(), exchange_mode="main")
    assert "Tunnel paris-peers uses it" in caught.value.message_dict["exchange_mode"][0]
    with pytest.raises(ValidationError) as caught:
        policies.save_ipsec_policy(None, ipsec, name="x", proposals=ipsec.ordered_proposals(), mode="transport")
    assert "needs both addresses beforehand" in caught.value.message_dict["mode"][0]


def test_an_identity_belongs_to_one_tunnel_per_address_when_one_is_on_demand(
    paris: Gateway, lyon: Gateway, psk: PresharedKey
) -> None:
    named = EndInput(gateway=lyon, address=cast.LYON_ADDRESS, identity_type="fqdn", identity_value="lyon.example.org")
    cast.make_tunnel(paris, lyon, psk, end_b=named)
    same = PeersInput(identity_value="lyon.example.org")
    found = errors(cast.on_demand_input(paris, psk, peers=same))
    assert "Tunnel paris-lyon (static) has peer lyon.example.org" in found["peers.identity_value"][0]
    # A partial identity is another one: the exact is preferred to it.
    services.create_tunnel(None, cast.on_demand_input(paris, psk))
    again = cast.on_demand_input(paris, psk, name="again")
    assert "(on-demand) has peer *.example.org" in errors(again)["peers.identity_value"][0]
    services.create_tunnel(None, dataclasses.replace(again, peers=PeersInput(identity_type="any")))


def test_the_same_identity_is_refused_from_the_static_side_too(
    paris: Gateway, lyon: Gateway, psk: PresharedKey
) -> None:
    cast.make_on_demand(paris, peers=PeersInput(identity_value="lyon.example.org"))
    named = EndInput(gateway=lyon, address=cast.LYON_ADDRESS, identity_type="fqdn", identity_value="lyon.example.org")
    found = errors(cast.tunnel_input(paris, lyon, psk, end_b=named))
    assert "belongs to one tunnel per address" in found["end_b.identity_value"][0]


def test_two_on_demand_tunnels_may_have_the_same_networks(paris: Gateway) -> None:
    first = cast.make_on_demand(paris)
    second = cast.make_on_demand(paris, name="other", peers=PeersInput(identity_value="*.example.net"))
    codes = {each.code for each in match.tunnel_advice(second, [first])}
    assert codes == {"crowd-psk", "nested"}


def test_changing_the_kind_brings_and_takes_the_other_end(paris: Gateway, lyon: Gateway, psk: PresharedKey) -> None:
    tunnel = cast.make_tunnel(paris, lyon, psk)
    pair = SelectorInput(network_a=cast.PARIS_NETWORK, network_b="10.200.0.0/16")
    data = cast.on_demand_input(paris, psk, name="paris-lyon", selectors=[pair])
    assert services.update_tunnel(None, tunnel, data).ends.count() == 1
    back = services.update_tunnel(None, tunnel, cast.tunnel_input(paris, lyon, psk))
    assert (back.end_b.gateway, back.peer_identity_value) == (lyon, "")


def test_switching_it_off_and_on(paris: Gateway) -> None:
    tunnel = cast.make_on_demand(paris)
    services.set_enabled(None, tunnel, False)
    assert services.set_enabled(None, tunnel, True).enabled


def test_it_stands_in_the_way_of_what_it_needs(paris: Gateway) -> None:
    tunnel = cast.make_on_demand(paris)
    with pytest.raises(ValidationError, match="is used by tunnel paris-peers"):
        policies.delete(None, tunnel.policies.ike_policy)
    services.delete_tunnel(None, tunnel)
    assert not Tunnel.objects.exists()
