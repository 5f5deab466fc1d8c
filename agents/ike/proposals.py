"""Suites of the document <-> SA payloads: offering, choosing, saying what was offered (RFC 7296 sections 2.7 and 3.3).

The responder goes by its own order of preference. Extended sequence numbers are never offered or accepted: no data
plane here carries them yet.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from agents.contract import algorithms
from agents.contract.algorithms import KeyExchange
from agents.contract.config import Child, IkeProposal, IpsecProposal
from agents.ike.wire.payloads import Proposal, SecurityAssociation, Transform
from agents.ike.wire.registry import Protocol, TransformType

_NO_ESN = Transform(type=TransformType.ESN, id=0)
_NONE = 0
_TEXT_LIMIT = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeChoice:
    """A configured IKE proposal that the offer holds, and the answer that says so (without SPI)."""

    proposal: IkeProposal
    number: int
    peer_spi: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EspChoice:
    """A configured ESP proposal that the offer holds; ``group`` is the key exchange of a child with PFS."""

    proposal: IpsecProposal
    group: KeyExchange | None
    number: int
    peer_spi: bytes


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


def offer_esp(child: Child, spi: bytes, pfs: bool) -> SecurityAssociation:
    """Return the SA payload that offers a child's suites; ``pfs`` adds its groups (not in IKE_AUTH)."""
    groups = tuple(group_transform(group) for group in child.pfs_groups) if pfs else ()
    return SecurityAssociation(
        proposals=tuple(
            Proposal(
                number=index,
                protocol=Protocol.ESP,
                spi=spi,
                transforms=(*_suite_transforms(each.encryption, each.integrity), *groups, _NO_ESN),
            )
            for index, each in enumerate(child.proposals, 1)
        )
    )


def answer_esp(choice: EspChoice, spi: bytes) -> SecurityAssociation:
    """Return the SA payload that answers with one suite."""
    group = () if choice.group is None else (group_transform(choice.group.slug),)
    suite = _suite_transforms(choice.proposal.encryption, choice.proposal.integrity)
    proposal = Proposal(number=choice.number, protocol=Protocol.ESP, spi=spi, transforms=(*suite, *group, _NO_ESN))
    return SecurityAssociation(proposals=(proposal,))


def choose_esp(
    child: Child, offer: SecurityAssociation, pfs: bool, prefer_group: int | None = None
) -> EspChoice | None:
    """Return the first configured ESP suite that the offer holds, or None.

    With ``pfs`` one of the child's groups must be offered, ``prefer_group`` (that of the KE payload) first; a child
    without groups takes only offers without a group.
    """
    groups: list[KeyExchange | None] = [None]
    if pfs and child.pfs_groups:
        rows = [algorithms.KEY_EXCHANGE[slug] for slug in child.pfs_groups]
        groups = [*sorted(rows, key=lambda row: row.number != prefer_group)]
    for proposal in child.proposals:
        suite = _suite_transforms(proposal.encryption, proposal.integrity)
        for offered in offer.proposals:
            if offered.protocol != Protocol.ESP:
                continue
            for group in groups:
                key_exchange = () if group is None else (group_transform(group.slug),)
                if _holds(offered, (*suite, *key_exchange, _NO_ESN)):
                    return EspChoice(
                        proposal=proposal,
                        group=group,
                        number=offered.number,
                        peer_spi=offered.spi,
                    )
    return None


def differs_in_pfs_only(child: Child, offer: SecurityAssociation) -> bool:
    """Return whether the offer would do if nobody looked at key exchange groups."""
    stripped = SecurityAssociation(
        proposals=tuple(
            Proposal(
                number=each.number,
                protocol=each.protocol,
                spi=each.spi,
                transforms=tuple(item for item in each.transforms if item.type != TransformType.KE),
            )
            for each in offer.proposals
        )
    )
    return choose_esp(child, stripped, pfs=False) is not None


def is_answer(offer: SecurityAssociation) -> bool:
    """Return whether this is one proposal with one transform of each type, as an answer must be (section 2.7)."""
    if len(offer.proposals) != 1:
        return False
    types = [transform.type for transform in offer.proposals[0].transforms]
    return len(types) == len(set(types))


def _holds(offered: Proposal, wanted: tuple[Transform, ...]) -> bool:
    types = {transform.type for transform in wanted}
    for transform in wanted:
        if transform not in offered.transforms:
            # ESN may be left out by peers that have only one choice (RFC 7296 3.3.3 makes it mandatory; be lenient).
            if transform.type == TransformType.ESN and not offered.of_type(TransformType.ESN):
                continue
            return False
    # A type that we do not use must be offered as "none" too, or the peer insists on it (section 3.3.6).
    insisted = {transform.type for transform in offered.transforms} - types
    return all(any(each.id == _NONE for each in offered.transforms if each.type == type_) for type_ in insisted)


def describe_offer(offer: SecurityAssociation) -> str:
    """Return the offered suites as text for people, of bounded length."""
    suites = [" ".join(_name(transform) for transform in each.transforms) for each in offer.proposals]
    return _bounded("; ".join(suites))


def describe_ike(proposals: Sequence[IkeProposal]) -> str:
    """Return configured IKE suites as text for people."""
    return _bounded("; ".join(" ".join(_name(each) for each in ike_transforms(proposal)) for proposal in proposals))


def describe_esp(child: Child) -> str:
    """Return a child's configured suites as text for people."""
    groups = f" {'/'.join(child.pfs_groups)}" if child.pfs_groups else ""
    return _bounded(
        "; ".join(
            f"{each.encryption}{' ' + each.integrity if each.integrity else ''}{groups}" for each in child.proposals
        )
    )


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


def _name(transform: Transform) -> str:
    known = _NAMES.get((transform.type, transform.id, transform.key_length))
    if known is not None:
        return known
    suffix = "" if transform.key_length is None else f"-{transform.key_length}"
    return f"{_TYPE_NAMES.get(transform.type, f'type-{transform.type}')}-{transform.id}{suffix}"
