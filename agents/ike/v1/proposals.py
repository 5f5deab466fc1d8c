"""Phase 1 suites of the document <-> SA payloads: offering, choosing, checking the answer (RFC 2409 section 5).

The offer is one proposal with a transform for each configured suite that IKEv1 has numbers for; a transform is a whole
suite, unlike IKEv2. The responder goes by its own order of preference, and its answer repeats the transform as it came
(RFC 2408 section 4.2). Group parameters, new groups and negotiated PRFs (attributes 5 to 10, 13, 15, 16) are not
supported.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from agents.contract import algorithms, ikev1
from agents.contract.algorithms import Encryption, KeyExchange, PseudoRandom
from agents.contract.config import IkePolicy, IkeProposal
from agents.ike.errors import PeerError
from agents.ike.v1 import names, terms
from agents.ike.v1.place import Place
from agents.ike.v1.terms import Lifetimes, Phase1Terms
from agents.ike.wire.isakmp import attributes
from agents.ike.wire.isakmp.payloads import Proposal, SecurityAssociation, Transform
from agents.ike.wire.isakmp.registry import TRANSFORM_KEY_IKE, LifeType, NotifyType, Phase1Attribute, Protocol

MOST_TRANSFORMS = 64
"""Transforms of an offer that are looked at. Nobody has shown who they are yet, and each costs time."""

_LIFE = (Phase1Attribute.LIFE_TYPE, Phase1Attribute.LIFE_DURATION)
_TEXT_LIMIT = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase1Suite:
    """What protects an ISAKMP SA; ``hash`` is a hashlib name, ``method`` a number of RFC 2409 appendix A."""

    encryption: Encryption
    hash: str
    prf: PseudoRandom
    group: KeyExchange
    method: int
    proposal: IkeProposal


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase1Choice:
    """A suite both sides have, and the answer that says so.

    The lifetimes are those in force, 0 kilobytes for none; ``peer_lifetimes`` are those the peer said, so that a
    shorter one of ours can be told.
    """

    suite: Phase1Suite
    lifetime_s: int
    lifetime_kilobytes: int
    peer_lifetimes: Lifetimes
    answer: SecurityAssociation


@functools.lru_cache(maxsize=1024)
def phase1_terms(proposal: IkeProposal, method: int) -> Phase1Terms:
    """Return a configured suite as the numbers its transform has. It must have some (``ikev1.ike_obstacle``)."""
    cipher = algorithms.ENCRYPTION[proposal.encryption]
    return Phase1Terms(
        encryption=ikev1.ENCRYPTION[proposal.encryption],
        key_length=names.key_length_of(cipher),
        hash=ikev1.HASH[algorithms.PSEUDO_RANDOM[proposal.prf].hash],
        group=algorithms.KEY_EXCHANGE[proposal.group].number,
        method=method,
    )


def configured(policy: IkePolicy) -> tuple[IkeProposal, ...]:
    """Return the suites of a policy that IKEv1 can negotiate, in order."""
    return tuple(each for each in policy.proposals if ikev1.ike_obstacle(each) is None)


def offer_phase1(policy: IkePolicy, method: int, *, only_first_group: bool = False) -> SecurityAssociation:
    """Return the SA payload that offers a policy's suites in order.

    Aggressive Mode sends its public value along, so all suites there are of one group (RFC 2409 section 5.2):
    ``only_first_group`` keeps those of the first.
    """
    suites = configured(policy)
    if only_first_group:
        suites = tuple(each for each in suites if each.group == suites[0].group)
    transforms = tuple(
        Transform(number=number, id=TRANSFORM_KEY_IKE, attributes=_attributes(policy, phase1_terms(each, method)))
        for number, each in enumerate(suites, 1)
    )
    return SecurityAssociation(
        proposals=(Proposal(number=1, protocol=Protocol.ISAKMP, transforms=transforms),),
    )


def _attributes(policy: IkePolicy, suite: Phase1Terms) -> tuple[attributes.Attribute, ...]:
    basic = (
        (Phase1Attribute.ENCRYPTION, suite.encryption),
        (Phase1Attribute.KEY_LENGTH, suite.key_length),
        (Phase1Attribute.HASH, suite.hash),
        (Phase1Attribute.GROUP, suite.group),
        (Phase1Attribute.AUTHENTICATION_METHOD, suite.method),
    )
    kilobytes = policy.lifetime_kilobytes
    return (
        *(attributes.short(type_, value) for type_, value in basic if value is not None),
        *terms.lifetime(_LIFE, LifeType.SECONDS, policy.lifetime_s),
        *(terms.lifetime(_LIFE, LifeType.KILOBYTES, kilobytes) if kilobytes else ()),
    )


def transforms_of(offer: SecurityAssociation) -> Iterator[tuple[Proposal, Transform]]:
    """Yield the transforms of an offer that can be an ISAKMP SA, in order and not too many."""
    return itertools.islice(
        (
            (proposal, transform)
            for proposal in offer.proposals
            if proposal.protocol == Protocol.ISAKMP
            for transform in proposal.transforms
            if transform.id == TRANSFORM_KEY_IKE
        ),
        MOST_TRANSFORMS,
    )


Offered = Mapping[tuple[int | None, ...], tuple[int, Proposal, Transform, Phase1Terms]]
"""The transforms of an offer that can be used, by suite, each with its place."""


def read_offer(offer: SecurityAssociation) -> Offered:
    """Read an offer once, for however many policies and groups are asked."""
    offered: dict[tuple[int | None, ...], tuple[int, Proposal, Transform, Phase1Terms]] = {}
    for order, (proposal, transform) in enumerate(transforms_of(offer)):
        said = terms.read_phase1(transform)
        if said.fault is None:
            offered.setdefault(said.suite, (order, proposal, transform, said))
    return offered


def choose_phase1(
    policy: IkePolicy, offer: SecurityAssociation, methods: frozenset[int], group: int | None = None
) -> Phase1Choice | None:
    """Return the first configured suite that the offer holds with one of these methods, or None.

    ``group`` is that of the public value in Aggressive Mode, where it cannot be another.
    """
    return choose_offered(policy, read_offer(offer), methods, group)


def choose_offered(
    policy: IkePolicy, offered: Offered, methods: frozenset[int], group: int | None = None
) -> Phase1Choice | None:
    """Return what :func:`choose_phase1` does of an offer that has been read."""
    for suite in configured(policy):
        if group not in (None, algorithms.KEY_EXCHANGE[suite.group].number):
            continue
        wanted = (phase1_terms(suite, method).suite for method in methods)
        found = min((offered[each] for each in wanted if each in offered), key=lambda entry: entry[0], default=None)
        if found is not None:
            _order, proposal, transform, said = found
            answer = Proposal(number=proposal.number, protocol=Protocol.ISAKMP, transforms=(transform,))
            return _choice(policy, suite, said, answer)
    return None


def _choice(policy: IkePolicy, proposal: IkeProposal, said: Phase1Terms, answer: Proposal) -> Phase1Choice:
    seconds, kilobytes = terms.effective(policy.lifetime_s, policy.lifetime_kilobytes, said.lifetimes)
    prf = algorithms.PSEUDO_RANDOM[proposal.prf]
    assert said.method is not None
    suite = Phase1Suite(
        encryption=algorithms.ENCRYPTION[proposal.encryption],
        hash=prf.hash,
        prf=prf,
        group=algorithms.KEY_EXCHANGE[proposal.group],
        method=said.method,
        proposal=proposal,
    )
    return Phase1Choice(
        suite=suite,
        lifetime_s=seconds,
        lifetime_kilobytes=kilobytes,
        peer_lifetimes=said.lifetimes,
        answer=SecurityAssociation(proposals=(answer,)),
    )


def read_answer_phase1(
    policy: IkePolicy, method: int, offered: SecurityAssociation, answer: SecurityAssociation
) -> Phase1Choice:
    """Return what the responder chose. Raises PeerError unless it is one transform that was offered.

    Some responders change a lifetime to their own: one that is shorter is taken, a longer one is not an answer to what
    was offered. An answer without lifetimes leaves ours.
    """
    found = tuple(transforms_of(answer))
    if len(answer.proposals) != 1 or len(answer.proposals[0].transforms) != 1 or len(found) != 1:
        raise _not_offered(policy, method, answer, "The peer's answer is not one proposal with one transform")
    said = terms.read_phase1(found[0][1])
    ours = (terms.read_phase1(transform) for _proposal, transform in transforms_of(offered))
    same = next((each for each in ours if said.fault is None and each.suite == said.suite), None)
    suite = next((each for each in configured(policy) if phase1_terms(each, method).suite == said.suite), None)
    if same is None or suite is None:
        raise _not_offered(policy, method, answer, "The peer's answer is none of the IKE proposals offered")
    if not said.lifetimes.within(same.lifetimes):
        raise _not_offered(policy, method, answer, "The peer's answer has a longer lifetime than was offered")
    choice = _choice(policy, suite, said, answer.proposals[0])
    return choice if said.lifetimes.seconds is not None else replace(choice, lifetime_s=policy.lifetime_s)


def _not_offered(policy: IkePolicy, method: int, answer: SecurityAssociation, text: str) -> PeerError:
    where = Place(phase=1, message=2, exchange=f"{policy.exchange_mode}-mode")
    return PeerError(
        NotifyType.NO_PROPOSAL_CHOSEN,
        "ikev1.proposal-mismatch",
        f"{text}, {where.sentence}",
        received=describe_phase1_offer(answer),
        configured=describe_phase1(policy, frozenset((method,))),
        field="ike.proposals",
        attributes=where.attributes,
    )


def describe_phase1_offer(offer: SecurityAssociation) -> str:
    """Return the offered suites as text for people, of bounded length."""
    return bounded(_offered_words(offer))


def _offered_words(offer: SecurityAssociation) -> Iterator[str]:
    for proposal in offer.proposals:
        for transform in proposal.transforms:
            if proposal.protocol != Protocol.ISAKMP:
                yield f"{names.protocol(proposal.protocol)} transform-{transform.id}"
            elif transform.id != TRANSFORM_KEY_IKE:
                yield f"transform-{transform.id}"
            else:
                yield describe_terms(terms.read_phase1(transform))


def describe_phase1(policy: IkePolicy, methods: frozenset[int]) -> str:
    """Return a policy's suites as text for people, of bounded length."""
    how = "/".join(names.method(each) for each in sorted(methods))
    return bounded(
        f"{each.encryption} {algorithms.PSEUDO_RANDOM[each.prf].hash} {each.group} {how}" for each in configured(policy)
    )


def describe_terms(said: Phase1Terms) -> str:
    """Return one transform as text for people."""
    words = (
        names.encryption(said.encryption, said.key_length),
        names.hash_(said.hash),
        names.group(said.group),
        names.method(said.method),
    )
    return " ".join(words) + ("" if said.fault is None else f" ({said.fault})")


def bounded(parts: Iterable[str]) -> str:
    """Return a list for people, not longer than 400 characters however many parts there are."""
    text = ""
    for part in parts:
        text = f"{text}; {part}" if text else part
        if len(text) > _TEXT_LIMIT:
            return text[: _TEXT_LIMIT - 1] + "…"
    return text


def first_group(policy: IkePolicy) -> KeyExchange:
    """Return the group that Aggressive Mode sends a public value of: that of the first suite."""
    return algorithms.KEY_EXCHANGE[configured(policy)[0].group]
