"""Suites of the document <-> SA payloads: offering, choosing, saying what was offered (RFC 7296 sections 2.7 and 3.3).

The responder goes by its own order of preference. ESP inside AH is two proposals of one number (RFC 4306 section
3.3.1): RFC 7296 numbers each proposal differently, so no other pair of proposals can be meant by it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from agents.contract import algorithms
from agents.contract.algorithms import KeyExchange
from agents.contract.config import Child, IkeProposal, IpsecProposal, SequenceNumbers
from agents.ike.wire.payloads import Proposal, SecurityAssociation, Transform
from agents.ike.wire.registry import Protocol, TransformType

_Suite = tuple[tuple[Protocol, tuple[Transform, ...]], ...]
"""The protocols of a child's suite, ESP first, and the transforms of each."""

_ESN = {extended: Transform(type=TransformType.ESN, id=int(extended)) for extended in (False, True)}
_ESN_ORDER = {
    SequenceNumbers.NORMAL: (False,),
    SequenceNumbers.PREFER_EXTENDED: (True, False),
    SequenceNumbers.EXTENDED: (True,),
}
_NONE = 0
_TEXT_LIMIT = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeChoice:
    """A configured IKE proposal that the offer holds, and the answer that says so (without SPI)."""

    proposal: IkeProposal
    number: int
    peer_spi: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class IpsecChoice:
    """A configured IPsec proposal that the offer holds; ``group`` is the key exchange of a child with PFS.

    ``peer_spi`` is ESP's, or AH's where there is no ESP; ``peer_ah_spi`` is set where AH stands around ESP.
    """

    proposal: IpsecProposal
    group: KeyExchange | None
    number: int
    peer_spi: bytes
    peer_ah_spi: bytes | None = None
    esn: bool = False


@functools.lru_cache(maxsize=1024)
def _suite_transforms(encryption: str, integrity: str | None) -> tuple[Transform, ...]:
    cipher = algorithms.ENCRYPTION[encryption]
    key_length = cipher.key_octets * 8 if cipher.key_length_attribute else None
    transforms: tuple[Transform, ...] = (Transform(type=TransformType.ENCR, id=cipher.number, key_length=key_length),)
    if integrity is not None:
        transforms += (Transform(type=TransformType.INTEG, id=algorithms.INTEGRITY[integrity].number),)
    return transforms


@functools.lru_cache(maxsize=1024)
def ike_transforms(proposal: IkeProposal) -> tuple[Transform, ...]:
    """Return the transforms of one IKE suite."""
    return (
        *_suite_transforms(proposal.encryption, proposal.integrity),
        Transform(type=TransformType.PRF, id=algorithms.PSEUDO_RANDOM[proposal.prf].number),
        group_transform(proposal.group),
        *(
            Transform(type=TransformType.ADDKE1 + slot, id=algorithms.KEY_EXCHANGE[each].number)
            for slot, each in enumerate(proposal.additional_key_exchanges)
        ),
    )


def group_transform(group: str) -> Transform:
    """Return the transform of a key exchange method."""
    return Transform(type=TransformType.KE, id=algorithms.KEY_EXCHANGE[group].number)


def group_by_number(number: int) -> KeyExchange | None:
    """Return the key exchange method with this IANA number, if this version knows it."""
    return next((row for row in algorithms.KEY_EXCHANGE.values() if row.number == number), None)


def offer_ike(proposals: Sequence[IkeProposal], spi: bytes = b"") -> SecurityAssociation:
    """Return the SA payload that offers these suites in order."""
    return SecurityAssociation(
        proposals=tuple(
            Proposal(number=index, protocol=Protocol.IKE, spi=spi, transforms=ike_transforms(each))
            for index, each in enumerate(proposals, 1)
        )
    )


def answer_ike(choice: IkeChoice, spi: bytes = b"") -> SecurityAssociation:
    """Return the SA payload that answers with one suite."""
    proposal = Proposal(
        number=choice.number, protocol=Protocol.IKE, spi=spi, transforms=ike_transforms(choice.proposal)
    )
    return SecurityAssociation(proposals=(proposal,))


def choose_ike(configured: Sequence[IkeProposal], offer: SecurityAssociation, spi_octets: int) -> IkeChoice | None:
    """Return the first configured suite that the offer holds, or None."""
    for proposal in configured:
        wanted = ike_transforms(proposal)
        for offered in offer.proposals:
            if offered.protocol == Protocol.IKE and len(offered.spi) == spi_octets and _holds(offered, wanted):
                return IkeChoice(proposal=proposal, number=offered.number, peer_spi=offered.spi)
    return None


