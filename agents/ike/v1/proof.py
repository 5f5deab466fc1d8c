"""How each end proves itself in phase 1: by HASH_I and HASH_R, with a pre-shared key or signed (RFC 2409 section 5).

Both ends use one method; the suite says which. Signing is asked of the shell (``Sign``), and so is whether a chain is
good (``Validate``); a signature is checked here, with the public key of a good chain and never before. Not here: the
exchanges (:mod:`agents.ike.v1.tasks`).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from agents.contract import ikev1
from agents.contract.config import AuthKind, Tunnel
from agents.ike import identity
from agents.ike.credentials import Credentials
from agents.ike.crypto import hash_signature
from agents.ike.crypto.errors import SignatureError
from agents.ike.errors import PeerError
from agents.ike.outputs import Verdict
from agents.ike.v1 import place
from agents.ike.v1.phase1 import proof_octets
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import Cert, CertReq, Hash, Identification, Payload, Signature
from agents.ike.wire.isakmp.registry import CertEncoding, Flag, NotifyType

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa

_Answer = TypeVar("_Answer")

PSK = "psk"
MOST_CERTIFICATES = 10
MOST_CERTIFICATE_OCTETS = 28_000
_MOST_AUTHORITIES = 16
_SLUGS = {number: slug for slug, number in ikev1.SIGNATURE.items()}


def method_of(config: Tunnel, credentials: Credentials) -> int | None:
    """Return the number of the authentication method of a tunnel; None where our certificate cannot be used."""
    if config.local_auth.kind is AuthKind.PSK:
        return ikev1.PSK_METHOD
    own = credentials.certificate(config.local_auth.certificate)
    slug = None if own is None else hash_signature.slug_for(own.public_key)
    return None if slug is None else ikev1.SIGNATURE[slug]


def own_identity(config: Tunnel, credentials: Credentials) -> Identification:
    """Return the ID payload of our end. Raises PeerError when the document's identity cannot be sent."""
    own = credentials.certificate(config.local_auth.certificate)
    try:
        id_type, data = identity.to_payload(config.local.identity, None if own is None else own.subject)
    except ValueError as error:
        raise PeerError(
            0,
            "ike.certificate-own",
            f"The identity of this end cannot be sent: {error}",
            configured=identity.describe_own(config.local.identity),
            field="local.identity",
            fatal=True,
        ) from None
    return Identification(id_type=id_type, data=data)


def certificate_requests(configs: Iterable[Tunnel], credentials: Credentials) -> tuple[CertReq, ...]:
    """Return the CERTREQs for the CAs these tunnels trust, one each (RFC 2408 section 3.10)."""
    policies = [each.remote_auth for each in configs if each.remote_auth.kind is AuthKind.CERTIFICATE]
    found = dict.fromkeys(each for policy in policies for each in credentials.anchor_names(policy))
    return tuple(CertReq(encoding=CertEncoding.X509_SIGNATURE, data=each) for each in list(found)[:_MOST_AUTHORITIES])


def prove(sa: IsakmpSa, then: Callable[[tuple[Payload, ...], float], None], now: float) -> None:
    """Make our proof and call ``then`` with its payloads. Raises PeerError, now or in an answer of the shell."""
    if sa.suite.method == ikev1.PSK_METHOD:
        sa.phase1.local = PSK
        then((Hash(data=proof_octets(sa, sa.initiator)),), now)
        return
    assert sa.tunnel is not None
    config, slug = sa.tunnel.config, _SLUGS[sa.suite.method]
    own = sa.core.hub.credentials.certificate(config.local_auth.certificate)
    if own is None:
        raise _own_problem(config, "This gateway's certificate cannot be read")

    def signed(bare: bytes | None, at: float) -> None:
        if bare is None:
            raise _own_problem(config, "The private key of this gateway's certificate is not there or cannot sign")
        sa.phase1.local = slug
        certificates = tuple(Cert(encoding=CertEncoding.X509_SIGNATURE, data=each) for each in own.chain)
        then((*certificates, Signature(data=bare)), at)

    octets = proof_octets(sa, sa.initiator, hash_signature.hash_prf(slug, sa.suite.prf))
    sa.core.hub.questions.sign(sa, config, own.id, slug, octets, awaited(sa, signed))


def awaited(sa: IsakmpSa, step: Callable[[_Answer, float], None]) -> Callable[[_Answer, float], None]:
    """Return a step for an answer of the shell: until it comes no message is taken; a closed SA wants it no more."""
    sa.waiting = True

    def run(answer: _Answer, at: float) -> None:
        if sa.progressing and sa.waiting:
            sa.waiting = False
            step(answer, at)

    return run


