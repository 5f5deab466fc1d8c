"""Advice on tunnels: what works but is unwise."""

from __future__ import annotations

import dataclasses

import pytest

from tests.console import cast
from vpnconsole.gateways.models import Gateway
from vpnconsole.vpn import match, policies, queries, services
from vpnconsole.vpn.inputs import SelectorInput, TunnelInput
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, IPsecProposal, PresharedKey, Tunnel

pytestmark = pytest.mark.django_db


def _codes(tunnel: Tunnel) -> list[tuple[str, str]]:
    rows = match.tunnel_advice(queries.get_tunnel(tunnel.pk), queries.tunnels())
    return [(advice.code, advice.field) for advice in rows]


def test_a_good_tunnel_gets_no_advice(tunnel: Tunnel) -> None:
    assert _codes(tunnel) == []


def test_a_short_key(paris: Gateway, lyon: Gateway) -> None:
    assert _codes(cast.make_tunnel(paris, lyon, cast.make_psk("short", "secret"))) == [("short-psk", "psk")]


def test_a_key_of_two_tunnels(paris: Gateway, lyon: Gateway, extranet: Gateway, psk: PresharedKey) -> None:
    one, two = cast.make_tunnel(paris, lyon, psk), cast.make_tunnel(paris, extranet, psk)
    assert _codes(one) == _codes(two) == [("shared-psk", "psk")]


def test_weak_algorithms_say_which_and_why(tunnel: Tunnel) -> None:
    ike = policies.save_ike_proposal(
        None, name="old", encryption="aes-128-cbc", integrity="hmac-sha1-96", prf="prf-hmac-sha1", group="group-14"
    )
    esp = policies.save_ipsec_proposal(None, name="old", encryption="aes-128-cbc", integrity="hmac-sha1-96")
    policies.save_ike_policy(None, tunnel.policies.ike_policy, name="default", proposals=[ike])
    policies.save_ipsec_policy(None, tunnel.policies.ipsec_policy, name="default", proposals=[esp], replay_window=0)
    assert _codes(tunnel) == [
        ("weak-algorithm", "ike_policy"),
        ("weak-algorithm", "ipsec_policy"),
        ("no-pfs", "ipsec_policy"),
        ("no-replay-window", "ipsec_policy"),
    ]
    assert "SHA-1" in match.policy_advice(IKEPolicy.objects.get(name="default"), "ike_policy")[0].message


def test_no_pfs_alone() -> None:
    policy = policies.save_ipsec_policy(None, name="no pfs", proposals=list(IPsecProposal.objects.all()[:1]))
    assert [row.code for row in match.policy_advice(IPsecPolicy.objects.get(pk=policy.pk), "x")] == ["no-pfs"]


def test_an_outer_address_inside_the_tunnel(tunnel: Tunnel) -> None:
    inside = [SelectorInput(network_a="10.1.0.0/24", network_b="198.51.100.0/24")]
    changed = services.update_tunnel(None, tunnel, dataclasses.replace(TunnelInput.of(tunnel), selectors=inside))
    assert _codes(changed) == [("outer-inside", "selectors.0.network_b")]


def test_a_network_within_another_tunnel_s(paris: Gateway, extranet: Gateway, tunnel: Tunnel) -> None:
    pairs = [SelectorInput(network_a="10.1.0.0/24", network_b="10.2.0.0/16")]
    wide = cast.make_tunnel(paris, extranet, selectors=pairs)
    assert _codes(wide) == [("nested", "selectors.0.network_b")]
    assert _codes(tunnel) == [("nested", "selectors.0.network_b")]
    services.set_enabled(None, wide, False)
    assert _codes(tunnel) == []
