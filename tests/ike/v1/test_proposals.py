"""Suites of both phases of IKEv1 as functions: what is offered, chosen, answered and believed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.contract import algorithms, ikev1
from agents.contract.config import ExchangeMode, IkeProposal, IpsecProposal, SequenceNumbers
from agents.ike.errors import PeerError
from agents.ike.v1 import names, proposals, quick_proposals, terms
from agents.ike.v1.terms import Lifetimes
from agents.ike.wire.isakmp.attributes import Attribute
from agents.ike.wire.isakmp.payloads import MOST_PROPOSALS, Proposal, SecurityAssociation, Transform
from agents.ike.wire.isakmp.registry import EncapsulationMode, LifeType, Protocol
from tests.vectors import FOLDER, needs_vectors

from .cast import (
    AH_SHA1,
    BUNDLE,
    PSK,
    RSA,
    SMARTEDGE,
    SMARTEDGE_ESP,
    SPIS,
    TUNNEL,
    child,
    first_attributes,
    ike,
    isakmp,
    number,
    offer,
    policy,
    quick_offer,
    sa,
    short,
    with_attributes,
    with_ke,
)

PSK_ONLY = frozenset((PSK,))


def said(found: SecurityAssociation) -> list[tuple[int, int]]:
    """The attributes of an offer's first transform as type and value."""
    return [(each.type, each.number) for each in first_attributes(found)]


class TestOfferPhase1:
    def test_smartedge_default_on_the_wire(self) -> None:
        found = offer()
        assert said(found) == [(1, 7), (14, 128), (2, 2), (4, 1), (3, 1), (11, 1), (12, 86_400)]
        (proposal,) = found.proposals
        assert (proposal.number, proposal.protocol, proposal.spi) == (1, Protocol.ISAKMP, b"")
        # The same octets by hand: a basic attribute has bit 15 of its type set, 86,400 needs the long form.
        assert found.serialize().hex() == (
            "00000001" "00000001" "00000030" "01010001" "00000028" "01010000"
            "80010007" "800e0080" "80020002" "80040001" "80030001" "800b0001" "000c0004" "00015180"
        )  # fmt: skip
        assert SecurityAssociation.parse(found.serialize()) == found

    @pytest.mark.parametrize(
        ("suite", "expected"),
        [
            (ike(encryption="des-cbc"), [(1, 1), (2, 2), (4, 1)]),
            (ike(encryption="3des-cbc", group="group-2"), [(1, 5), (2, 2), (4, 2)]),
            (ike(encryption="camellia-256-cbc", group="group-14"), [(1, 8), (14, 256), (2, 2), (4, 14)]),
            (ike(integrity="hmac-md5-96", prf="prf-hmac-md5"), [(1, 7), (14, 128), (2, 1), (4, 1)]),
            (
                ike(integrity="hmac-sha2-512-256", prf="prf-hmac-sha2-512", group="group-30"),
                [(1, 7), (14, 128), (2, 6), (4, 30)],
            ),
        ],
    )
    def test_numbers(self, suite: IkeProposal, expected: list[tuple[int, int]]) -> None:
        assert said(offer(suite))[: len(expected)] == expected

    def test_only_what_has_numbers_is_offered_in_order(self) -> None:
        gcm = IkeProposal(encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group="group-14")
        found = offer(gcm, ike(group="group-5"), ike(group="group-31"), SMARTEDGE)
        transforms = found.proposals[0].transforms
        assert [each.number for each in transforms] == [1, 2]
        assert [terms.read_phase1(each).group for each in transforms] == [5, 1]

    def test_aggressive_mode_offers_one_group(self) -> None:
        mixed = policy(ike(group="group-5"), SMARTEDGE, ike(group="group-5", encryption="3des-cbc"))
        found = proposals.offer_phase1(mixed, RSA, only_first_group=True)
        read = [terms.read_phase1(each) for each in found.proposals[0].transforms]
        assert [(each.group, each.encryption, each.method) for each in read] == [(5, 7, 3), (5, 5, 3)]

    @pytest.mark.parametrize(
        ("seconds", "kilobytes", "expected"),
        [
            (28_800, 0, [(11, 1, True), (12, 28_800, True)]),
            (65_536, 0, [(11, 1, True), (12, 65_536, False)]),
            (300, 5, [(11, 1, True), (12, 300, True), (11, 2, True), (12, 5, True)]),
            (300, 2**32 - 1, [(11, 1, True), (12, 300, True), (11, 2, True), (12, 2**32 - 1, False)]),
        ],
    )
    def test_lifetimes(self, seconds: int, kilobytes: int, expected: list[tuple[int, int, bool]]) -> None:
        found = offer(lifetime_s=seconds, lifetime_kilobytes=kilobytes)
        shown = [(each.type, each.number, each.short) for each in first_attributes(found)]
        assert shown[-len(expected) :] == expected


