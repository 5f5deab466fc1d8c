"""Signatures of the AUTH payload: RFC 7427 (method 14), and the older methods 1 (RFC 7296) and 9 to 11 (RFC 4754).

Making and checking a signature, and the octets around it in the payload. A *bare* signature is what the key's algorithm
gives: RSA as long as the modulus, EdDSA as RFC 8032 has it, ECDSA in DER for method 14 and r and s side by side for
methods 9 to 11. An AlgorithmIdentifier counts when it is octet by octet one of those a row has: its parameters are not
interpreted. The library draws the randomness of ECDSA and PSS itself. Deliberately not here: which key to trust, and
what is signed (RFC 7296 section 2.15).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey, Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agents.contract.algorithms import SIGNATURE, Signature
from agents.ike.crypto.errors import SignatureError

__all__ = [
    "HASH_NUMBERS",
    "PrivateKey",
    "PublicKey",
    "SignatureError",
    "auth_data",
    "der_of_raw",
    "parse_auth",
    "public_key",
    "raw_of_der",
    "sign",
    "unfit",
    "usable",
    "verify",
]

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

HASH_NUMBERS: Mapping[str, int] = {"sha1": 1, "sha256": 2, "sha384": 3, "sha512": 4, "identity": 5}
"""IANA "IKEv2 Hash Algorithms" by the names that the rows use, for SIGNATURE_HASH_ALGORITHMS (RFC 7427, RFC 8420)."""

_DIGITAL_SIGNATURE = 14
_RSA_BITS = range(2048, 8193)
_MOST_RSA_EXPONENT = 2**33
_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1", "brainpoolP256r1", "brainpoolP384r1", "brainpoolP512r1"})
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - method 1 is with SHA-1
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_RAW_HALF_OCTETS = {"secp256r1": 32, "secp384r1": 48, "secp521r1": 66}
_METHODS = {row.method: row for row in SIGNATURE.values() if row.method != _DIGITAL_SIGNATURE}

# Object identifiers as DER: RFC 3279, 4055, 5758, 8017, 8410.
_OID_RSA = bytes.fromhex("06092a864886f70d0101")  # and one octet: which
_OID_PSS = _OID_RSA + b"\x0a"
_OID_MGF1 = _OID_RSA + b"\x08"
_OID_ECDSA_SHA2 = bytes.fromhex("06082a8648ce3d0403")
_OID_SHA2 = bytes.fromhex("06096086480165030402")
_OID_ED = {"ed25519": bytes.fromhex("06032b6570"), "ed448": bytes.fromhex("06032b6571")}
_NULL = b"\x05\x00"
_LAST_OCTET = {
    "sha256": (b"\x0b", b"\x02", b"\x01"),
    "sha384": (b"\x0c", b"\x03", b"\x02"),
    "sha512": (b"\x0d", b"\x04", b"\x03"),
}
"""By hash: the last octet of sha*WithRSAEncryption, of ecdsa-with-SHA* and of the hash itself."""


def _tlv(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    assert len(body) < 128  # as all of these are
    return bytes((tag, len(body))) + body


def _identifiers(row: Signature) -> Iterable[bytes]:
    """The AlgorithmIdentifiers that mean ``row``, ours first (RFC 7427 appendix A).

    Where RFC 4055 has NULL parameters it says to take absent ones as well (section 2.1 and 5).
    """
    if row.key in _OID_ED:
        return (_tlv(0x30, _OID_ED[row.key]),)
    rsa_octet, ecdsa_octet, hash_octet = _LAST_OCTET[row.hash]
    if row.key == "ecdsa":
        return (_tlv(0x30, _OID_ECDSA_SHA2, ecdsa_octet),)
    if not row.pss:
        return tuple(_tlv(0x30, _OID_RSA, rsa_octet, parameters) for parameters in (_NULL, b""))
    salt_octets = hashlib.new(row.hash).digest_size
    digests = [_tlv(0x30, _OID_SHA2, hash_octet, parameters) for parameters in (_NULL, b"")]
    return tuple(
        _tlv(
            0x30,
            _OID_PSS,
            _tlv(
                0x30,
                _tlv(0xA0, hash_digest),
                _tlv(0xA1, _tlv(0x30, _OID_MGF1, mgf_digest)),
                _tlv(0xA2, _tlv(0x02, bytes((salt_octets,)))),
                trailer,
            ),
        )
        for trailer in (b"", _tlv(0xA3, b"\x02\x01\x01"))
        for hash_digest in digests
        for mgf_digest in digests
    )


_IDENTIFIERS = {row.slug: tuple(_identifiers(row)) for row in SIGNATURE.values() if row.method == _DIGITAL_SIGNATURE}
_BY_IDENTIFIER = {octets: SIGNATURE[slug] for slug, rows in _IDENTIFIERS.items() for octets in rows}


def auth_data(row: Signature, bare: bytes) -> bytes:
    """Return what goes into the AUTH payload: with method 14 the AlgorithmIdentifier and its length come first."""
    if row.method != _DIGITAL_SIGNATURE:
        return bare
    identifier = _IDENTIFIERS[row.slug][0]
    return bytes((len(identifier),)) + identifier + bare


def parse_auth(method: int, data: bytes) -> tuple[Signature, bytes]:
    """Return the row that an AUTH payload's method and data mean, and the bare signature. Raises SignatureError."""
    if method != _DIGITAL_SIGNATURE:
        row = _METHODS.get(method)
        if row is None:
            raise SignatureError(f"authentication method {method} is not one with a signature")
        half = _RAW_HALF_OCTETS.get(row.key)
        if half is not None and len(data) != 2 * half:
            raise SignatureError(f"a signature of method {method} takes {2 * half} octets, not {len(data)}")
        return row, data
    if not data or len(data) <= 1 + data[0]:
        raise SignatureError("the signature is cut short")
    identifier, bare = data[1 : 1 + data[0]], data[1 + data[0] :]
    row = _BY_IDENTIFIER.get(identifier)
    if row is None:
        raise SignatureError(_why_not(identifier))
    return row, bare


