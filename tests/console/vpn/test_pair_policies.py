"""IPsec policies that pairs have of their own: in documents, beside other rules, in the browser."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from agents.contract.config import GatewayDocument
from tests.console import cast
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.gateways.models import Gateway
from vpnconsole.lib.errors import FieldErrors
from vpnconsole.rollout import snapshot
from vpnconsole.rollout.changes import differences
from vpnconsole.rollout.compile import compile_document
from vpnconsole.vpn import keys, legacy, match, peers, places, policies, queries, services
from vpnconsole.vpn.forms.fill import State, fill
from vpnconsole.vpn.inputs import SelectorInput, TunnelInput
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, PresharedKey, Tunnel

pytestmark = pytest.mark.django_db


@pytest.fixture
def strong() -> IPsecPolicy:
    suite = policies.save_ipsec_proposal(None, name="aes-256-gcm", encryption="aes-256-gcm-16")
    return policies.save_ipsec_policy(
        None, name="strong", proposals=[suite], pfs_group="group-31", lifetime_s=600, replay_window=256
    )


@pytest.fixture
def old_esp() -> IPsecPolicy:
    suite = policies.save_ipsec_proposal(None, name="old", encryption="3des-cbc", integrity="hmac-sha1-96")
    return policies.save_ipsec_policy(None, name="old", proposals=[suite], pfs_group="group-19")


def pair(number: int, policy: IPsecPolicy | None = None) -> SelectorInput:
    return SelectorInput(network_a=f"10.1.{number}.0/24", network_b=f"10.2.{number}.0/24", ipsec_policy=policy)


def two_pairs(policy: IPsecPolicy | None) -> list[SelectorInput]:
    """Return a pair with the tunnel's policy and one with its own."""
    return [pair(0), pair(9, policy)]


@pytest.fixture
def mixed(paris: Gateway, lyon: Gateway, psk: PresharedKey, strong: IPsecPolicy) -> Tunnel:
    return cast.make_tunnel(paris, lyon, psk, selectors=two_pairs(strong))


def compiled(gateway: Gateway) -> GatewayDocument:
    return compile_document(snapshot.take(gateway.pk), generation=1, nonce="0" * 32)


def change(tunnel: Tunnel, **changes: Any) -> Tunnel:
    return services.update_tunnel(None, tunnel, dataclasses.replace(TunnelInput.of(tunnel), **changes))


def refused(*tunnel: Any, **changes: Any) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        cast.make_tunnel(*tunnel, **changes)
    return caught.value.message_dict


# Documents


def test_each_pair_is_compiled_by_its_policy_at_both_ends(paris: Gateway, lyon: Gateway, mixed: Tunnel) -> None:
    (here,), (there,) = compiled(paris).tunnels, compiled(lyon).tunnels
    for usual, own in (here.children, there.children):
        assert [each.encryption for each in own.proposals] == ["aes-256-gcm-16"]
        assert (own.pfs_groups, own.lifetime_s, own.replay_window) == (("group-31",), 600, 256)
        assert (len(usual.proposals), usual.pfs_groups, usual.lifetime_s) == (3, ("group-19",), 3_600)


def test_another_policy_makes_no_other_pair_and_reaches_the_gateways(
    paris: Gateway, lyon: Gateway, mixed: Tunnel, strong: IPsecPolicy
) -> None:
    before, there = compiled(paris), compiled(lyon)
    kept = list(mixed.selectors.values_list("pk", "seq"))
    changed = change(mixed, selectors=[pair(0, strong), pair(9)])
    assert list(changed.selectors.values_list("pk", "seq")) == kept
    assert AuditEvent.objects.latest("pk").details == {"fields": ["selectors"]}
    (said,) = differences(before, compiled(paris))
    assert "selector pairs pair-1 lifetime (s): 3600 → 600" in said.details
    assert "selector pairs pair-2 lifetime (s): 600 → 3600" in said.details
    assert differences(there, compiled(lyon))


def test_a_change_of_the_policy_is_pending_on_both_gateways(
    paris: Gateway, lyon: Gateway, mixed: Tunnel, strong: IPsecPolicy
) -> None:
    before = [compiled(gateway) for gateway in (paris, lyon)]
    policies.save_ipsec_policy(None, strong, name="strong", proposals=strong.ordered_proposals(), lifetime_s=900)
    for old, gateway in zip(before, (paris, lyon), strict=True):
        (said,) = differences(old, compiled(gateway))
        assert "selector pairs pair-2 lifetime (s): 600 → 900" in said.details
        assert not any("pair-1" in line for line in said.details)


