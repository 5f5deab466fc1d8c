"""Algorithms for old peers only: refused wherever they would reach a gateway that does not allow them."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from agents.contract.errors import DocumentError
from tests.console import cast
from vpnconsole.gateways.models import Gateway
from vpnconsole.gateways.services import AddressInput, GatewayInput, update_gateway
from vpnconsole.rollout import snapshot
from vpnconsole.rollout.compile import compile_document
from vpnconsole.vpn import legacy, policies
from vpnconsole.vpn.inputs import SelectorInput
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, IPsecProposal, PresharedKey, Tunnel

pytestmark = pytest.mark.django_db


@pytest.fixture
def old_ike() -> IKEPolicy:
    suite = policies.save_ike_proposal(
        None, name="old", encryption="3des-cbc", integrity="hmac-md5-96", prf="prf-hmac-md5", group="group-2"
    )
    return policies.save_ike_policy(None, name="old", proposals=[suite])


def allow(gateway: Gateway, allowed: bool = True) -> Gateway:
    addresses = [AddressInput(address=row.address) for row in gateway.addresses.all()]
    networks = [row.prefix for row in gateway.protected_networks.all()]
    data = GatewayInput(
        name=gateway.name, kind=gateway.kind, addresses=addresses, protected_networks=networks, allow_legacy=allowed
    )
    return update_gateway(None, gateway, data)


def test_a_policy_names_its_legacy_algorithms(old_ike: IKEPolicy) -> None:
    assert legacy.labels(old_ike) == ["3DES-CBC", "HMAC-MD5-96", "PRF HMAC-MD5", "2 (MODP 1024)"]
    assert [legacy.labels(policy) for policy in cast.default_policies()] == [[], []]
    md5 = policies.save_ipsec_proposal(None, name="old", ah_integrity="hmac-md5-96")
    policy = policies.save_ipsec_policy(None, name="old", proposals=[md5], pfs_group="group-5")
    assert legacy.labels(policy) == ["5 (MODP 1536)", "HMAC-MD5-96"]


def test_a_tunnel_of_gateways_that_do_not_allow_it_is_refused(
    paris: Gateway, lyon: Gateway, psk: PresharedKey, old_ike: IKEPolicy
) -> None:
    with pytest.raises(ValidationError) as caught:
        cast.make_tunnel(paris, lyon, psk, ike_policy=old_ike)
    (message,) = caught.value.message_dict["ike_policy"]
    assert "3DES-CBC" in message
    assert "paris and lyon do not allow" in message
    with pytest.raises(ValidationError, match="lyon does not allow"):
        cast.make_tunnel(allow(paris), lyon, psk, ike_policy=old_ike)
    tunnel = cast.make_tunnel(allow(paris), allow(lyon), psk, ike_policy=old_ike)
    document = compile_document(snapshot.take(paris.pk), generation=1, nonce="0" * 32)
    assert document.allow_legacy
    assert document.tunnels[0].ike.proposals[0].encryption == "3des-cbc"
    assert tunnel.ike_policy == old_ike


def test_an_extranet_gateway_is_not_ours_to_judge(
    paris: Gateway, extranet: Gateway, psk: PresharedKey, old_ike: IKEPolicy
) -> None:
    assert cast.make_tunnel(allow(paris), extranet, psk, ike_policy=old_ike).ike_policy == old_ike


def test_a_policy_in_use_does_not_become_weak_behind_a_gateways_back(tunnel: Tunnel, old_ike: IKEPolicy) -> None:
    with pytest.raises(ValidationError) as caught:
        policies.save_ike_policy(
            None, tunnel.policies.ike_policy, name="default", proposals=old_ike.ordered_proposals()
        )
    assert "paris-lyon on lyon, paris-lyon on paris" in caught.value.message_dict["proposals"][0]
    proposal = tunnel.policies.ipsec_policy.ordered_proposals()[0]
    with pytest.raises(ValidationError, match="allow legacy algorithms there first"):
        policies.save_ipsec_proposal(
            None, proposal, name=proposal.name, encryption="des-cbc", integrity="hmac-sha2-256-128"
        )
    assert IPsecProposal.objects.get(pk=proposal.pk).encryption == "aes-256-gcm-16"
    assert compile_document(snapshot.take(tunnel.end_a.gateway_id), generation=1, nonce="0" * 32).tunnels


def test_leave_is_not_taken_back_while_it_is_used(
    paris: Gateway, lyon: Gateway, psk: PresharedKey, old_ike: IKEPolicy
) -> None:
    tunnel = cast.make_tunnel(allow(paris), allow(lyon), psk, ike_policy=old_ike)
    with pytest.raises(ValidationError) as caught:
        allow(Gateway.objects.get(name="paris"), allowed=False)
    assert "Still in use by paris-lyon" in caught.value.message_dict["allow_legacy"][0]
    tunnel.delete()
    assert not allow(Gateway.objects.get(name="paris"), allowed=False).allow_legacy


def test_what_slips_past_the_forms_is_refused_by_the_compiler(tunnel: Tunnel) -> None:
    IPsecProposal.objects.filter(policies=tunnel.policies.ipsec_policy).update(
        encryption="3des-cbc", integrity="hmac-sha1-96"
    )
    with pytest.raises(DocumentError, match="only taken where the gateway allows legacy"):
        compile_document(snapshot.take(tunnel.end_a.gateway_id), generation=1, nonce="0" * 32)


def test_transport_mode_carries_only_the_gateways_themselves(
    paris: Gateway, lyon: Gateway, psk: PresharedKey, tunnel: Tunnel
) -> None:
    proposals = list(IPsecProposal.objects.all()[:1])
    policy = policies.save_ipsec_policy(None, name="transport", proposals=proposals, mode="transport")
    tunnel.delete()
    with pytest.raises(ValidationError) as caught:
        cast.make_tunnel(paris, lyon, psk, ipsec_policy=policy)
    assert set(caught.value.message_dict) == {"selectors.0.network_a", "selectors.0.network_b"}
    assert f"{cast.PARIS_ADDRESS}/32" in caught.value.message_dict["selectors.0.network_a"][0]
    hosts = SelectorInput(network_a=f"{cast.PARIS_ADDRESS}/32", network_b=f"{cast.LYON_ADDRESS}/32")
    made = cast.make_tunnel(paris, lyon, psk, ipsec_policy=policy, selectors=[hosts], add_routes=False)
    document = compile_document(snapshot.take(paris.pk), generation=1, nonce="0" * 32)
    assert document.tunnels[0].children[0].mode == "transport"
    assert made.ipsec_policy == policy


def test_a_policy_whose_tunnels_carry_networks_does_not_become_transport(tunnel: Tunnel) -> None:
    policy = tunnel.policies.ipsec_policy
    with pytest.raises(ValidationError) as caught:
        policies.save_ipsec_policy(
            None, policy, name=policy.name, proposals=policy.ordered_proposals(), mode="transport"
        )
    assert "paris-lyon carries networks" in caught.value.message_dict["mode"][0]
    assert IPsecPolicy.objects.get(pk=policy.pk).mode == "tunnel"