def _why_not(identifier: bytes) -> str:
    if identifier[2:].startswith(_OID_PSS):
        return "RSASSA-PSS parameters: the MGF's hash and the salt's length must be those of the hash, SHA2-256 or more"
    if identifier[2:].startswith(_OID_RSA + b"\x05"):
        return "RSA with SHA-1 is not taken as a digital signature (RFC 8247 section 3.2)"
    return f"the signature algorithm is not one that is taken: {identifier[:32].hex() or 'none'}"


def sign(private_key: PrivateKey, row: Signature, octets: bytes) -> bytes:
    """Return the bare signature of ``octets``. Raises ValueError when the key cannot sign as ``row`` says."""
    reason = unfit(private_key.public_key(), row)
    if reason:
        raise ValueError(reason)
    if isinstance(private_key, rsa.RSAPrivateKey):
        return private_key.sign(octets, _padding(row), _HASHES[row.hash])
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        der = private_key.sign(octets, ec.ECDSA(_HASHES[row.hash]))
        return der if row.method == _DIGITAL_SIGNATURE else raw_of_der(row, der)
    return private_key.sign(octets)


def verify(spki_der: bytes, row: Signature, bare: bytes, octets: bytes) -> None:
    """Check the bare signature of ``octets`` with the key of a SubjectPublicKeyInfo. Raises SignatureError."""
    key = public_key(spki_der, row)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(bare, octets, _padding(row), _HASHES[row.hash])
        elif isinstance(key, ec.EllipticCurvePublicKey):
            if row.method != _DIGITAL_SIGNATURE:
                bare = der_of_raw(row, bare)
            key.verify(bare, octets, ec.ECDSA(_HASHES[row.hash]))
        else:
            key.verify(bare, octets)
    except InvalidSignature:
        raise SignatureError("the signature is wrong") from None