class TestChoosePhase1:
    def choose(self, found: SecurityAssociation, *suites: IkeProposal, **changes: Any) -> proposals.Phase1Choice | None:
        return proposals.choose_phase1(policy(*suites, **changes), found, PSK_ONLY)

    def test_own_order_decides_and_the_answer_repeats_the_transform(self) -> None:
        strong = ike(group="group-14", encryption="aes-256-cbc")
        found = offer(SMARTEDGE, strong)
        choice = self.choose(found, strong, SMARTEDGE)
        assert choice is not None
        assert choice.suite.proposal == strong
        assert (choice.suite.encryption.slug, choice.suite.hash, choice.suite.prf.slug, choice.suite.group.slug) == (
            "aes-256-cbc",
            "sha1",
            "prf-hmac-sha1",
            "group-14",
        )
        assert choice.suite.method == PSK
        (proposal,) = choice.answer.proposals
        assert proposal.transforms == (found.proposals[0].transforms[1],)

    def test_odd_forms_are_repeated_as_they_came(self) -> None:
        """A duration in the long form that would fit the short one, and numbers nobody expects."""
        odd = replace(
            offer().proposals[0],
            number=9,
            spi=b"ignored!",
            transforms=(
                Transform(
                    number=200,
                    id=1,
                    attributes=(
                        *first_attributes(offer())[:-1],
                        Attribute(type=12, data=b"\0\0\0\0\0\0\x0e\x10", short=False),
                    ),
                ),
            ),
        )
        choice = self.choose(sa(odd))
        assert choice is not None
        assert choice.lifetime_s == 3_600
        assert choice.answer == sa(replace(odd, spi=b""))

    @pytest.mark.parametrize(
        "other",
        [
            ike(encryption="aes-192-cbc"),
            ike(encryption="camellia-128-cbc"),
            ike(integrity="hmac-md5-96", prf="prf-hmac-md5"),
            ike(group="group-2"),
        ],
    )
    def test_another_suite_does_not_match(self, other: IkeProposal) -> None:
        assert self.choose(offer(other)) is None

    def test_the_method_is_one_of_those_allowed(self) -> None:
        found = SecurityAssociation(
            proposals=(
                replace(
                    offer().proposals[0],
                    transforms=tuple(offer(method=each).proposals[0].transforms[0] for each in (RSA, 9, PSK)),
                ),
            )
        )
        for methods, expected in (({PSK}, PSK), ({9, 10}, 9), ({PSK, 9, RSA}, RSA)):
            choice = proposals.choose_phase1(policy(), found, frozenset(methods))
            assert choice is not None
            assert choice.suite.method == expected
        assert proposals.choose_phase1(policy(), found, frozenset((10, 11))) is None

    def test_the_group_of_aggressive_mode_is_fixed(self) -> None:
        found = offer(ike(group="group-2"), SMARTEDGE)
        both = policy(ike(group="group-2"), SMARTEDGE)
        choice = proposals.choose_phase1(both, found, PSK_ONLY, group=1)
        assert choice is not None
        assert choice.suite.group.number == 1
        assert proposals.choose_phase1(both, found, PSK_ONLY, group=5) is None

    @pytest.mark.parametrize(
        "more",
        [
            (short(99, 1),),
            (short(13, 1),),  # a negotiated PRF
            (short(5, 1),),  # group type
            (number(16, 2**20),),
            (short(1, 7),),  # what stood before, once more
            (short(11, 3), short(12, 5)),
            (short(11, 1), short(12, 86_400 >> 4)),  # seconds, a second time
            (short(11, 2),),
            (short(12, 5),),
            (short(11, 2), short(11, 2), short(12, 5)),
            (short(11, 2), Attribute(type=12, data=bytes(8) + b"\1", short=False)),
            (Attribute(type=11, data=b"\0\2", short=False), short(12, 5)),
            (short(11, 2), Attribute(type=12, data=b"", short=False)),
        ],
        ids=lambda more: " ".join(f"{each.type}={each.data.hex()}" for each in more),
    )
    def test_an_attribute_that_cannot_be_spoils_its_transform_only(self, more: tuple[Attribute, ...]) -> None:
        plain, odd = first_attributes(offer()), with_attributes(offer(), *more)
        assert self.choose(odd) is None
        choice = self.choose(isakmp(first_attributes(odd), plain))
        assert choice is not None
        assert choice.answer.proposals[0].transforms[0].number == 2

    @pytest.mark.parametrize("type_", [1, 2, 3, 4, 14])
    def test_a_missing_attribute_or_one_in_the_long_form_does_not_match(self, type_: int) -> None:
        assert self.choose(with_attributes(offer(), without=type_)) is None
        data = next(each.data for each in first_attributes(offer()) if each.type == type_)
        long_form = Attribute(type=type_, data=data, short=False)
        assert self.choose(with_attributes(offer(), long_form, without=type_)) is None

    def test_a_key_length_does_not_go_with_a_fixed_one(self) -> None:
        des = ike(encryption="3des-cbc")
        assert self.choose(offer(des), des) is not None
        assert self.choose(with_attributes(offer(des), short(14, 192)), des) is None

    def test_other_protocols_and_transforms_are_passed_over(self) -> None:
        plain = first_attributes(offer())
        assert self.choose(isakmp(plain, id_=17)) is None
        assert self.choose(isakmp(plain, protocol=Protocol.ESP)) is None
        mixed = sa(isakmp(plain, protocol=Protocol.AH).proposals[0], replace(offer().proposals[0], number=2))
        choice = self.choose(mixed)
        assert choice is not None
        assert choice.answer.proposals[0].number == 2

    def test_no_more_transforms_are_looked_at_than_are_worth_it(self) -> None:
        other = first_attributes(offer(ike(group="group-2")))
        many = [other] * (proposals.MOST_TRANSFORMS - 1)
        assert self.choose(isakmp(*many, first_attributes(offer()))) is not None
        assert self.choose(isakmp(*many, other, first_attributes(offer()))) is None

    def test_a_duration_of_0_is_no_limit(self) -> None:
        basic = [each for each in first_attributes(offer()) if each.type not in (11, 12)]
        choice = self.choose(isakmp((*basic, short(11, 1), short(12, 0), short(11, 2), short(12, 0))), lifetime_s=3_600)
        assert choice is not None
        assert (choice.lifetime_s, choice.lifetime_kilobytes) == (3_600, 0)

    @pytest.mark.parametrize(
        ("ours", "theirs", "in_force"),
        [
            ((86_400, 0), [], (28_800, 0)),
            ((3_600, 0), [], (3_600, 0)),
            ((86_400, 0), [(1, 300)], (300, 0)),
            ((300, 0), [(1, 86_400)], (300, 0)),
            ((86_400, 5), [(1, 600)], (600, 5)),
            ((86_400, 0), [(2, 5), (1, 600)], (600, 5)),
            ((86_400, 5), [(2, 500)], (28_800, 5)),
            ((86_400, 5_000), [(1, 600), (2, 500)], (600, 500)),
        ],
    )
    def test_the_shorter_lifetime_is_in_force(
        self, ours: tuple[int, int], theirs: list[tuple[int, int]], in_force: tuple[int, int]
    ) -> None:
        basic = [each for each in first_attributes(offer()) if each.type not in (11, 12)]
        durations = [each for unit, value in theirs for each in (short(11, unit), number(12, value))]
        choice = self.choose(isakmp((*basic, *durations)), lifetime_s=ours[0], lifetime_kilobytes=ours[1])
        assert choice is not None
        assert (choice.lifetime_s, choice.lifetime_kilobytes) == in_force
        assert choice.peer_lifetimes == Lifetimes(seconds=dict(theirs).get(1), kilobytes=dict(theirs).get(2))


