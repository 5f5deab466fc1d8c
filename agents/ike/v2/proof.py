"""How each end proves itself in IKE_AUTH: by pre-shared key, or by a signature and a certificate chain.

RFC 7296 sections 2.15, 3.6 and 3.8, RFC 7427. Each direction may use another method. Signing is asked of the shell
(``Sign``), and so is whether a chain is good (``Validate``); the signature itself is checked here, with the public key
of a good chain and never before. Certificates are taken as they come in CERT payloads only: "hash and URL"
encodings are passed over, nothing is fetched for them. Not here: the exchange (:mod:`agents.ike.v2.tasks.auth`).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from agents.contract import algorithms
from agents.contract.algorithms import Signature
from agents.contract.config import AuthKind, Tunnel
from agents.contract.events import KINDS
from agents.contract.secret import Secret
from agents.ike import identity
from agents.ike.credentials import OwnCertificate
from agents.ike.crypto import signature
from agents.ike.crypto.errors import SignatureError
from agents.ike.errors import PeerError
from agents.ike.outputs import Verdict
from agents.ike.v2.announce import accepted_signatures
from agents.ike.v2.keymat import auth_octets, psk_auth
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import Auth, Cert, Identification, IdI, IdR
from agents.ike.wire.registry import AuthMethod, CertEncoding, NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa

_Answer = TypeVar("_Answer")

MOST_CERTIFICATES = 10
MOST_CERTIFICATE_OCTETS = 28_000
PSK = "psk"
_KINDS = {AuthKind.PSK: "a pre-shared key", AuthKind.CERTIFICATE: "a certificate"}
_METHODS = {int(AuthMethod.SHARED_KEY_MIC): "a pre-shared key", int(AuthMethod.DIGITAL_SIGNATURE): "a signature"}
_HASH_NAMES = {number: name for name, number in signature.HASH_NUMBERS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Our proof: ``plain`` is the one by the keys without post-quantum key, where both are wanted (RFC 8784)."""

    slug: str
    auth: Auth
    plain: bytes | None = None
    certificates: tuple[Cert, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the peer shows: its identity, AUTH's method and data, and the SK_p of that end they are to be judged by."""

    shown: Identification
    method: int
    data: bytes
    sk_p: bytes
    message: Message
    with_ppk: bool


class Wrap(Protocol):
    """Makes of a step one that the shell's answer may be given to at any time, whatever became of the SA."""

    def __call__(self, step: Callable[[_Answer, float], None], /) -> Callable[[_Answer, float], None]:
        """Return the step, guarded."""
        ...


Proven = Callable[[str, float], None]
"""Called with how the peer has proven itself: ``psk`` or a signature's slug."""


def own_identity(sa: IkeSa) -> IdI | IdR:
    """Return the ID payload of our end. Raises PeerError when the document's identity cannot be sent."""
    assert sa.tunnel is not None
    config = sa.tunnel.config
    own = sa.core.hub.credentials.certificate(config.local_auth.certificate)
    make = identity.to_id_i if sa.initiator else identity.to_id_r
    try:
        return make(config.local.identity, None if own is None else own.subject)
    except ValueError as error:
        raise PeerError(
            NotifyType.AUTHENTICATION_FAILED,
            "ike.identity-mismatch",
            f"This end's identity cannot be sent: {error}",
            configured=identity.describe_own(config.local.identity),
            field="local.identity",
            fatal=True,
        ) from None


def prove(
    sa: IkeSa,
    sk_ps: Sequence[bytes],
    shown: IdI | IdR,
    psk: Secret | None,
    then: Callable[[Proof, float], None],
    now: float,
    wrap: Wrap,
) -> None:
    """Make our proof by each of these SK_p, the one for AUTH first. Raises PeerError when we cannot."""
    assert sa.tunnel is not None
    config = sa.tunnel.config
    if config.local_auth.kind is AuthKind.PSK:
        assert psk is not None
        data = [
            psk_auth(sa.suite.prf, psk, *_sides(sa, sa.initiator), sk_p, shown.serialize(), sa.int_auth)
            for sk_p in sk_ps
        ]
        auth = Auth(method=AuthMethod.SHARED_KEY_MIC, data=data[0])
        then(Proof(slug=PSK, auth=auth, plain=data[1] if len(data) > 1 else None), now)
    else:
        _sign(sa, [_octets(sa, sa.initiator, shown, sk_p) for sk_p in sk_ps], then, wrap)


def _sign(sa: IkeSa, wanted: Sequence[bytes], then: Callable[[Proof, float], None], wrap: Wrap) -> None:
    """Ask for one signature after the other, then hand over the proof."""
    assert sa.tunnel is not None
    config = sa.tunnel.config
    own = sa.core.hub.credentials.certificate(config.local_auth.certificate)
    if own is None:
        raise _own_problem(config, "This gateway's certificate cannot be read")
    row = _choose(sa, config, own)
    made: list[bytes] = []

    def signed(bare: bytes | None, at: float) -> None:
        if bare is None:
            raise _own_problem(config, "The private key of this gateway's certificate is not there or cannot sign")
        made.append(signature.auth_data(row, bare))
        if len(made) < len(wanted):
            sa.core.hub.questions.sign(sa, config, own.id, row.slug, wanted[len(made)], wrap(signed))
            return
        certificates = tuple(Cert(encoding=CertEncoding.X509_SIGNATURE, data=each) for each in own.chain)
        auth = Auth(method=row.method, data=made[0])
        plain = made[1] if len(made) > 1 else None
        then(Proof(slug=row.slug, auth=auth, plain=plain, certificates=certificates), at)

    sa.core.hub.questions.sign(sa, config, own.id, row.slug, wanted[0], wrap(signed))


def check(sa: IkeSa, claim: Claim, psk: Secret | None, then: Proven, now: float, wrap: Wrap) -> None:
    """Judge the peer's proof and call ``then`` when it is good. Raises PeerError, now or in an answer of the shell."""
    assert sa.tunnel is not None
    config = sa.tunnel.config
    by_psk = claim.method == AuthMethod.SHARED_KEY_MIC
    if by_psk != (config.remote_auth.kind is AuthKind.PSK):
        raise _other_method(config, _METHODS.get(claim.method, f"method {claim.method}"))
    if by_psk:
        assert psk is not None
        _check_psk(sa, claim, psk)
        then(PSK, now)
    else:
        _check_signature(sa, config, claim, then, wrap)


def _sides(sa: IkeSa, by_initiator: bool) -> tuple[bytes, bytes]:
    """Return the first message of the end that proves itself, and the other end's nonce."""
    return (sa.init_request, sa.nonce_r) if by_initiator else (sa.init_response, sa.nonce_i)


def _octets(sa: IkeSa, by_initiator: bool, shown: Identification, sk_p: bytes) -> bytes:
    return auth_octets(sa.suite.prf, *_sides(sa, by_initiator), sk_p, shown.serialize(), sa.int_auth)


def _choose(sa: IkeSa, config: Tunnel, own: OwnCertificate) -> Signature:
    """Return how we sign: the first configured way, or the best, that key and peer allow. Raises PeerError.

    What is weak counts only where it is configured by name.
    """
    possible = signature.usable(own.public_key, sa.auth.peer_hashes)
    wanted = config.local_auth.signatures or tuple(slug for slug in possible if not algorithms.SIGNATURE[slug].weakness)
    slug = next((each for each in wanted if each in possible), None)
    if slug is not None:
        return algorithms.SIGNATURE[slug]
    hashes = sa.auth.peer_hashes
    raise PeerError(
        NotifyType.AUTHENTICATION_FAILED,
        "ike.signature-unsupported",
        "This gateway's key cannot sign in a way that the peer takes and the tunnel allows",
        received="no SIGNATURE_HASH_ALGORITHMS"
        if hashes is None
        else "hashes " + ", ".join(_HASH_NAMES.get(each, str(each)) for each in sorted(hashes)[:16]),
        configured=", ".join(config.local_auth.signatures) or "whatever is not weak",
        field="local_auth.signatures",
        fatal=True,
    )


def _check_psk(sa: IkeSa, claim: Claim, psk: Secret) -> None:
    sides = _sides(sa, not sa.initiator)
    expected = psk_auth(sa.suite.prf, psk, *sides, claim.sk_p, claim.shown.serialize(), sa.int_auth)
    if not hmac.compare_digest(expected, claim.data):
        raise PeerError(
            NotifyType.AUTHENTICATION_FAILED,
            "ike.psk-mismatch",
            f"Authentication of {identity.describe(claim.shown)} failed: the pre-shared keys differ"
            + (", or the post-quantum keys do" if claim.with_ppk else ""),
            received=identity.describe(claim.shown),
            field="preshared_keys",
            fatal=True,
        )


def _check_signature(sa: IkeSa, config: Tunnel, claim: Claim, then: Proven, wrap: Wrap) -> None:
    chain = _chain(claim.message)
    accepted = accepted_signatures(config.remote_auth)
    try:
        row, bare = signature.parse_auth(claim.method, claim.data)
    except SignatureError as error:
        raise _refused(str(error), _METHODS.get(claim.method, f"method {claim.method}"), accepted) from None
    if row.slug not in accepted:
        raise _refused(f"The peer signs by {row.label}", row.slug, accepted)
    octets = _octets(sa, not sa.initiator, claim.shown, claim.sk_p)

    def judged(verdict: Verdict, at: float) -> None:
        if verdict.public_key is None:
            raise _chain_refused(verdict)
        try:
            signature.verify(verdict.public_key, row, bare, octets)
        except SignatureError as error:
            raise PeerError(
                NotifyType.AUTHENTICATION_FAILED,
                "ike.signature-mismatch",
                f"Authentication of {identity.describe(claim.shown)} failed: {error}"
                + (", or the post-quantum keys differ" if claim.with_ppk else ""),
                received=row.slug,
                field="remote_auth",
                fatal=True,
            ) from None
        then(row.slug, at)

    assert sa.tunnel is not None
    sa.core.hub.questions.validate(sa, sa.tunnel.config, chain, (claim.shown.id_type, claim.shown.data), wrap(judged))


def _chain(message: Message) -> tuple[bytes, ...]:
    """Return the certificates of a message, the leaf first. Raises PeerError where there are none or too many."""
    shown = [payload for payload in message.payloads if isinstance(payload, Cert)]
    chain = tuple(each.data for each in shown if each.encoding == CertEncoding.X509_SIGNATURE)
    if not chain:
        others = ", ".join(sorted({str(each.encoding) for each in shown})[:8])
        raise PeerError(
            NotifyType.AUTHENTICATION_FAILED,
            "ike.certificate-missing",
            "The peer sent no X.509 certificate along with its signature",
            received=f"certificate encodings {others}, which are not taken" if others else "no certificate",
            configured="a certificate",
            field="remote_auth.kind",
            fatal=True,
        )
    octets = sum(len(each) for each in chain)
    if len(chain) > MOST_CERTIFICATES or octets > MOST_CERTIFICATE_OCTETS:
        raise PeerError(
            NotifyType.AUTHENTICATION_FAILED,
            "ike.certificate-invalid",
            "The peer sent too many certificates, or too large ones",
            received=f"{len(chain)} certificates of {octets} octets",
            configured=f"at most {MOST_CERTIFICATES} of {MOST_CERTIFICATE_OCTETS} octets together",
            field="remote_auth",
            fatal=True,
        )
    return chain


def _other_method(config: Tunnel, received: str) -> PeerError:
    configured = _KINDS[config.remote_auth.kind]
    return PeerError(
        NotifyType.AUTHENTICATION_FAILED,
        "ike.auth-method",
        f"The peer authenticates by {received}, not by {configured}",
        received=received,
        configured=configured,
        field="remote_auth.kind",
        fatal=True,
    )


def _refused(message: str, received: str, accepted: Sequence[str]) -> PeerError:
    return PeerError(
        NotifyType.AUTHENTICATION_FAILED,
        "ike.signature-refused",
        message,
        received=received,
        configured=", ".join(accepted)[:400],
        field="remote_auth.signatures",
        fatal=True,
    )


def _chain_refused(verdict: Verdict) -> PeerError:
    code = verdict.code if verdict.code in KINDS else "ike.certificate-invalid"
    return PeerError(
        NotifyType.AUTHENTICATION_FAILED,
        code,
        verdict.message[:500] or KINDS[code].summary,
        received=verdict.received or verdict.subject or None,
        configured=verdict.configured,
        fatal=True,
    )


def _own_problem(config: Tunnel, message: str) -> PeerError:
    return PeerError(
        NotifyType.AUTHENTICATION_FAILED,
        "ike.certificate-own",
        message,
        configured=config.local_auth.certificate,
        field="local_auth.certificate",
        fatal=True,
    )
