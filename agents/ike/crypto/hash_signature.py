"""Signatures of IKEv1's phase 1: RSA (RFC 2409 section 5.1) and ECDSA (RFC 4754), over HASH_I or HASH_R.

What is signed is a hash already and is not hashed again. RSA puts it bare into the PKCS #1 v1.5 block, without the
DigestInfo that names an algorithm. ECDSA is tied to a hash by its method, so HASH_I and HASH_R are made with the HMAC
of that one, whatever hash was negotiated (RFC 2409 section 5: :func:`hash_prf`); everything else of phase 1 keeps the
negotiated one. charon 5.9 does the same. Which keys are taken is :mod:`agents.ike.crypto.signature`'s rule.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed

from agents.contract import algorithms
from agents.contract.algorithms import PseudoRandom, Signature
from agents.contract.ikev1 import SIGNATURE
from agents.ike.crypto import signature
from agents.ike.crypto.errors import SignatureError
from agents.ike.crypto.signature import PrivateKey, der_of_raw, public_key, raw_of_der, unfit

__all__ = ["SignatureError", "hash_prf", "sign_by_slug", "sign_hash", "slug_for", "verify_hash"]

_ROWS: Mapping[str, Signature] = {
    row.slug: row
    for row in (
        Signature(slug="ikev1-rsa", label="RSA in IKEv1", method=3, key="rsa", hash=""),
        Signature(slug="ikev1-ecdsa-p256", label="ECDSA-256 in IKEv1", method=9, key="secp256r1", hash="sha256"),
        Signature(slug="ikev1-ecdsa-p384", label="ECDSA-384 in IKEv1", method=10, key="secp384r1", hash="sha384"),
        Signature(slug="ikev1-ecdsa-p521", label="ECDSA-521 in IKEv1", method=11, key="secp521r1", hash="sha512"),
    )
}
assert {slug: row.method for slug, row in _ROWS.items()} == dict(SIGNATURE)
_PRFS = {row.hash: row for row in algorithms.PSEUDO_RANDOM.values()}
_PREHASHED = {
    "sha256": ec.ECDSA(Prehashed(hashes.SHA256())),
    "sha384": ec.ECDSA(Prehashed(hashes.SHA384())),
    "sha512": ec.ECDSA(Prehashed(hashes.SHA512())),
}


def hash_prf(slug: str, negotiated: PseudoRandom) -> PseudoRandom:
    """Return the prf of the HASH_I and HASH_R that are signed; the method is negotiated, so both ends sign alike."""
    return _PRFS[_ROWS[slug].hash] if _ROWS[slug].hash else negotiated


def slug_for(spki_der: bytes) -> str | None:
    """Return the one way in which the key of a SubjectPublicKeyInfo signs in IKEv1; None where there is none."""
    for row in _ROWS.values():
        try:
            public_key(spki_der, row)
        except SignatureError:
            continue
        return row.slug
    return None


def sign_hash(private_key: PrivateKey, slug: str, hash_octets: bytes) -> bytes:
    """Return the signature of HASH_I or HASH_R. Raises ValueError when the key cannot sign so, or for another hash."""
    row = _ROWS[slug]
    reason = unfit(private_key.public_key(), row)
    if reason:
        raise ValueError(reason)
    if isinstance(private_key, rsa.RSAPrivateKey):
        return private_key.sign(hash_octets, padding.PKCS1v15(), NoDigestInfo())
    assert isinstance(private_key, ec.EllipticCurvePrivateKey)
    return raw_of_der(row, private_key.sign(hash_octets, _PREHASHED[row.hash]))


def verify_hash(spki_der: bytes, slug: str, bare: bytes, hash_octets: bytes) -> None:
    """Check the signature of HASH_I or HASH_R with the key of a SubjectPublicKeyInfo. Raises SignatureError."""
    row = _ROWS[slug]
    key = public_key(spki_der, row)
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(der_of_raw(row, bare), hash_octets, _PREHASHED[row.hash])
            return
        assert isinstance(key, rsa.RSAPublicKey)
        signed = key.recover_data_from_signature(bare, padding.PKCS1v15(), NoDigestInfo())
    except InvalidSignature:
        raise SignatureError("the signature is wrong") from None
    # The library would take one without its leading zeros; RFC 8017 section 8.2.2 does not.
    if len(bare) != (key.key_size + 7) // 8 or signed != hash_octets:
        raise SignatureError("the signature is wrong")


def sign_by_slug(private_key: PrivateKey, slug: str, octets: bytes) -> bytes:
    """Return the bare signature that :class:`agents.ike.outputs.Sign` asks for, of either version of IKE.

    Raises ValueError when the key cannot sign so.
    """
    if slug in _ROWS:
        return sign_hash(private_key, slug, octets)
    return signature.sign(private_key, algorithms.SIGNATURE[slug], octets)
