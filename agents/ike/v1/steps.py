"""The steps of a negotiation as events, as IKEv2 tells them: asked for, up or failed, child asked for, up or failed,
in the data plane. :data:`agents.contract.events.STEPS` has their order; a responder begins at the third.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agents.ike import selectors
from agents.ike.v1 import place
from agents.ike.v1.place import Place
from agents.ike.v1.selectors import describe_identification
from agents.ike.v1.states import EXPECTED

if TYPE_CHECKING:
    from agents.ike.errors import PeerError
    from agents.ike.v1.child import ChildSa
    from agents.ike.v1.sa import IsakmpSa
    from agents.ike.wire.isakmp.payloads import Identification


def attributes(sa: IsakmpSa) -> dict[str, str]:
    """Return what every event of an SA carries; ``message`` is the message of phase 1 that came or went last."""
    found = {
        "ike_sa": f"{sa.cookie_i.hex()}_{sa.cookie_r.hex()}",
        "remote": sa.path.remote_address,
        "role": "initiator" if sa.initiator else "responder",
        "version": "v1",
        "mode": str(sa.mode),
    }
    return found | place.phase1(sa).attributes if sa.state in EXPECTED else found


def requested(sa: IsakmpSa) -> None:
    """The first message goes out."""
    sa.report("ike.sa-requested", f"IKE SA requested from {sa.path.remote_address} ({sa.mode} mode)")


def established(sa: IsakmpSa) -> None:
    """Phase 1 is done."""
    sa.report(
        "ike.sa-established",
        f"IKE SA established with {sa.path.remote_address} ({sa.mode} mode)",
        attributes=place.phase1(sa).attributes,
    )
    if sa.peer.names:
        sa.report("ikev1.peer-vendor", f"The peer says that it is {', '.join(sa.peer.names)}")


def failed(sa: IsakmpSa, why: str = "") -> None:
    """An ISAKMP SA that never stood is not going to; ``cause`` is the code of the refusal that was reported last."""
    if sa.established_at is not None or sa.failure_told:
        return
    sa.failure_told = True
    text = f"The IKE SA with {sa.path.remote_address} could not be established"
    sa.report(
        "ike.sa-failed",
        f"{text}: {why}" if why else text,
        attributes={} if sa.cause is None else {"cause": sa.cause},
    )


def child_requested(sa: IsakmpSa, name: str, identities: Sequence[Identification]) -> None:
    """The request for a child goes out, with these traffic selectors."""
    where = place.quick(1, name)
    sa.report("child.requested", f"Child {name} requested", attributes=where.attributes)
    _selectors(sa, "ikev1.selectors-sent", "sent", identities, where)


def selectors_received(sa: IsakmpSa, identities: Sequence[Identification]) -> None:
    """The peer asks for a child with these traffic selectors; with none it means the two hosts."""
    _selectors(sa, "ikev1.selectors-received", "received", identities, place.quick(1))


def _selectors(sa: IsakmpSa, code: str, verb: str, identities: Sequence[Identification], where: Place) -> None:
    texts = [describe_identification(each) for each in identities] or ["none (its address)"] * 2
    sa.report(
        code,
        f"Initiator's traffic selector {verb}: {texts[0]}; responder's traffic selector {verb}: {texts[1]}, "
        f"{where.sentence}",
        attributes={"initiator_selector": texts[0], "responder_selector": texts[1], **where.attributes},
    )


def child_failed(sa: IsakmpSa, name: str | None, error: PeerError) -> None:
    """A child that was asked for, by us or (then ``name`` may be unknown) by the peer, could not be made."""
    sa.report(
        "child.failed",
        f"Child {name or 'asked for by the peer'} could not be established: {error.message}",
        field=error.field,
        attributes={"phase": "2", **error.attributes, "cause": error.code, **({} if name is None else {"child": name})},
    )


def child_in_place(sa: IsakmpSa, child: ChildSa, rekeyed: bool) -> None:
    """A child is agreed on, and its SAs and policies are in the data plane."""
    agreement = child.agreement
    known = {"child": child.name, "spi_in": f"{child.spi_in:08x}", "spi_out": f"{child.spi_out:08x}", "phase": "2"}
    sa.report(
        "child.rekeyed" if rekeyed else "child.established",
        f"Child {child.name}: {selectors.describe(agreement.local)} = {selectors.describe(agreement.remote)}, "
        f"SPIs {child.spi_in:08x} in, {child.spi_out:08x} out",
        attributes=known,
    )
    sa.report("child.installed", f"SAs of child {child.name} are in the data plane", attributes=known)
    sa.report(
        "child.policies-installed",
        f"{len(child.policies)} policies of child {child.name} are in place",
        attributes=known,
    )
