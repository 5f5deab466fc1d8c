"""Refusals of IKEv1's negotiation: one code for one difference, with the values and the place (FEATURES A20)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.contract.config import Child, IkeProposal, IpsecProposal, SequenceNumbers
from agents.contract.events import KINDS
from agents.ike.errors import PeerError
from agents.ike.v1 import mismatch, proposals, quick_proposals
from agents.ike.v1.quick_proposals import Circumstances
from agents.ike.wire.isakmp.attributes import Attribute
from agents.ike.wire.isakmp.families import FAMILIES
from agents.ike.wire.isakmp.payloads import Proposal, SecurityAssociation, Transform
from agents.ike.wire.isakmp.registry import EncapsulationMode, NotifyType, Protocol

from .cast import (
    AH_SHA1,
    BUNDLE,
    PSK,
    RSA,
    SMARTEDGE,
    SMARTEDGE_ESP,
    TUNNEL,
    child,
    first_attributes,
    ike,
    isakmp,
    offer,
    policy,
    quick_offer,
    sa,
    short,
    with_attributes,
    with_ke,
)

_GROUP_5 = ike(group="group-5", encryption="3des-cbc")
_PLACE = "in IKE phase 1, message 1 (main-mode)"
_QUICK = "in IKE phase 2, message 1 (quick-mode), child main"


def refuse(
    found: SecurityAssociation, *suites: IkeProposal, method: int = PSK, exchange: str = "main-mode", message: int = 1
) -> PeerError:
    """Return the refusal of an offer by a policy of these suites, which must not be able to take it."""
    ours, methods = policy(*suites), frozenset((method,))
    assert proposals.choose_phase1(ours, found, methods) is None
    return mismatch.phase1_refusal(ours, found, methods, exchange=exchange, message=message)


def refuse_quick(config: Child, found: SecurityAssociation, here: Circumstances = TUNNEL) -> PeerError:
    """Return the refusal of a Quick Mode's offer, which must not be one the child can take."""
    assert quick_proposals.choose_quick(config, found, here) is None
    return mismatch.quick_refusal(config, found, here)