def test_a_copy_has_the_same_policies_and_manual_keys_have_none(
    paris: Gateway, lyon: Gateway, mixed: Tunnel, strong: IPsecPolicy
) -> None:
    key = keys.generate_psk(None, name="copy")
    pairs = [pair(20), pair(21, strong)]
    ends = {
        side: dataclasses.replace(getattr(TunnelInput.of(mixed), side), identity_type="fqdn", identity_value=side)
        for side in ("end_a", "end_b")
    }
    copy = services.clone_tunnel(None, mixed, name="copy", psk=key, selectors=pairs, **ends)
    assert [row.ipsec_policy for row in copy.selectors.all()] == [None, strong]
    manual = [dataclasses.replace(row, manual=cast.manual()) for row in two_pairs(strong)[1:]]
    row = change(mixed, kind="manual", selectors=manual, ike_policy=None, ipsec_policy=None, psk=None)
    assert [each.ipsec_policy for each in row.selectors.all()] == [None]


# What is refused, and where it is said


def test_a_policy_of_a_pair_stays_and_says_where_it_is_used(mixed: Tunnel, strong: IPsecPolicy) -> None:
    with pytest.raises(
        ValidationError, match=r"IPsec policy strong is used by pair 10\.1\.9\.0/24 - .* of tunnel paris-lyon"
    ):
        policies.delete(None, strong)
    counts = {row.name: vars(row)["tunnel_count"] for row in queries.ipsec_policies()}
    assert counts == {"compatible": 0, "default": 1, "strong": 1}
    (use,) = queries.uses_of(strong, 5)
    assert (use.tunnel, use.whole, use.pairs) == (mixed, False, (2,))
    change(mixed, ipsec_policy=strong)
    assert [vars(row)["tunnel_count"] for row in queries.ipsec_policies()] == [0, 0, 1]
    (use,) = queries.uses_of(strong, 5)
    assert (use.whole, use.pairs) == (True, (2,))


def test_what_does_not_go_with_the_tunnel_is_said_beside_the_pair(
    paris: Gateway, lyon: Gateway, psk: PresharedKey, strong: IPsecPolicy, old_esp: IPsecPolicy
) -> None:
    errors = refused(paris, lyon, psk, selectors=two_pairs(old_esp))
    assert list(errors) == ["selectors.1.ipsec_policy"]
    assert "3DES-CBC, which paris and lyon do not allow" in errors["selectors.1.ipsec_policy"][0]
    old = {
        "version": "v1",
        "ike_policy": IKEPolicy.objects.get(name="compatible"),
        "ipsec_policy": IPsecPolicy.objects.get(name="compatible"),
    }
    chacha = policies.save_ipsec_proposal(None, name="chacha", encryption="chacha20-poly1305")
    modern = policies.save_ipsec_policy(None, name="modern", proposals=[chacha], pfs_group="group-19")
    errors = refused(paris, lyon, psk, selectors=two_pairs(modern), **old)
    assert list(errors) == ["selectors.1.ipsec_policy"]
    assert "Choose another policy, or IKEv2" in errors["selectors.1.ipsec_policy"][0]
    made = cast.make_tunnel(paris, lyon, psk, selectors=two_pairs(old["ipsec_policy"]))  # type: ignore[arg-type]
    assert made.own_policies == 1


def test_transport_mode_is_the_pair_s_own_too(
    paris: Gateway, lyon: Gateway, psk: PresharedKey, strong: IPsecPolicy
) -> None:
    suites = strong.ordered_proposals()
    transport = policies.save_ipsec_policy(
        None, name="transport", proposals=suites, mode="transport", pfs_group="group-19"
    )
    errors = refused(paris, lyon, psk, selectors=two_pairs(transport))
    assert set(errors) == {"selectors.1.network_a", "selectors.1.network_b"}
    hosts = SelectorInput(
        network_a=f"{cast.PARIS_ADDRESS}/32", network_b=f"{cast.LYON_ADDRESS}/32", ipsec_policy=transport
    )
    made = cast.make_tunnel(paris, lyon, psk, selectors=[pair(0), hosts])
    assert [child.mode for child in compiled(paris).tunnels[0].children] == ["tunnel", "transport"]
    change(made, selectors=two_pairs(strong))
    with pytest.raises(ValidationError) as caught:
        policies.save_ipsec_policy(None, strong, name="strong", proposals=suites, mode="transport")
    assert "paris-lyon carries networks" in caught.value.message_dict["mode"][0]