class TestAnswerPhase1:
    def read(self, answer: SecurityAssociation, **changes: Any) -> proposals.Phase1Choice:
        ours = policy(SMARTEDGE, ike(group="group-2"), **changes)
        return proposals.read_answer_phase1(ours, PSK, proposals.offer_phase1(ours, PSK), answer)

    def test_each_transform_offered_is_an_answer(self) -> None:
        for suite in (SMARTEDGE, ike(group="group-2")):
            choice = self.read(offer(suite))
            assert choice.suite.proposal == suite
            assert choice.answer == offer(suite)

    @pytest.mark.parametrize(
        "answer",
        [
            offer(SMARTEDGE, ike(group="group-2")),
            sa(*offer().proposals, replace(offer().proposals[0], number=2)),
            offer(ike(group="group-5")),
            offer(ike(encryption="des-cbc")),
            offer(method=RSA),
            offer(lifetime_s=86_401),
            with_attributes(offer(), short(99, 1)),
            isakmp(first_attributes(offer()), id_=2),
            isakmp(first_attributes(offer()), protocol=Protocol.ESP),
            sa(),
        ],
        ids=[
            "two-transforms",
            "two-proposals",
            "group",
            "cipher",
            "method",
            "longer",
            "attribute",
            "id",
            "protocol",
            "-",
        ],
    )
    def test_anything_else_is_refused(self, answer: SecurityAssociation) -> None:
        with pytest.raises(PeerError, match=r"in IKE phase 1, message 2 \(aggressive-mode\)") as caught:
            self.read(answer, exchange_mode=ExchangeMode.AGGRESSIVE)
        assert (caught.value.code, caught.value.notify) == ("ikev1.proposal-mismatch", 14)
        assert caught.value.configured is not None
        assert caught.value.configured.startswith("aes-128-cbc sha1 group-1 psk")

    def test_a_shorter_lifetime_is_taken_and_none_is_ours(self) -> None:
        assert self.read(offer(lifetime_s=300)).lifetime_s == 300
        assert self.read(offer(lifetime_s=300, lifetime_kilobytes=5)).lifetime_kilobytes == 5
        bare = with_attributes(with_attributes(offer(), without=11), without=12)
        assert self.read(bare).lifetime_s == 86_400


def _captured(name: str) -> SecurityAssociation:
    """Return the SA payload that stands first in one of ike-scan's packets."""
    octets = (FOLDER / "ike-scan" / f"pkt-{name}.dat").read_bytes()
    return SecurityAssociation.parse(octets[32 : 28 + int.from_bytes(octets[30:32], "big")])


@needs_vectors
def test_what_ike_scan_captured() -> None:
    """Its default offer, and what responders answered to such offers."""
    suites = (
        ike(encryption="des-cbc", group="group-1"),
        ike(encryption="3des-cbc", group="group-2"),
    )
    choice = proposals.choose_phase1(policy(*suites), _captured("default-proposal"), PSK_ONLY)
    assert choice is not None
    assert (choice.suite.proposal, choice.lifetime_s) == (suites[0], 28_800)
    assert choice.answer.proposals[0].transforms[0].number == 7
    ours = policy(*suites, lifetime_s=28_800)
    for name, method in (("aggr-mode-response", PSK), ("main-mode-response", RSA)):
        read = proposals.read_answer_phase1(ours, method, proposals.offer_phase1(ours, method), _captured(name))
        assert (read.suite.proposal, read.lifetime_s) == (suites[1], 28_800)


_IKE_SUITES = [
    suite
    for cipher, prf, group in itertools.product(ikev1.ENCRYPTION, ("md5", "sha1", "sha2-256"), ("group-2", "group-19"))
    for suite in [
        IkeProposal(
            encryption=cipher,
            integrity={"md5": "hmac-md5-96", "sha1": "hmac-sha1-96", "sha2-256": "hmac-sha2-256-128"}[prf],
            prf=f"prf-hmac-{prf}",
            group=group,
        )
    ]
]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(_IKE_SUITES), min_size=1, max_size=16),
    st.lists(st.sampled_from(_IKE_SUITES), min_size=1, max_size=16),
    st.integers(10, 200_000),
    st.integers(10, 200_000),
    st.integers(0, 2**32 - 1),
)
def test_both_sides_of_phase_1_end_up_with_the_same(
    ours: list[IkeProposal], theirs: list[IkeProposal], our_s: int, their_s: int, kilobytes: int
) -> None:
    responder = policy(*ours, lifetime_s=our_s)
    initiator = policy(*theirs, lifetime_s=their_s, lifetime_kilobytes=kilobytes)
    sent = SecurityAssociation.parse(proposals.offer_phase1(initiator, PSK).serialize())
    choice = proposals.choose_phase1(responder, sent, PSK_ONLY)
    common = [each for each in ours if each in theirs]
    assert (choice is None) == (not common)
    if choice is None:
        return
    assert choice.suite.proposal == common[0]
    answer = SecurityAssociation.parse(choice.answer.serialize())
    read = proposals.read_answer_phase1(initiator, PSK, sent, answer)
    assert read.suite == choice.suite
    assert choice.lifetime_s == min(our_s, their_s)
    assert read.lifetime_s == their_s  # the responder's RESPONDER-LIFETIME says the shorter one
    assert read.lifetime_kilobytes == choice.lifetime_kilobytes == kilobytes


