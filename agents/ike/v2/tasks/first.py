"""The child that IKE_AUTH makes (RFC 7296 section 1.2): asking for it, taking the answer, answering, installing.

Not here: the proof of identity around it (:mod:`agents.ike.v2.tasks.auth`), and further children
(:mod:`agents.ike.v2.tasks.create`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agents.contract.config import Child
from agents.ike import proposals, selectors
from agents.ike.errors import PeerError
from agents.ike.v2 import negotiation, steps
from agents.ike.v2.child import ChildSa
from agents.ike.v2.negotiation import Accepted
from agents.ike.v2.request import ChildRequest, agree, setting
from agents.ike.v2.request import answer as child_payloads
from agents.ike.v2.states import SaState
from agents.ike.v2.tasks.base import refusal
from agents.ike.v2.tasks.delete import DeleteChildren, DeleteUnaccepted
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import Notify, Opaque, Payload
from agents.ike.wire.registry import NotifyType, PayloadType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa
    from agents.ike.v2.tunnel import TunnelRuntime

Answer = Callable[[tuple[Payload, ...], float], None]
"""Sends the response with these payloads for the child, and establishes the IKE SA."""

CHILD_CODES = {
    int(NotifyType.NO_PROPOSAL_CHOSEN): "child.peer-refused-proposal",
    int(NotifyType.TS_UNACCEPTABLE): "child.peer-refused-ts",
    int(NotifyType.INVALID_KE_PAYLOAD): "child.pfs-mismatch",
    int(NotifyType.FAILED_CP_REQUIRED): "child.configuration-required",
    int(NotifyType.INTERNAL_ADDRESS_FAILURE): "child.configuration-required",
}


class FirstChild:
    """The tunnel's first child as the initiator asks for it. It holds an SPI until it is made or released."""

    def __init__(self, sa: IkeSa, config: Child) -> None:
        self._sa = sa
        self._request = ChildRequest(sa, config, pfs=False)
        sa.first_child = self

    def payloads(self) -> tuple[Payload, ...]:
        """Return what the request says about it."""
        steps.child_requested(self._sa, self._request.config.name)
        return (*self._request.notifies(), self._request.offer(), *self._request.selectors())

    def release(self, sa: IkeSa) -> None:
        """Give the SPI back, if it is still held."""
        self._request.release(sa)
        sa.first_child = None

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Take what the answer says about the child; a refusal leaves the IKE SA standing."""
        assert sa.tunnel is not None
        config = self._request.config
        error = refusal(message, CHILD_CODES, f"The peer refused child {config.name}")
        made = error is None
        try:
            if error is not None:
                error.configured = _describe_request(config, error.notify)
                raise error
            accepted = self._request.accept(sa, message)
            agreement = self._request.agree(sa, accepted, (sa.nonce_i, sa.nonce_r))
        except PeerError as error:
            self.release(sa)
            sa.report_error(error.about(config.name))
            steps.child_failed(sa, config.name, error)
            sa.tunnel.child_refused(config.name, error, now)
            if made:
                sa.enqueue(DeleteUnaccepted(message, self._request.spi_in), now)
            return
        sa.first_child = None
        child = sa.add_child(agreement, now)
        install_own(sa, child, accepted, now)


def wants_configuration(message: Message) -> bool:
    """Return whether a request asks for an inner address or other settings: CP(CFG_REQUEST) of section 3.15."""
    return any(
        isinstance(each, Opaque) and each.type == PayloadType.CP and each.data[:1] == b"\x01"
        for each in message.payloads
    )


def install_own(sa: IkeSa, child: ChildSa, accepted: Accepted, now: float) -> None:
    """Install a child that we asked for, outside a rekey."""
    report_terms(sa, accepted)
    if accepted.more and sa.tunnel is not None:
        sa.tunnel.ask_in_pieces(accepted.config.name)

    def installed(problem: str | None, then: float) -> None:
        latest = sa.latest()
        if child not in latest.children:
            return
        if problem is None:
            latest.child_up(child, then)
        else:
            install_failed(latest, child, problem, then)

    sa.core.hub.install(sa, child, replaces=(), outbound_later=False, then=installed)


def install_failed(sa: IkeSa, child: ChildSa, problem: str, now: float) -> None:
    """The data plane refused a child the peer has already: delete it at the peer, tell the tunnel."""
    assert sa.tunnel is not None
    error = PeerError(
        NotifyType.TEMPORARY_FAILURE, "child.install-failed", f"The data plane refused child {child.name}: {problem}"
    )
    sa.report_error(error.about(child.name))
    steps.child_failed(sa, child.name, error)
    sa.tunnel.child_refused(child.name, error, now)
    sa.enqueue(DeleteChildren((child,)), now)


def respond(sa: IkeSa, tunnel: TunnelRuntime, message: Message, answer: Answer, now: float) -> None:
    """Answer with the child that the request asks for once it is installed, or with the reason why not."""
    try:
        accepted = negotiation.accept_request(
            tunnel.config.children,
            message,
            setting(sa),
            pfs=False,
            is_live=lambda name: tunnel.live_child(name) is not None,
        )
        agreement = agree(sa, accepted, (sa.nonce_i, sa.nonce_r))
    except PeerError as error:
        if error.notify == NotifyType.TS_UNACCEPTABLE and wants_configuration(message):
            error.notify, error.code = NotifyType.INTERNAL_ADDRESS_FAILURE, "child.configuration-refused"
            error.message = "The peer wants to be given an inner address, and asks for no network that is configured"
        sa.report_error(error)
        steps.child_failed(sa, None, error)
        tunnel.child_refused(None, error, now)
        answer((Notify(type=error.notify, data=error.data),), now)
        tunnel.sa_established(sa, now)
        return
    report_terms(sa, accepted)
    _install(sa, tunnel, sa.add_child(agreement, now), accepted, answer, now)


def _install(sa: IkeSa, tunnel: TunnelRuntime, child: ChildSa, accepted: Accepted, answer: Answer, now: float) -> None:

    def installed(problem: str | None, then: float) -> None:
        if sa.state is not SaState.AUTHENTICATING:
            return
        if problem is not None:
            error = PeerError(
                NotifyType.TEMPORARY_FAILURE,
                "child.install-failed",
                f"The data plane refused child {child.name}: {problem}",
            )
            sa.report_error(error.about(child.name))
            steps.child_failed(sa, child.name, error)
            tunnel.child_refused(child.name, error, then)
            sa.remove_child(child, then)
            answer((Notify(type=NotifyType.TEMPORARY_FAILURE),), then)
        else:
            answer(child_payloads(child.agreement, accepted), then)
            sa.child_up(child, then)
        tunnel.sa_established(sa, then)

    sa.core.hub.install(sa, child, replaces=(), outbound_later=False, then=installed)


def report_terms(sa: IkeSa, accepted: Accepted) -> None:
    """Report where a child is not as it was asked for."""
    if accepted.mode_declined:
        sa.report(
            "child.mode-mismatch",
            f"The peer asks for transport mode and child {accepted.config.name} is for tunnel mode",
            received="transport",
            configured="tunnel",
            field="children.mode",
            attributes={"child": accepted.config.name},
        )
    if accepted.narrowed:
        sa.report(
            "child.narrowed",
            f"Traffic selectors of child {accepted.config.name} were narrowed",
            received=f"{selectors.describe_all(accepted.local_ts)} = {selectors.describe_all(accepted.remote_ts)}",
            configured=_describe_request(accepted.config, NotifyType.TS_UNACCEPTABLE),
            field="children.local_ts",
            attributes={"child": accepted.config.name},
        )


def _describe_request(config: Child, notify: int) -> str:
    if notify == NotifyType.TS_UNACCEPTABLE:
        local, remote = selectors.to_ranges(config.local_ts), selectors.to_ranges(config.remote_ts)
        return f"{selectors.describe_all(local)} = {selectors.describe_all(remote)}"
    return proposals.describe_ipsec(config)