def test_on_demand_takes_tunnel_mode_only(paris: Gateway, strong: IPsecPolicy) -> None:
    suites = strong.ordered_proposals()
    transport = policies.save_ipsec_policy(None, name="transport", proposals=suites, mode="transport")
    with pytest.raises(ValidationError) as caught:
        cast.make_on_demand(paris, name="refused", selectors=two_pairs(transport))
    assert list(caught.value.message_dict) == ["selectors.1.ipsec_policy"]
    cast.make_on_demand(paris, selectors=two_pairs(strong))
    with pytest.raises(ValidationError, match="paris-peers uses it"):
        policies.save_ipsec_policy(None, strong, name="strong", proposals=suites, mode="transport")


def test_a_make_of_peer_is_asked_for_each_pair(paris: Gateway, psk: PresharedKey) -> None:
    office = cast.make_gateway("office", cast.EXTRANET_ADDRESS, "10.2.0.0/16", kind="extranet")
    suite = policies.save_ipsec_proposal(None, name="signed", ah_integrity="hmac-sha1-96")
    signed = policies.save_ipsec_policy(None, name="signed", proposals=[suite], pfs_group="group-14", lifetime_s=601)
    compatible = {
        "version": "v1",
        "ike_policy": IKEPolicy.objects.get(name="compatible"),
        "ipsec_policy": IPsecPolicy.objects.get(name="compatible"),
    }
    made = cast.make_tunnel(paris, office, psk, selectors=two_pairs(signed), **compatible)
    with pytest.raises(
        ValidationError, match=r"Tunnel paris-office does not go with it\. Policy signed has no proposal"
    ):
        services.refuse_unfit_profile(office, "omnipcx-office")
    Gateway.objects.filter(pk=office.pk).update(profile="omnipcx-office")
    stored = queries.get_tunnel(made.pk)
    errors = FieldErrors()
    peers.check(errors, stored, list(stored.ends.all()), stored.selectors.all(), ())
    assert "selectors.1.ipsec_policy" in errors
    assert ("selectors.1.ipsec_policy", "signed is offered in vain: office is an OmniPCX Office.") in (
        peers.proposals_in_vain(stored, stored.end_b.gateway)
    )


def test_a_policy_of_a_pair_does_not_become_unfit(
    paris: Gateway, lyon: Gateway, mixed: Tunnel, strong: IPsecPolicy, old_esp: IPsecPolicy
) -> None:
    with pytest.raises(ValidationError) as caught:
        policies.save_ipsec_policy(None, strong, name="strong", proposals=old_esp.ordered_proposals())
    assert "paris-lyon on lyon, paris-lyon on paris" in caught.value.message_dict["proposals"][0]
    Gateway.objects.update(allow_legacy=True)
    change(queries.get_tunnel(mixed.pk), selectors=two_pairs(old_esp))
    paris.refresh_from_db()
    with pytest.raises(ValidationError, match="Still in use by paris-lyon"):
        legacy.refuse_end_of_legacy(paris)


# What is said of it


def test_advice_is_given_for_each_policy_once(mixed: Tunnel, strong: IPsecPolicy) -> None:
    policies.save_ipsec_policy(None, strong, name="strong", proposals=strong.ordered_proposals(), pfs_group=None)
    changed = change(mixed, selectors=[*two_pairs(strong), pair(10, strong)])
    found = [(each.code, each.field) for each in match.tunnel_advice(changed)]
    assert found == [("no-pfs", "selectors.1.ipsec_policy")]


def test_a_reason_leads_to_the_policy_that_is_surely_meant(mixed: Tunnel, strong: IPsecPolicy) -> None:
    place = places.of(mixed, "children.proposals", "a")
    assert place is not None
    assert place.label == "the proposals in the IPsec policies of the tunnel and its pairs"
    assert place.url == reverse("vpn:tunnel-edit", args=[mixed.pk]) + "#id_ipsec_policy"
    place = places.of(change(mixed, selectors=[pair(9, strong)]), "children.proposals", "a")
    assert place is not None
    assert place.label == "the proposals in IPsec policy strong"