@pytest.mark.parametrize(
    ("found", "ours", "method", "code", "notify", "received", "configured", "message"),
    [
        (
            offer(replace(_GROUP_5, group="group-2")),
            _GROUP_5,
            PSK,
            "ikev1.group-mismatch",
            NotifyType.NO_PROPOSAL_CHOSEN,
            "group-2",
            "group-5",
            "Mismatching DH group (group-2) received, (group-5) configured",
        ),
        (
            offer(ike(integrity="hmac-md5-96", prf="prf-hmac-md5")),
            SMARTEDGE,
            PSK,
            "ikev1.hash-mismatch",
            NotifyType.NO_PROPOSAL_CHOSEN,
            "md5",
            "sha1",
            "Mismatching authentication algorithm (md5) received, (sha1) configured",
        ),
        (
            offer(ike(encryption="des-cbc")),
            ike(encryption="3des-cbc"),
            PSK,
            "ikev1.encryption-mismatch",
            NotifyType.NO_PROPOSAL_CHOSEN,
            "des-cbc",
            "3des-cbc",
            "Mismatching encryption algorithm (des-cbc) received, (3des-cbc) configured",
        ),
        (
            offer(ike(encryption="aes-256-cbc")),
            SMARTEDGE,
            PSK,
            "ikev1.encryption-mismatch",
            NotifyType.NO_PROPOSAL_CHOSEN,
            "aes-256-cbc",
            "aes-128-cbc",
            "Mismatching encryption algorithm (aes-256-cbc) received, (aes-128-cbc) configured",
        ),
        (
            offer(),
            SMARTEDGE,
            RSA,
            "ikev1.auth-method-mismatch",
            NotifyType.NO_PROPOSAL_CHOSEN,
            "psk",
            "rsa-signature",
            "Mismatching authentication method (psk) received, (rsa-signature) configured",
        ),
        (
            isakmp(first_attributes(offer()), id_=17),
            SMARTEDGE,
            PSK,
            "ikev1.transform-id",
            NotifyType.INVALID_TRANSFORM_ID,
            "17",
            "1",
            "Invalid transform ID (17) received, (1) configured",
        ),
        (
            with_attributes(offer(), short(4099, 1)),
            SMARTEDGE,
            PSK,
            "ikev1.attribute",
            NotifyType.ATTRIBUTES_NOT_SUPPORTED,
            "4099",
            "none",
            "Unsupported attribute (4099) received",
        ),
        (
            isakmp(first_attributes(offer()), protocol=0xFF),
            SMARTEDGE,
            PSK,
            "ikev1.protocol-id",
            NotifyType.INVALID_PROTOCOL_ID,
            "0xff",
            "0x1",
            "Invalid protocol ID (0xff) received",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("ikev1.") else "",
)
def test_one_difference_of_phase_1_has_its_family(
    found: SecurityAssociation,
    ours: IkeProposal,
    method: int,
    code: str,
    notify: NotifyType,
    received: str,
    configured: str,
    message: str,
) -> None:
    error = refuse(found, ours, method=method)
    assert (error.code, error.notify) == (code, notify)
    assert (error.received, error.configured) == (received, configured)
    assert error.message == f"{message}, {_PLACE}"
    assert error.attributes.items() >= {"phase": "1", "message": "1", "exchange": "main-mode"}.items()
    assert error.attributes["policy"] == proposals.describe_phase1(policy(ours), frozenset((method,)))
    assert error.attributes["offer"] == proposals.describe_phase1_offer(found)
    family = next(each for each in FAMILIES if each.code == code)
    assert family.notify == notify
    assert code in KINDS


def test_the_place_is_said() -> None:
    error = refuse(offer(ike(group="group-2")), SMARTEDGE, exchange="aggressive-mode", message=1)
    assert error.message.endswith("in IKE phase 1, message 1 (aggressive-mode)")
    assert error.attributes["exchange"] == "aggressive-mode"


def test_several_differences_are_all_named_under_one_code() -> None:
    error = refuse(offer(ike(group="group-2", encryption="3des-cbc")), SMARTEDGE)
    assert (error.code, error.notify, error.field) == ("ikev1.proposal-mismatch", 14, "ike.proposals")
    assert error.message == (
        "No IKE proposal matches. Mismatching encryption algorithm (3des-cbc) received, (aes-128-cbc) configured; "
        f"Mismatching DH group (group-2) received, (group-1) configured, {_PLACE}"
    )
    assert (error.received, error.configured) == ("3des-cbc sha1 group-2 psk", "aes-128-cbc sha1 group-1 psk")
    assert error.attributes["difference"] == "encryption algorithm, DH group"


def test_the_nearest_pair_is_compared() -> None:
    far, near = ike(group="group-14", encryption="aes-256-cbc"), ike(group="group-5")
    error = refuse(offer(far, near), ike(encryption="des-cbc", group="group-2"), SMARTEDGE)
    assert (error.code, error.received, error.configured) == ("ikev1.group-mismatch", "group-5", "group-1")


def test_a_transform_that_is_one_goes_before_those_that_are_none() -> None:
    mixed = sa(
        isakmp(first_attributes(offer()), id_=17).proposals[0],
        isakmp(first_attributes(offer()), protocol=Protocol.ESP).proposals[0],
        offer(ike(group="group-2")).proposals[0],
    )
    assert refuse(mixed, SMARTEDGE).code == "ikev1.group-mismatch"


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ((short(13, 1),), "Unsupported attribute (13) received"),
        ((short(4, 1),), "Repeated attribute (4) received"),
        ((short(11, 3), short(12, 5)), "Unsupported value 3 of attribute (11) received"),
        ((short(11, 2),), "Attribute (11) without a duration received"),
        (
            (short(11, 2), Attribute(type=12, data=bytes(9), short=False)),
            "Unsupported length 9 of attribute (12) received",
        ),
    ],
)
def test_what_is_wrong_with_an_attribute_is_said(attributes: tuple[Attribute, ...], words: str) -> None:
    error = refuse(with_attributes(offer(), *attributes), SMARTEDGE)
    assert (error.code, error.message) == ("ikev1.attribute", f"{words}, {_PLACE}")


@pytest.mark.parametrize(("method", "name"), [(4, "rsa-encryption"), (5, "revised-rsa-encryption")])
def test_public_key_encryption_says_that_it_is_not_implemented(method: int, name: str) -> None:
    error = refuse(with_attributes(offer(), short(3, method), without=3), SMARTEDGE)
    assert (error.code, error.received) == ("ikev1.auth-method-mismatch", f"{name} (not implemented)")


def test_an_empty_offer_and_one_that_fits_are_refused_without_a_bug() -> None:
    assert refuse(sa(), SMARTEDGE).code == "ikev1.protocol-id"
    error = mismatch.phase1_refusal(policy(), offer(), frozenset((PSK,)), exchange="main-mode", message=1)
    assert (error.code, error.message) == ("ikev1.proposal-mismatch", f"No IKE proposal matches, {_PLACE}")


_GCM = IpsecProposal(encryption="aes-256-gcm-16")
_AH_MD5 = IpsecProposal(ah_integrity="hmac-md5-96")
_MD5_ESP = IpsecProposal(encryption="aes-128-cbc", integrity="hmac-md5-96")