def quick_said(found: SecurityAssociation) -> list[tuple[int, int, list[tuple[int, list[tuple[int, int]]]]]]:
    """Number and protocol of each proposal, id and attributes (lifetimes left out) of each transform."""
    return [
        (
            each.number,
            each.protocol,
            [(one.id, [(a.type, a.number) for a in one.attributes if a.type > 2]) for one in each.transforms],
        )
        for each in found.proposals
    ]


class TestOfferQuick:
    def test_smartedge_default(self) -> None:
        found = quick_offer(child(lifetime_s=86_400))
        assert quick_said(found) == [(1, 3, [(12, [(4, 1), (5, 2), (6, 128)])])]
        assert [(each.type, each.number) for each in first_attributes(found)][:2] == [(1, 1), (2, 86_400)]
        assert found.proposals[0].spi == SPIS[Protocol.ESP]
        assert SecurityAssociation.parse(found.serialize()) == found

    @pytest.mark.parametrize(
        ("suite", "expected"),
        [
            (IpsecProposal(encryption="des-cbc", integrity="hmac-md5-96"), (3, 2, [(4, 1), (5, 1)])),
            (IpsecProposal(encryption="3des-cbc", integrity="hmac-sha1-96"), (3, 3, [(4, 1), (5, 2)])),
            (IpsecProposal(encryption="null", integrity="hmac-sha2-256-128"), (3, 11, [(4, 1), (5, 5)])),
            (IpsecProposal(encryption="aes-256-ctr", integrity="aes-xcbc-96"), (3, 13, [(4, 1), (5, 9), (6, 256)])),
            (IpsecProposal(encryption="aes-192-ccm-12"), (3, 15, [(4, 1), (6, 192)])),
            (IpsecProposal(encryption="aes-256-gcm-16"), (3, 20, [(4, 1), (6, 256)])),
            (
                IpsecProposal(encryption="camellia-256-cbc", integrity="hmac-sha2-512-256"),
                (3, 22, [(4, 1), (5, 7), (6, 256)]),
            ),
            (IpsecProposal(encryption="aes-128-gmac"), (3, 23, [(4, 1), (6, 128)])),
            (IpsecProposal(ah_integrity="hmac-md5-96"), (2, 2, [(4, 1), (5, 1)])),
            (AH_SHA1, (2, 3, [(4, 1), (5, 2)])),
            (IpsecProposal(ah_integrity="hmac-sha2-384-192"), (2, 6, [(4, 1), (5, 6)])),
            (IpsecProposal(ah_integrity="aes-xcbc-96"), (2, 9, [(4, 1), (5, 9)])),
        ],
    )
    def test_numbers(self, suite: IpsecProposal, expected: tuple[int, int, list[tuple[int, int]]]) -> None:
        protocol, id_, attributes = expected
        assert quick_said(quick_offer(child(suite))) == [(1, protocol, [(id_, attributes)])]

    def test_suites_of_one_protocol_that_follow_each_other_are_one_proposal(self) -> None:
        gcm, chacha = IpsecProposal(encryption="aes-128-gcm-16"), IpsecProposal(encryption="chacha20-poly1305")
        ah_md5 = IpsecProposal(ah_integrity="hmac-md5-96")
        found = quick_offer(child(SMARTEDGE_ESP, chacha, gcm, AH_SHA1, ah_md5, BUNDLE, BUNDLE, SMARTEDGE_ESP))
        assert [(number, protocol, [id_ for id_, _ in each]) for number, protocol, each in quick_said(found)] == [
            (1, 3, [12, 20]),
            (2, 2, [3, 2]),
            (3, 2, [5]),
            (3, 3, [12]),
            (4, 2, [5]),
            (4, 3, [12]),
            (5, 3, [12]),
        ]
        assert {each.spi for each in found.proposals if each.protocol == Protocol.AH} == {SPIS[Protocol.AH]}
        assert [one.number for one in found.proposals[0].transforms] == [1, 2]

    def test_ipcomp_is_offered_first_and_can_be_left(self) -> None:
        found = quick_offer(child(BUNDLE, ipcomp=True), cpi=0x1234)
        assert [(each.number, each.protocol) for each in found.proposals] == [(1, 2), (1, 3), (1, 4), (2, 2), (2, 3)]
        assert found.proposals[2].spi == b"\x12\x34"
        assert quick_said(found)[2][2] == [(2, [(4, 1)])]

    def test_pfs_group_and_mode_are_on_every_transform(self) -> None:
        config = child(SMARTEDGE_ESP, IpsecProposal(encryption="3des-cbc", integrity="hmac-md5-96"), ipcomp=True)
        found = quick_offer(config, "group-2", EncapsulationMode.UDP_TUNNEL, cpi=300)
        for each in (one for proposal in found.proposals for one in proposal.transforms):
            values = {attribute.type: attribute.number for attribute in each.attributes}
            assert (values[3], values[4]) == (2, 3)

    @pytest.mark.parametrize(
        ("wish", "extended", "expected"),
        [
            (SequenceNumbers.NORMAL, True, [False]),
            (SequenceNumbers.PREFER_EXTENDED, True, [True, False]),
            (SequenceNumbers.PREFER_EXTENDED, False, [False]),
            (SequenceNumbers.EXTENDED, False, [True]),
        ],
    )
    def test_sequence_numbers(self, wish: SequenceNumbers, extended: bool, expected: list[bool]) -> None:
        for suite, numbers in ((SMARTEDGE_ESP, 1), (BUNDLE, len(expected))):
            found = quick_proposals.offer_quick(
                child(suite, sequence_numbers=wish),
                SPIS,
                group=None,
                encapsulation=EncapsulationMode.TUNNEL,
                cpi=None,
                extended=extended,
            )
            assert len({each.number for each in found.proposals}) == numbers
            esp = [each for each in found.proposals if each.protocol == Protocol.ESP]
            read = [terms.read_quick(one).esn for each in esp for one in each.transforms]
            assert read == expected

    @pytest.mark.parametrize(
        ("octets", "kilobytes"),
        [(0, None), (1, 1), (1024, 1), (1025, 2), (512_000, 500), (2**63, 2**32 - 1)],
    )
    def test_a_kilobyte_is_1024_octets(self, octets: int, kilobytes: int | None) -> None:
        found = quick_offer(child(lifetime_bytes=octets))
        assert terms.read_quick(found.proposals[0].transforms[0]).lifetimes.kilobytes == kilobytes

    def test_no_more_proposals_than_a_payload_takes(self) -> None:
        config = child(*[BUNDLE] * 16, sequence_numbers=SequenceNumbers.PREFER_EXTENDED, ipcomp=True)
        found = quick_offer(config, cpi=300)
        assert len(found.proposals) <= MOST_PROPOSALS
        assert SecurityAssociation.parse(found.serialize()) == found


