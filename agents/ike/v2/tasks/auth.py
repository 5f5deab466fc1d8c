"""IKE_AUTH (RFC 7296 sections 1.2, 2.15, 2.16): identities, both proofs, the first child.

::

    initiator                                   responder
    SK {IDi, [CERT+,] [N(INITIAL_CONTACT),] [CERTREQ,] [IDr,] AUTH, SA, TSi, TSr} -->
                                      <--       SK {IDr, [CERT+,] AUTH, SA, TSi, TSr}
                                      <--       SK {IDr, [CERT+,] AUTH, N(error)}   only the IKE SA stands
                                      <--       SK {N(AUTHENTICATION_FAILED)}

Without SA, TSi and TSr the IKE SA comes up without a child (RFC 6023). Which of several tunnels between two addresses
is meant is known only here (:mod:`agents.ike.v2.selection`). Making and judging a proof may take the shell's help and
so time (:mod:`agents.ike.v2.proof`): every step that follows asks first whether the SA still wants it. EAP, a second
round of authentication (RFC 4739) and configuration payloads (section 2.19) are recognised and refused; nothing of them
is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from agents.contract.config import AuthKind, Childless, Tunnel, UniquePolicy
from agents.contract.secret import Secret
from agents.ike import identity
from agents.ike.errors import PeerError
from agents.ike.timers import HALF_OPEN_S
from agents.ike.v2 import announce, ppk, proof
from agents.ike.v2.keymat import IkeKeys
from agents.ike.v2.proof import Claim, Proof
from agents.ike.v2.selection import find_tunnel, identity_mismatch
from agents.ike.v2.states import SaState
from agents.ike.v2.tasks import first
from agents.ike.v2.tasks.base import Task, refusal
from agents.ike.v2.tasks.first import FirstChild
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import (
    Auth,
    IdI,
    IdR,
    Notify,
    Opaque,
    Payload,
    SecurityAssociation,
)
from agents.ike.wire.registry import Exchange, NotifyType, PayloadType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa
    from agents.ike.v2.tunnel import TunnelRuntime

_CODES = {int(NotifyType.AUTHENTICATION_FAILED): "ike.peer-refused-auth"}
_CHILDLESS_STARTS = (Childless.PREFER, Childless.FORCE)
_Answer = TypeVar("_Answer")


# --- the initiator


def begin(sa: IkeSa, now: float) -> None:
    """Go on with IKE_AUTH as the initiator: all exchanges before it are done, ``sa.keys`` are final.

    A PeerError on the way ends the SA; the peer has nothing of it yet.
    """
    assert sa.tunnel is not None
    config = sa.tunnel.config

    def failing(step: Callable[[_Answer, float], None]) -> Callable[[_Answer, float], None]:
        def run(answer: _Answer, then: float) -> None:
            if sa.state is not SaState.AUTHENTICATING:
                return
            try:
                step(answer, then)
            except PeerError as error:
                sa.fail(error, then)

        return run

    def with_psk(psk: Secret | None, then: float) -> None:
        if psk is None and config.needs_psk:
            raise _psk_missing()
        _check_childless_support(sa, config)
        mixed = ppk.offered(sa, config)
        keys = sa.keys if mixed is None else mixed
        sk_ps = (keys.sk_pi,) if mixed is None or config.ppk_required else (keys.sk_pi, sa.keys.sk_pi)
        shown = proof.own_identity(sa)

        def proven(own: Proof, at: float) -> None:
            sa.expire_at = None
            sa.enqueue(Authenticate(shown, own, psk, mixed), at)

        proof.prove(sa, sk_ps, shown, psk, proven, then, failing)

    sa.expire_at = now + HALF_OPEN_S  # for a shell that never answers
    if config.needs_psk:
        sa.core.hub.questions.find_psk(sa, sa.tunnel.config, failing(with_psk))
    else:
        failing(with_psk)(None, now)


def _check_childless_support(sa: IkeSa, config: Tunnel) -> None:
    if config.ike.childless is Childless.FORCE and not sa.auth.childless:
        raise PeerError(
            NotifyType.AUTHENTICATION_FAILED,
            "ike.childless-unsupported",
            "The peer does not take IKE SAs without a child",
            received="no CHILDLESS_IKEV2_SUPPORTED",
            configured=str(config.ike.childless),
            field="ike.childless",
        )


class Authenticate(Task):
    """The initiator's proof, and the request for the tunnel's first child unless it comes up childless."""

    exchange = Exchange.IKE_AUTH

    def __init__(self, shown: IdI | IdR, own: Proof, psk: Secret | None, mixed: IkeKeys | None) -> None:
        self._shown = shown
        self._own = own
        self._psk = psk
        self._mixed = mixed
        self._child: FirstChild | None = None
        self._stands_at_peer = False

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        assert sa.tunnel is not None
        config = sa.tunnel.config
        sa.auth.local = self._own.slug
        childless = config.ike.childless in _CHILDLESS_STARTS and sa.auth.childless
        if not childless:
            self._child = FirstChild(sa, config.children[0])
        return (
            self._shown,
            *self._own.certificates,
            *((Notify(type=NotifyType.INITIAL_CONTACT),) if sa.tunnel.starts_anew(sa) else ()),
            *announce.certificate_requests(sa, (config,)),
            *((identity.to_id_r(config.remote.identity),) if _can_be_asked_for(config) else ()),
            self._own.auth,
            *self._ppk_payloads(config),
            *(() if self._child is None else self._child.payloads()),
        )

    def _ppk_payloads(self, config: Tunnel) -> tuple[Notify, ...]:
        if self._mixed is None or config.ppk is None:
            return ()
        plain = self._own.plain
        without = () if plain is None else (Notify(type=NotifyType.NO_PPK_AUTH, data=plain),)
        return (ppk.identity_notify(config.ppk), *without)

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Take the answer."""
        assert sa.tunnel is not None
        auth, id_r = message.find(Auth), message.find(IdR)
        if sa.state is not SaState.AUTHENTICATING:
            # Deleted meanwhile: the Delete goes out next, if the SA stands at all.
            self._release(sa)
            if auth is None:
                sa.close(now)
            return
        if auth is None or id_r is None:
            raise _no_proof(sa, message)
        self._stands_at_peer = True
        config = sa.tunnel.config
        if not identity.matches(config.remote.identity, id_r):
            raise identity_mismatch(id_r, config.remote.identity, "remote.identity")
        with_ppk = self._mixed is not None and ppk.used(config, message)
        if self._mixed is not None and not with_ppk:
            ppk.report_unused(sa, config, "no PPK_IDENTITY")
        keys = self._mixed if self._mixed is not None and with_ppk else sa.keys
        claim = Claim(
            shown=id_r, method=auth.method, data=auth.data, sk_p=keys.sk_pr, message=message, with_ppk=with_ppk
        )

        def failing(step: Callable[[_Answer, float], None]) -> Callable[[_Answer, float], None]:
            def run(answer: _Answer, then: float) -> None:
                if sa.state is not SaState.AUTHENTICATING:
                    self._release(sa)
                    return
                try:
                    step(answer, then)
                except PeerError as error:
                    self.failed(sa, error, then)

            return run

        def proven(slug: str, then: float) -> None:
            sa.protection.keys = keys
            sa.auth.ppk = with_ppk
            self._proven(sa, message, id_r, slug, then)

        sa.expire_at = now + HALF_OPEN_S  # for a shell that never answers; establishing sets another
        proof.check(sa, claim, self._psk, proven, now, failing)

    def _proven(self, sa: IkeSa, message: Message, id_r: IdR, slug: str, now: float) -> None:
        assert sa.tunnel is not None
        sa.auth.remote, sa.auth.identity = slug, id_r
        sa.establish(now)
        sa.report("ike.sa-established", f"IKE SA with {identity.describe(id_r)} established")
        sa.tunnel.sa_established(sa, now)
        if not sa.standing:  # superfluous beside another one
            self._release(sa)
        elif self._child is not None:
            self._child.answered(sa, message, now)
        sa.start_next(now)

    def _release(self, sa: IkeSa) -> None:
        if self._child is not None:
            self._child.release(sa)

    def failed(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """The answer is a refusal or not acceptable."""
        self._release(sa)
        if not self._stands_at_peer:
            sa.fail(error, now)
            return
        # The peer believes that the SA stands: tell it (section 2.21.2).
        assert sa.tunnel is not None
        sa.report_error(error)
        sa.tunnel.note_error(error)
        sa.tunnel.try_again_later(now)
        sa.start_delete(now, NotifyType.AUTHENTICATION_FAILED)


def _can_be_asked_for(config: Tunnel) -> bool:
    """Return whether the peer's identity is one that IDr can carry: exact, and a name where it claims to be one."""
    if not config.remote.identity.exact:
        return False
    try:
        identity.to_id_r(config.remote.identity)
    except ValueError:
        return False
    return True


def _no_proof(sa: IkeSa, message: Message) -> PeerError:
    """Return what an answer without AUTH means: a refusal, or that the peer wants something that is not done here."""
    assert sa.tunnel is not None
    config = sa.tunnel.config
    if any(isinstance(each, Opaque) and each.type == PayloadType.EAP for each in message.payloads):
        return _eap_refused(config, "The peer wants EAP")
    error = refusal(message, _CODES, "The peer refused our authentication")
    if error is None:
        return PeerError(
            NotifyType.AUTHENTICATION_FAILED, "ike.auth-method", "The peer's answer has no proof of its identity"
        )
    if error.code == "ike.peer-refused-auth":
        error.configured = _describe_own_proof(sa, config)
        error.field = "preshared_keys" if config.local_auth.kind is AuthKind.PSK else "local_auth.certificate"
    return error


def _describe_own_proof(sa: IkeSa, config: Tunnel) -> str:
    text = f"{identity.describe_own(config.local.identity)} by {sa.auth.local}"
    own = sa.core.hub.credentials.certificate(config.local_auth.certificate)
    if own is not None and sa.auth.authorities and not sa.auth.authorities & own.authorities:
        text += "; none of the CAs that the peer asks for is above that certificate"
    return text


# --- the responder


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Answer IKE_AUTH: find the tunnel by identities, judge the peer's proof, make ours, then the child."""
    id_i, auth = message.find(IdI), message.find(Auth)
    assert id_i is not None
    tunnel = find_tunnel(sa, message, id_i, message.find(IdR))
    sa.adopt(tunnel)
    config = tunnel.config
    if auth is None:
        raise _eap_refused(config, "The peer wants EAP: not offered by this tunnel")
    if message.notify(NotifyType.ANOTHER_AUTH_FOLLOWS) is not None:
        raise PeerError(
            NotifyType.AUTHENTICATION_FAILED,
            "ike.multiple-auth-refused",
            "The peer wants to authenticate a second time: not offered by this tunnel",
            received="ANOTHER_AUTH_FOLLOWS",
            configured="one authentication",
            field="remote_auth.kind",
            fatal=True,
        )
    sa.auth.authorities |= announce.authorities(message)
    mixed = ppk.chosen(sa, config, message)
    plain = None
    if mixed is None and message.notify(NotifyType.PPK_IDENTITY) is not None:
        plain = ppk.plain_proof(message)
    keys = sa.keys if mixed is None else mixed
    data = auth.data if plain is None else plain
    claim = Claim(
        shown=id_i, method=auth.method, data=data, sk_p=keys.sk_pi, message=message, with_ppk=mixed is not None
    )

    def with_psk(psk: Secret | None, then: float) -> None:
        if sa.state is not SaState.INIT_RECEIVED:
            return
        if psk is None and config.needs_psk:
            raise _psk_missing()

        def proven(slug: str, at: float) -> None:
            sa.auth.remote, sa.auth.identity = slug, id_i
            sa.auth.ppk = mixed is not None
            sa.protection.keys = keys
            _admit(sa, psk, message, at)

        proof.check(sa, claim, psk, proven, then, _while(sa, SaState.INIT_RECEIVED))

    if config.needs_psk:
        sa.core.hub.questions.find_psk(
            sa, tunnel.config, with_psk, None if config.remote.identity.exact else identity.from_shown(id_i)
        )
    else:
        with_psk(None, now)


def _while(sa: IkeSa, state: SaState) -> proof.Wrap:
    """Return a wrapper that passes an answer over when the SA is not in this state any more."""

    def wrap(step: Callable[[_Answer, float], None]) -> Callable[[_Answer, float], None]:
        def run(answer: _Answer, then: float) -> None:
            if sa.state is state:
                step(answer, then)

        return run

    return wrap


def _admit(sa: IkeSa, psk: Secret | None, message: Message, now: float) -> None:
    """The peer is who it says: see whether policies let it in, and make our proof. Raises PeerError."""
    sa.core.authenticated(sa)
    assert sa.auth.identity is not None
    tunnel = sa.core.admit(sa, sa.auth.identity)
    _check_childless(tunnel.config, message)
    fresh = message.notify(NotifyType.INITIAL_CONTACT) is not None
    rival = tunnel.kept_beside(sa)
    if rival is not None and not fresh:
        raise PeerError(
            NotifyType.AUTHENTICATION_FAILED,
            "ike.unique-kept",
            f"{identity.describe(sa.auth.identity)} has an IKE SA already, which the unique policy keeps",
            received=identity.describe(sa.auth.identity),
            configured=str(UniquePolicy.KEEP),
            field="ike.unique",
            fatal=True,
        )
    _report_configuration(sa, message)
    sa.state = SaState.AUTHENTICATING
    sa.expire_at = now + HALF_OPEN_S  # for a shell that never answers
    shown = proof.own_identity(sa)

    def proven(own: Proof, then: float) -> None:
        if fresh:
            tunnel.initial_contact(sa, then)
        sa.expire_at = None
        sa.auth.local = own.slug
        _accept(sa, tunnel, shown, own, message, then)

    proof.prove(sa, (sa.keys.sk_pr,), shown, psk, proven, now, _while(sa, SaState.AUTHENTICATING))


def _accept(sa: IkeSa, tunnel: TunnelRuntime, shown: IdI | IdR, own: Proof, message: Message, now: float) -> None:
    """Answer with our proof and the child, once that is installed."""
    used_ppk = (Notify(type=NotifyType.PPK_IDENTITY),) if sa.auth.ppk else ()

    def answer(child_payloads: tuple[Payload, ...], then: float) -> None:
        assert sa.auth.identity is not None
        sa.respond((shown, *own.certificates, own.auth, *used_ppk, *child_payloads), then)
        sa.establish(then)
        sa.report("ike.sa-established", f"IKE SA with {identity.describe(sa.auth.identity)} established")

    if message.find(SecurityAssociation) is None:
        answer((), now)
        tunnel.sa_established(sa, now)
        return
    first.respond(sa, tunnel, message, answer, now)


def _check_childless(config: Tunnel, message: Message) -> None:
    """Raise PeerError where the request has a child, or none, and the policy does not want it so (RFC 6023)."""
    childless, policy = message.find(SecurityAssociation) is None, config.ike.childless
    refused = policy is Childless.NEVER if childless else policy is Childless.FORCE
    if refused:
        raise PeerError(
            NotifyType.INVALID_SYNTAX,
            "ike.childless-refused",
            "The peer asks for no child along with the IKE SA" if childless else "The peer asks for a child at once",
            received="no SA payload" if childless else "SA, TSi and TSr",
            configured=str(policy),
            field="ike.childless",
            fatal=True,
        )


def _report_configuration(sa: IkeSa, message: Message) -> None:
    if first.wants_configuration(message):
        sa.report(
            "ike.configuration-ignored",
            "The peer asks for an inner address or other settings: not offered by this tunnel",
            received="CP(CFG_REQUEST)",
        )


def _eap_refused(config: Tunnel, message: str) -> PeerError:
    configured = "a pre-shared key" if config.remote_auth.kind is AuthKind.PSK else "a certificate"
    return PeerError(
        NotifyType.AUTHENTICATION_FAILED,
        "ike.eap-refused",
        message,
        received="EAP",
        configured=configured,
        field="remote_auth.kind",
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
