"""A certificate read once, completely and strictly, so that nothing in it can raise later; and signatures checked.

``cryptography`` parses lazily and raises many things. :func:`read` touches every part that is used afterwards and turns
each failure into a :class:`~agents.pki.errors.CertificateError`. What a chain means is :mod:`agents.pki.path`.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509 import ExtensionType, ObjectIdentifier

from agents.pki import names
from agents.pki.errors import CertificateError

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey

MOST_OCTETS = 16_384
"""Of one certificate: a chain of eight must fit into an IKE message of 64 KiB anyway."""

PARSE_ERRORS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What ``cryptography`` raises for octets that are not what they should be."""

RSA_BITS = range(2048, 8193)
"""Shorter is weak; a longer one makes a peer's signature cost milliseconds."""
_RSA_EXPONENT_BITS = 33
_CURVES = (
    ec.SECP256R1,
    ec.SECP384R1,
    ec.SECP521R1,
    ec.BrainpoolP256R1,
    ec.BrainpoolP384R1,
    ec.BrainpoolP512R1,
)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512, hashes.SHA3_256, hashes.SHA3_384, hashes.SHA3_512)
_E = TypeVar("_E", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Certificate:
    """What a certificate says, with everything parsed. ``public_key`` is of a kind and size that is good enough."""

    x509: x509.Certificate
    der: bytes
    subject: names.Normal
    issuer: names.Normal
    not_before: datetime.datetime
    not_after: datetime.datetime
    public_key: PublicKey
    spki: bytes
    critical: tuple[ObjectIdentifier, ...]
    extensions: Mapping[type[ExtensionType], ExtensionType]

    def extension(self, kind: type[_E]) -> _E | None:
        """Return the value of an extension, None where there is none."""
        value = self.extensions.get(kind)
        return value if isinstance(value, kind) else None

    @property
    def text(self) -> str:
        """The subject for a person."""
        return names.text(self.x509.subject)

    @property
    def issuer_text(self) -> str:
        """The issuer for a person."""
        return names.text(self.x509.issuer)

    @property
    def self_issued(self) -> bool:
        """Whether subject and issuer are one name (RFC 5280 section 3.2): a root, or a CA's new key."""
        return self.subject == self.issuer


def read(octets: bytes) -> Certificate:
    """Parse DER; raises CertificateError with ``ike.certificate-invalid`` or ``ike.certificate-weak``."""
    if len(octets) > MOST_OCTETS:
        raise CertificateError(
            "ike.certificate-invalid", f"A certificate of more than {MOST_OCTETS} octets is not taken"
        )
    try:
        parsed = x509.load_der_x509_certificate(octets)
        key = parsed.public_key()
        certificate = Certificate(
            x509=parsed,
            der=octets,
            subject=names.normal(parsed.subject),
            issuer=names.normal(parsed.issuer),
            not_before=parsed.not_valid_before_utc,
            not_after=parsed.not_valid_after_utc,
            public_key=usable(key, parsed.subject),
            spki=spki(key),
            critical=tuple(each.oid for each in parsed.extensions if each.critical),
            extensions={type(each.value): each.value for each in parsed.extensions},
        )
        _ = parsed.serial_number, parsed.version, parsed.signature, parsed.tbs_certificate_bytes
    except PARSE_ERRORS as error:
        raise _malformed(error) from None
    if parsed.version is not x509.Version.v3 and len(certificate.extensions):
        raise CertificateError("ike.certificate-invalid", "A certificate with extensions is not of version 3")
    return certificate


def _malformed(error: Exception) -> CertificateError:
    # The parser's own text may quote what it read: only its kind is told.
    return CertificateError(
        "ike.certificate-invalid", f"A certificate cannot be read as DER X.509 ({type(error).__name__})"
    )


def spki(key: object) -> bytes:
    """Return a public key's SubjectPublicKeyInfo as DER."""
    octets: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return octets


def key_id(subject_public_key_info: bytes) -> str:
    """Return the name a private key has on a gateway: SHA-256 of its public half, hexadecimal."""
    return hashlib.sha256(subject_public_key_info).hexdigest()


def describe_key(key: object) -> str:
    """Return what kind of key it is, public or private: ``RSA 2048``, ``ECDSA secp256r1``, ``Ed25519``."""
    match key:
        case rsa.RSAPublicKey() | rsa.RSAPrivateKey():
            return f"RSA {key.key_size}"
        case ec.EllipticCurvePublicKey() | ec.EllipticCurvePrivateKey():
            return f"ECDSA {key.curve.name}"
        case ed25519.Ed25519PublicKey() | ed25519.Ed25519PrivateKey():
            return "Ed25519"
        case ed448.Ed448PublicKey() | ed448.Ed448PrivateKey():
            return "Ed448"
        case _:
            return "another kind of key"


def usable(key: object, owner: x509.Name | None = None) -> PublicKey:
    """Return the key when its kind and size are good enough; raises CertificateError ``ike.certificate-weak``."""
    match key:
        case rsa.RSAPublicKey():
            exponent = key.public_numbers().e
            good = key.key_size in RSA_BITS and exponent >= 3 and exponent.bit_length() <= _RSA_EXPONENT_BITS
        case ec.EllipticCurvePublicKey():
            good = isinstance(key.curve, _CURVES)
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            good = True
        case _:
            good = False
    if not good or not isinstance(
        key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
    ):
        raise CertificateError(
            "ike.certificate-weak",
            f"The key{'' if owner is None else ' of certificate ' + names.text(owner)} is not taken",
            received=describe_key(key),
            configured="RSA of 2048 to 8192 bits, ECDSA on P-256 to P-521 or Brainpool from 256 bits, Ed25519, Ed448",
        )
    return key


def check_issued(certificate: Certificate, issuer: Certificate) -> None:
    """Refuse a certificate that ``issuer``'s key has not signed, or signed with a hash that can be forged.

    Raises CertificateError ``ike.certificate-weak`` or ``ike.certificate-invalid`` (RFC 5280 sections 4.1.1.2, 6.1.3).
    """
    parsed = certificate.x509
    if not _algorithms_agree(parsed):
        raise CertificateError(
            "ike.certificate-invalid",
            f"Certificate {certificate.text} names two signature algorithms, or part of an octet as signature",
        )
    try:
        parameters, hash_ = parsed.signature_algorithm_parameters, parsed.signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError):
        raise CertificateError(
            "ike.certificate-invalid", f"Certificate {certificate.text} is signed with an unknown algorithm"
        ) from None
    check_signature(
        issuer.public_key,
        parsed.signature,
        parsed.tbs_certificate_bytes,
        hash_,
        parameters,
        f"Certificate {certificate.text}",
    )