class TestChooseQuick:
    def test_own_order_decides(self) -> None:
        gcm = IpsecProposal(encryption="aes-256-gcm-16")
        found = quick_offer(child(SMARTEDGE_ESP, AH_SHA1, gcm, BUNDLE))
        for first in (SMARTEDGE_ESP, AH_SHA1, gcm, BUNDLE):
            choice = quick_proposals.choose_quick(child(first, SMARTEDGE_ESP), found, TUNNEL)
            assert choice is not None
            assert choice.proposal == first
            assert choice.encapsulation is EncapsulationMode.TUNNEL

    def test_spis_of_each_shape(self) -> None:
        esp, ah = SPIS[Protocol.ESP], SPIS[Protocol.AH]
        for suite, peer_spi, peer_ah_spi in ((SMARTEDGE_ESP, esp, None), (AH_SHA1, ah, None), (BUNDLE, esp, ah)):
            choice = quick_proposals.choose_quick(child(suite), quick_offer(child(suite)), TUNNEL)
            assert choice is not None
            assert (choice.peer_spi, choice.peer_ah_spi, choice.peer_cpi) == (peer_spi, peer_ah_spi, None)

    @pytest.mark.parametrize(
        ("ours", "theirs", "ke", "expected"),
        [
            ((), None, None, True),
            ((), "group-2", "group-2", False),
            ((), None, "group-2", False),
            (("group-2",), None, None, False),
            (("group-2",), "group-2", None, False),
            (("group-2",), None, "group-2", False),
            (("group-2",), "group-2", "group-2", True),
            (("group-2",), "group-2", "group-5", False),
            (("group-5",), "group-2", "group-2", False),
            (("group-5", "group-2"), "group-2", "group-2", True),
        ],
    )
    def test_pfs_is_strict_both_ways(
        self, ours: tuple[str, ...], theirs: str | None, ke: str | None, expected: bool
    ) -> None:
        here = TUNNEL if ke is None else with_ke(ke)
        choice = quick_proposals.choose_quick(child(pfs_groups=ours), quick_offer(child(), theirs), here)
        assert (choice is not None) is expected
        if choice is not None:
            assert (None if choice.group is None else choice.group.slug) == theirs

    def test_the_public_value_tells_groups_apart(self) -> None:
        """Two groups in one offer are against RFC 2409; the one the public value is of is meant."""
        first, second = (quick_offer(child(), each).proposals[0] for each in ("group-14", "group-2"))
        found = sa(replace(first, transforms=(*first.transforms, *second.transforms)))
        choice = quick_proposals.choose_quick(child(pfs_groups=("group-14", "group-2")), found, with_ke("group-2"))
        assert choice is not None
        assert choice.group is not None
        assert choice.group.slug == "group-2"
        assert choice.answer_proposals[0].transforms == second.transforms

    @pytest.mark.parametrize("mode", list(EncapsulationMode))
    def test_the_mode_is_one_of_those_allowed(self, mode: EncapsulationMode) -> None:
        found = quick_offer(child(), encapsulation=mode)
        for allowed in EncapsulationMode:
            here = replace(TUNNEL, encapsulations=frozenset((allowed,)))
            choice = quick_proposals.choose_quick(child(), found, here)
            assert (choice is not None) == (allowed is mode)
            if choice is not None:
                assert choice.encapsulation is mode
        assert quick_proposals.choose_quick(child(), with_attributes(found, without=4), TUNNEL) is None

    @pytest.mark.parametrize(
        ("ours", "theirs", "expected"),
        [
            (SequenceNumbers.NORMAL, SequenceNumbers.EXTENDED, None),
            (SequenceNumbers.EXTENDED, SequenceNumbers.NORMAL, None),
            (SequenceNumbers.NORMAL, SequenceNumbers.PREFER_EXTENDED, False),
            (SequenceNumbers.PREFER_EXTENDED, SequenceNumbers.NORMAL, False),
            (SequenceNumbers.PREFER_EXTENDED, SequenceNumbers.PREFER_EXTENDED, True),
            (SequenceNumbers.EXTENDED, SequenceNumbers.EXTENDED, True),
        ],
    )
    @pytest.mark.parametrize("suite", [SMARTEDGE_ESP, BUNDLE], ids=["esp", "bundle"])
    def test_sequence_numbers(
        self, suite: IpsecProposal, ours: SequenceNumbers, theirs: SequenceNumbers, expected: bool | None
    ) -> None:
        found = quick_offer(child(suite, sequence_numbers=theirs))
        choice = quick_proposals.choose_quick(child(suite, sequence_numbers=ours), found, TUNNEL)
        assert (None if choice is None else choice.esn) == expected

    @pytest.mark.parametrize(
        "unexpected",
        [
            sa(Proposal(number=1, protocol=3, spi=b"spi1", transforms=(Transform(number=1, id=23),))),
            sa(Proposal(number=1, protocol=3, spi=b"spi1", transforms=(Transform(number=1, id=250),))),
            sa(Proposal(number=1, protocol=4, spi=b"\x12\x34", transforms=(Transform(number=1, id=3),))),
            sa(Proposal(number=1, protocol=1, transforms=(Transform(number=1, id=1),))),
            sa(),
            quick_offer(child(IpsecProposal(encryption="aes-128-gmac"))),
            with_attributes(quick_offer(child()), short(10, 1)),  # ECN tunnel
            with_attributes(quick_offer(child()), short(7, 8)),  # key rounds
            with_attributes(quick_offer(child()), short(11, 2)),
            with_attributes(quick_offer(child()), short(5, 2)),
            with_attributes(quick_offer(child()), without=6),
            with_attributes(quick_offer(child()), without=5),
            sa(*quick_offer(child()).proposals, *quick_offer(child()).proposals),
        ],
    )
    def test_the_unexpected_does_not_match(self, unexpected: SecurityAssociation) -> None:
        config = child(pfs_groups=())
        assert quick_proposals.choose_quick(config, unexpected, TUNNEL) is None
        later = sa(
            *(replace(each, number=1) for each in unexpected.proposals),
            *(replace(each, number=2) for each in quick_offer(config).proposals),
        )
        choice = quick_proposals.choose_quick(config, later, TUNNEL)
        assert choice is not None
        assert choice.answer_proposals[0].number == 2

    @pytest.mark.parametrize(
        ("spi", "expected"),
        [
            (b"\x12\x34", 0x1234),
            (b"\0\0\x12\x34", 0x1234),
            (b"\0\2", None),
            (b"\xf0\0", None),
            (b"\1\0\x12\x34", None),
        ],
    )
    def test_compression(self, spi: bytes, expected: int | None) -> None:
        config = child(ipcomp=True)
        found = sa(
            *(
                replace(each, spi=spi) if each.protocol == 4 else each
                for each in quick_offer(config, cpi=1_000).proposals
            )
        )
        choice = quick_proposals.choose_quick(config, found, TUNNEL)
        assert choice is not None
        assert choice.peer_cpi == expected
        for plain, here in ((child(), TUNNEL), (config, replace(TUNNEL, compression=False))):
            choice = quick_proposals.choose_quick(plain, found, here)
            assert choice is not None
            assert (choice.peer_cpi, choice.answer_proposals[0].number) == (None, 2)

    def test_compression_as_others_offer_it(self) -> None:
        """Without mode and group (RFC 3173 section 4.1 has a default), beside LZS, or LZS alone."""
        config = child(ipcomp=True, pfs_groups=("group-2",))
        esp = quick_offer(config, "group-2").proposals[0]
        lzs, deflate = Transform(number=1, id=3), Transform(number=2, id=2)
        here = with_ke("group-2")
        for transforms, expected in (((lzs, deflate), 0x1234), ((lzs,), None)):
            ipcomp = Proposal(number=1, protocol=Protocol.IPCOMP, spi=b"\x12\x34", transforms=transforms)
            choice = quick_proposals.choose_quick(config, sa(ipcomp, esp), here)
            assert (None if choice is None else choice.peer_cpi) == expected
            if choice is not None:
                assert [each.transforms for each in choice.answer_proposals] == [(deflate,), esp.transforms]

    def test_an_answer_may_say_its_esp_again_without_compression(self) -> None:
        """As strongSwan does; another suite or SPI there is another answer, and that is none."""
        config = child(ipcomp=True)
        offered = quick_offer(config, cpi=1_000)
        both = offered.proposals[:2]
        again = replace(next(each for each in both if each.protocol == Protocol.ESP), number=2)
        choice = quick_proposals.read_answer_quick(config, offered, sa(*both, again), TUNNEL)
        assert choice.peer_cpi == 1_000
        for other in (replace(again, spi=b"\1\2\3\4"), replace(again, transforms=())):
            with pytest.raises(PeerError):
                quick_proposals.read_answer_quick(config, offered, sa(*both, other), TUNNEL)

    def test_a_number_is_whole_or_not_at_all(self) -> None:
        """ESP of a number whose AH lies beyond what is looked at must not be taken alone."""
        esp, ah = quick_offer(child()).proposals[0], quick_offer(child(AH_SHA1)).proposals[0]
        filler = replace(ah, transforms=ah.transforms * (quick_proposals.MOST_TRANSFORMS - 1))
        assert quick_proposals.choose_quick(child(), sa(esp, replace(filler, number=2)), TUNNEL) is not None
        assert quick_proposals.choose_quick(child(), sa(esp, filler), TUNNEL) is None
        assert (
            quick_proposals.choose_quick(child(), sa(esp, replace(filler, transforms=filler.transforms * 2)), TUNNEL)
            is None
        )

    @pytest.mark.parametrize(
        ("theirs", "expected"),
        [
            ([], (28_800, 500)),
            ([(1, 300)], (300, 500)),
            ([(1, 90_000), (2, 5)], (43_200, 5)),
        ],
    )
    def test_the_shorter_lifetime_is_in_force(self, theirs: list[tuple[int, int]], expected: tuple[int, int]) -> None:
        """SmartEdge's example has 43,200 s and 500 kB."""
        config = child(lifetime_s=43_200, lifetime_bytes=500 * 1024)
        basic = [each for each in first_attributes(quick_offer(config)) if each.type > 2]
        durations = [each for unit, value in theirs for each in (short(1, unit), number(2, value))]
        found = sa(
            replace(
                quick_offer(config).proposals[0],
                transforms=(Transform(number=1, id=12, attributes=(*durations, *basic)),),
            )
        )
        choice = quick_proposals.choose_quick(config, found, TUNNEL)
        assert choice is not None
        assert (choice.lifetime_s, choice.lifetime_kilobytes) == expected

    def test_the_shortest_lifetime_of_a_bundle_is_in_force(self) -> None:
        config = child(BUNDLE, lifetime_s=86_400)
        ah, esp = quick_offer(replace(config, lifetime_s=600)).proposals[0], quick_offer(config).proposals[1]
        choice = quick_proposals.choose_quick(config, sa(ah, esp), TUNNEL)
        assert choice is not None
        assert choice.lifetime_s == 600