def test_reading_costs_the_same_however_many_pairs_have_one(
    mixed: Tunnel, strong: IPsecPolicy, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    change(mixed, selectors=[pair(number, strong) for number in range(10, 20)])
    with django_assert_num_queries(13):
        (row,) = queries.tunnels()
        assert [len(policy.ordered_proposals()) for _, policy in row.ipsec_choices(row.selectors.all())] == [3] + [
            1
        ] * 10


def test_pairs_filled_in_stay_once_one_of_them_has_a_policy() -> None:
    state = State(
        main={},
        ends={"end_a": {}, "end_b": {}},
        pairs=[{"network_a": "10.1.0.0/24", "network_b": "10.2.0.0/24", "ipsec_policy": "7"}],
        auto={"pairs": "10.1.0.0/24>10.2.0.0/24"},
    )
    fill(state, {})
    assert state.pairs[0]["ipsec_policy"] == "7"


# In the browser


def form_of(paris: Gateway, lyon: Gateway, **changes: str) -> dict[str, str]:
    ike_policy, ipsec_policy = cast.default_policies()
    return {
        "name": "paris-lyon", "kind": "static", "pairs": "2", "key_how": "generate", "key_encoding": "hex",
        "enabled": "on", "add_routes": "on", "version": "v2",
        "ike_policy": str(ike_policy.pk), "ipsec_policy": str(ipsec_policy.pk),
        "end_a-gateway": str(paris.pk), "end_a-address": cast.PARIS_ADDRESS,
        "end_b-gateway": str(lyon.pk), "end_b-address": cast.LYON_ADDRESS,
        "selectors-0-network_a": "10.1.0.0/24", "selectors-0-network_b": "10.2.0.0/24",
        "selectors-1-network_a": "10.1.9.0/24", "selectors-1-network_b": "10.2.9.0/24",
        **changes,
    }  # fmt: skip


def test_a_pair_s_policy_from_the_form_to_the_pages(
    client: Client, alice: User, paris: Gateway, lyon: Gateway, strong: IPsecPolicy
) -> None:
    client.force_login(alice)
    chosen = {"selectors-1-ipsec_policy": str(strong.pk)}
    client.post(reverse("vpn:tunnel-create"), form_of(paris, lyon, **chosen))
    tunnel = Tunnel.objects.get()
    assert [row.ipsec_policy for row in tunnel.selectors.all()] == [None, strong]
    page = client.get(reverse("monitor:tunnel", args=[tunnel.pk])).content.decode()
    assert page.count('data-test="pair-policy"') == 1
    assert "1 pair has its own" in page
    edit = client.get(reverse("vpn:tunnel-edit", args=[tunnel.pk])).content.decode()
    assert f'<option value="{strong.pk}" selected>strong</option>' in edit
    assert "the tunnel&#x27;s: default" in edit
    used = client.get(reverse("vpn:policy-edit", args=["ipsec-policy", strong.pk])).content.decode()
    assert "Used by 1 tunnel: <span" in used
    assert "paris-lyon</a> (pair 2 only)" in used
    kept = client.post(reverse("vpn:policy-delete", args=["ipsec-policy", strong.pk]), follow=True)
    assert "pair 10.1.9.0/24 - 10.2.9.0/24 of tunnel paris-lyon" in kept.content.decode()


def test_the_form_says_what_is_wrong_with_a_pair_s_policy(
    client: Client, alice: User, paris: Gateway, lyon: Gateway, old_esp: IPsecPolicy
) -> None:
    client.force_login(alice)
    values = form_of(paris, lyon, **{"selectors-1-ipsec_policy": str(old_esp.pk)})
    part = client.post(reverse("vpn:tunnel-refill"), values, headers={"hx-request": "true"})
    second = part.context["forms"].pairs[1]
    assert second["ipsec_policy"].value() == str(old_esp.pk)
    assert "3DES-CBC, which paris and lyon do not allow" in second.remarks.refused[0]
    assert part.context["forms"].pairs[0].remarks is None
    response = client.post(reverse("vpn:tunnel-create"), values)
    assert response.status_code == 422
    assert "3DES-CBC" in response.context["forms"].pairs[1].errors["ipsec_policy"][0]
    assert not Tunnel.objects.exists()


def test_moving_a_pair_takes_its_policy_along(
    client: Client, alice: User, paris: Gateway, lyon: Gateway, strong: IPsecPolicy
) -> None:
    client.force_login(alice)
    values = form_of(paris, lyon, up_pair="1", **{"selectors-1-ipsec_policy": str(strong.pk)})
    forms = client.post(reverse("vpn:tunnel-refill"), values).context["forms"]
    assert [form["ipsec_policy"].value() for form in forms.pairs] == [str(strong.pk), None]