@functools.lru_cache(maxsize=1024)
def suite_of(proposal: IpsecProposal) -> _Suite:
    """Return the protocols of an IPsec suite, ESP first, with the transforms of each."""
    parts: list[tuple[Protocol, tuple[Transform, ...]]] = []
    if proposal.encryption is not None:
        parts.append((Protocol.ESP, _suite_transforms(proposal.encryption, proposal.integrity)))
    if proposal.ah_integrity is not None:
        integrity = Transform(type=TransformType.INTEG, id=algorithms.INTEGRITY[proposal.ah_integrity].number)
        parts.append((Protocol.AH, (integrity,)))
    return tuple(parts)


def offer_ipsec(child: Child, spi: bytes, pfs: bool, extended: bool = True) -> SecurityAssociation:
    """Return the SA payload that offers a child's suites; ``pfs`` adds its groups (not in IKE_AUTH).

    ``extended`` says whether extended sequence numbers may be offered where the child only prefers them.
    """
    groups = tuple(group_transform(group) for group in child.pfs_groups) if pfs else ()
    esn = tuple(_ESN[each] for each in _sequence_numbers(child, extended))
    return SecurityAssociation(
        proposals=tuple(
            Proposal(number=index, protocol=protocol, spi=spi, transforms=(*transforms, *groups, *esn))
            for index, each in enumerate(child.proposals, 1)
            for protocol, transforms in suite_of(each)
        )
    )


def answer_ipsec(choice: IpsecChoice, spi: bytes) -> SecurityAssociation:
    """Return the SA payload that answers with one suite; ESP and AH take the same SPI."""
    group = () if choice.group is None else (group_transform(choice.group.slug),)
    return SecurityAssociation(
        proposals=tuple(
            Proposal(
                number=choice.number, protocol=protocol, spi=spi, transforms=(*transforms, *group, _ESN[choice.esn])
            )
            for protocol, transforms in suite_of(choice.proposal)
        )
    )


def choose_ipsec(
    child: Child, offer: SecurityAssociation, pfs: bool, prefer_group: int | None = None, extended: bool = True
) -> IpsecChoice | None:
    """Return the first configured suite that the offer holds, or None.

    With ``pfs`` one of the child's groups must be offered, ``prefer_group`` (that of the KE payload) first; a child
    without groups takes only offers without a group.
    """
    groups: list[KeyExchange | None] = [None]
    if pfs and child.pfs_groups:
        rows = [algorithms.KEY_EXCHANGE[slug] for slug in child.pfs_groups]
        groups = [*sorted(rows, key=lambda row: row.number != prefer_group)]
    numbered: dict[int, list[Proposal]] = {}
    for offered in offer.proposals:
        numbered.setdefault(offered.number, []).append(offered)
    for proposal in child.proposals:
        for together in numbered.values():
            for group in groups:
                for esn in _sequence_numbers(child, extended):
                    choice = _match(proposal, together, group, esn)
                    if choice is not None:
                        return choice
    return None


def _sequence_numbers(child: Child, extended: bool) -> tuple[bool, ...]:
    wish = child.sequence_numbers
    if wish is SequenceNumbers.PREFER_EXTENDED and not extended:
        wish = SequenceNumbers.NORMAL
    return _ESN_ORDER[wish]


def sequence_number_transforms(child: Child) -> tuple[Transform, ...]:
    """Return the transforms of the sequence numbers a child takes."""
    return tuple(_ESN[each] for each in _sequence_numbers(child, True))


def _match(
    proposal: IpsecProposal, together: Sequence[Proposal], group: KeyExchange | None, esn: bool
) -> IpsecChoice | None:
    suite = suite_of(proposal)
    offered = {each.protocol: each for each in together}
    if len(together) != len(suite) or set(offered) != {protocol for protocol, _ in suite}:
        return None
    key_exchange = () if group is None else (group_transform(group.slug),)
    for protocol, transforms in suite:
        found = offered[protocol]
        if len(found.spi) != 4 or not _holds(found, (*transforms, *key_exchange, _ESN[esn])):
            return None
    return IpsecChoice(
        proposal=proposal,
        group=group,
        number=together[0].number,
        peer_spi=offered[suite[0][0]].spi,
        peer_ah_spi=offered[Protocol.AH].spi if len(suite) > 1 else None,
        esn=esn,
    )