class TestAnswerQuick:
    def test_the_answer_repeats_the_transforms_with_our_spis(self) -> None:
        config = child(BUNDLE, ipcomp=True)
        found = quick_offer(config, cpi=0x2000)
        wide = sa(*(replace(each, spi=b"\0\0\x20\0") if each.protocol == 4 else each for each in found.proposals))
        for sent, cpi in ((found, b"\x12\x34"), (wide, b"\0\0\x12\x34")):
            choice = quick_proposals.choose_quick(config, sent, TUNNEL)
            assert choice is not None
            answer = quick_proposals.answer_quick(choice, SPIS)
            assert [each.transforms for each in answer.proposals] == [each.transforms for each in found.proposals[:3]]
            assert [each.spi for each in answer.proposals] == [SPIS[Protocol.AH], SPIS[Protocol.ESP], cpi]
            read = quick_proposals.read_answer_quick(config, found, answer, TUNNEL)
            assert (read.peer_spi, read.peer_ah_spi, read.peer_cpi) == (SPIS[Protocol.ESP], SPIS[Protocol.AH], 0x1234)

    @pytest.mark.parametrize(
        "answer",
        [
            quick_offer(child(SMARTEDGE_ESP, AH_SHA1)),
            quick_offer(child(SMARTEDGE_ESP, replace(SMARTEDGE_ESP, encryption="3des-cbc"))),
            quick_offer(child(AH_SHA1)),
            quick_offer(child(BUNDLE)),
            quick_offer(child(), "group-2"),
            quick_offer(child(), encapsulation=EncapsulationMode.TRANSPORT),
            quick_offer(child(sequence_numbers=SequenceNumbers.EXTENDED)),
            quick_offer(child(lifetime_s=3_601)),
            quick_offer(child(replace(SMARTEDGE_ESP, integrity="hmac-md5-96"))),
            with_attributes(quick_offer(child()), short(10, 1)),
            sa(quick_offer(child(), cpi=300).proposals[0], quick_offer(child(), cpi=300).proposals[1]),
            sa(*quick_offer(child()).proposals * 2),
            sa(),
        ],
    )
    def test_what_was_not_offered_is_refused(self, answer: SecurityAssociation) -> None:
        config = child(SMARTEDGE_ESP, replace(SMARTEDGE_ESP, encryption="3des-cbc"))
        anything = replace(TUNNEL, encapsulations=frozenset(EncapsulationMode))
        with pytest.raises(PeerError, match=r"in IKE phase 2, message 2 \(quick-mode\)") as caught:
            quick_proposals.read_answer_quick(config, quick_offer(config), answer, anything)
        assert (caught.value.code, caught.value.notify) == ("child.no-proposal", 14)

    def test_an_answer_needs_its_public_value(self) -> None:
        config = child(pfs_groups=("group-2",))
        found = quick_offer(config, "group-2")
        with pytest.raises(PeerError, match="cannot be used"):
            quick_proposals.read_answer_quick(config, found, found, TUNNEL)
        assert quick_proposals.read_answer_quick(config, found, found, with_ke("group-2")).group is not None

    def test_another_numbering_and_shorter_lifetimes_are_taken(self) -> None:
        config = child(AH_SHA1, SMARTEDGE_ESP, lifetime_s=3_600)
        sent = quick_offer(config)
        esp = quick_offer(child(SMARTEDGE_ESP, lifetime_s=300, lifetime_bytes=5 * 1024)).proposals[0]
        read = quick_proposals.read_answer_quick(config, sent, sa(replace(esp, number=1)), TUNNEL)
        assert (read.proposal, read.lifetime_s, read.lifetime_kilobytes) == (SMARTEDGE_ESP, 300, 5)
        bare = with_attributes(with_attributes(sa(esp), without=1), without=2)
        assert quick_proposals.read_answer_quick(config, sent, bare, TUNNEL).lifetime_s == 3_600