@pytest.mark.parametrize(
    ("config", "found", "here", "code", "received", "configured", "message"),
    [
        (
            child(pfs_groups=("group-5",)),
            quick_offer(child(), "group-2"),
            with_ke("group-2"),
            "ikev1.pfs-mismatch",
            "group-2",
            "group-5",
            "Mismatching DH group (group-2) received, (group-5) configured",
        ),
        (
            child(pfs_groups=("group-14", "group-19")),
            quick_offer(child()),
            TUNNEL,
            "ikev1.pfs-mismatch",
            "none",
            "group-14/group-19",
            "Mismatching DH group (none) received, (group-14/group-19) configured",
        ),
        (
            child(),
            quick_offer(child(), "group-2"),
            with_ke("group-2"),
            "ikev1.pfs-mismatch",
            "group-2",
            "none",
            "Mismatching DH group (group-2) received, (none) configured",
        ),
        (
            child(pfs_groups=("group-2",)),
            quick_offer(child(), "group-2"),
            TUNNEL,
            "ikev1.pfs-mismatch",
            "none",
            "128 octets of group-2",
            "Mismatching public value (none) received, (128 octets of group-2) configured",
        ),
        (
            child(),
            quick_offer(child()),
            with_ke("group-2"),
            "ikev1.pfs-mismatch",
            "128 octets",
            "none",
            "Mismatching public value (128 octets) received, (none) configured",
        ),
        (
            child(),
            quick_offer(child(_MD5_ESP)),
            TUNNEL,
            "ikev1.child-integrity-mismatch",
            "hmac-md5-96",
            "hmac-sha1-96",
            "Mismatching authentication algorithm (hmac-md5-96) received, (hmac-sha1-96) configured",
        ),
        (
            child(AH_SHA1),
            quick_offer(child(_AH_MD5)),
            TUNNEL,
            "ikev1.child-integrity-mismatch",
            "hmac-md5-96",
            "hmac-sha1-96",
            "Mismatching authentication algorithm (hmac-md5-96) received, (hmac-sha1-96) configured",
        ),
        (
            child(AH_SHA1),
            with_attributes(quick_offer(child(AH_SHA1)), short(5, 1), without=5),
            TUNNEL,
            "ikev1.child-integrity-mismatch",
            "hmac-md5-96",
            "hmac-sha1-96",
            "Mismatching authentication algorithm (hmac-md5-96) received, (hmac-sha1-96) configured",
        ),
        (
            child(_GCM),
            with_attributes(quick_offer(child(_GCM)), short(5, 2)),
            TUNNEL,
            "ikev1.child-integrity-mismatch",
            "hmac-sha1-96",
            "none",
            "Mismatching authentication algorithm (hmac-sha1-96) received, (none) configured",
        ),
        (
            child(),
            quick_offer(child(replace(SMARTEDGE_ESP, encryption="des-cbc"))),
            TUNNEL,
            "ikev1.child-encryption-mismatch",
            "des-cbc",
            "aes-128-cbc",
            "Mismatching encryption algorithm (des-cbc) received, (aes-128-cbc) configured",
        ),
        (
            child(),
            quick_offer(child(AH_SHA1)),
            TUNNEL,
            "ikev1.protocols-mismatch",
            "AH 1, ESP 0",
            "AH 0, ESP 1",
            "Mismatching number of AH protocols received (1), configured (0); "
            "of ESP protocols received (0), configured (1)",
        ),
        (
            child(BUNDLE),
            quick_offer(child()),
            TUNNEL,
            "ikev1.protocols-mismatch",
            "AH 0",
            "AH 1",
            "Mismatching number of AH protocols received (0), configured (1)",
        ),
        (
            child(),
            sa(*quick_offer(child(), cpi=300).proposals[:2]),
            TUNNEL,
            "ikev1.protocols-mismatch",
            "IPComp 1",
            "IPComp 0",
            "Mismatching number of IPComp protocols received (1), configured (0)",
        ),
        (
            child(),
            quick_offer(child(), encapsulation=EncapsulationMode.TRANSPORT),
            replace(TUNNEL, encapsulations=frozenset((1, 61443))),
            "child.mode-mismatch",
            "transport",
            "tunnel/udp-tunnel-draft",
            "Mismatching encapsulation mode (transport) received, (tunnel/udp-tunnel-draft) configured",
        ),
        (
            child(),
            quick_offer(child(sequence_numbers=SequenceNumbers.EXTENDED)),
            TUNNEL,
            "child.esn-mismatch",
            "esn",
            "no-esn",
            "Mismatching sequence numbers (esn) received, (no-esn) configured",
        ),
        (
            child(),
            with_attributes(quick_offer(child()), short(10, 1)),
            TUNNEL,
            "child.no-proposal",
            "10",
            "none",
            "Unsupported attribute (10) received",
        ),
        (
            child(ipcomp=True),
            sa(
                quick_offer(child()).proposals[0],
                Proposal(number=1, protocol=4, spi=b"\x12\x34", transforms=(Transform(number=1, id=3),)),
            ),
            TUNNEL,
            "child.no-proposal",
            "lzs",
            "deflate",
            "Mismatching compression (lzs) received, (deflate) configured",
        ),
    ],
)
def test_one_difference_of_phase_2_has_its_code(
    config: Child,
    found: SecurityAssociation,
    here: Circumstances,
    code: str,
    received: str,
    configured: str,
    message: str,
) -> None:
    error = refuse_quick(config, found, here)
    assert (error.code, error.notify) == (code, NotifyType.NO_PROPOSAL_CHOSEN)
    assert (error.received, error.configured) == (received, configured)
    assert error.message == f"{message}, {_QUICK}"
    assert error.attributes.items() >= {"phase": "2", "message": "1", "exchange": "quick-mode", "child": "main"}.items()
    assert error.field is not None
    assert error.field.startswith("children.")
    assert code in KINDS