def is_answer(offer: SecurityAssociation) -> bool:
    """Return whether this is one proposal with one transform of each type, as an answer must be (section 2.7).

    Two are one where they have one number and differ in protocol (RFC 4306 section 3.3.1).
    """
    if len({each.number for each in offer.proposals}) != 1:
        return False
    if len({each.protocol for each in offer.proposals}) != len(offer.proposals):
        return False
    types = [[transform.type for transform in each.transforms] for each in offer.proposals]
    return all(len(each) == len(set(each)) for each in types)


def _holds(offered: Proposal, wanted: tuple[Transform, ...]) -> bool:
    types = {transform.type for transform in wanted}
    for transform in wanted:
        if transform not in offered.transforms:
            # ESN may be left out by peers that have only one choice (RFC 7296 3.3.3 makes it mandatory; be lenient).
            if transform == _ESN[False] and not offered.of_type(TransformType.ESN):
                continue
            return False
    # A type that we do not use must be offered as "none" too, or the peer insists on it (section 3.3.6).
    insisted = {transform.type for transform in offered.transforms} - types
    return all(any(each.id == _NONE for each in offered.transforms if each.type == type_) for type_ in insisted)


def describe_offer(offer: SecurityAssociation) -> str:
    """Return the offered suites as text for people, of bounded length."""
    suites = [
        ("ah " if each.protocol == Protocol.AH else "") + " ".join(name_of(transform) for transform in each.transforms)
        for each in offer.proposals
    ]
    return _bounded("; ".join(suites))


def describe_ike(proposals: Sequence[IkeProposal]) -> str:
    """Return configured IKE suites as text for people."""
    return _bounded("; ".join(" ".join(name_of(each) for each in ike_transforms(proposal)) for proposal in proposals))


def describe_ipsec(child: Child) -> str:
    """Return a child's configured suites as text for people."""
    groups = f" {'/'.join(child.pfs_groups)}" if child.pfs_groups else ""
    esn = "" if child.sequence_numbers is SequenceNumbers.NORMAL else " esn"
    if child.sequence_numbers is SequenceNumbers.PREFER_EXTENDED:
        esn += "/no-esn"
    return _bounded("; ".join(f"{_describe_suite(each)}{groups}{esn}" for each in child.proposals))


def _describe_suite(proposal: IpsecProposal) -> str:
    esp = " ".join(each for each in (proposal.encryption, proposal.integrity) if each is not None)
    ah = "" if proposal.ah_integrity is None else f"ah {proposal.ah_integrity}"
    return " in ".join(each for each in (esp, ah) if each)


def _bounded(text: str) -> str:
    return text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 1] + "…"


def _names() -> dict[tuple[int, int, int | None], str]:
    names: dict[tuple[int, int, int | None], str] = {
        (TransformType.ESN, 0, None): "no-esn",
        (TransformType.ESN, 1, None): "esn",
    }
    for cipher in algorithms.ENCRYPTION.values():
        key_length = cipher.key_octets * 8 if cipher.key_length_attribute else None
        names[(TransformType.ENCR, cipher.number, key_length)] = cipher.slug
    for integrity in algorithms.INTEGRITY.values():
        names[(TransformType.INTEG, integrity.number, None)] = integrity.slug
    for pseudo_random in algorithms.PSEUDO_RANDOM.values():
        names[(TransformType.PRF, pseudo_random.number, None)] = pseudo_random.slug
    for group in algorithms.KEY_EXCHANGE.values():
        names[(TransformType.KE, group.number, None)] = group.slug
    return names


_NAMES = _names()
_TYPE_NAMES = {int(each): each.name.lower() for each in TransformType}


def name_of(transform: Transform) -> str:
    """Return a transform's slug, or type and number of one this version does not know."""
    if TransformType.ADDKE1 <= transform.type <= TransformType.ADDKE7:
        name = _NAMES.get((TransformType.KE, transform.id, transform.key_length), str(transform.id))
        return f"{_TYPE_NAMES[transform.type]}:{name}"
    known = _NAMES.get((transform.type, transform.id, transform.key_length))
    if known is not None:
        return known
    suffix = "" if transform.key_length is None else f"-{transform.key_length}"
    return f"{_TYPE_NAMES.get(transform.type, f'type-{transform.type}')}-{transform.id}{suffix}"