def usable(key: bytes | PublicKey | PrivateKey, peer_hashes: frozenset[int] | None) -> tuple[str, ...]:
    """Return the slugs of the rows a key can sign with for this peer, best first; none for a key that is not taken.

    ``key`` is a SubjectPublicKeyInfo or a key object. ``peer_hashes`` are the numbers of the peer's
    SIGNATURE_HASH_ALGORITHMS, None when it sent none: then method 14 must not be used (RFC 7427 section 3). For ECDSA
    the hash that fits the curve goes first. The older methods come last.
    """
    try:
        public = _load(key) if isinstance(key, bytes) else key
    except SignatureError:
        return ()
    if isinstance(public, PrivateKey):
        public = public.public_key()
    rows = [row for row in SIGNATURE.values() if not unfit(public, row)]
    if isinstance(key, bytes):
        rows = [row for row in rows if not _restricted(key, row)]
    modern = [row for row in rows if row.method == _DIGITAL_SIGNATURE and HASH_NUMBERS[row.hash] in (peer_hashes or ())]
    if isinstance(public, ec.EllipticCurvePublicKey):
        bits = min(public.key_size, 512)
        modern.sort(key=lambda row: ((size := _HASHES[row.hash].digest_size * 8) < bits, abs(size - bits)))
    return tuple(row.slug for row in (*modern, *(row for row in rows if row.method != _DIGITAL_SIGNATURE)))


def public_key(spki_der: bytes, row: Signature) -> PublicKey:
    """Return the key of a SubjectPublicKeyInfo, which must go with ``row``. Raises SignatureError."""
    key = _load(spki_der)
    reason = unfit(key, row) or _restricted(spki_der, row)
    if reason:
        raise SignatureError(reason)
    return key


def _load(spki_der: bytes) -> PublicKey:
    try:
        key = load_der_public_key(spki_der)
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureError("the public key cannot be read") from None
    if not isinstance(key, PublicKey):
        raise SignatureError("the public key is of a kind that does not sign here")
    return key


def unfit(key: PublicKey, row: Signature) -> str:
    """Return why this key does not go with ``row``, by its kind or its size; empty where it does."""
    match key:
        case rsa.RSAPublicKey():
            if row.key != "rsa":
                return f"{row.label} does not go with an RSA key"
            if key.key_size not in _RSA_BITS:
                return f"the RSA key has {key.key_size} bits; from {_RSA_BITS[0]} to {_RSA_BITS[-1]} are taken"
            if key.public_numbers().e > _MOST_RSA_EXPONENT:
                return "the RSA key's public exponent is too large"
        case ec.EllipticCurvePublicKey():
            if key.curve.name not in _CURVES:
                return f"the key is on the curve {key.curve.name}, which is not taken"
            if row.key not in ("ecdsa", key.curve.name):
                return f"{row.label} does not go with an ECDSA key on {key.curve.name}"
        case _:
            kind = "ed25519" if isinstance(key, Ed25519PublicKey) else "ed448"
            if row.key != kind:
                return f"{row.label} does not go with an {kind.capitalize()} key"
    return ""


def _restricted(spki_der: bytes, row: Signature) -> str:
    """A key that says id-RSASSA-PSS signs with that alone (RFC 4055 section 1.2)."""
    return "the key is for RSASSA-PSS only" if _OID_PSS in spki_der[:24] and not row.pss else ""


def _padding(row: Signature) -> padding.AsymmetricPadding:
    if not row.pss:
        return padding.PKCS1v15()
    algorithm = _HASHES[row.hash]
    return padding.PSS(mgf=padding.MGF1(algorithm), salt_length=algorithm.digest_size)


def raw_of_der(row: Signature, der: bytes) -> bytes:
    """Return r and s side by side, each as long as the curve's field (RFC 4754 section 7)."""
    half = _RAW_HALF_OCTETS[row.key]
    return b"".join(number.to_bytes(half, "big") for number in decode_dss_signature(der))


def der_of_raw(row: Signature, bare: bytes) -> bytes:
    """Return the DER of r and s side by side. Raises SignatureError for another length."""
    half = _RAW_HALF_OCTETS[row.key]
    if len(bare) != 2 * half:
        raise SignatureError(f"a signature of method {row.method} takes {2 * half} octets, not {len(bare)}")
    return encode_dss_signature(int.from_bytes(bare[:half], "big"), int.from_bytes(bare[half:], "big"))