def test_several_differences_of_phase_2() -> None:
    error = refuse_quick(child(), quick_offer(child(_GCM), "group-2"), with_ke("group-2"))
    assert (error.code, error.field) == ("child.no-proposal", "children.proposals")
    assert error.attributes["difference"] == "encryption algorithm, authentication algorithm, DH group"
    assert error.received == "aes-256-gcm-16 group-2 tunnel"
    assert error.configured == "aes-128-cbc hmac-sha1-96 tunnel"


def test_what_both_protocols_of_a_bundle_share_counts_once() -> None:
    error = refuse_quick(child(BUNDLE), quick_offer(child(BUNDLE), "group-2"), with_ke("group-2"))
    assert error.code == "ikev1.pfs-mismatch"


def test_the_same_protocols_are_nearer_than_the_same_number_of_differences() -> None:
    found = sa(
        *quick_offer(child(AH_SHA1)).proposals, replace(quick_offer(child(_GCM), "group-2").proposals[0], number=2)
    )
    error = refuse_quick(child(), found)
    assert error.code == "child.no-proposal"
    assert "encryption algorithm" in error.attributes["difference"]


def test_nothing_to_compare_is_refused_without_a_bug() -> None:
    assert refuse_quick(child(), sa()).code == "child.no-proposal"
    bad_cpi = sa(
        *(
            replace(each, spi=b"\0\1") if each.protocol == 4 else each
            for each in quick_offer(child(), cpi=300).proposals[:2]
        )
    )
    error = refuse_quick(child(ipcomp=True), bad_cpi)
    assert (error.code, error.message) == ("child.no-proposal", f"No IPsec proposal matches, {_QUICK}")


_ATTRIBUTES = st.lists(
    st.builds(
        lambda type_, value, short_form, octets: (
            short(type_, value)
            if short_form
            else Attribute(type=type_, data=value.to_bytes(2, "big") * octets, short=False)
        ),
        st.sampled_from([*range(17), 99, 32_767]),
        st.sampled_from([0, 1, 2, 3, 5, 7, 12, 128, 65_535]),
        st.booleans(),
        st.integers(0, 5),
    ),
    max_size=20,
)
_OFFERS = st.lists(
    st.builds(
        lambda number, protocol, spi, transforms: Proposal(
            number=number, protocol=protocol, spi=spi, transforms=tuple(transforms)
        ),
        st.integers(0, 3),
        st.sampled_from([1, 2, 3, 4]),
        st.sampled_from([b"", b"\x12\x34", b"\xc0\0\0\1"]),
        st.lists(
            st.builds(
                lambda number, id_, attributes: Transform(number=number, id=id_, attributes=tuple(attributes)),
                st.integers(0, 255),
                st.sampled_from([0, 1, 2, 3, 11, 12, 23, 255]),
                _ATTRIBUTES,
            ),
            min_size=1,
            max_size=4,
        ),
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=300)
@given(_OFFERS)
def test_any_offer_is_taken_or_refused_in_bounded_words(found: list[Proposal]) -> None:
    offered = sa(*found)
    methods = frozenset((PSK,))
    if proposals.choose_phase1(policy(), offered, methods) is None:
        error = mismatch.phase1_refusal(policy(), offered, methods, exchange="main-mode", message=1)
        assert error.code in KINDS
        assert len(error.message) <= 2_000
    for config in (child(BUNDLE, SMARTEDGE_ESP, AH_SHA1, ipcomp=True), child(pfs_groups=("group-2",))):
        if quick_proposals.choose_quick(config, offered, TUNNEL) is None:
            error = mismatch.quick_refusal(config, offered, TUNNEL)
            assert error.code in KINDS
            assert len(error.message) <= 2_000
        with pytest.raises(PeerError):
            quick_proposals.read_answer_quick(config, sa(), offered, TUNNEL)
