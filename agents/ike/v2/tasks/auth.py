"""IKE_AUTH with pre-shared keys (RFC 7296 sections 1.2, 2.15, 2.16): identities, proof, the first child.

::

    initiator                                   responder
    SK {IDi, IDr, AUTH, SA, TSi, TSr} -->
                                      <--       SK {IDr, AUTH, SA, TSi, TSr}
                                      <--       SK {IDr, AUTH, N(error)}     the IKE SA stands, the child does not
                                      <--       SK {N(AUTHENTICATION_FAILED)}

Which of several tunnels between two addresses is meant is known only here, by IDi and IDr.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING

from agents.contract.config import Child, Identity, IkeProposal
from agents.contract.secret import Secret
from agents.ike import proposals, selectors
from agents.ike.errors import PeerError
from agents.ike.v2 import identity, negotiation
from agents.ike.v2.child import Agreement, ChildSa
from agents.ike.v2.keymat import psk_auth
from agents.ike.v2.negotiation import Accepted
from agents.ike.v2.states import SaState
from agents.ike.v2.tasks.base import Task, refusal
from agents.ike.v2.tasks.delete import DeleteChildren, DeleteUnaccepted
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import (
    Auth,
    Identification,
    IdI,
    IdR,
    Notify,
    Payload,
    SecurityAssociation,
    TsI,
    TsR,
)
from agents.ike.wire.registry import AuthMethod, Exchange, NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa
    from agents.ike.v2.tunnel import TunnelRuntime

_Answer = Callable[[tuple[Payload, ...], float], None]
_CODES = {int(NotifyType.AUTHENTICATION_FAILED): "ike.peer-refused-auth"}
CHILD_CODES = {
    int(NotifyType.NO_PROPOSAL_CHOSEN): "child.peer-refused-proposal",
    int(NotifyType.TS_UNACCEPTABLE): "child.peer-refused-ts",
    int(NotifyType.INVALID_KE_PAYLOAD): "child.pfs-mismatch",
}


class Authenticate(Task):
    """The initiator's proof, and the request for the tunnel's first child."""

    exchange = Exchange.IKE_AUTH

    def __init__(self, psk: Secret) -> None:
        self._psk = psk
        self._child: Child | None = None
        self._spi_in = 0

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        assert sa.tunnel is not None
        config = sa.tunnel.config
        self._child = config.children[0]
        self._spi_in = sa.core.new_esp_spi()
        id_i = identity.to_id_i(config.local.identity)
        auth = psk_auth(
            sa.suite.prf, self._psk, sa.init_request, sa.nonce_r, sa.keys.sk_pi, id_i.serialize(), sa.int_auth
        )
        contact = (Notify(type=NotifyType.INITIAL_CONTACT),) if sa.tunnel.is_alone(sa) else ()
        return (
            id_i,
            *contact,
            identity.to_id_r(config.remote.identity),
            Auth(method=AuthMethod.SHARED_KEY_MIC, data=auth),
            proposals.offer_esp(self._child, self._spi_in.to_bytes(4, "big"), pfs=False),
            TsI(selectors=selectors.to_ranges(self._child.local_ts)),
            TsR(selectors=selectors.to_ranges(self._child.remote_ts)),
        )

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Take the answer."""
        assert sa.tunnel is not None
        assert self._child is not None
        auth, id_r = message.find(Auth), message.find(IdR)
        if sa.state is not SaState.AUTHENTICATING:
            # Deleted meanwhile: the Delete goes out next, if the SA stands at all.
            sa.core.free_esp_spi(self._spi_in)
            if auth is None:
                sa.close(now)
            return
        if auth is None or id_r is None:
            error = refusal(message, _CODES, "The peer refused our authentication")
            raise error or PeerError(
                NotifyType.AUTHENTICATION_FAILED, "ike.auth-method", "The peer wants another way to authenticate"
            )
        config = sa.tunnel.config
        if not identity.matches(config.remote.identity, id_r):
            raise _identity_mismatch(id_r, config.remote.identity, "remote.identity")
        _verify(sa, self._psk, auth, id_r, sa.init_response, sa.nonce_i, sa.keys.sk_pr)
        sa.establish(now)
        sa.report("ike.sa-established", f"IKE SA with {identity.describe(id_r)} established")
        sa.tunnel.sa_established(sa, now)
        if not sa.standing:  # superfluous beside another one
            sa.core.free_esp_spi(self._spi_in)
            return
        self._finish_child(sa, message, self._child, now)

    def abandoned(self, sa: IkeSa, now: float) -> None:
        """Give the SPI back."""
        sa.core.free_esp_spi(self._spi_in)

    def _finish_child(self, sa: IkeSa, message: Message, config: Child, now: float) -> None:
        assert sa.tunnel is not None
        error = refusal(message, CHILD_CODES, f"The peer refused child {config.name}")
        made = error is None
        try:
            if error is not None:
                error.configured = _describe_request(config, error.notify)
                raise error
            accepted = negotiation.accept_answer(config, message, pfs=False)
        except PeerError as error:
            sa.core.free_esp_spi(self._spi_in)
            sa.report_error(error)
            sa.tunnel.child_refused(config.name, error, now)
            if made:
                sa.enqueue(DeleteUnaccepted(self._spi_in), now)
            return
        child = sa.add_child(_agreement(sa, accepted, self._spi_in, initiator=True), now)
        install_own(sa, child, accepted, now)

    def failed(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """The answer is a refusal or not acceptable."""
        sa.core.free_esp_spi(self._spi_in)
        if error.code in ("ike.identity-mismatch", "ike.psk-mismatch"):
            # The peer believes that the SA stands: tell it (section 2.21.2).
            assert sa.tunnel is not None
            sa.report_error(error)
            sa.tunnel.note_error(error)
            sa.start_delete(now, NotifyType.AUTHENTICATION_FAILED)
        else:
            sa.fail(error, now)


def install_own(sa: IkeSa, child: ChildSa, accepted: Accepted, now: float) -> None:
    """Install a child that we asked for, outside a rekey."""
    _report_narrowing(sa, accepted)

    def installed(problem: str | None, then: float) -> None:
        latest = sa.latest()
        if child not in latest.children:
            return
        if problem is None:
            latest.child_up(child, then)
        else:
            install_failed(latest, child, problem, then)

    sa.core.install(sa, child, replaces=(), outbound_later=False, then=installed)


def install_failed(sa: IkeSa, child: ChildSa, problem: str, now: float) -> None:
    """The data plane refused a child the peer has already: delete it at the peer, tell the tunnel."""
    assert sa.tunnel is not None
    error = PeerError(
        NotifyType.TEMPORARY_FAILURE, "child.install-failed", f"The data plane refused child {child.name}: {problem}"
    )
    sa.report_error(error)
    sa.tunnel.child_refused(child.name, error, now)
    sa.enqueue(DeleteChildren((child,)), now)


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Answer IKE_AUTH: find the tunnel by identities, ask for its PSK, verify, make the child."""
    id_i, id_r, auth = message.find(IdI), message.find(IdR), message.find(Auth)
    assert id_i is not None
    tunnel = _find_tunnel(sa, message, id_i, id_r)
    sa.adopt(tunnel)
    if auth is None or auth.method != AuthMethod.SHARED_KEY_MIC:
        raise PeerError(
            NotifyType.AUTHENTICATION_FAILED,
            "ike.auth-method",
            "The peer authenticates by another method than a pre-shared key",
            received="EAP" if auth is None else f"method {auth.method}",
            configured="pre-shared key",
            field="ike",
            fatal=True,
        )
    proof = auth

    def with_psk(psk: Secret | None, then: float) -> None:
        if sa.state is not SaState.INIT_RECEIVED:
            return
        if psk is None:
            raise PeerError(
                NotifyType.AUTHENTICATION_FAILED,
                "ike.psk-missing",
                "No pre-shared key for this pair of addresses and identities",
                field="preshared_keys",
                fatal=True,
            )
        _verify(sa, psk, proof, id_i, sa.init_request, sa.nonce_r, sa.keys.sk_pi)
        _accept(sa, tunnel, psk, message, then)

    sa.core.find_psk(sa, tunnel, with_psk)


def _find_tunnel(sa: IkeSa, message: Message, id_i: IdI, id_r: IdR | None) -> TunnelRuntime:
    candidates = sa.core.candidates(sa.path.local_address, sa.path.remote_address)
    matching = [
        tunnel
        for tunnel in candidates
        if identity.matches(tunnel.config.remote.identity, id_i)
        and (id_r is None or identity.matches(tunnel.config.local.identity, id_r))
    ]
    if not matching:
        if len(candidates) == 1:
            sa.adopt(candidates[0])  # only to give the report its tunnel; the refusal ends this SA
            config = candidates[0].config
            if id_r is None or not identity.matches(config.remote.identity, id_i):
                raise _identity_mismatch(id_i, config.remote.identity, "remote.identity")
            raise _identity_mismatch(id_r, config.local.identity, "local.identity")
        raise PeerError(
            NotifyType.AUTHENTICATION_FAILED,
            "ike.no-tunnel",
            "No tunnel between these addresses has the peer's identities",
            received=identity.describe(id_i),
            configured="; ".join(identity.describe_own(each.config.remote.identity) for each in candidates[:8]) or None,
            field="remote.identity",
            fatal=True,
        )
    fitting = [tunnel for tunnel in matching if _has_suite(tunnel.config.ike.proposals, sa)]
    if not fitting:
        raise PeerError(
            NotifyType.NO_PROPOSAL_CHOSEN,
            "ike.no-proposal",
            "The IKE suite in use is not one of this tunnel's proposals",
            received=f"{sa.suite.encryption.slug} {sa.suite.prf.slug} {sa.suite.group.slug}",
            configured=proposals.describe_ike(matching[0].config.ike.proposals),
            field="ike.proposals",
            fatal=True,
        )
    # Tunnels with the same addresses and identities differ in their networks, if at all.
    ts_r = message.find(TsR)
    ranges = () if ts_r is None else ts_r.selectors
    return next((each for each in fitting if each.protects(ranges)), fitting[0])


def _has_suite(configured: tuple[IkeProposal, ...], sa: IkeSa) -> bool:
    suite = sa.suite
    return any(
        (each.encryption, each.integrity, each.prf, each.group)
        == (
            suite.encryption.slug,
            None if suite.integrity is None else suite.integrity.slug,
            suite.prf.slug,
            suite.group.slug,
        )
        for each in configured
    )


def _accept(sa: IkeSa, tunnel: TunnelRuntime, psk: Secret, message: Message, now: float) -> None:
    """The peer is who it says: answer with our proof and the child, once that is installed."""
    config = tunnel.config
    sa.core.authenticated(sa)
    if message.notify(NotifyType.INITIAL_CONTACT) is not None:
        tunnel.initial_contact(sa, now)
    id_r = identity.to_id_r(config.local.identity)
    auth = psk_auth(sa.suite.prf, psk, sa.init_response, sa.nonce_i, sa.keys.sk_pr, id_r.serialize(), sa.int_auth)
    proof = (id_r, Auth(method=AuthMethod.SHARED_KEY_MIC, data=auth))
    sa.state = SaState.AUTHENTICATING
    sa.expire_at = None

    def answer(child_payloads: tuple[Payload, ...], then: float) -> None:
        sa.respond((*proof, *child_payloads), then)
        sa.establish(then)
        sa.report("ike.sa-established", f"IKE SA with {identity.describe_own(config.remote.identity)} established")

    if message.find(SecurityAssociation) is None:  # childless initiation, RFC 6023
        answer((), now)
        tunnel.sa_established(sa, now)
        return
    try:
        accepted = negotiation.accept_request(
            config.children, message, pfs=False, is_live=lambda name: tunnel.live_child(name) is not None
        )
    except PeerError as error:
        sa.report_error(error)
        tunnel.child_refused(None, error, now)
        answer((Notify(type=error.notify, data=error.data),), now)
        tunnel.sa_established(sa, now)
        return
    _install_first_child(sa, tunnel, accepted, answer, now)


def _install_first_child(sa: IkeSa, tunnel: TunnelRuntime, accepted: Accepted, answer: _Answer, now: float) -> None:
    spi_in = sa.core.new_esp_spi()
    child = sa.add_child(_agreement(sa, accepted, spi_in, initiator=False), now)
    _report_narrowing(sa, accepted)

    def installed(problem: str | None, then: float) -> None:
        if sa.state is not SaState.AUTHENTICATING:
            return
        if problem is not None:
            error = PeerError(
                NotifyType.TEMPORARY_FAILURE,
                "child.install-failed",
                f"The data plane refused child {child.name}: {problem}",
            )
            sa.report_error(error)
            tunnel.child_refused(child.name, error, then)
            sa.remove_child(child, then)
            answer((Notify(type=NotifyType.TEMPORARY_FAILURE),), then)
        else:
            answer(
                (
                    proposals.answer_esp(accepted.choice, spi_in.to_bytes(4, "big")),
                    TsI(selectors=accepted.remote_ts),
                    TsR(selectors=accepted.local_ts),
                ),
                then,
            )
            sa.child_up(child, then)
        tunnel.sa_established(sa, then)

    sa.core.install(sa, child, replaces=(), outbound_later=False, then=installed)


def _agreement(sa: IkeSa, accepted: Accepted, spi_in: int, initiator: bool) -> Agreement:
    return Agreement(
        config=accepted.config,
        proposal=accepted.choice.proposal,
        group=None,
        local_ts=accepted.local_ts,
        remote_ts=accepted.remote_ts,
        spi_in=spi_in,
        spi_out=int.from_bytes(accepted.choice.peer_spi, "big"),
        initiator=initiator,
        nonce_i=sa.nonce_i,
        nonce_r=sa.nonce_r,
        shared=None,
    )


def _verify(
    sa: IkeSa, psk: Secret, auth: Auth, shown: Identification, first_message: bytes, nonce: bytes, sk_p: bytes
) -> None:
    """Raise PeerError unless the peer's AUTH payload proves that it has the PSK."""
    expected = psk_auth(sa.suite.prf, psk, first_message, nonce, sk_p, shown.serialize(), sa.int_auth)
    if auth.method != AuthMethod.SHARED_KEY_MIC:
        raise PeerError(
            NotifyType.AUTHENTICATION_FAILED,
            "ike.auth-method",
            "The peer authenticates by another method than a pre-shared key",
            received=f"method {auth.method}",
            configured="pre-shared key",
            field="ike",
            fatal=True,
        )
    if not hmac.compare_digest(expected, auth.data):
        raise PeerError(
            NotifyType.AUTHENTICATION_FAILED,
            "ike.psk-mismatch",
            f"Authentication of {identity.describe(shown)} failed: the pre-shared keys differ",
            received=identity.describe(shown),
            field="preshared_keys",
            fatal=True,
        )


def _identity_mismatch(shown: Identification, configured: Identity, field: str) -> PeerError:
    return PeerError(
        NotifyType.AUTHENTICATION_FAILED,
        "ike.identity-mismatch",
        "The identity the peer shows or asks for is not the configured one",
        received=identity.describe(shown),
        configured=identity.describe_own(configured),
        field=field,
        fatal=True,
    )


def _report_narrowing(sa: IkeSa, accepted: Accepted) -> None:
    if accepted.narrowed:
        sa.report(
            "child.narrowed",
            f"Traffic selectors of child {accepted.config.name} were narrowed",
            received=f"{selectors.describe_all(accepted.local_ts)} = {selectors.describe_all(accepted.remote_ts)}",
            configured=_describe_request(accepted.config, NotifyType.TS_UNACCEPTABLE),
            field="children.local_ts",
        )


def _describe_request(config: Child, notify: int) -> str:
    if notify == NotifyType.TS_UNACCEPTABLE:
        local, remote = selectors.to_ranges(config.local_ts), selectors.to_ranges(config.remote_ts)
        return f"{selectors.describe_all(local)} = {selectors.describe_all(remote)}"
    return proposals.describe_esp(config)