def check_signature(
    key: PublicKey,
    signature: bytes,
    signed: bytes,
    hash_: hashes.HashAlgorithm | None,
    parameters: object,
    what: str,
) -> None:
    """Check one signature over certificate, CRL or OCSP octets; raises CertificateError like :func:`check_issued`.

    ``parameters`` are those of ``cryptography``'s ``signature_algorithm_parameters``; ``what`` begins the sentence.
    """
    if hash_ is not None and not isinstance(hash_, _HASHES):
        raise CertificateError(
            "ike.certificate-weak",
            f"{what} is signed with a weak hash",
            received=hash_.name,
            configured="SHA-256 or stronger",
        )
    try:
        if isinstance(key, rsa.RSAPublicKey) and isinstance(parameters, padding.PKCS1v15 | padding.PSS) and hash_:
            key.verify(signature, signed, parameters, hash_)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
            key.verify(signature, signed, parameters)
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) and parameters is None and hash_ is None:
            key.verify(signature, signed)
        else:
            raise CertificateError("ike.certificate-invalid", f"{what} is signed with another kind of key")
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        raise CertificateError(
            "ike.certificate-invalid", f"The signature of {what[:1].lower()}{what[1:]} is wrong"
        ) from None


def _algorithms_agree(parsed: x509.Certificate) -> bool:
    """Whether the algorithm inside the signed part is the one outside (RFC 5280 section 4.1.2.3), octet by octet.

    And whether the signature is whole octets: its count of unused bits is outside what is signed.
    """
    signed = parsed.tbs_certificate_bytes
    whole = parsed.public_bytes(serialization.Encoding.DER)
    outer_at, _ = _element(whole, 0)
    _, after_signed = _element(whole, outer_at)
    _, after_outer = _element(whole, after_signed)
    at, _ = _element(signed, 0)
    if signed[at] == 0xA0:  # the version
        _, at = _element(signed, at)
    _, at = _element(signed, at)  # the serial number
    _, after_inner = _element(signed, at)
    signature_at, _ = _element(whole, after_outer)
    return signed[at:after_inner] == whole[after_signed:after_outer] and whole[signature_at] == 0


def _element(octets: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the DER element at ``at`` begins and where the next element does.

    Only for octets that a full parser has taken already: tags are one octet, lengths are definite and right.
    """
    length = octets[at + 1]
    content = at + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(octets[content : content + count], "big")
        content += count
    return content, content + length
