"""Why no IKEv1 proposal fits: what differs between the nearest pair of a configured and an offered suite.

Where it is one thing, the refusal has the code of that thing and says which value was received and which is configured,
in which message of which phase, as the log messages that operators know do. Where several things differ it names them
all under one code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from agents.contract import algorithms
from agents.contract.config import Child, IkePolicy
from agents.ike.errors import PeerError
from agents.ike.v1 import names, place, quick_proposals, terms
from agents.ike.v1.place import Place
from agents.ike.v1.proposals import (
    configured,
    describe_phase1,
    describe_phase1_offer,
    phase1_terms,
    transforms_of,
)
from agents.ike.v1.quick_proposals import Circumstances, Part, Together
from agents.ike.v1.terms import Phase1Terms, QuickTerms
from agents.ike.wire.isakmp.payloads import SecurityAssociation
from agents.ike.wire.isakmp.registry import TRANSFORM_KEY_IKE, NotifyType, Protocol

_PROPOSALS = "ike.proposals"
_CHILD_PROPOSALS = "children.proposals"
_NO_IKE = "ikev1.proposal-mismatch"
_NO_CHILD = "child.no-proposal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that differs. ``words`` stand in for the sentence made of ``what`` where that would not be one."""

    what: str
    received: str
    configured: str
    code: str
    field: str | None
    notify: NotifyType = NotifyType.NO_PROPOSAL_CHOSEN
    words: str | None = None

    @property
    def sentence(self) -> str:
        """Return the difference as the first half of a sentence."""
        return self.words or f"Mismatching {self.what} ({self.received}) received, ({self.configured}) configured"


def phase1_refusal(
    policy: IkePolicy, offer: SecurityAssociation, methods: frozenset[int], *, exchange: str, message: int
) -> PeerError:
    """Return the refusal of an offer that holds none of a policy's suites; ``exchange`` is like ``main-mode``."""
    return _refusal(
        phase1_differences(policy, offer, methods),
        Place(phase=1, message=message, exchange=exchange),
        received=describe_phase1_offer(offer),
        wanted=describe_phase1(policy, methods),
        several=(_NO_IKE, _PROPOSALS, "No IKE proposal matches"),
    )


def quick_refusal(child: Child, offer: SecurityAssociation, here: Circumstances, *, message: int = 1) -> PeerError:
    """Return the refusal of an offer that holds none of a child's suites."""
    return _refusal(
        quick_differences(child, offer, here),
        place.quick(message, child.name),
        received=quick_proposals.describe_quick_offer(offer),
        wanted=quick_proposals.describe_quick(child),
        several=(_NO_CHILD, _CHILD_PROPOSALS, "No IPsec proposal matches"),
    )


def _refusal(
    found: Sequence[Difference], where: Place, *, received: str, wanted: str, several: tuple[str, str, str]
) -> PeerError:
    lists = {**where.attributes, "offer": received, "policy": wanted}
    if len(found) == 1:
        only = found[0]
        return PeerError(
            only.notify,
            only.code,
            f"{only.sentence}, {where.sentence}",
            received=only.received,
            configured=only.configured,
            field=only.field,
            attributes={**lists, "difference": only.what},
        )
    code, field, text = several
    if found:
        text += ". " + "; ".join(each.sentence for each in found)
        lists["difference"] = ", ".join(each.what for each in found)
    return PeerError(
        NotifyType.NO_PROPOSAL_CHOSEN,
        code,
        f"{text}, {where.sentence}",
        received=received,
        configured=wanted,
        field=field,
        attributes=lists,
    )


def phase1_differences(
    policy: IkePolicy, offer: SecurityAssociation, methods: frozenset[int]
) -> tuple[Difference, ...]:
    """Return what keeps a policy from an offer: all differences of the nearest pair, none where it fits."""
    offered = [terms.read_phase1(transform) for _proposal, transform in transforms_of(offer)]
    if not offered:
        return (_no_key_ike(offer),)
    ours = [phase1_terms(each, 0) for each in configured(policy)]
    nearest: tuple[int, Phase1Terms, Phase1Terms] | None = None
    for wanted in ours:
        for said in offered:
            distance = _phase1_distance(wanted, said, methods)
            if nearest is None or distance < nearest[0]:
                nearest = distance, wanted, said
    return () if nearest is None else tuple(_phase1_differences(nearest[1], nearest[2], methods))


