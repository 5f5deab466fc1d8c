"""What the tests of IKEv1's negotiation start from: SmartEdge's defaults and small changes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agents.contract import algorithms
from agents.contract.config import Child, IkePolicy, IkeProposal, IpsecProposal
from agents.ike.v1 import proposals, quick_proposals
from agents.ike.v1.quick_proposals import Circumstances
from agents.ike.wire.isakmp import attributes
from agents.ike.wire.isakmp.attributes import Attribute
from agents.ike.wire.isakmp.payloads import Proposal, SecurityAssociation, Transform
from agents.ike.wire.isakmp.registry import EncapsulationMode, Protocol
from tests.harness.documents import child as plain_child

PSK, RSA = 1, 3
SMARTEDGE = IkeProposal(encryption="aes-128-cbc", integrity="hmac-sha1-96", prf="prf-hmac-sha1", group="group-1")
"""DH group 1, HMAC-SHA-1, AES-128-CBC, 86,400 s (FEATURES A6)."""
SMARTEDGE_ESP = IpsecProposal(encryption="aes-128-cbc", integrity="hmac-sha1-96")
AH_SHA1 = IpsecProposal(ah_integrity="hmac-sha1-96")
BUNDLE = replace(SMARTEDGE_ESP, ah_integrity="hmac-sha2-256-128")
SPIS = {Protocol.ESP: b"\xc0\0\0\1", Protocol.AH: b"\xc0\0\0\2", Protocol.IPCOMP: b"\x12\x34"}
TUNNEL = Circumstances(encapsulations=frozenset((EncapsulationMode.TUNNEL,)))


def policy(*suites: IkeProposal, **changes: Any) -> IkePolicy:
    """Return an IKE policy, SmartEdge's default one where nothing is said."""
    return IkePolicy(proposals=suites or (SMARTEDGE,), **changes)


def ike(**changes: Any) -> IkeProposal:
    """Return SmartEdge's suite with changes."""
    return replace(SMARTEDGE, **changes)


def child(*suites: IpsecProposal, **changes: Any) -> Child:
    """Return a child of these suites."""
    return plain_child(proposals=suites or (SMARTEDGE_ESP,), **changes)


def offer(*suites: IkeProposal, method: int = PSK, **changes: Any) -> SecurityAssociation:
    """Return what a peer with these suites offers in phase 1."""
    return proposals.offer_phase1(policy(*suites, **changes), method)


def quick_offer(
    config: Child,
    group: str | None = None,
    encapsulation: EncapsulationMode = EncapsulationMode.TUNNEL,
    cpi: int | None = None,
) -> SecurityAssociation:
    """Return what a peer with this child offers in phase 2."""
    row = None if group is None else algorithms.KEY_EXCHANGE[group]
    return quick_proposals.offer_quick(config, SPIS, group=row, encapsulation=encapsulation, cpi=cpi)


def with_ke(group: str, **changes: Any) -> Circumstances:
    """Return the circumstances of a Quick Mode with a public value of this group."""
    return replace(TUNNEL, ke_octets=algorithms.KEY_EXCHANGE[group].public_octets, **changes)


def sa(*found: Proposal) -> SecurityAssociation:
    """Return an SA payload."""
    return SecurityAssociation(proposals=found)


def isakmp(*transforms: Sequence[Attribute], id_: int = 1, protocol: int = Protocol.ISAKMP) -> SecurityAssociation:
    """Return a phase 1 offer of transforms given by their attributes."""
    built = tuple(Transform(number=number, id=id_, attributes=tuple(each)) for number, each in enumerate(transforms, 1))
    return sa(Proposal(number=1, protocol=protocol, transforms=built))


def first_attributes(found: SecurityAssociation) -> tuple[Attribute, ...]:
    """Return the attributes of an offer's first transform."""
    return found.proposals[0].transforms[0].attributes


def with_attributes(found: SecurityAssociation, *more: Attribute, without: int | None = None) -> SecurityAssociation:
    """Return an offer whose transforms all have these attributes too, and not those of a type."""
    return sa(
        *(
            replace(
                proposal,
                transforms=tuple(
                    replace(each, attributes=(*(one for one in each.attributes if one.type != without), *more))
                    for each in proposal.transforms
                ),
            )
            for proposal in found.proposals
        )
    )


short, number = attributes.short, attributes.number
