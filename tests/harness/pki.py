"""Certificates for hosts of the harness, and what a host does when its engine asks to sign or to judge a chain.

The judge is small but real: it builds a chain to an anchor by signatures, and looks at validity, CA bits and identity.
Revocation is the daemon's (tests/iked/credentials).
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from agents.contract.config import (
    AuthKind,
    Certificate,
    GatewayDocument,
    LocalAuthentication,
    RemoteAuthentication,
    TrustAnchor,
)
from agents.ike import identity
from agents.ike.crypto.hash_signature import sign_by_slug
from agents.ike.outputs import Sign, Validate, Verdict
from agents.ike.wire.payloads import IdI
from tests import pki
from tests.pki import Authority, Leaf

if TYPE_CHECKING:
    from tests.harness.documents import Side
    from tests.harness.world import Host

MOST_DEPTH = 8


@functools.cache
def root(subject: str = "Root") -> Authority:
    """Return the same CA for the same name within a test run."""
    return Authority.root(subject, private_key=pki.key("ecdsa-p256", subject))


@functools.cache
def leaf(name: str, key_type: str = "ecdsa-p256", authority: str = "Root") -> Leaf:
    """Return a certificate for ``name``: DNS name <name>.example.org, mail address gw@<name>.example.org."""
    return root(authority).leaf(
        name,
        dns=(f"{name}.example.org",),
        emails=(f"gw@{name}.example.org",),
        private_key=pki.key(key_type, name),
    )


def certificate(id_: str, leaf: Leaf) -> Certificate:
    """Return a leaf with its intermediates as a document holds it."""
    return Certificate(id=id_, chain=tuple(base64.b64encode(each).decode("ascii") for each in leaf.chain))


def anchor(id_: str, authority: Authority) -> TrustAnchor:
    """Return a CA as a document trusts it."""
    return TrustAnchor(id=id_, certificate=base64.b64encode(pki.der(authority.certificate)).decode("ascii"))


def certify(side: Side, host: Host, key_type: str = "ecdsa-p256") -> None:
    """Let this end prove itself by a certificate of the root and ask for one of the peer, whatever their identities."""
    own = leaf(side.name, key_type)
    side.certificates, side.anchors = [certificate("own", own)], [anchor("root", root())]
    host.shell.keys["own"] = own.key
    side.change(
        local_auth=LocalAuthentication(kind=AuthKind.CERTIFICATE, certificate="own"),
        remote_auth=RemoteAuthentication(kind=AuthKind.CERTIFICATE, validate_identity=False),
    )


@dataclass
class Shell:
    """A host's private keys by certificate id.

    It takes ``delay_s`` (least and most) to answer, nothing where that is None. With ``answers`` False requests pile up
    in ``asked`` instead.
    """

    keys: dict[str, pki.PrivateKey] = field(default_factory=dict)
    answers: bool = True
    delay_s: tuple[float, float] | None = None
    asked: list[Sign | Validate] = field(default_factory=list)
    log: list[Sign | Validate] = field(default_factory=list)

    def sign(self, request: Sign) -> bytes | None:
        """Answer as the daemon does: None without the key, or where it cannot sign so."""
        key = self.keys.get(request.certificate)
        if key is None:
            return None
        try:
            return sign_by_slug(key, request.signature, request.octets)
        except ValueError:
            return None

    def judge(self, request: Validate, document: GatewayDocument) -> Verdict:
        """Judge a chain."""
        try:
            chain = [x509.load_der_x509_certificate(each) for each in request.chain]
        except ValueError:
            return Verdict(code="ike.certificate-invalid", message="The certificate cannot be read")
        anchors = [
            x509.load_der_x509_certificate(base64.b64decode(each.certificate))
            for each in document.trust_anchors
            if not request.policy.trust_anchors or each.id in request.policy.trust_anchors
        ]
        shown, trusted = chain[0], "; ".join(each.subject.rfc4514_string() for each in anchors)
        path = _path(shown, chain[1:], anchors)
        if path is None:
            return Verdict(
                code="ike.certificate-untrusted",
                message="The chain does not end at a trusted CA",
                received=chain[-1].issuer.rfc4514_string(),
                configured=trusted,
            )
        for each in path:
            if not each.not_valid_before_utc <= pki.now() <= each.not_valid_after_utc:
                return Verdict(
                    code="ike.certificate-expired",
                    message="A certificate has expired",
                    received=each.subject.rfc4514_string(),
                )
        if request.policy.validate_identity and not identity.in_certificate(request.id_type, request.id_data, shown):
            return Verdict(
                code="ike.certificate-identity",
                message="The identity is not in the certificate",
                received=identity.describe(IdI(id_type=request.id_type, data=request.id_data)),
                configured=f"names of the certificate: {shown.subject.rfc4514_string()}",
            )
        return Verdict(public_key=pki.spki(shown), subject=shown.subject.rfc4514_string())


def _path(
    certificate: x509.Certificate,
    others: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    depth: int = 0,
) -> list[x509.Certificate] | None:
    for issuer in (*anchors, *others):
        if not issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            continue
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            continue
        if issuer in anchors:
            return [certificate, issuer]
        rest = None if depth > MOST_DEPTH else _path(issuer, others, anchors, depth + 1)
        if rest is not None:
            return [certificate, *rest]
    return None