def _no_key_ike(offer: SecurityAssociation) -> Difference:
    """Return why an offer has no transform of phase 1 at all."""
    others = [each for each in offer.proposals if each.protocol == Protocol.ISAKMP]
    if not others:
        protocol = offer.proposals[0].protocol if offer.proposals else 0
        return Difference(
            what="protocol ID",
            received=f"{protocol:#x}",
            configured=f"{int(Protocol.ISAKMP):#x}",
            code="ikev1.protocol-id",
            field=None,
            notify=NotifyType.INVALID_PROTOCOL_ID,
            words=f"Invalid protocol ID ({protocol:#x}) received",
        )
    number = others[0].transforms[0].id if others[0].transforms else 0
    return Difference(
        what="transform ID",
        received=str(number),
        configured=str(TRANSFORM_KEY_IKE),
        code="ikev1.transform-id",
        field=None,
        notify=NotifyType.INVALID_TRANSFORM_ID,
        words=f"Invalid transform ID ({number}) received, ({TRANSFORM_KEY_IKE}) configured",
    )


def _phase1_distance(wanted: Phase1Terms, said: Phase1Terms, methods: frozenset[int]) -> int:
    return (
        ((wanted.encryption, wanted.key_length) != (said.encryption, said.key_length))
        + (wanted.hash != said.hash)
        + (wanted.group != said.group)
        + (said.method not in methods)
        + (said.fault is not None)
    )


def _phase1_differences(wanted: Phase1Terms, said: Phase1Terms, methods: frozenset[int]) -> Iterator[Difference]:
    rows = (
        (
            "encryption algorithm",
            names.encryption(said.encryption, said.key_length),
            names.encryption(wanted.encryption, wanted.key_length),
            "ikev1.encryption-mismatch",
        ),
        ("authentication algorithm", names.hash_(said.hash), names.hash_(wanted.hash), "ikev1.hash-mismatch"),
        ("DH group", names.group(said.group), names.group(wanted.group), "ikev1.group-mismatch"),
    )
    for what, received, ours, code in rows:
        if received != ours:
            yield Difference(what=what, received=received, configured=ours, code=code, field=_PROPOSALS)
    if said.method not in methods:
        yield Difference(
            what="authentication method",
            received=names.method(said.method),
            configured="/".join(names.method(each) for each in sorted(methods)),
            code="ikev1.auth-method-mismatch",
            field="remote_auth.kind",
        )
    if said.fault is not None:
        yield _fault(said.fault, said.attribute, "ikev1.attribute", _PROPOSALS, NotifyType.ATTRIBUTES_NOT_SUPPORTED)


def _fault(fault: str, attribute: int | None, code: str, field: str, notify: NotifyType) -> Difference:
    return Difference(
        what="attribute",
        received=str(attribute),
        configured="none",
        code=code,
        field=field,
        notify=notify,
        words=f"{fault[0].upper()}{fault[1:]} received",
    )


def quick_differences(child: Child, offer: SecurityAssociation, here: Circumstances) -> tuple[Difference, ...]:
    """Return what keeps a child from an offer: all differences of the nearest pair, none where it fits."""
    best: tuple[tuple[bool, int], tuple[Difference, ...]] | None = None
    offered = quick_proposals.read_offer(offer)
    for suite in map(quick_proposals.suite_of, quick_proposals.configured(child)):
        for together in offered:
            protocols = tuple(_protocol_differences(child, suite, together, here))
            found = protocols or tuple(_suite_differences(child, suite, together, here))
            # Other protocols are further away than any difference within the same ones.
            distance = (bool(protocols), len(found))
            if best is None or distance < best[0]:
                best = distance, found
    if best is None:
        return ()
    return (_protocols(best[1]),) if best[0][0] else best[1]


def _protocol_differences(
    child: Child, suite: Sequence[Part], together: Together, here: Circumstances
) -> Iterator[Difference]:
    for protocol in (Protocol.AH, Protocol.ESP, Protocol.IPCOMP):
        received = sum(each.protocol == protocol for each in together.proposals)
        ours = int(any(part.protocol == protocol for part in suite))
        if protocol == Protocol.IPCOMP and child.ipcomp and here.compression:
            ours = min(received, 1)
        if received != ours:
            yield Difference(
                what=names.protocol(protocol),
                received=str(received),
                configured=str(ours),
                code="ikev1.protocols-mismatch",
                field="children.ipcomp" if protocol == Protocol.IPCOMP else _CHILD_PROPOSALS,
            )


