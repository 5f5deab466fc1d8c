"""OCSP (RFC 6960): the request about one certificate, and what an answer says about it. Octets in, answer out."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, SignatureAlgorithmOID

from agents.iked.credentials.crl import SKEW, Status, StatusError
from agents.pki import names, reading
from agents.pki.errors import CertificateError
from agents.pki.reading import PARSE_ERRORS, Certificate, check_issued, check_signature

MOST_OCTETS = 65_536
REQUEST_TYPE = "application/ocsp-request"
_MOST_URLS = 2
_MOST_CERTIFICATES = 4
_MOST_ANSWERS = 32
_WITHOUT_NEXT_UPDATE = datetime.timedelta(hours=1)
"""An answer that does not say until when it is current counts as long after it was made; RFC 6960 leaves it to us."""


def urls(certificate: Certificate) -> Iterator[str]:
    """Yield the http URLs of the certificate's OCSP responders; at most two."""
    access = certificate.extension(x509.AuthorityInformationAccess)
    count = 0
    for each in access or ():
        location = each.access_location
        if each.access_method == AuthorityInformationAccessOID.OCSP and isinstance(
            location, x509.UniformResourceIdentifier
        ):
            count += location.value.lower().startswith("http://")
            if location.value.lower().startswith("http://") and count <= _MOST_URLS:
                yield location.value


def request(certificate: Certificate, issuer: Certificate, nonce: bytes) -> bytes:
    """Return the request as DER. SHA-1 names the issuer, which every responder understands (RFC 6960 section 4.3)."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate.x509, issuer.x509, hashes.SHA1())  # noqa: S303
    return builder.add_extension(x509.OCSPNonce(nonce), critical=False).build().public_bytes(serialization.Encoding.DER)


def status(
    octets: bytes, asked: bytes, nonce: bytes, certificate: Certificate, issuer: Certificate, moment: datetime.datetime
) -> Status:
    """Return what the answer says; raises StatusError when it is not a current one about this certificate.

    ``asked`` and ``nonce`` are the request's. An answer without nonce is taken (responders may sign ahead), one with
    another nonce is not.
    """
    try:
        return _status(octets, asked, nonce, certificate, issuer, moment)
    except PARSE_ERRORS:
        raise StatusError("the OCSP answer cannot be read") from None


def _status(
    octets: bytes, asked: bytes, nonce: bytes, certificate: Certificate, issuer: Certificate, moment: datetime.datetime
) -> Status:
    answer = ocsp.load_der_ocsp_response(octets)
    if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise StatusError(f"the OCSP responder says {answer.response_status.name.lower().replace('_', ' ')}")
    for each in answer.extensions:
        if isinstance(each.value, x509.OCSPNonce):
            if each.value.nonce != nonce:
                raise StatusError("the OCSP answer is to another question (nonce)")
        elif each.critical:
            raise StatusError("the OCSP answer has an unknown critical extension")
    _check_responder(answer, issuer, moment)
    single = _about(answer, ocsp.load_der_ocsp_request(asked))
    until = single.next_update_utc or single.this_update_utc + _WITHOUT_NEXT_UPDATE
    if single.this_update_utc > moment + SKEW:
        raise StatusError("the OCSP answer is from the future")
    if until < moment - SKEW:
        raise StatusError(f"the OCSP answer was current until {until:%Y-%m-%d %H:%M UTC}")
    if single.certificate_status is ocsp.OCSPCertStatus.UNKNOWN:
        raise StatusError("the OCSP responder does not know the certificate")
    revoked = single.certificate_status is ocsp.OCSPCertStatus.REVOKED
    return Status(revoked=revoked, since=single.revocation_time_utc if revoked else None, until=until)


def _about(answer: ocsp.OCSPResponse, asked: ocsp.OCSPRequest) -> ocsp.OCSPSingleResponse:
    """Return the part of the answer about the certificate asked for."""
    for count, single in enumerate(answer.responses):
        if count >= _MOST_ANSWERS:
            break
        if (
            single.serial_number == asked.serial_number
            and single.hash_algorithm.name == asked.hash_algorithm.name
            and single.issuer_name_hash == asked.issuer_name_hash
            and single.issuer_key_hash == asked.issuer_key_hash
        ):
            return single
    raise StatusError("the OCSP answer is about another certificate")


def _check_responder(answer: ocsp.OCSPResponse, issuer: Certificate, moment: datetime.datetime) -> None:
    """The answer is signed by the CA itself or by a responder it certified for that (RFC 6960 section 4.2.2.2)."""
    for key_owner in (issuer, *_delegates(answer, issuer, moment)):
        if not _is_responder(answer, key_owner):
            continue
        try:
            check_signature(
                key_owner.public_key,
                answer.signature,
                answer.tbs_response_bytes,
                answer.signature_hash_algorithm,
                _parameters(answer, key_owner),
                "The OCSP answer",
            )
        except CertificateError as error:
            raise StatusError(error.message[:1].lower() + error.message[1:]) from None
        return
    raise StatusError("the OCSP answer is by a responder the CA has not authorised")


def _is_responder(answer: ocsp.OCSPResponse, owner: Certificate) -> bool:
    if answer.responder_key_hash is not None:
        return answer.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(owner.public_key).digest
    return answer.responder_name is not None and names.normal(answer.responder_name) == owner.subject


def _delegates(answer: ocsp.OCSPResponse, issuer: Certificate, moment: datetime.datetime) -> Iterator[Certificate]:
    for each in answer.certificates[:_MOST_CERTIFICATES]:
        try:
            delegate = reading.read(each.public_bytes(serialization.Encoding.DER))
            if delegate.issuer != issuer.subject:
                continue
            check_issued(delegate, issuer)
        except CertificateError:
            continue
        usages = delegate.extension(x509.ExtendedKeyUsage)
        usage = delegate.extension(x509.KeyUsage)
        if usages is None or ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
            continue
        if usage is not None and not (usage.digital_signature or usage.content_commitment):
            continue
        if delegate.not_before <= moment <= delegate.not_after:
            yield delegate


def _parameters(answer: ocsp.OCSPResponse, owner: Certificate) -> object:
    """Return what ``cryptography`` gives for certificates and CRLs but not here; RSASSA-PSS answers are not taken."""
    if isinstance(owner.public_key, rsa.RSAPublicKey):
        return None if answer.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS else padding.PKCS1v15()
    if isinstance(owner.public_key, ec.EllipticCurvePublicKey) and answer.signature_hash_algorithm is not None:
        return ec.ECDSA(answer.signature_hash_algorithm)
    return None
