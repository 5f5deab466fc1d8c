"""What IKEv1 cannot do is refused beside the field, in plain words; what is risky with it is said."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from agents.contract.errors import DocumentError
from tests.console import cast
from vpnconsole.accounts.models import AuditEvent
from vpnconsole.gateways.models import Gateway
from vpnconsole.gateways.services import AddressInput, GatewayInput, update_gateway
from vpnconsole.rollout import snapshot
from vpnconsole.rollout.compile import compile_document
from vpnconsole.vpn import ikev1, match, policies, queries, services
from vpnconsole.vpn.inputs import EndInput, SelectorInput, TunnelInput
from vpnconsole.vpn.models import IKEPolicy, IKEProposal, IPsecPolicy, IPsecProposal, PresharedKey, Tunnel

pytestmark = pytest.mark.django_db


@pytest.fixture
def compatible(db: None) -> dict[str, Any]:
    """Policies that suit IKEv1, as a tunnel takes them."""
    cast.default_policies()
    return {
        "ike_policy": IKEPolicy.objects.get(name="compatible"),
        "ipsec_policy": IPsecPolicy.objects.get(name="compatible"),
    }


@pytest.fixture
def aggressive(compatible: dict[str, Any]) -> dict[str, Any]:
    policy = policies.save_ike_policy(
        None,
        name="aggressive",
        proposals=compatible["ike_policy"].ordered_proposals(),
        exchange_mode="aggressive",
    )
    return {**compatible, "ike_policy": policy}


def refused(a: Gateway, b: Gateway, psk: PresharedKey | None = None, **changes: Any) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        services.create_tunnel(None, cast.tunnel_input(a, b, psk or cast.make_psk("k"), **changes))
    return caught.value.message_dict


def named(gateway: Gateway, name: str) -> EndInput:
    address = gateway.addresses.all()[0].address
    return EndInput(gateway=gateway, address=address, identity_type="fqdn", identity_value=f"{name}.{gateway.name}")


def second(a: Gateway, b: Gateway, psk: PresharedKey, **changes: Any) -> TunnelInput:
    """Return a second tunnel between the same addresses, under other identities and for other networks."""
    values = {
        "name": "second",
        "end_a": named(a, "second"),
        "end_b": named(b, "second"),
        "selectors": [SelectorInput(network_a="10.1.50.0/24", network_b="10.2.50.0/24")],
        **changes,
    }
    return cast.tunnel_input(a, b, psk, **values)


def test_a_tunnel_is_ikev2_unless_told_otherwise(tunnel: Tunnel) -> None:
    assert (tunnel.version, tunnel.allows_v1, tunnel.exchange_mode) == ("v2", False, "")
    document = compile_document(snapshot.take(tunnel.end_a.gateway_id), generation=1, nonce="0" * 32)
    assert (document.tunnels[0].version, document.tunnels[0].ike.exchange_mode) == ("v2", "main")


@pytest.mark.parametrize("version", ["v1", "v2-else-v1"])
def test_version_and_mode_reach_both_documents(
    paris: Gateway, lyon: Gateway, aggressive: dict[str, Any], version: str
) -> None:
    policies.save_ike_policy(
        None,
        aggressive["ike_policy"],
        name="aggressive",
        proposals=aggressive["ike_policy"].ordered_proposals(),
        exchange_mode="aggressive",
        lifetime_kilobytes=5_000,
    )
    made = cast.make_tunnel(paris, lyon, **aggressive, version=version)
    for gateway in (paris, lyon):
        (built,) = compile_document(snapshot.take(gateway.pk), generation=1, nonce="0" * 32).tunnels
        assert (built.version, built.ike.exchange_mode, built.ike.lifetime_kilobytes) == (version, "aggressive", 5_000)
    assert made.exchange_mode == "aggressive"
    assert TunnelInput.of(made).version == version


def test_an_unknown_version_is_refused(paris: Gateway, lyon: Gateway) -> None:
    assert "not a valid choice" in refused(paris, lyon, version="v3")["version"][0]


def test_the_audit_trail_names_the_changed_version(tunnel: Tunnel, compatible: dict[str, Any]) -> None:
    data = dataclasses.replace(TunnelInput.of(tunnel), version="v1", **compatible)
    services.update_tunnel(None, tunnel, data)
    assert AuditEvent.objects.latest("pk").details == {"fields": ["ike_policy", "ipsec_policy", "version"]}


def ike(name: str, **values: Any) -> IKEProposal:
    suite = {"encryption": "aes-256-cbc", "integrity": "hmac-sha2-256-128", "prf": "prf-hmac-sha2-256"}
    return policies.save_ike_proposal(None, name=name, **{**suite, "group": "group-14", **values})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"encryption": "aes-256-gcm-16", "integrity": None}, "choose a cipher in CBC mode"),
        ({"encryption": "aes-256-ctr"}, "choose a cipher in CBC mode"),
        ({"group": "group-31"}, "group-31 has no number in IKEv1"),
        ({"additional_key_exchange": "ml-kem-768"}, "IKEv1 has no additional key exchanges"),
        ({"prf": "prf-aes128-xcbc"}, "choose an HMAC"),
        ({"prf": "prf-hmac-sha1"}, "IKEv1 has one hash for both"),
    ],
)
def test_ike_suites_that_ikev1_has_not_are_refused(
    paris: Gateway, lyon: Gateway, compatible: dict[str, Any], values: dict[str, Any], words: str
) -> None:
    modern, old = ike("modern", **values), ike("old")
    policy = policies.save_ike_policy(None, name="mine", proposals=[modern])
    changes = {**compatible, "ike_policy": policy}
    psk = cast.make_psk("k")
    for version in ("v1", "v2-else-v1"):
        (message,) = refused(paris, lyon, psk=psk, **changes, version=version)["ike_policy"]
        assert "Policy mine has modern" in message
        assert words in message
    policies.save_ike_policy(None, policy, name="mine", proposals=[modern, old])
    (message,) = refused(paris, lyon, psk=psk, **changes, version="v1")["ike_policy"]
    assert "Policy mine has modern" in message
    # One proposal for each version is enough where both may be spoken.
    made = cast.make_tunnel(paris, lyon, psk, **changes, version="v2-else-v1")
    assert compile_document(snapshot.take(paris.pk), generation=1, nonce="0" * 32).tunnels[0].name == made.name


def test_several_unfit_proposals_are_told_by_one(paris: Gateway, lyon: Gateway) -> None:
    (message,) = refused(paris, lyon, version="v2-else-v1")["ike_policy"]
    assert message.startswith("Policy default has no proposal that IKEv1 can use, for instance AES-256-GCM")
    assert message.endswith("Choose another policy, or IKEv2.")


@pytest.mark.parametrize(
    ("suite", "pfs_group", "words"),
    [
        ({"encryption": "chacha20-poly1305"}, None, "chacha20-poly1305 has no number in IKEv1"),
        ({"encryption": "aes-128-cbc", "integrity": "aes-cmac-96"}, None, "aes-cmac-96 has no number in IKEv1"),
        ({"encryption": "aes-256-gcm-16"}, "group-31", "PFS group 31 (Curve25519), for which IKEv1 has no number"),
    ],
)
def test_ipsec_suites_that_ikev1_has_not_are_refused(
    paris: Gateway, lyon: Gateway, compatible: dict[str, Any], suite: dict[str, Any], pfs_group: str, words: str
) -> None:
    row = policies.save_ipsec_proposal(None, name="esp", **suite)
    policy = policies.save_ipsec_policy(None, name="mine", proposals=[row], pfs_group=pfs_group)
    errors = refused(paris, lyon, **{**compatible, "ipsec_policy": policy}, version="v1")
    assert list(errors) == ["ipsec_policy"]
    assert words in errors["ipsec_policy"][0]


@pytest.mark.parametrize(
    ("ports", "field"),
    [((1000, 2000, 0, 65_535), "port_a_end"), ((0, 65_535, 0, 0), "port_b_end"), ((80, 80, 443, 443), "")],
)
def test_ikev1_selects_one_port_or_any(
    paris: Gateway, lyon: Gateway, compatible: dict[str, Any], ports: tuple[int, int, int, int], field: str
) -> None:
    names = ("port_a_start", "port_a_end", "port_b_start", "port_b_end")
    values: dict[str, Any] = dict(zip(names, ports, strict=True))
    pair = SelectorInput(network_a="10.1.0.0/24", network_b="10.2.0.0/24", protocol=6, **values)
    changes = {**compatible, "selectors": [pair]}
    psk = cast.make_psk("k")
    if field:
        for version in ("v1", "v2-else-v1"):
            errors = refused(paris, lyon, psk=psk, **changes, version=version)
            assert "IKEv1 has no port ranges" in errors[f"selectors.0.{field}"][0]
        assert cast.make_tunnel(paris, lyon, psk, **changes).version == "v2"
    else:
        assert cast.make_tunnel(paris, lyon, psk, **changes, version="v1").version == "v1"


def test_a_policy_in_use_by_ikev1_stays_fit_for_it(paris: Gateway, lyon: Gateway, compatible: dict[str, Any]) -> None:
    made = cast.make_tunnel(paris, lyon, **compatible, version="v1")
    policy, modern = compatible["ike_policy"], IKEProposal.objects.get(name="AES-256-GCM SHA2-384 group 31")
    with pytest.raises(ValidationError) as caught:
        policies.save_ike_policy(None, policy, name="compatible", proposals=[*policy.ordered_proposals(), modern])
    assert "Tunnel paris-lyon uses it. Policy compatible has AES-256-GCM" in caught.value.message_dict["proposals"][0]
    (row,) = policy.ordered_proposals()
    with pytest.raises(ValidationError, match="no number in IKEv1"):
        policies.save_ike_proposal(None, row, name=row.name, encryption=row.encryption, integrity=row.integrity,
                                   prf=row.prf, group="group-31")  # fmt: skip
    esp = IPsecProposal.objects.get(name="ChaCha20-Poly1305")
    with pytest.raises(ValidationError, match="no number in IKEv1"):
        policies.save_ipsec_policy(None, compatible["ipsec_policy"], name="compatible", proposals=[esp])
    services.delete_tunnel(None, made)
    assert policies.save_ike_policy(None, policy, name="compatible", proposals=[modern])


# Keys that Main Mode could not tell apart


@pytest.mark.parametrize("version", ["v1", "v2-else-v1"])
def test_two_keys_between_two_hosts_are_refused_in_main_mode(
    paris: Gateway, lyon: Gateway, compatible: dict[str, Any], version: str
) -> None:
    cast.make_tunnel(paris, lyon, **compatible, version="v1")
    errors = refused_input(second(paris, lyon, cast.make_psk("k2"), **compatible, version=version))
    assert list(errors) == ["psk"]
    (message,) = errors["psk"]
    assert "Tunnel paris-lyon has another pre-shared key between 192.0.2.1 and 198.51.100.1" in message
    for way in ("PSK remote id already exists", "local address", "Aggressive Mode", "certificates", "IKEv2", "one key"):
        assert way in message


def refused_input(data: TunnelInput) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        services.create_tunnel(None, data)
    return caught.value.message_dict


def test_the_ways_out_are_ways_out(
    paris: Gateway, lyon: Gateway, compatible: dict[str, Any], aggressive: dict[str, Any]
) -> None:
    first = cast.make_tunnel(paris, lyon, **compatible, version="v1")
    other = cast.make_psk("k2")
    out = [
        second(paris, lyon, other, **aggressive, version="v1"),
        second(paris, lyon, other, **compatible, version="v2"),
        second(paris, lyon, first.preshared_key, **compatible, version="v1"),
        second(paris, lyon, other, **compatible, version="v1", enabled=False),
    ]
    for data in out:
        made = services.create_tunnel(None, data)
        for gateway in (paris, lyon):
            assert len(compile_document(snapshot.take(gateway.pk), generation=1, nonce="0" * 32).tunnels) == 2
        services.delete_tunnel(None, made)
    addresses = [AddressInput(address=each) for each in (cast.PARIS_ADDRESS, "192.0.2.2")]
    update_gateway(None, paris, GatewayInput(name="paris", addresses=addresses, protected_networks=["10.1.0.0/24"]))
    moved = dataclasses.replace(named(paris, "second"), address="192.0.2.2")
    assert services.create_tunnel(None, second(paris, lyon, other, **compatible, version="v1", end_a=moved)).pk


def test_an_extranet_end_counts_as_well(paris: Gateway, extranet: Gateway, compatible: dict[str, Any]) -> None:
    cast.make_tunnel(paris, extranet, **compatible, version="v1")
    assert list(refused_input(second(paris, extranet, cast.make_psk("k2"), **compatible, version="v1"))) == ["psk"]


def test_the_compiler_would_refuse_them_too(
    paris: Gateway, lyon: Gateway, compatible: dict[str, Any], aggressive: dict[str, Any]
) -> None:
    cast.make_tunnel(paris, lyon, **compatible, version="v1")
    services.create_tunnel(None, second(paris, lyon, cast.make_psk("k2"), **aggressive, version="v1"))
    IKEPolicy.objects.update(exchange_mode="main")
    with pytest.raises(DocumentError, match="only the two addresses choose the key"):
        compile_document(snapshot.take(paris.pk), generation=1, nonce="0" * 32)


def test_switching_on_and_changing_a_policy_are_checked_as_well(
    paris: Gateway, lyon: Gateway, compatible: dict[str, Any], aggressive: dict[str, Any]
) -> None:
    cast.make_tunnel(paris, lyon, **compatible, version="v1")
    spare = services.create_tunnel(
        None, second(paris, lyon, cast.make_psk("k2"), **compatible, version="v1", enabled=False)
    )
    with pytest.raises(ValidationError, match="PSK remote id already exists"):
        services.set_enabled(None, spare, True)
    services.delete_tunnel(None, spare)
    services.create_tunnel(None, second(paris, lyon, cast.make_psk("k3"), **aggressive, version="v1"))
    policy = aggressive["ike_policy"]
    with pytest.raises(ValidationError) as caught:
        policies.save_ike_policy(None, policy, name="aggressive", proposals=policy.ordered_proposals())
    assert "another pre-shared key" in caught.value.message_dict["exchange_mode"][0]
    assert IKEPolicy.objects.get(name="aggressive").exchange_mode == "aggressive"


# What is said


def test_a_short_key_in_aggressive_mode_is_a_warning_not_an_error(
    paris: Gateway, lyon: Gateway, aggressive: dict[str, Any]
) -> None:
    made = cast.make_tunnel(paris, lyon, cast.make_psk("short", "nineteen-octets-key"), **aggressive, version="v1")
    (remark,) = [each for each in match.tunnel_advice(made) if each.field == "psk"]
    assert (remark.code, "19 octets" in remark.message) == ("guessable-psk", True)
    assert "offline" in remark.message
    services.update_tunnel(None, made, dataclasses.replace(TunnelInput.of(made), version="v2"))
    assert match.tunnel_advice(queries.get_tunnel(made.pk)) == []


@pytest.mark.parametrize(("octets", "warned"), [(19, True), (20, False)])
def test_a_key_as_long_as_a_hash_is_long_enough(octets: int, warned: bool) -> None:
    assert bool(ikev1.guessable(octets)) is warned


def test_how_the_key_is_found() -> None:
    assert "the pair of addresses 192.0.2.1 and 203.0.113.9; the identity is not known yet" in ikev1.key_note(
        "main", "192.0.2.1", "203.0.113.9"
    )
    assert "pair of addresses; the" in ikev1.key_note("main")
    assert "in the clear" in ikev1.key_note("aggressive", "192.0.2.1", "203.0.113.9")
    assert ikev1.key_note("") == ""
