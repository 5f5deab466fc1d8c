"""The steps of a negotiation as events: asked for, up or failed, child asked for, up or failed, in the data plane.

Each is reported once per negotiation; :data:`agents.contract.events.STEPS` has their order. A responder begins at the
third step: nobody here asked for its IKE SA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.ike import selectors
from agents.ike.v2.child import ChildSa
from agents.ike.wire.registry import NotifyType, exchange_name

if TYPE_CHECKING:
    from agents.ike.errors import PeerError
    from agents.ike.v2.sa import IkeSa


def attributes(sa: IkeSa) -> dict[str, str]:
    """Return what every event of an SA carries: it tells negotiations apart, and the messages of one."""
    found = {
        "ike_sa": f"{sa.spi_i.hex()}_{sa.spi_r.hex()}",
        "remote": sa.path.remote_address,
        "role": "initiator" if sa.opener else "responder",
    }
    requests, responses = sa.requests, sa.responses
    if responses.in_progress:
        found["message"] = f"{exchange_name(responses.exchange)} {responses.expected}"
    elif requests.next_id:
        found["message"] = f"{exchange_name(requests.last_exchange)} {requests.next_id - 1}"
    elif responses.expected:
        found["message"] = f"{exchange_name(responses.exchange)} {responses.expected - 1}"
    return found


def requested(sa: IkeSa) -> None:
    """The first request goes out."""
    sa.report("ike.sa-requested", f"IKE SA requested from {sa.path.remote_address}")


def failed(sa: IkeSa, why: str = "") -> None:
    """An IKE SA that never stood is not going to; ``cause`` is the code of the refusal that was reported last."""
    if sa.established_at is not None or sa.failure_told:
        return
    sa.failure_told = True
    text = f"The IKE SA with {sa.path.remote_address} could not be established"
    sa.report(
        "ike.sa-failed",
        f"{text}: {why}" if why else text,
        attributes={} if sa.cause is None else {"cause": sa.cause},
    )


def child_requested(sa: IkeSa, name: str) -> None:
    """The request for a child goes out."""
    sa.report("child.requested", f"Child {name} requested", attributes={"child": name})


def child_failed(sa: IkeSa, name: str | None, error: PeerError) -> None:
    """A child that was asked for, by us or (then ``name`` may be unknown) by the peer, could not be made."""
    if error.notify == NotifyType.SINGLE_PAIR_REQUIRED:  # it is asked for anew, in pieces
        return
    name = name or error.child
    sa.report(
        "child.failed",
        f"Child {name or 'asked for by the peer'} could not be established",
        field=error.field,
        attributes={"cause": error.code, **({} if name is None else {"child": name})},
    )


def child_in_place(sa: IkeSa, child: ChildSa, rekeyed: bool) -> None:
    """A child is agreed on, and its SAs and policies are in the data plane."""
    agreement = child.agreement
    known = {"child": child.name, "spi_in": f"{child.spi_in:08x}", "spi_out": f"{child.spi_out:08x}"}
    sa.report(
        "child.rekeyed" if rekeyed else "child.established",
        f"Child {child.name}: {selectors.describe_all(agreement.local_ts)} = "
        f"{selectors.describe_all(agreement.remote_ts)}, SPIs {child.spi_in:08x} in, {child.spi_out:08x} out",
        attributes=known,
    )
    sa.report("child.installed", f"SAs of child {child.name} are in the data plane", attributes=known)
    sa.report(
        "child.policies-installed",
        f"{len(child.policies)} policies of child {child.name} are in place",
        attributes=known,
    )
