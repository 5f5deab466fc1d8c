"""Proposals and policies: impossible suites are refused in plain words, order is kept, what is used stays."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from pytest_django import DjangoAssertNumQueries

from agents.contract import algorithms
from tests.console import cast
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.vpn import match, policies, queries
from vpnconsole.vpn.models import IKEPolicy, IKEProposal, IPsecPolicy, IPsecProposal, Tunnel

pytestmark = pytest.mark.django_db
GCM: dict[str, Any] = {"encryption": "aes-256-gcm-16", "prf": "prf-hmac-sha2-384", "group": "group-19"}


def test_a_proposal_is_made_changed_and_recorded(alice: User) -> None:
    proposal = policies.save_ike_proposal(alice, name="mine", integrity="", **GCM)
    assert proposal.integrity is None
    changed = policies.save_ike_proposal(alice, proposal, name="mine", **{**GCM, "group": "group-31"})
    assert (changed.pk, IKEProposal.objects.get(name="mine").group) == (proposal.pk, "group-31")
    actions = list(AuditEvent.objects.values_list("action", flat=True))
    assert actions == ["ike-proposal.changed", "ike-proposal.created"]


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"group": ""}, "group", "without a Diffie-Hellman group: choose one"),
        ({"group": "group-3"}, "group", "not a valid choice"),
        ({"integrity": "hmac-sha2-256-128"}, "integrity", "AES-256-GCM protects integrity itself"),
        ({"encryption": "aes-128-cbc"}, "integrity", "AES-128-CBC needs an integrity algorithm"),
        ({"encryption": "des"}, "encryption", "not a valid choice"),
        ({"prf": ""}, "prf", "cannot be blank"),
        ({"name": ""}, "name", "cannot be blank"),
        ({"name": "AES-256-GCM SHA2-384 group 19"}, "name", "already"),
    ],
)
def test_an_impossible_proposal_is_refused_beside_its_field(change: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        policies.save_ike_proposal(None, **{"name": "mine", **GCM, **change})
    assert list(caught.value.message_dict) == [field]
    assert words in caught.value.message_dict[field][0]
    assert not IKEProposal.objects.filter(name="mine").exists()


def test_an_ipsec_proposal_follows_the_same_rule() -> None:
    with pytest.raises(ValidationError) as caught:
        policies.save_ipsec_proposal(None, name="x", encryption="chacha20-poly1305", integrity="hmac-sha1-96")
    assert list(caught.value.message_dict) == ["integrity"]
    assert policies.save_ipsec_proposal(None, name="x", encryption="aes-128-cbc", integrity="hmac-sha1-96").pk


def test_a_policy_keeps_the_order_of_its_proposals() -> None:
    first, second, third = IKEProposal.objects.order_by("-name")[:3]
    policy = policies.save_ike_policy(None, name="mine", proposals=[third, first, second])
    assert IKEPolicy.objects.get(pk=policy.pk).ordered_proposals() == [third, first, second]
    policies.save_ike_policy(None, policy, name="mine", proposals=[second, third], dpd_interval_s=0)
    assert IKEPolicy.objects.get(pk=policy.pk).ordered_proposals() == [second, third]


def test_a_policy_needs_proposals_each_once() -> None:
    proposal = IPsecProposal.objects.all()[0]
    for proposals in ([], [proposal, proposal]):
        with pytest.raises(ValidationError) as caught:
            policies.save_ipsec_policy(None, name="mine", proposals=proposals)
        assert list(caught.value.message_dict) == ["proposals"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lifetime_s", 59),
        ("lifetime_s", 100_000_000),
        ("lifetime_bytes", -1),
        ("replay_window", 4097),
        ("pfs_group", "group-3"),
        ("pfs_group", "ml-kem-768"),
        ("lifetime_packets", -1),
        ("mode", "beet"),
        ("sequence_numbers", "none"),
    ],
)
def test_impossible_limits_are_refused_beside_their_field(field: str, value: int | str) -> None:
    with pytest.raises(ValidationError) as caught:
        policies.save_ipsec_policy(
            None,
            name="mine",
            proposals=list(IPsecProposal.objects.all()[:1]),
            **{field: value},  # type: ignore[arg-type]
        )
    assert list(caught.value.message_dict) == [field]


def test_what_is_used_stays_and_says_by_whom(tunnel: Tunnel) -> None:
    with pytest.raises(ValidationError, match="IKE policy default is used by tunnel paris-lyon"):
        policies.delete(None, tunnel.policies.ike_policy)
    with pytest.raises(ValidationError, match="is used by IKE policy default"):
        policies.delete(None, tunnel.policies.ike_policy.ordered_proposals()[0])
    unused = policies.save_ipsec_policy(None, name="unused", proposals=list(IPsecProposal.objects.all()[:2]))
    policies.delete(None, unused)
    assert not IPsecPolicy.objects.filter(name="unused").exists()


def test_a_fresh_console_offers_modern_defaults_that_need_no_advice() -> None:
    ike_policy, ipsec_policy = cast.default_policies()
    assert [(row.encryption, row.group) for row in ike_policy.ordered_proposals()] == [
        ("aes-256-gcm-16", "group-31"),
        ("aes-256-gcm-16", "group-19"),
        ("chacha20-poly1305", "group-31"),
    ]
    assert ipsec_policy.pfs_group == "group-19"
    assert match.policy_advice(ike_policy, "ike_policy") + match.policy_advice(ipsec_policy, "ipsec_policy") == []
    for row in (*IKEProposal.objects.all(), *IPsecProposal.objects.all(), *IKEPolicy.objects.all()):
        row.full_clean()


def test_the_defaults_stay_as_the_operator_left_them() -> None:
    policy = IKEPolicy.objects.get(name="default")
    policies.save_ike_policy(None, policy, name="default", proposals=policy.ordered_proposals()[:1])
    cast.default_policies()
    assert len(IKEPolicy.objects.get(name="default").ordered_proposals()) == 1


def test_every_algorithm_of_the_contract_can_be_chosen() -> None:
    for cipher in algorithms.ENCRYPTION.values():
        integrity = None if cipher.aead else "hmac-sha2-256-128"
        suite: dict[str, Any] = {"encryption": cipher.slug, "integrity": integrity}
        if cipher.esp:
            saved = policies.save_ipsec_proposal(None, name=cipher.slug, **suite)
            assert (saved.encryption, saved.integrity) == (cipher.slug, integrity)
        if cipher.ike:
            assert policies.save_ike_proposal(None, name=cipher.slug, **{**GCM, **suite}).encryption == cipher.slug
    for slug in algorithms.INTEGRITY:
        assert policies.save_ipsec_proposal(None, name=slug, ah_integrity=slug).ah_integrity == slug
    for prf in algorithms.PSEUDO_RANDOM:
        assert policies.save_ike_proposal(None, name=prf, **{**GCM, "prf": prf}).prf == prf
    for group in algorithms.KEY_EXCHANGE.values():
        field = "additional_key_exchange" if group.additional_only else "group"
        assert getattr(policies.save_ike_proposal(None, name=group.slug, **{**GCM, field: group.slug}), field)


def test_what_is_only_for_esp_or_beside_a_group_is_refused_elsewhere() -> None:
    for change in ({"encryption": "aes-128-gmac"}, {"group": "ml-kem-768"}, {"additional_key_exchange": "group-19"}):
        with pytest.raises(ValidationError) as caught:
            policies.save_ike_proposal(None, name="mine", **{**GCM, **change})
        assert list(caught.value.message_dict) == list(change)


@pytest.mark.parametrize(
    ("suite", "field", "words"),
    [
        ({}, "encryption", "Choose a cipher, or AH below"),
        ({"integrity": "hmac-sha2-256-128"}, "integrity", "use the AH field"),
        ({"ah_integrity": "sha3"}, "ah_integrity", "not a valid choice"),
    ],
)
def test_a_suite_that_protects_nothing_is_refused(suite: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        policies.save_ipsec_proposal(None, name="mine", **suite)
    assert words in caught.value.message_dict[field][0]


def test_reauthentication_has_a_pace_that_can_be_kept() -> None:
    proposals = list(IKEProposal.objects.all()[:1])
    with pytest.raises(ValidationError) as caught:
        policies.save_ike_policy(None, name="mine", proposals=proposals, reauth_s=59)
    assert list(caught.value.message_dict) == ["reauth_s"]
    assert policies.save_ike_policy(None, name="mine", proposals=proposals, reauth_s=60).reauth_s == 60


def test_lists_do_not_grow_in_queries(tunnel: Tunnel, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    with django_assert_num_queries(3):
        rows = [(row.name, len(row.ordered_proposals())) for row in queries.ike_policies()]
    assert rows == [("compatible", 1), ("default", 3)]
    with django_assert_num_queries(3):
        assert [len(row.ordered_proposals()) for row in queries.ipsec_policies()] == [1, 3]
    with django_assert_num_queries(3):
        assert [vars(row)["tunnel_count"] for row in queries.ike_policies().prefetch_related(None)] == [0, 1]
        assert [vars(row)["policy_count"] for row in queries.ike_proposals()] == [1, 1, 1, 1]
        assert [vars(row)["tunnel_count"] for row in queries.preshared_keys()] == [1]
