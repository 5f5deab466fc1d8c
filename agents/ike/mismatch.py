"""Why no proposal fits: the first transform that differs, in the peer's proposal that comes nearest to one of ours.

What an operator has to change is one field of one policy; two whole lists of suites side by side do not say which.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agents.contract.config import Child, IkeProposal
from agents.ike import proposals
from agents.ike.errors import PeerError
from agents.ike.wire.payloads import SecurityAssociation, Transform
from agents.ike.wire.registry import NotifyType, Protocol, TransformType

_ORDER = (
    TransformType.ENCR,
    TransformType.INTEG,
    TransformType.PRF,
    TransformType.KE,
    TransformType.ESN,
    *(TransformType(number) for number in range(TransformType.ADDKE1, TransformType.ADDKE7 + 1)),
)
_NAMES = {
    TransformType.ENCR: "encryption",
    TransformType.INTEG: "integrity",
    TransformType.PRF: "pseudo-random function",
    TransformType.KE: "key exchange group",
    TransformType.ESN: "sequence numbers",
}
_IPSEC = {
    (Protocol.ESP, TransformType.ENCR): ("child.encryption-mismatch", "children.proposals"),
    (Protocol.ESP, TransformType.INTEG): ("child.integrity-mismatch", "children.proposals"),
    (Protocol.AH, TransformType.INTEG): ("child.ah-mismatch", "children.proposals"),
    (Protocol.ESP, TransformType.KE): ("child.pfs-mismatch", "children.pfs_groups"),
    (Protocol.AH, TransformType.KE): ("child.pfs-mismatch", "children.pfs_groups"),
    (Protocol.ESP, TransformType.ESN): ("child.esn-mismatch", "children.sequence_numbers"),
    (Protocol.AH, TransformType.ESN): ("child.esn-mismatch", "children.sequence_numbers"),
}
_PROTOCOL_NAMES = {Protocol.IKE: "IKE", Protocol.AH: "AH", Protocol.ESP: "ESP"}
_PROTOCOLS = "protocols"
_MOST_NAMES = 8

_Suites = dict[int, set[Transform]]
"""Transforms by protocol: one proposal, or ESP and AH of one number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """The first difference; ``proposal`` is the number of the peer's proposal, ``more`` whether others follow."""

    what: str
    received: str
    configured: str
    proposal: int
    code: str
    field: str
    more: bool

    @property
    def sentence(self) -> str:
        """Return the difference as a sentence."""
        return f"{self.what} of proposal {self.proposal}: {self.received} received, {self.configured} configured"

    @property
    def attributes(self) -> dict[str, str]:
        """Return the parts for an event."""
        return {
            "difference": self.what,
            "difference_received": self.received,
            "difference_configured": self.configured,
            "proposal": str(self.proposal),
        }


def describe_ike(configured: Sequence[IkeProposal], offer: SecurityAssociation) -> Mismatch | None:
    """Return what keeps IKE proposals from an offer; None when nothing does."""
    ours: list[_Suites] = [{Protocol.IKE: set(proposals.ike_transforms(each))} for each in configured]
    return _nearest(ours, offer, Protocol.IKE)


def describe_ipsec(child: Child, offer: SecurityAssociation, pfs: bool) -> Mismatch | None:
    """Return what keeps a child's proposals from an offer; None when nothing does."""
    groups = {proposals.group_transform(each) for each in child.pfs_groups} if pfs else set()
    ours: list[_Suites] = [
        {
            protocol: {*transforms, *groups, *proposals.sequence_number_transforms(child)}
            for protocol, transforms in each
        }
        for each in map(proposals.suite_of, child.proposals)
    ]
    return _nearest(ours, offer, Protocol.ESP)


def ike_refusal(configured: Sequence[IkeProposal], offer: SecurityAssociation) -> PeerError:
    """Return the refusal of an offer that holds none of our suites; it names the transform that differs."""
    found = describe_ike(configured, offer)
    text = "No IKE proposal matches what the peer offers"
    return PeerError(
        NotifyType.NO_PROPOSAL_CHOSEN,
        "ike.no-proposal",
        text if found is None else f"{text}: {found.sentence}",
        received=proposals.describe_offer(offer),
        configured=proposals.describe_ike(configured),
        field="ike.proposals",
        attributes={} if found is None else found.attributes,
    )


def _nearest(ours: Iterable[_Suites], offer: SecurityAssociation, default: Protocol) -> Mismatch | None:
    theirs: dict[int, _Suites] = {}
    for each in offer.proposals:
        theirs.setdefault(each.number, {}).setdefault(each.protocol, set()).update(each.transforms)
    best: list[Mismatch] | None = None
    for suites in ours:
        for number, offered in theirs.items():
            found = list(_differences(suites, offered, number, default))
            if best is None or len(found) < len(best):
                best = found
    if not best:
        return None
    first = best[0]
    if len(best) == 1 or first.what == _PROTOCOLS:
        return first
    several = "ike.no-proposal" if default is Protocol.IKE else "child.no-proposal"
    return Mismatch(
        what=first.what,
        received=first.received,
        configured=first.configured,
        proposal=first.proposal,
        code=several,
        field=first.field,
        more=True,
    )


def _differences(ours: _Suites, theirs: _Suites, number: int, default: Protocol) -> Iterable[Mismatch]:
    if set(ours) != set(theirs):
        for _ in range(len(_ORDER)):  # further away than any proposal of the same protocols
            yield Mismatch(
                what=_PROTOCOLS,
                received=_protocols(theirs),
                configured=_protocols(ours),
                proposal=number,
                code="ike.no-proposal" if default is Protocol.IKE else "child.protocols-mismatch",
                field="ike.proposals" if default is Protocol.IKE else "children.proposals",
                more=False,
            )
        return
    for protocol, wanted in ours.items():
        for type_ in _ORDER:
            ours_of = {each for each in wanted if each.type == type_}
            theirs_of = {each for each in theirs[protocol] if each.type == type_}
            if not _meet(ours_of, theirs_of):
                code, field = _IPSEC.get((Protocol(protocol), type_), ("ike.no-proposal", "ike.proposals"))
                yield Mismatch(
                    what=_NAMES.get(type_, f"additional key exchange {type_ - TransformType.ADDKE1 + 1}"),
                    received=_values(theirs_of),
                    configured=_values(ours_of),
                    proposal=number,
                    code=code,
                    field=field,
                    more=False,
                )


def _meet(ours: set[Transform], theirs: set[Transform]) -> bool:
    """Return whether both leave a choice in common; leaving a type out is the same as its number 0 (section 3.3.6)."""
    if not ours or not theirs:
        return all(any(each.id == 0 for each in side) for side in (ours, theirs) if side)
    return bool(ours & theirs)


def _values(transforms: set[Transform]) -> str:
    names = sorted(proposals.name_of(each) for each in transforms)
    return "/".join(names[:_MOST_NAMES]) or "none"


def _protocols(suites: _Suites) -> str:
    return " and ".join(
        _PROTOCOL_NAMES[Protocol(each)] if each in _PROTOCOL_NAMES else f"protocol {each}" for each in sorted(suites)
    )