def _protocols(found: Sequence[Difference]) -> Difference:
    """Return the numbers of protocols that differ as one difference."""
    return Difference(
        what="protocols",
        received=", ".join(f"{each.what} {each.received}" for each in found),
        configured=", ".join(f"{each.what} {each.configured}" for each in found),
        code=found[0].code,
        field=found[0].field,
        words="Mismatching number of "
        + "; of ".join(
            f"{each.what} protocols received ({each.received}), configured ({each.configured})" for each in found
        ),
    )


def _suite_differences(
    child: Child, suite: Sequence[Part], together: Together, here: Circumstances
) -> Iterable[Difference]:
    """Return the differences to the transform of each protocol that comes nearest; what all share counts once."""
    found: dict[Difference, None] = {}
    for part in suite:
        offered = (said for _transform, said in together.said[part.protocol])
        candidates: list[tuple[Difference, ...]] = [
            tuple(_part_differences(child, part, said, here)) for said in offered
        ]
        nearest = min(candidates, key=len)
        found |= dict.fromkeys(nearest)
    for _transform, said in together.said.get(Protocol.IPCOMP, ())[:1]:
        if said.id != quick_proposals.DEFLATE:
            received, ours = names.compression(said.id), names.compression(quick_proposals.DEFLATE)
            found[
                Difference(
                    what="compression", received=received, configured=ours, code=_NO_CHILD, field="children.ipcomp"
                )
            ] = None
    return found


def _part_differences(child: Child, part: Part, said: QuickTerms, here: Circumstances) -> Iterator[Difference]:
    yield from _algorithm_differences(part, said)
    groups: list[int | None] = [algorithms.KEY_EXCHANGE[each].number for each in child.pfs_groups]
    if said.group not in (groups or [None]):
        yield Difference(
            what="DH group",
            received=names.group(said.group),
            configured="/".join(child.pfs_groups) or "none",
            code="ikev1.pfs-mismatch",
            field="children.pfs_groups",
        )
    else:
        yield from _key_exchange_difference(said.group, here.ke_octets)
    if said.encapsulation not in here.encapsulations:
        yield Difference(
            what="encapsulation mode",
            received=names.mode(said.encapsulation),
            configured="/".join(names.mode(each) for each in sorted(here.encapsulations)),
            code="child.mode-mismatch",
            field="children.mode",
        )
    esns = quick_proposals.sequence_numbers(child, here.extended)
    if said.esn not in esns:
        yield Difference(
            what="sequence numbers",
            received=_esn(said.esn),
            configured="/".join(map(_esn, esns)),
            code="child.esn-mismatch",
            field="children.sequence_numbers",
        )
    if said.fault is not None:
        yield _fault(said.fault, said.attribute, _NO_CHILD, _CHILD_PROPOSALS, NotifyType.NO_PROPOSAL_CHOSEN)


def _algorithm_differences(part: Part, said: QuickTerms) -> Iterator[Difference]:
    integrity = Difference(
        what="authentication algorithm",
        received=names.authentication(said.authentication),
        configured=names.authentication(part.authentication),
        code="ikev1.child-integrity-mismatch",
        field=_CHILD_PROPOSALS,
    )
    if part.protocol == Protocol.AH:
        if said.id != part.id:
            yield replace(integrity, received=names.ah(said.id), configured=names.ah(part.id))
        elif said.authentication != part.authentication:
            yield integrity
        return
    received, ours = names.esp(said.id, said.key_length), names.esp(part.id, part.key_length)
    if received != ours:
        yield Difference(
            what="encryption algorithm",
            received=received,
            configured=ours,
            code="ikev1.child-encryption-mismatch",
            field=_CHILD_PROPOSALS,
        )
    if said.authentication != part.authentication:
        yield integrity


def _key_exchange_difference(group: int | None, octets: int | None) -> Iterator[Difference]:
    """Yield the difference between the group of the SA payload and the public value that came."""
    row = None if group is None else names.GROUPS[group]
    wanted = None if row is None else row.public_octets
    if octets != wanted:
        yield Difference(
            what="public value",
            received="none" if octets is None else f"{octets} octets",
            configured="none" if row is None else f"{row.public_octets} octets of {row.slug}",
            code="ikev1.pfs-mismatch",
            field="children.pfs_groups",
        )


def _esn(extended: bool) -> str:
    return "esn" if extended else "no-esn"
