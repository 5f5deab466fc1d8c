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
from typing import TYPE_CHECKING

from agents.contract.config import Identity, IkeProposal
from agents.contract.secret import Secret
from agents.ike import proposals
from agents.ike.crypto.suite import IkeSuite
from agents.ike.errors import PeerError
from agents.ike.v2 import identity
from agents.ike.v2.keymat import psk_auth
from agents.ike.v2.states import SaState
from agents.ike.v2.tasks import first
from agents.ike.v2.tasks.base import Task, refusal
from agents.ike.v2.tasks.first import FirstChild
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import (
    Auth,
    Identification,
    IdI,
    IdR,
    Notify,
    Payload,
    SecurityAssociation,
    TsR,
)
from agents.ike.wire.registry import AuthMethod, Exchange, NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa
    from agents.ike.v2.tunnel import TunnelRuntime

_CODES = {int(NotifyType.AUTHENTICATION_FAILED): "ike.peer-refused-auth"}


def begin(sa: IkeSa, now: float) -> None:
    """Go on with IKE_AUTH as the initiator: all exchanges before it are done, ``sa.keys`` are final."""
    assert sa.tunnel is not None

    def with_psk(psk: Secret | None, then: float) -> None:
        if sa.state is not SaState.AUTHENTICATING:
            return
        if psk is None:
            sa.fail(_psk_missing(), then)
            return
        sa.enqueue(Authenticate(psk), then)

    sa.core.find_psk(sa, sa.tunnel, with_psk)


class Authenticate(Task):
    """The initiator's proof, and the request for the tunnel's first child."""

    exchange = Exchange.IKE_AUTH

    def __init__(self, psk: Secret) -> None:
        self._psk = psk
        self._child: FirstChild | None = None

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        assert sa.tunnel is not None
        config = sa.tunnel.config
        self._child = FirstChild(sa, config.children[0])
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
            *self._child.payloads(),
        )

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Take the answer."""
        assert sa.tunnel is not None
        assert self._child is not None
        auth, id_r = message.find(Auth), message.find(IdR)
        if sa.state is not SaState.AUTHENTICATING:
            # Deleted meanwhile: the Delete goes out next, if the SA stands at all.
            self._child.release(sa)
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
            self._child.release(sa)
            return
        self._child.answered(sa, message, now)

    def failed(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """The answer is a refusal or not acceptable."""
        assert self._child is not None
        self._child.release(sa)
        if error.code in ("ike.identity-mismatch", "ike.psk-mismatch"):
            # The peer believes that the SA stands: tell it (section 2.21.2).
            assert sa.tunnel is not None
            sa.report_error(error)
            sa.tunnel.note_error(error)
            sa.start_delete(now, NotifyType.AUTHENTICATION_FAILED)
        else:
            sa.fail(error, now)


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
            raise _psk_missing()
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
    return any(IkeSuite.from_proposal(each) == sa.suite for each in configured)


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
    first.respond(sa, tunnel, message, answer, now)


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


def _psk_missing() -> PeerError:
    return PeerError(
        NotifyType.AUTHENTICATION_FAILED,
        "ike.psk-missing",
        "No pre-shared key for this pair of addresses and identities",
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
