"""Makes of peers: what is fixed there is refused beside the field, by the name of the make."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from agents.contract.config import IkeVersion
from tests.console import cast
from vpnconsole.accounts.models import User
from vpnconsole.gateways import profiles
from vpnconsole.gateways.models import Gateway
from vpnconsole.gateways.services import AddressInput, GatewayInput, create_gateway, update_gateway
from vpnconsole.rollout import snapshot
from vpnconsole.rollout.compile import compile_document
from vpnconsole.vpn import ikev1, match, peers, policies, presets, services
from vpnconsole.vpn.inputs import EndInput, SelectorInput, TunnelInput
from vpnconsole.vpn.models import IKEPolicy, IKEProposal, IPsecPolicy, IPsecProposal, PresharedKey, Tunnel

pytestmark = pytest.mark.django_db
MAKES = [row.slug for row in profiles.PROFILES.values() if row.defaults is not None]


def peer(make: str, name: str = "peer") -> Gateway:
    return cast.make_gateway(name, cast.EXTRANET_ADDRESS, cast.EXTRANET_NETWORK, kind="extranet", profile=make)


@pytest.fixture
def old_paris(db: None) -> Gateway:
    """A managed gateway that allows legacy algorithms, with two addresses."""
    ours = [AddressInput(address="10.1.1.101"), AddressInput(address="10.1.1.102")]
    data = GatewayInput(name="paris", addresses=ours, protected_networks=["10.1.0.0/24"], allow_legacy=True)
    return create_gateway(None, data)


def compatible() -> dict[str, Any]:
    cast.default_policies()
    return {
        "ike_policy": IKEPolicy.objects.get(name="compatible"),
        "ipsec_policy": IPsecPolicy.objects.get(name="compatible"),
    }


def made_for(make: str) -> dict[str, Any]:
    ike_policy, ipsec_policy = presets.make(None, make)
    return {"ike_policy": ike_policy, "ipsec_policy": ipsec_policy, "version": "v1"}


def refused(data: TunnelInput) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        services.create_tunnel(None, data)
    return caught.value.message_dict


# The table


def test_versions_of_a_make() -> None:
    omnipcx, aix = profiles.get("omnipcx-office"), profiles.get("aix")
    assert [omnipcx.speaks(each) for each in IkeVersion] == [True, False, False]
    assert [aix.speaks(each) for each in IkeVersion] == [True, True, True]
    assert profiles.get("made by nobody").slug == profiles.GENERIC


@pytest.mark.parametrize("make", MAKES)
def test_the_defaults_of_a_make_suit_it_and_ikev1(old_paris: Gateway, make: str) -> None:
    other = peer(make)
    changes = made_for(make)
    made = cast.make_tunnel(old_paris, other, **changes)
    assert made.version == profiles.get(make).version
    assert compile_document(snapshot.take(old_paris.pk), generation=1, nonce="0" * 32).tunnels[0].version == "v1"
    assert [each.code for each in match.tunnel_advice(made) if each.code in ("offered-in-vain", "peer-habit")] == []
    assert ikev1.policy_problem(made.policies.ike_policy, "v1") == ""


@pytest.mark.parametrize("make", MAKES)
def test_the_defaults_need_the_gateways_leave(paris: Gateway, make: str) -> None:
    errors = refused(cast.tunnel_input(paris, peer(make), cast.make_psk("k"), **made_for(make)))
    assert "paris does not allow" in errors["ike_policy"][0]


def test_the_smartedge_defaults_are_those_of_its_guide() -> None:
    ike_policy, ipsec_policy = presets.make(None, "smartedge")
    assert (ike_policy.name, ike_policy.lifetime_s, ike_policy.dpd_interval_s) == ("SmartEdge defaults", 86_400, 0)
    assert ike_policy.exchange_mode == "main"
    (suite,) = ike_policy.ordered_proposals()
    assert (suite.encryption, suite.integrity, suite.group) == ("aes-128-cbc", "hmac-sha1-96", "group-1")
    assert (ipsec_policy.lifetime_s, ipsec_policy.lifetime_bytes, ipsec_policy.pfs_group) == (86_400, 0, None)
    (esp,) = ipsec_policy.ordered_proposals()
    assert (esp.encryption, esp.integrity) == ("aes-128-cbc", "hmac-sha1-96")


def test_made_once_and_left_alone_afterwards(alice: User) -> None:
    ike_policy, ipsec_policy = presets.make(alice, "smartedge")
    mine = policies.save_ike_policy(
        alice, ike_policy, name=ike_policy.name, proposals=ike_policy.ordered_proposals(), lifetime_s=7_200
    )
    counts = IKEProposal.objects.count(), IPsecProposal.objects.count()
    assert presets.make(alice, "smartedge") == (mine, ipsec_policy)
    assert presets.existing(profiles.get("smartedge"))[0].lifetime_s == 7_200  # type: ignore[union-attr]
    assert (IKEProposal.objects.count(), IPsecProposal.objects.count()) == counts
    with pytest.raises(ValidationError, match="Nothing is known"):
        presets.make(alice, profiles.GENERIC)


# OmniPCX Office


@pytest.mark.parametrize("version", ["v2", "v2-else-v1"])
def test_omnipcx_speaks_ikev1_only(old_paris: Gateway, version: str) -> None:
    changes = {**compatible(), "version": version}
    errors = refused(cast.tunnel_input(old_paris, peer("omnipcx-office"), cast.make_psk("k"), **changes))
    assert errors == {"version": ["peer is an OmniPCX Office, which speaks IKEv1 only: choose that."]}


def test_omnipcx_knows_main_mode_only(old_paris: Gateway) -> None:
    changes = {**compatible(), "version": "v1"}
    proposals = changes["ike_policy"].ordered_proposals()
    changes["ike_policy"] = policies.save_ike_policy(
        None, name="aggressive", proposals=proposals, exchange_mode="aggressive"
    )
    (message,) = refused(cast.tunnel_input(old_paris, peer("omnipcx-office"), cast.make_psk("k"), **changes))[
        "ike_policy"
    ]
    assert message == (
        "Policy aggressive uses Aggressive Mode, but peer is an OmniPCX Office, which has Main Mode only."
    )


@pytest.mark.parametrize(
    ("suite", "mode", "words"),
    [
        ({"ah_integrity": "hmac-sha1-96"}, "tunnel", "has no proposal for it: peer is an OmniPCX Office"),
        ({"encryption": "aes-128-cbc", "integrity": "hmac-sha1-96"}, "transport", "is for transport mode, but peer is"),
    ],
)
def test_omnipcx_takes_esp_in_tunnel_mode(old_paris: Gateway, suite: dict[str, Any], mode: str, words: str) -> None:
    row = policies.save_ipsec_proposal(None, name="mine", **suite)
    policy = policies.save_ipsec_policy(None, name="mine", proposals=[row], mode=mode)
    changes = {**made_for("omnipcx-office"), "ipsec_policy": policy}
    errors = refused(cast.tunnel_input(old_paris, peer("omnipcx-office"), cast.make_psk("k"), **changes))
    assert words in errors["ipsec_policy"][0]


# AIX


def at_aix(ours: Gateway, aix: Gateway, psk: PresharedKey, number: int, address: str, **changes: Any) -> TunnelInput:
    """Return a tunnel from address ``10.1.1.<number>`` of an AIX host to an address of ours."""
    own = f"10.1.1.{number}"
    return cast.tunnel_input(
        ours,
        aix,
        psk,
        **{
            "name": f"aix-{number}",
            "end_a": EndInput(gateway=ours, address=address),
            "end_b": EndInput(gateway=aix, address=own),
            "selectors": [SelectorInput(network_a=f"{address}/32", network_b=f"{own}/32")],
            **compatible(),
            "version": "v1",
            **changes,
        },
    )


@pytest.fixture
def aix(db: None) -> Gateway:
    addresses = [AddressInput(address="10.1.1.1"), AddressInput(address="10.1.1.2")]
    data = GatewayInput(
        name="aix", kind="extranet", addresses=addresses, protected_networks=["10.9.0.0/24"], profile="aix"
    )
    return create_gateway(None, data)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_aix_takes_one_key_per_address_of_ours(old_paris: Gateway, aix: Gateway, version: str) -> None:
    """10.1.1.1 and 10.1.1.2 of the AIX host to 10.1.1.101, each with a key of its own, is what AIX cannot do."""
    one, two = cast.make_psk("one"), cast.make_psk("two")
    services.create_tunnel(None, at_aix(old_paris, aix, one, 1, "10.1.1.101", version=version))
    errors = refused(at_aix(old_paris, aix, two, 2, "10.1.1.101", version=version))
    assert list(errors) == ["psk"]
    (message,) = errors["psk"]
    assert "found by the IP address of the remote system, here 10.1.1.101, and tunnel aix-1 has a key" in message
    assert '"PSK remote id already exists"' in message
    assert "the key one for both" in message


def test_ways_out_at_aix(old_paris: Gateway, aix: Gateway) -> None:
    one, two = cast.make_psk("one"), cast.make_psk("two")
    services.create_tunnel(None, at_aix(old_paris, aix, one, 1, "10.1.1.101"))
    for data in (
        at_aix(old_paris, aix, two, 2, "10.1.1.102"),
        at_aix(old_paris, aix, one, 2, "10.1.1.101"),
        at_aix(old_paris, aix, two, 2, "10.1.1.101", enabled=False),
    ):
        services.delete_tunnel(None, services.create_tunnel(None, data))
    spare = services.create_tunnel(None, at_aix(old_paris, aix, two, 2, "10.1.1.101", enabled=False))
    with pytest.raises(ValidationError, match="PSK remote id already exists"):
        services.set_enabled(None, spare, True)


def test_another_peer_of_the_same_kind_of_addresses_takes_two_keys(old_paris: Gateway, aix: Gateway) -> None:
    Gateway.objects.filter(pk=aix.pk).update(profile=profiles.GENERIC)
    aix.refresh_from_db()
    for number, name in ((1, "one"), (2, "two")):
        services.create_tunnel(None, at_aix(old_paris, aix, cast.make_psk(name), number, "10.1.1.101"))
    assert Tunnel.objects.count() == 2
    with pytest.raises(ValidationError, match="PSK remote id already exists"):
        made_into(aix, "aix")


def test_aix_identities_are_addresses_in_main_mode(old_paris: Gateway, aix: Gateway) -> None:
    data = at_aix(old_paris, aix, cast.make_psk("one"), 1, "10.1.1.101")
    data = dataclasses.replace(
        data, end_a=dataclasses.replace(data.end_a, identity_type="fqdn", identity_value="paris.example")
    )
    errors = refused(data)
    assert list(errors) == ["end_a.identity_type"]
    assert "both identities are IP addresses" in errors["end_a.identity_type"][0]
    assert services.create_tunnel(None, dataclasses.replace(data, version="v2")).pk


def test_aix_lifetimes_are_minutes(old_paris: Gateway, aix: Gateway) -> None:
    data = at_aix(old_paris, aix, cast.make_psk("one"), 1, "10.1.1.101")
    assert data.ike_policy is not None
    policies.save_ike_policy(
        None,
        data.ike_policy,
        name="compatible",
        proposals=data.ike_policy.ordered_proposals(),
        lifetime_s=4_000,
    )
    made = services.create_tunnel(None, data)
    (remark,) = [each for each in match.tunnel_advice(made) if each.code == "peer-habit"]
    assert (remark.field, "4000 s is not whole minutes" in remark.message) == ("ike_policy", True)


# SmartEdge


def test_smartedge_refuses_what_its_guide_does_not_list(old_paris: Gateway) -> None:
    changes = {**compatible(), "version": "v1"}
    errors = refused(cast.tunnel_input(old_paris, peer("smartedge"), cast.make_psk("k"), **changes))
    assert set(errors) == {"ike_policy", "ipsec_policy"}
    assert "peer is a SmartEdge, which knows AES-CBC, DES-CBC or 3DES-CBC" in errors["ike_policy"][0]


def test_smartedge_lifetimes_and_pfs_groups(old_paris: Gateway) -> None:
    changes = made_for("smartedge")
    ike_policy, ipsec_policy = changes["ike_policy"], changes["ipsec_policy"]
    policies.save_ike_policy(
        None, ike_policy, name="SmartEdge defaults", proposals=ike_policy.ordered_proposals(), lifetime_s=60
    )
    policies.save_ipsec_policy(
        None, ipsec_policy, name="SmartEdge defaults", proposals=ipsec_policy.ordered_proposals(), pfs_group="group-19"
    )
    fresh = {
        "ike_policy": IKEPolicy.objects.get(pk=ike_policy.pk),
        "ipsec_policy": IPsecPolicy.objects.get(pk=ipsec_policy.pk),
        "version": "v1",
    }
    errors = refused(cast.tunnel_input(old_paris, peer("smartedge"), cast.make_psk("k"), **fresh))
    assert "a lifetime of 60 s, but peer is a SmartEdge: 300 to 99,999,999 s" in errors["ike_policy"][0]
    assert "groups 1, 2, 5, 14" in errors["ipsec_policy"][0]


def test_what_works_with_a_smartedge_but_not_as_one_thinks(old_paris: Gateway) -> None:
    changes = made_for("smartedge")
    extra = IKEProposal.objects.get(name="AES-256-CBC SHA2-256 group 14")
    policy = policies.save_ike_policy(
        None, name="mixed", proposals=[*changes["ike_policy"].ordered_proposals(), extra], dpd_interval_s=30
    )
    made = cast.make_tunnel(old_paris, peer("smartedge"), **{**changes, "ike_policy": policy})
    found = {each.code: each.message for each in match.tunnel_advice(made)}
    assert found["offered-in-vain"] == f"{extra.name} is offered in vain: peer is a SmartEdge."
    assert "does not answer them as it comes" in found["peer-habit"]


# The make of a gateway


def test_a_gateway_we_run_has_no_make(db: None) -> None:
    with pytest.raises(ValidationError) as caught:
        cast.make_gateway("paris", cast.PARIS_ADDRESS, profile="aix")
    assert "A gateway we run has no make" in caught.value.message_dict["profile"][0]


def made_into(gateway: Gateway, make: str) -> Gateway:
    data = GatewayInput(
        name=gateway.name,
        kind=gateway.kind,
        addresses=[AddressInput(address=row.address) for row in gateway.addresses.all()],
        protected_networks=[row.prefix for row in gateway.protected_networks.all()],
        profile=make,
    )
    return update_gateway(None, gateway, data)


def test_a_make_that_does_not_go_with_the_tunnels_is_refused(paris: Gateway, extranet: Gateway) -> None:
    cast.make_tunnel(paris, extranet)
    with pytest.raises(ValidationError) as caught:
        made_into(extranet, "omnipcx-office")
    (message,) = caught.value.message_dict["profile"]
    assert message.startswith("Tunnel paris-extranet does not go with it. extranet is an OmniPCX Office")
    assert Gateway.objects.get(pk=extranet.pk).profile == profiles.GENERIC
    assert made_into(extranet, "aix").profile == "aix"


def test_a_policy_of_a_peers_tunnel_stays_within_its_make(old_paris: Gateway) -> None:
    changes = made_for("smartedge")
    cast.make_tunnel(old_paris, peer("smartedge"), **changes)
    modern = IKEProposal.objects.get(name="AES-256-CBC SHA2-256 group 14")
    with pytest.raises(ValidationError, match="which knows AES-CBC"):
        policies.save_ike_policy(None, changes["ike_policy"], name="SmartEdge defaults", proposals=[modern])


def test_any_other_peer_is_held_to_nothing(paris: Gateway, extranet: Gateway) -> None:
    ike_policy, ipsec_policy = cast.default_policies()
    assert peers.version_problem(extranet, "v2-else-v1") == ""
    assert peers.ike_policy_problem(extranet, ike_policy, "v1") == ""
    assert peers.ipsec_policy_problem(extranet, ipsec_policy) == ""
