"""Phase 2 suites of a child <-> SA payloads: offering, choosing, answering (RFC 2407 section 4.5, 2409 section 5.5).

Proposals of one number belong together: AH around ESP around IPComp (RFC 2408 section 4.2). Transforms of a proposal
are alternatives, each a whole suite. All that is offered has one Diffie-Hellman group or none, because the public value
goes with it. A kilobyte of a lifetime is taken as 1024 octets.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from agents.contract import algorithms, ikev1
from agents.contract.algorithms import KeyExchange
from agents.contract.config import Child, IpsecProposal, SequenceNumbers
from agents.ike.errors import PeerError
from agents.ike.proposals import describe_ipsec
from agents.ike.v1 import names, place, terms
from agents.ike.v1.proposals import bounded
from agents.ike.v1.terms import Lifetimes, QuickTerms
from agents.ike.wire.isakmp import attributes
from agents.ike.wire.isakmp.payloads import MOST_PROPOSALS, Proposal, SecurityAssociation, Transform
from agents.ike.wire.isakmp.registry import EncapsulationMode, LifeType, NotifyType, Phase2Attribute, Protocol

KILOBYTE = 1024
"""Octets; RFC 2407 does not say which of the two it means."""

DEFLATE = 2
"""The IPComp transform of RFC 2394 (RFC 2407 section 4.4.5); the only one offered and taken."""

MOST_TRANSFORMS = 256
"""Transforms of an offer that are looked at."""

_CPIS = range(256, 61_440)
"""Those that are negotiated (RFC 3173 section 3.3)."""

_LIFE = (Phase2Attribute.LIFE_TYPE, Phase2Attribute.LIFE_DURATION)
_ESN_ORDER = {
    SequenceNumbers.NORMAL: (False,),
    SequenceNumbers.PREFER_EXTENDED: (True, False),
    SequenceNumbers.EXTENDED: (True,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one protocol of a configured suite asks of a transform, as numbers of RFC 2407 section 4."""

    protocol: Protocol
    id: int
    key_length: int | None = None
    authentication: int | None = None

    def is_in(self, said: QuickTerms) -> bool:
        """Return whether a transform is of these algorithms."""
        return (said.id, said.key_length, said.authentication) == (self.id, self.key_length, self.authentication)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickChoice:
    """A suite of a child that both sides have.

    ``peer_spi`` is ESP's, or AH's where there is no ESP; ``peer_ah_spi`` is set where AH stands around ESP. The
    lifetimes are those in force, 0 kilobytes for none; ``peer_lifetimes`` are those the peer said.
    ``answer_proposals`` are the peer's, each with the one transform chosen.
    """

    proposal: IpsecProposal
    group: KeyExchange | None
    esn: bool
    peer_spi: bytes
    peer_ah_spi: bytes | None
    peer_cpi: int | None
    encapsulation: EncapsulationMode
    lifetime_s: int
    lifetime_kilobytes: int
    peer_lifetimes: Lifetimes
    answer_proposals: tuple[Proposal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What is not the child's: the encapsulation modes to be taken, the length of the peer's public value in octets
    (None without a KE payload), and whether the data plane can compress and has extended sequence numbers."""

    encapsulations: frozenset[int]
    ke_octets: int | None = None
    compression: bool = True
    extended: bool = True


@functools.lru_cache(maxsize=1024)
def suite_of(proposal: IpsecProposal) -> tuple[Part, ...]:
    """Return the protocols of a suite that IKEv1 has numbers for, AH first as the outer one."""
    parts: tuple[Part, ...] = ()
    if proposal.ah_integrity is not None:
        integrity = ikev1.AUTHENTICATION[proposal.ah_integrity]
        parts += (Part(protocol=Protocol.AH, id=ikev1.AH[proposal.ah_integrity], authentication=integrity),)
    if proposal.encryption is not None:
        parts += (
            Part(
                protocol=Protocol.ESP,
                id=ikev1.ESP[proposal.encryption],
                key_length=names.key_length_of(algorithms.ENCRYPTION[proposal.encryption]),
                authentication=None if proposal.integrity is None else ikev1.AUTHENTICATION[proposal.integrity],
            ),
        )
    return parts


def configured(child: Child) -> tuple[IpsecProposal, ...]:
    """Return the suites of a child that IKEv1 can negotiate, in order."""
    return tuple(each for each in child.proposals if ikev1.ipsec_obstacle(each) is None)


def lifetime_kilobytes(child: Child) -> int:
    """Return a child's limit of octets in kilobytes, 0 for none."""
    return min(terms.MOST_DURATION, -(-child.lifetime_bytes // KILOBYTE))


def sequence_numbers(child: Child, extended: bool = True) -> tuple[bool, ...]:
    """Return which sequence numbers a child takes, the preferred first: extended ones are True."""
    wish = child.sequence_numbers
    if wish is SequenceNumbers.PREFER_EXTENDED and not extended:
        wish = SequenceNumbers.NORMAL
    return _ESN_ORDER[wish]


def offer_quick(
    child: Child,
    spis: Mapping[Protocol, bytes],
    *,
    group: KeyExchange | None,
    encapsulation: EncapsulationMode,
    cpi: int | None,
    extended: bool = True,
) -> SecurityAssociation:
    """Return the SA payload that offers a child's suites in order.

    Suites of one protocol alone that follow each other are transforms of one proposal; AH around ESP is two proposals
    of one number, for each kind of sequence numbers another, so that no answer can mix them. With a ``cpi`` every
    number is offered with IPComp and then without. ``extended`` says whether extended sequence numbers may be offered
    where the child only prefers them.
    """
    common = _common(child, group, encapsulation)
    numbered: list[tuple[Proposal, ...]] = []
    for block in _blocks(child, sequence_numbers(child, extended)):
        together = tuple(
            Proposal(
                number=0,
                protocol=protocol,
                spi=spis[protocol],
                transforms=tuple(
                    Transform(number=index, id=part.id, attributes=(*common, *_attributes(part, esn)))
                    for index, (part, esn) in enumerate(alternatives, 1)
                ),
            )
            for protocol, alternatives in block.items()
        )
        if cpi is not None:
            deflate = Transform(number=1, id=DEFLATE, attributes=common)
            spi = cpi.to_bytes(2, "big")
            numbered.append((*together, Proposal(number=0, protocol=Protocol.IPCOMP, spi=spi, transforms=(deflate,))))
        numbered.append(together)
    return SecurityAssociation(proposals=tuple(_renumbered(numbered)))


def _blocks(child: Child, esns: Sequence[bool]) -> Iterator[dict[Protocol, list[tuple[Part, bool]]]]:
    """Yield what goes under one proposal number: the alternatives of each protocol."""
    for alone, run in itertools.groupby(configured(child), key=lambda each: tuple(p.protocol for p in suite_of(each))):
        suites = [suite_of(each) for each in run]
        if len(alone) == 1:
            yield {alone[0]: [(suite[0], esn) for suite in suites for esn in esns]}
            continue
        for suite in suites:
            for esn in esns:
                yield {part.protocol: [(part, esn)] for part in suite}


def _renumbered(numbered: Sequence[tuple[Proposal, ...]]) -> Iterator[Proposal]:
    """Yield the proposals with their numbers from 1, no more of them than an SA payload takes."""
    count = 0
    for number, together in enumerate(numbered, 1):
        count += len(together)
        if count > MOST_PROPOSALS:
            return
        yield from (replace(each, number=number) for each in together)


def _common(
    child: Child, group: KeyExchange | None, encapsulation: EncapsulationMode
) -> tuple[attributes.Attribute, ...]:
    """Return the attributes that all transforms have, IPComp's too: the group is the whole offer's."""
    kilobytes = lifetime_kilobytes(child)
    return (
        *terms.lifetime(_LIFE, LifeType.SECONDS, child.lifetime_s),
        *(terms.lifetime(_LIFE, LifeType.KILOBYTES, kilobytes) if kilobytes else ()),
        *(() if group is None else (attributes.short(Phase2Attribute.GROUP, group.number),)),
        attributes.short(Phase2Attribute.ENCAPSULATION_MODE, encapsulation),
    )


def _attributes(part: Part, esn: bool) -> Iterator[attributes.Attribute]:
    if part.authentication is not None:
        yield attributes.short(Phase2Attribute.AUTHENTICATION, part.authentication)
    if part.key_length is not None:
        yield attributes.short(Phase2Attribute.KEY_LENGTH, part.key_length)
    if esn:
        yield attributes.short(Phase2Attribute.EXTENDED_SEQUENCE_NUMBER, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """The proposals of one number, and what their transforms say."""

    proposals: tuple[Proposal, ...]
    said: Mapping[int, tuple[tuple[Transform, QuickTerms], ...]]

    @property
    def protocols(self) -> frozenset[int]:
        """Return the protocols."""
        return frozenset(self.said)

    @property
    def distinct(self) -> bool:
        """Return whether each protocol stands once, as it must."""
        return len(self.said) == len(self.proposals)


def read_offer(offer: SecurityAssociation) -> tuple[Together, ...]:
    """Read an offer by numbers, each whole or not at all, as far as the first so many transforms reach."""
    numbered: dict[int, list[Proposal]] = {}
    for each in offer.proposals:
        numbered.setdefault(each.number, []).append(each)
    found: list[Together] = []
    left = MOST_TRANSFORMS
    for proposals in numbered.values():
        left -= sum(len(each.transforms) for each in proposals)
        if left < 0:
            break
        said = {each.protocol: tuple((one, terms.read_quick(one)) for one in each.transforms) for each in proposals}
        found.append(Together(proposals=tuple(proposals), said=said))
    return tuple(found)


def choose_quick(child: Child, offer: SecurityAssociation, here: Circumstances) -> QuickChoice | None:
    """Return the first configured suite that the offer holds, or None.

    A child with PFS takes only offers with one of its groups, of which a KE payload must have come; a child without
    takes only offers without a group.
    """
    return _choose(child, read_offer(offer), here)


def _choose(child: Child, offered: Sequence[Together], here: Circumstances) -> QuickChoice | None:
    groups: tuple[KeyExchange | None, ...] = tuple(algorithms.KEY_EXCHANGE[slug] for slug in child.pfs_groups) or (
        None,
    )
    groups = tuple(each for each in groups if (None if each is None else each.public_octets) == here.ke_octets)
    for proposal in configured(child):
        for together in offered:
            for group in groups:
                for esn in sequence_numbers(child, here.extended):
                    choice = _match(child, proposal, together, group, esn, here)
                    if choice is not None:
                        return choice
    return None


def _match(
    child: Child,
    proposal: IpsecProposal,
    together: Together,
    group: KeyExchange | None,
    esn: bool,
    here: Circumstances,
) -> QuickChoice | None:
    suite = suite_of(proposal)
    compressed = Protocol.IPCOMP in together.protocols
    if not together.distinct or together.protocols - {Protocol.IPCOMP} != {part.protocol for part in suite}:
        return None
    if compressed and not (child.ipcomp and here.compression):
        return None
    number = None if group is None else group.number
    for encapsulation in _encapsulations(together, suite[0].protocol, here):
        found: dict[int, tuple[Transform, QuickTerms]] = {}
        for part in suite:
            wanted = QuickTerms(
                id=part.id,
                key_length=part.key_length,
                authentication=part.authentication,
                group=number,
                encapsulation=encapsulation,
                esn=esn,
            )
            fit = _first(together.said[part.protocol], wanted)
            if fit is not None:
                found[part.protocol] = fit
        if compressed:
            deflate = _first_deflate(together.said[Protocol.IPCOMP], number)
            if deflate is not None:
                found[Protocol.IPCOMP] = deflate
        if len(found) == len(together.said):
            return _choice(child, proposal, together, found, group, EncapsulationMode(encapsulation))
    return None


def _encapsulations(together: Together, protocol: int, here: Circumstances) -> Iterator[int]:
    """Yield the modes offered that may be taken, in the order of the offer."""
    offered = (said.encapsulation for _transform, said in together.said[protocol])
    yield from (each for each in dict.fromkeys(offered) if each is not None and each in here.encapsulations)


def _first(offered: Sequence[tuple[Transform, QuickTerms]], wanted: QuickTerms) -> tuple[Transform, QuickTerms] | None:
    return next((each for each in offered if each[1].fault is None and each[1].suite == wanted.suite), None)


def _first_deflate(
    offered: Sequence[tuple[Transform, QuickTerms]], group: int | None
) -> tuple[Transform, QuickTerms] | None:
    """Return DEFLATE as RFC 3173 section 4.1 has it: the mode may be left out, and many leave out the group."""
    return next(
        (
            each
            for each in offered
            if each[1].fault is None and each[1].id == DEFLATE and each[1].group in (None, group)
        ),
        None,
    )


def _choice(
    child: Child,
    proposal: IpsecProposal,
    together: Together,
    found: Mapping[int, tuple[Transform, QuickTerms]],
    group: KeyExchange | None,
    encapsulation: EncapsulationMode,
) -> QuickChoice | None:
    spis = {each.protocol: each.spi for each in together.proposals}
    cpi = int.from_bytes(spis[Protocol.IPCOMP], "big") if Protocol.IPCOMP in spis else None
    if cpi is not None and cpi not in _CPIS:
        return None
    if any(len(spi) != 4 for protocol, spi in spis.items() if protocol != Protocol.IPCOMP):
        return None
    limits = functools.reduce(Lifetimes.shortest, (said.lifetimes for _transform, said in found.values()))
    seconds, kilobytes = terms.effective(child.lifetime_s, lifetime_kilobytes(child), limits)
    inner = Protocol.ESP if Protocol.ESP in spis else Protocol.AH
    return QuickChoice(
        proposal=proposal,
        group=group,
        esn=any(said.esn for _transform, said in found.values()),
        peer_spi=spis[inner],
        peer_ah_spi=spis.get(Protocol.AH) if inner is Protocol.ESP else None,
        peer_cpi=cpi,
        encapsulation=encapsulation,
        lifetime_s=seconds,
        lifetime_kilobytes=kilobytes,
        peer_lifetimes=limits,
        answer_proposals=tuple(replace(each, transforms=(found[each.protocol][0],)) for each in together.proposals),
    )


def answer_quick(choice: QuickChoice, spis: Mapping[Protocol, bytes]) -> SecurityAssociation:
    """Return the SA payload that answers with the transforms as they came and our SPIs.

    A CPI takes as many octets as the peer gave it.
    """
    return SecurityAssociation(
        proposals=tuple(
            replace(each, spi=spis[Protocol(each.protocol)].rjust(len(each.spi), b"\0"))
            for each in choice.answer_proposals
        )
    )


def read_answer_quick(
    child: Child, offered: SecurityAssociation, answer: SecurityAssociation, here: Circumstances
) -> QuickChoice:
    """Return what the responder chose. Raises PeerError unless it is one transform of each protocol of one number.

    A shorter lifetime than was offered is taken, a longer one is not. Proposals and transforms may be renumbered: that
    they are not is only a SHOULD (RFC 2408 section 4.2).
    """
    said = _once(read_offer(answer))
    if len(said) != 1 or not said[0].distinct or any(len(each.transforms) != 1 for each in said[0].proposals):
        raise _not_offered(child, answer, "The peer's answer is not one transform of each protocol")
    if not any(_is_of(said[0], each) for each in read_offer(offered)):
        raise _not_offered(child, answer, "The peer's answer is none of the IPsec proposals offered")
    choice = _choose(child, said, here)
    if choice is None:
        raise _not_offered(child, answer, "The peer's answer cannot be used")
    if choice.peer_lifetimes.seconds is None:
        return replace(choice, lifetime_s=child.lifetime_s)
    return choice


def _once(said: tuple[Together, ...]) -> tuple[Together, ...]:
    """Return an answer without what repeats parts of it: strongSwan says its ESP again in a proposal without IPComp."""
    if not said or Protocol.IPCOMP not in said[0].protocols:
        return said
    first, *rest = said
    number = first.proposals[0].number
    repeated = all(replace(each, number=number) in first.proposals for more in rest for each in more.proposals)
    return (first,) if repeated else said


def _is_of(answer: Together, offered: Together) -> bool:
    return answer.protocols == offered.protocols and all(
        any(
            said.fault is None and said.suite == ours.suite and said.lifetimes.within(ours.lifetimes)
            for _ours, ours in offered.said[protocol]
        )
        for protocol, ((_transform, said),) in answer.said.items()
    )


def _not_offered(child: Child, answer: SecurityAssociation, text: str) -> PeerError:
    where = place.quick(2, child.name)
    return PeerError(
        NotifyType.NO_PROPOSAL_CHOSEN,
        "child.no-proposal",
        f"{text}, {where.sentence}",
        received=describe_quick_offer(answer),
        configured=describe_quick(child),
        field="children.proposals",
        attributes=where.attributes,
    )


def describe_quick_offer(offer: SecurityAssociation) -> str:
    """Return the offered suites as text for people, of bounded length: alternatives of a protocol with ``or``."""
    return bounded(
        " in ".join(
            " or ".join(
                describe_terms(proposal.protocol, said) for _transform, said in together.said[proposal.protocol]
            )
            for proposal in sorted(together.proposals, key=lambda each: -each.protocol)
        )
        for together in read_offer(offer)
    )


def describe_quick(child: Child) -> str:
    """Return a child's suites as text for people, of bounded length."""
    return bounded((f"{describe_ipsec(replace(child, proposals=configured(child) or child.proposals))} {child.mode}",))


def describe_terms(protocol: int, said: QuickTerms) -> str:
    """Return one transform as text for people."""
    if protocol == Protocol.IPCOMP:
        words = [names.compression(said.id)]
    elif protocol == Protocol.AH:
        words = ["ah", names.ah(said.id)]
    elif protocol == Protocol.ESP:
        words = [names.esp(said.id, said.key_length)]
        words += [] if said.authentication is None else [names.authentication(said.authentication)]
    else:
        words = [names.protocol(protocol), f"transform-{said.id}"]
    if said.group is not None:
        words.append(names.group(said.group))
    if said.esn:
        words.append("esn")
    if said.encapsulation is not None:
        words.append(names.mode(said.encapsulation))
    return " ".join(words) + ("" if said.fault is None else f" ({said.fault})")


def group_of(child: Child) -> KeyExchange | None:
    """Return the group of a request of ours: the first that IKEv1 has a number for; None without PFS."""
    return next((algorithms.KEY_EXCHANGE[slug] for slug in child.pfs_groups if slug in ikev1.GROUPS), None)
