"""Proposals, selectors and timers as functions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.config import IkeProposal, IpsecProposal, Retransmission, TrafficSelector
from agents.ike import mismatch, proposals, selectors
from agents.ike.errors import PeerError
from agents.ike.timers import Agenda, rekey_after_s, retransmit_after_s, retry_after_s, soft_limit
from agents.ike.v2 import negotiation
from agents.ike.wire.header import Header
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import Proposal, SecurityAssociation, SelectorRange, Transform, TsI, TsR
from agents.ike.wire.registry import Protocol, TransformType, TsType
from tests.harness.documents import FAST_IKE, child

_CBC = IkeProposal(encryption="aes-128-cbc", integrity="hmac-sha2-256-128", prf="prf-hmac-sha2-256", group="group-14")


class TestIkeProposals:
    def test_own_order_decides(self) -> None:
        choice = proposals.choose_ike((_CBC, FAST_IKE), proposals.offer_ike((FAST_IKE, _CBC)), 0)
        assert choice is not None
        assert (choice.proposal, choice.number) == (_CBC, 2)

    def test_several_transforms_of_a_type(self) -> None:
        many = Proposal(
            number=1,
            protocol=Protocol.IKE,
            transforms=(
                Transform(type=TransformType.ENCR, id=12, key_length=256),
                *proposals.ike_transforms(_CBC),
                Transform(type=TransformType.KE, id=31),
            ),
        )
        assert proposals.choose_ike((_CBC,), SecurityAssociation(proposals=(many,)), 0) is not None

    def test_key_length_counts(self) -> None:
        other = replace(_CBC, encryption="aes-256-cbc")
        assert proposals.choose_ike((_CBC,), proposals.offer_ike((other,)), 0) is None

    def test_an_attribute_nobody_knows_never_matches(self) -> None:
        transforms = tuple(replace(each, understood=False) for each in proposals.ike_transforms(FAST_IKE))
        offer = SecurityAssociation(proposals=(Proposal(number=1, protocol=1, transforms=transforms),))
        assert proposals.choose_ike((FAST_IKE,), offer, 0) is None

    def test_a_type_we_do_not_use_must_offer_none(self) -> None:
        insists = Transform(type=TransformType.INTEG, id=12)
        none = Transform(type=TransformType.INTEG, id=0)
        for extra, fits in (((insists,), False), ((insists, none), True), ((none,), True)):
            offered = Proposal(number=1, protocol=1, transforms=(*proposals.ike_transforms(FAST_IKE), *extra))
            choice = proposals.choose_ike((FAST_IKE,), SecurityAssociation(proposals=(offered,)), 0)
            assert (choice is not None) is fits

    def test_an_answer_is_one_of_each(self) -> None:
        assert proposals.is_answer(proposals.offer_ike((FAST_IKE,)))
        assert not proposals.is_answer(proposals.offer_ike((FAST_IKE, _CBC)))

    def test_text_is_bounded_and_names_the_unknown(self) -> None:
        odd = Proposal(
            number=1, protocol=1, transforms=(Transform(type=1, id=250), Transform(type=99, id=7, key_length=1))
        )
        text = proposals.describe_offer(SecurityAssociation(proposals=(odd,) * 60))
        assert text.startswith("encr-250 type-99-7-1; ")
        assert len(text) == 400


class TestEspProposals:
    def offer(self, **changes: object) -> SecurityAssociation:
        return proposals.offer_ipsec(replace(child(), **changes), b"\1\2\3\4", pfs=True)  # type: ignore[arg-type]

    def test_pfs_is_strict_both_ways(self) -> None:
        plain, with_group = child(), child(pfs_groups=("group-31",))
        assert proposals.choose_ipsec(plain, self.offer(pfs_groups=("group-31",)), True) is None
        assert proposals.choose_ipsec(with_group, self.offer(), True) is None
        found = mismatch.describe_ipsec(plain, self.offer(pfs_groups=("group-31",)), True)
        assert found is not None
        assert (found.code, found.received, found.configured) == ("child.pfs-mismatch", "group-31", "none")

    def test_the_group_of_the_key_exchange_goes_first(self) -> None:
        both = child(pfs_groups=("group-19", "group-31"))
        choice = proposals.choose_ipsec(both, self.offer(pfs_groups=("group-31", "group-19")), True, prefer_group=31)
        assert choice is not None
        assert choice.group is not None
        assert choice.group.slug == "group-31"

    def test_extended_sequence_numbers_are_not_taken(self) -> None:
        suite = proposals.offer_ipsec(child(), b"\1\2\3\4", pfs=False).proposals[0].transforms
        esn = tuple(replace(each, id=1) if each.type == TransformType.ESN else each for each in suite)
        offer = SecurityAssociation(proposals=(Proposal(number=1, protocol=3, spi=b"\1\2\3\4", transforms=esn),))
        assert proposals.choose_ipsec(child(), offer, False) is None

    def test_integrity_none_is_an_aead(self) -> None:
        ours = child(proposals=(IpsecProposal(encryption="aes-128-cbc", integrity="hmac-sha1-96"),))
        assert proposals.choose_ipsec(ours, self.offer(), True) is None


def _range(start: int, end: int, protocol: int = 0, ports: tuple[int, int] = (0, 65535)) -> SelectorRange:
    return SelectorRange(
        ts_type=7,
        protocol=protocol,
        start_port=ports[0],
        end_port=ports[1],
        start=start.to_bytes(4, "big"),
        end=end.to_bytes(4, "big"),
    )


_ranges = st.builds(
    lambda start, size, protocol, port, more: _range(start, start + size, protocol, (port, min(65535, port + more))),
    st.integers(0, 2_000),
    st.integers(0, 500),
    st.sampled_from([0, 0, 6, 17]),
    st.integers(0, 65535),
    st.integers(0, 65535),
)


class TestSelectors:
    @given(_ranges, _ranges)
    def test_an_intersection_is_within_both(self, left: SelectorRange, right: SelectorRange) -> None:
        both = selectors.intersect(left, right)
        assert both == selectors.intersect(right, left)
        if both is not None:
            assert selectors.covers(left, both)
            assert selectors.covers(right, both)

    @given(st.lists(_ranges, min_size=1, max_size=5), st.lists(_ranges, min_size=1, max_size=5))
    def test_narrowing_stays_within_and_is_stable(self, ours: list[SelectorRange], theirs: list[SelectorRange]) -> None:
        narrowed = selectors.narrow(ours, theirs)
        if narrowed:
            assert selectors.within(narrowed, ours)
            assert selectors.within(narrowed, theirs)
            assert set(selectors.narrow(ours, narrowed)) == set(narrowed)

    def test_prefixes_of_a_range_that_is_none(self) -> None:
        assert selectors.prefixes(_range(0x0A000001, 0x0A000002)) == ("10.0.0.1/32", "10.0.0.2/32")

    def test_versions_do_not_mix(self) -> None:
        local = [TrafficSelector(network="10.0.0.0/8"), TrafficSelector(network="fd00::/8")]
        found = selectors.policies(
            tunnel_id="t",
            reqid=1,
            local_address="192.0.2.1",
            remote_address="192.0.2.2",
            local_ts=selectors.to_ranges(local),
            remote_ts=selectors.to_ranges([TrafficSelector(network="fd01::/16")]),
        )
        assert {each.selector.source for each in found if each.direction == "out"} == {"fd00::/8"}

    def test_the_narrower_policy_goes_first(self) -> None:
        def priority(network: str) -> int:
            ranges = selectors.to_ranges([TrafficSelector(network=network)])
            found = selectors.policies(
                tunnel_id="t", reqid=1, local_address="a", remote_address="b", local_ts=ranges, remote_ts=ranges
            )
            return found[0].priority

        assert priority("10.0.0.0/24") < priority("10.0.0.0/8")
        assert priority("fd00::1/128") > 0

    def test_text(self) -> None:
        assert selectors.describe(_range(0x0A000000, 0x0AFFFFFF)) == "10.0.0.0/8"
        assert selectors.describe(_range(0x0A000000, 0x0AFFFFFF, 6, (443, 443))) == "10.0.0.0/8[6/443-443]"


def test_an_answer_of_too_many_odd_ranges_is_refused() -> None:
    """Each is within what was asked for, and all pairs of prefixes would be millions of policies."""
    config = child(local=("fd00::/8",), remote=("fd00::/8",))
    ranges = tuple(
        SelectorRange(
            ts_type=TsType.IPV6_ADDR_RANGE,
            protocol=0,
            start_port=0,
            end_port=65535,
            start=bytes((0xFD, number)) + bytes(13) + b"\1",
            end=bytes((0xFD, number)) + b"\xff" * 13 + b"\xfe",
        )
        for number in range(100)
    )
    choice = proposals.choose_ipsec(config, proposals.offer_ipsec(config, b"\1\2\3\4", pfs=False), False)
    assert choice is not None
    header = Header(spi_i=b"i" * 8, spi_r=b"r" * 8, next_payload=0, exchange=35, flags=0x20, message_id=1)
    payloads = (proposals.answer_ipsec(choice, b"\1\2\3\4"), TsI(selectors=ranges), TsR(selectors=ranges))
    here = negotiation.Setting(local_address="192.0.2.1", remote_address="192.0.2.2")
    with pytest.raises(PeerError, match="do not match"):
        negotiation.accept_answer(config, Message(header=header, payloads=payloads), here, pfs=False)
    few = (payloads[0], TsI(selectors=ranges[:1]), TsR(selectors=selectors.to_ranges(config.remote_ts)))
    accepted = negotiation.accept_answer(config, Message(header=header, payloads=few), here, pfs=False)
    assert accepted.narrowed


class _Owner:
    version = "v2"

    def __init__(self, due: float | None) -> None:
        self.due = due
        self.scheduled_at: float | None = None

    def deadline(self) -> float | None:
        return self.due

    def handle_timer(self, now: float) -> None:
        """Not called here."""

    def maintain(self, now: float) -> None:
        """Not called here."""

    def react(self, error: Exception, now: float) -> None:
        """Not called here."""

    def abandon(self) -> None:
        """Not called here."""


class TestTimers:
    def test_agenda_follows_changes(self) -> None:
        agenda, one, two = Agenda(), _Owner(5.0), _Owner(3.0)
        agenda.update(one)
        agenda.update(two)
        assert agenda.next_deadline() == 3.0
        two.due = 9.0
        agenda.update(two)
        assert agenda.next_deadline() == 5.0
        agenda.remove(one)
        assert agenda.next_deadline() == 9.0
        assert agenda.pop_due(8.9) is None
        assert agenda.pop_due(9.0) is two
        assert agenda.next_deadline() is None

    def test_agenda_does_not_grow(self) -> None:
        agenda, owner = Agenda(), _Owner(0.0)
        for time in range(10_000):
            owner.due = float(time)
            agenda.update(owner)
        assert len(agenda._heap) < 2_000

    def test_back_off_is_data(self) -> None:
        data = Retransmission(initial_ms=400, factor=2.0, tries=4)
        assert [retransmit_after_s(data, n) for n in (1, 2, 3)] == [0.4, 0.8, 1.6]

    @pytest.mark.parametrize("uniform", [0.0, 0.5, 0.999])
    def test_initiator_and_responder_do_not_rekey_at_once(self, uniform: float) -> None:
        assert rekey_after_s(100, True, uniform) < rekey_after_s(100, False, 0.0)
        assert rekey_after_s(100, False, uniform) < 100
        assert soft_limit(1_000, uniform) < 1_000

    @pytest.mark.parametrize(("lifetime_s", "first", "last"), [(3_600, 2_880, 3_168), (30, 20, 24), (10, 6.67, 8)])
    def test_short_lifetimes_leave_time_to_send_again(self, lifetime_s: int, first: float, last: float) -> None:
        assert rekey_after_s(lifetime_s, True, 0.0) == pytest.approx(first, abs=0.01)
        assert rekey_after_s(lifetime_s, True, 1.0) == pytest.approx(last, abs=0.01)
        assert last < rekey_after_s(lifetime_s, False, 0.0) < rekey_after_s(lifetime_s, False, 1.0) < lifetime_s

    def test_retries_are_bounded(self) -> None:
        assert retry_after_s(0, 0.0) == 0.75
        assert retry_after_s(1_000, 0.999) < 76