_ESP_SUITES = [
    IpsecProposal(encryption=cipher, integrity=None if algorithms.ENCRYPTION[cipher].aead else integrity)
    for cipher in ikev1.ESP
    for integrity in ikev1.AUTHENTICATION
]
_SUITES = [
    *_ESP_SUITES,
    *(IpsecProposal(ah_integrity=each) for each in ikev1.AH),
    *(replace(suite, ah_integrity="hmac-sha1-96") for suite in _ESP_SUITES[::7]),
]
_CHILDREN = st.builds(
    lambda suites, pfs, esn, ipcomp, lifetime_s: child(
        *suites, pfs_groups=pfs, sequence_numbers=esn, ipcomp=ipcomp, lifetime_s=lifetime_s
    ),
    st.lists(st.sampled_from(_SUITES), min_size=1, max_size=6),
    st.sampled_from([(), ("group-2",), ("group-14", "group-2")]),
    st.sampled_from(SequenceNumbers),
    st.booleans(),
    st.integers(10, 99_999_999),
)


@settings(deadline=None, max_examples=200)
@given(_CHILDREN, _CHILDREN)
def test_both_sides_of_quick_mode_end_up_with_the_same(ours: Any, theirs: Any) -> None:
    group = theirs.pfs_groups[-1] if theirs.pfs_groups else None
    here = TUNNEL if group is None else with_ke(group)
    sent = SecurityAssociation.parse(quick_offer(theirs, group, cpi=300 if theirs.ipcomp else None).serialize())
    choice = quick_proposals.choose_quick(ours, sent, here)
    if choice is None:
        common = [each for each in ours.proposals if each in theirs.proposals]
        esn = {ours.sequence_numbers, theirs.sequence_numbers} == {SequenceNumbers.NORMAL, SequenceNumbers.EXTENDED}
        assert not common or esn or bool(ours.pfs_groups) != bool(theirs.pfs_groups)
        return
    answer = SecurityAssociation.parse(quick_proposals.answer_quick(choice, SPIS).serialize())
    read = quick_proposals.read_answer_quick(theirs, sent, answer, here)
    assert (read.proposal, read.group, read.esn, read.encapsulation) == (
        choice.proposal,
        choice.group,
        choice.esn,
        choice.encapsulation,
    )
    assert (read.peer_cpi is None) == (choice.peer_cpi is None)
    assert choice.lifetime_s == min(ours.lifetime_s, theirs.lifetime_s)


