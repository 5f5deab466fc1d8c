"""What a document says this gateway can prove itself by: its certificates, the CAs it trusts, post-quantum keys.

Read once per document. Private keys are not here (the shell has them), nor is the decision whether a peer's chain is
good.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agents.contract.config import Certificate, GatewayDocument, RemoteAuthentication, TrustAnchor
from agents.contract.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCertificate:
    """One of our certificates, to be sent and signed with. ``authorities`` are the key hashes of CAs above it."""

    id: str
    chain: tuple[bytes, ...]
    public_key: bytes
    subject: bytes
    authorities: frozenset[bytes]


class Credentials:
    """Certificates and keys of one document, by id; what cannot be read is as if it were not there."""

    def __init__(self, document: GatewayDocument | None = None) -> None:
        anchors = () if document is None else document.trust_anchors
        self._ppks = {} if document is None else {key.id: key.secret for key in document.postquantum_keys}
        self._hashes: dict[str, bytes] = {}
        self._names: dict[str, bytes] = {}
        by_subject: dict[bytes, bytes] = {}
        for anchor in anchors:
            read = _read_anchor(anchor)
            if read is not None:
                subject, self._hashes[anchor.id] = read
                self._names[anchor.id] = subject
                by_subject[subject] = self._hashes[anchor.id]
        self._own: dict[str, OwnCertificate] = {}
        for each in () if document is None else document.certificates:
            certificate = _read_own(each, by_subject)
            if certificate is not None:
                self._own[each.id] = certificate

    def certificate(self, certificate_id: str | None) -> OwnCertificate | None:
        """Return our certificate of this id, None where it is not there or cannot be read."""
        return None if certificate_id is None else self._own.get(certificate_id)

    def ppk(self, ppk_id: str | None) -> Secret | None:
        """Return the post-quantum key of this id."""
        return None if ppk_id is None else self._ppks.get(ppk_id)

    def anchor_hashes(self, policy: RemoteAuthentication) -> tuple[bytes, ...]:
        """Return the SHA-1 hashes of the public keys of the CAs trusted by ``policy`` (RFC 7296 section 3.7)."""
        return tuple(self._hashes[each] for each in policy.trust_anchors or self._hashes if each in self._hashes)

    def anchor_names(self, policy: RemoteAuthentication) -> tuple[bytes, ...]:
        """Return the names (DER) of the CAs trusted by ``policy``: what IKEv1 asks certificates of (RFC 2408 3.10)."""
        return tuple(self._names[each] for each in policy.trust_anchors or self._names if each in self._names)


def _key_hash(public_key: bytes) -> bytes:
    return hashlib.sha1(public_key, usedforsecurity=False).digest()


def _public_key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _read_anchor(anchor: TrustAnchor) -> tuple[bytes, bytes] | None:
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(anchor.certificate))
        return certificate.subject.public_bytes(), _key_hash(_public_key(certificate))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _read_own(own: Certificate, anchors: dict[bytes, bytes]) -> OwnCertificate | None:
    try:
        chain = tuple(base64.b64decode(each) for each in own.chain)
        certificates = [x509.load_der_x509_certificate(each) for each in chain]
        issuers = {each.issuer.public_bytes() for each in certificates}
        return OwnCertificate(
            id=own.id,
            chain=chain,
            public_key=_public_key(certificates[0]),
            subject=certificates[0].subject.public_bytes(),
            authorities=frozenset(
                (
                    *(_key_hash(_public_key(each)) for each in certificates[1:]),
                    *(anchors[issuer] for issuer in issuers if issuer in anchors),
                )
            ),
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