def check_hash(sa: IsakmpSa, message: Message, step: int) -> None:
    """Compare the peer's hash, which a pre-shared key has made. Raises PeerError."""
    shown = message.find(Hash)
    if shown is None:
        raise _wrong_method(sa, "a signature" if message.find(Signature) is not None else "nothing")
    if not hmac.compare_digest(shown.data, proof_octets(sa, not sa.initiator)):
        raise PeerError(
            NotifyType.INVALID_HASH_INFORMATION,
            "ikev1.psk-mismatch",
            f"Mismatching pre-shared keys detected {place.phase1(sa, step).sentence}: the hash is wrong",
            received="another hash than our pre-shared key makes",
            field="preshared_keys",
            fatal=sa.initiator or bool(message.header.flags & Flag.ENCRYPTED),  # in clear it can be anybody's
        )
    sa.phase1.remote = PSK


def check_signature(
    sa: IsakmpSa, message: Message, shown: Identification, then: Callable[[float], None], now: float
) -> None:
    """Have the peer's chain judged, check its signature and call ``then``. Raises PeerError, now or later."""
    assert sa.tunnel is not None
    config, slug = sa.tunnel.config, _SLUGS[sa.suite.method]
    bare = message.find(Signature)
    if bare is None:
        raise _wrong_method(sa, "a hash" if message.find(Hash) is not None else "nothing")
    chain = _chain(message)
    octets = proof_octets(sa, not sa.initiator, hash_signature.hash_prf(slug, sa.suite.prf))

    def judged(verdict: Verdict, at: float) -> None:
        if verdict.public_key is None:
            raise _chain_refused(sa, shown, verdict)
        try:
            hash_signature.verify_hash(verdict.public_key, slug, bare.data, octets)
        except SignatureError as error:
            raise PeerError(
                NotifyType.INVALID_SIGNATURE,
                "ike.signature-mismatch",
                f"Authentication of {identity.describe(shown)} failed: {error}, {place.phase1(sa).sentence}",
                received=slug,
                field="remote_auth",
                fatal=True,
            ) from None
        sa.phase1.remote = slug
        then(at)

    sa.core.hub.questions.validate(sa, config, chain, (shown.id_type, shown.data), awaited(sa, judged))


def _chain(message: Message) -> tuple[bytes, ...]:
    found = message.find_all(Cert)
    chain = tuple(each.data for each in found if each.encoding == CertEncoding.X509_SIGNATURE)
    if not chain:
        raise PeerError(
            NotifyType.CERTIFICATE_UNAVAILABLE,
            "ike.certificate-missing",
            "The peer sent no certificate",
            received=f"{len(found)} of other encodings" if found else "none",
            field="remote_auth.kind",
            fatal=True,
        )
    if len(chain) > MOST_CERTIFICATES or sum(map(len, chain)) > MOST_CERTIFICATE_OCTETS:
        raise PeerError(
            NotifyType.INVALID_CERTIFICATE,
            "ike.certificate-invalid",
            "The peer sends too many or too large certificates",
            received=f"{len(chain)} certificates of {sum(map(len, chain))} octets",
            configured=f"at most {MOST_CERTIFICATES} of {MOST_CERTIFICATE_OCTETS} octets",
            field="remote_auth",
            fatal=True,
        )
    return chain


def _chain_refused(sa: IsakmpSa, shown: Identification, verdict: Verdict) -> PeerError:
    identity_differs = verdict.code == "ike.certificate-identity"
    return PeerError(
        NotifyType.INVALID_ID_INFORMATION if identity_differs else NotifyType.INVALID_CERTIFICATE,
        "ikev1.identity-not-in-certificate" if identity_differs else verdict.code,
        f"{verdict.message}, {place.phase1(sa).sentence}",
        received=verdict.received or identity.describe(shown),
        configured=verdict.configured,
        fatal=True,
    )


def _wrong_method(sa: IsakmpSa, received: str) -> PeerError:
    configured = "a pre-shared key" if sa.suite.method == ikev1.PSK_METHOD else "a signature"
    return PeerError(
        NotifyType.AUTHENTICATION_FAILED,
        "ikev1.auth-method-mismatch",
        f"The peer proves itself by {received} where {configured} was agreed on, {place.phase1(sa).sentence}",
        received=received,
        configured=configured,
        field="remote_auth.kind",
        fatal=True,
    )


def _own_problem(config: Tunnel, message: str) -> PeerError:
    return PeerError(
        0,
        "ike.certificate-own",
        message,
        configured=config.local_auth.certificate,
        field="local_auth.certificate",
        fatal=True,
    )