class TestWords:
    def test_every_number_has_its_slug(self) -> None:
        for slug in ikev1.ENCRYPTION:
            assert (
                names.encryption(*terms.read_phase1(offer(ike(encryption=slug)).proposals[0].transforms[0]).suite[:2])
                == slug
            )
        for slug, row in algorithms.ENCRYPTION.items():
            if slug in ikev1.ESP:
                assert names.esp(ikev1.ESP[slug], names.key_length_of(row)) == slug
        assert [names.ah(ikev1.AH[slug]) for slug in ikev1.AH] == list(ikev1.AH)
        assert {names.GROUPS[row.number].slug for row in names.GROUPS.values()} == ikev1.GROUPS

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (names.encryption(99, 128), "encryption-99-128"),
            (names.encryption(7, 512), "encryption-7-512"),
            (names.encryption(None, None), "none"),
            (names.hash_(3), "hash-3"),
            (names.method(4), "rsa-encryption (not implemented)"),
            (names.method(77), "method-77"),
            (names.group(6), "group-6"),
            (names.esp(23, None), "esp-23"),
            (names.compression(3), "lzs"),
            (names.mode(61443), "udp-tunnel-draft"),
            (names.protocol(255), "protocol-255"),
        ],
    )
    def test_what_is_not_known_is_its_number(self, text: str, expected: str) -> None:
        assert text == expected

    def test_offers_and_policies(self) -> None:
        assert proposals.describe_phase1_offer(offer()) == "aes-128-cbc sha1 group-1 psk"
        assert (
            proposals.describe_phase1(policy(), frozenset((PSK, RSA))) == "aes-128-cbc sha1 group-1 psk/rsa-signature"
        )
        config = child(BUNDLE, SMARTEDGE_ESP, AH_SHA1, ipcomp=True, pfs_groups=("group-2",))
        assert quick_proposals.describe_quick_offer(quick_offer(child(BUNDLE), "group-2", cpi=300)) == (
            "deflate group-2 tunnel in aes-128-cbc hmac-sha1-96 group-2 tunnel in ah hmac-sha2-256-128 group-2 tunnel; "
            "aes-128-cbc hmac-sha1-96 group-2 tunnel in ah hmac-sha2-256-128 group-2 tunnel"
        )
        assert quick_proposals.describe_quick(config) == (
            "aes-128-cbc hmac-sha1-96 in ah hmac-sha2-256-128 group-2; aes-128-cbc hmac-sha1-96 group-2; "
            "ah hmac-sha1-96 group-2 tunnel"
        )

    def test_texts_are_bounded_and_name_the_unknown(self) -> None:
        odd = isakmp(*[[short(1, 250), short(77, 1)]] * 60)
        text = proposals.describe_phase1_offer(odd)
        assert text.startswith("encryption-250 none none none (unsupported attribute (77)); ")
        assert len(text) == 400
        assert len(proposals.describe_phase1(policy(*[SMARTEDGE] * 16), PSK_ONLY)) == 400
        many = sa(*(replace(quick_offer(child()).proposals[0], number=number) for number in range(60)))
        assert len(quick_proposals.describe_quick_offer(many)) == 400
        assert len(quick_proposals.describe_quick(child(*[BUNDLE] * 16))) <= 400
        assert proposals.describe_phase1_offer(isakmp([], id_=17, protocol=2)) == "AH transform-17"


def test_units_of_lifetimes() -> None:
    assert terms.lifetime((11, 12), LifeType.KILOBYTES, 2**40)[1].number == 2**32 - 1
    assert Lifetimes(seconds=5).shortest(Lifetimes(seconds=3, kilobytes=1)) == Lifetimes(seconds=3, kilobytes=1)
    assert Lifetimes(seconds=5).within(Lifetimes())
    assert not Lifetimes(seconds=5).within(Lifetimes(seconds=4))
