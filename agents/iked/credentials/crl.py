"""What a certificate revocation list says about one certificate (RFC 5280 sections 5 and 6.3). Octets in, answer out.

Only complete lists by the certificate's own issuer count. Delta lists, indirect ones and those for some reasons only
say nothing about a certificate that is not on them, so they are not used at all.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from agents.pki import names
from agents.pki.errors import CertificateError
from agents.pki.reading import PARSE_ERRORS, Certificate, check_signature

MOST_FETCHED_OCTETS = 1_048_576
SKEW = datetime.timedelta(minutes=5)
_MOST_POINTS = 4
_UNDERSTOOD = frozenset(
    {ExtensionOID.ISSUING_DISTRIBUTION_POINT, ExtensionOID.CRL_NUMBER, ExtensionOID.AUTHORITY_KEY_IDENTIFIER}
)


class StatusError(Exception):
    """Revocation data that says nothing about the certificate; one sentence why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Good or revoked, and until when that may be believed."""

    revoked: bool
    since: datetime.datetime | None = None
    until: datetime.datetime


def urls(certificate: Certificate) -> Iterator[str]:
    """Yield the http URLs of the certificate's own, complete distribution points; at most four."""
    points = certificate.extension(x509.CRLDistributionPoints)
    count = 0
    for point in points or ():
        if point.crl_issuer or point.reasons or not point.full_name:
            continue
        for each in point.full_name:
            if isinstance(each, x509.UniformResourceIdentifier) and each.value.lower().startswith("http://"):
                count += 1
                if count <= _MOST_POINTS:
                    yield each.value


def read(octets: bytes) -> x509.CertificateRevocationList:
    """Parse DER or PEM; raises StatusError."""
    load = x509.load_pem_x509_crl if octets.lstrip().startswith(b"-----BEGIN") else x509.load_der_x509_crl
    try:
        parsed = load(octets)
        _ = parsed.extensions, parsed.next_update_utc, parsed.last_update_utc, parsed.issuer
    except PARSE_ERRORS:
        raise StatusError("the CRL cannot be read") from None
    return parsed


def status(
    crl: x509.CertificateRevocationList, certificate: Certificate, issuer: Certificate, moment: datetime.datetime
) -> Status:
    """Return what the list says; raises StatusError when it is not one for this certificate, or not current."""
    if names.normal(crl.issuer) != certificate.issuer:
        raise StatusError("the CRL is another issuer's")
    until = crl.next_update_utc
    if until is None:
        raise StatusError("the CRL does not say until when it is current")
    if crl.last_update_utc > moment + SKEW:
        raise StatusError("the CRL is from the future")
    if until < moment - SKEW:
        raise StatusError(f"the CRL was current until {until:%Y-%m-%d %H:%M UTC}")
    _check_extensions(crl, certificate)
    usage = issuer.extension(x509.KeyUsage)
    if usage is not None and not usage.crl_sign:
        raise StatusError("the CA's key is not for CRLs")
    _check_signature(crl, issuer)
    revoked, since = _entry(crl, certificate)
    return Status(revoked=revoked, since=since, until=until)


def _check_extensions(crl: x509.CertificateRevocationList, certificate: Certificate) -> None:
    for each in crl.extensions:
        if each.oid == ExtensionOID.DELTA_CRL_INDICATOR:
            raise StatusError("delta CRLs are not used")
        if each.critical and each.oid not in _UNDERSTOOD:
            raise StatusError(f"the CRL has an unknown critical extension ({each.oid.dotted_string})")
        if isinstance(each.value, x509.IssuingDistributionPoint):
            _check_scope(each.value, certificate)


def _check_scope(point: x509.IssuingDistributionPoint, certificate: Certificate) -> None:
    """RFC 5280 section 6.3.3 (b): the list must cover this certificate, whatever the reason of its revocation."""
    if point.indirect_crl:
        raise StatusError("indirect CRLs are not used")
    if point.only_some_reasons:
        raise StatusError("CRLs for some reasons only are not used")
    basic = certificate.extension(x509.BasicConstraints)
    is_ca = basic is not None and basic.ca
    if point.only_contains_attribute_certs or (point.only_contains_user_certs and is_ca):
        raise StatusError("the CRL does not cover this kind of certificate")
    if point.only_contains_ca_certs and not is_ca:
        raise StatusError("the CRL does not cover this kind of certificate")
    if point.relative_name is not None:
        raise StatusError("the CRL is for a distribution point with a relative name")
    if point.full_name is not None:
        asked = certificate.extension(x509.CRLDistributionPoints) or ()
        own = {each for one in asked if not one.crl_issuer and not one.reasons for each in one.full_name or ()}
        if own.isdisjoint(point.full_name):
            raise StatusError("the CRL is for another distribution point")


def _check_signature(crl: x509.CertificateRevocationList, issuer: Certificate) -> None:
    try:
        check_signature(
            issuer.public_key,
            crl.signature,
            crl.tbs_certlist_bytes,
            crl.signature_hash_algorithm,
            crl.signature_algorithm_parameters,
            "The CRL",
        )
    except CertificateError as error:
        raise StatusError(error.message[:1].lower() + error.message[1:]) from None
    except PARSE_ERRORS:
        raise StatusError("the CRL's signature is of an unknown kind") from None


def _entry(crl: x509.CertificateRevocationList, certificate: Certificate) -> tuple[bool, datetime.datetime | None]:
    """Return whether the certificate is on the list, and since when."""
    try:
        entry = crl.get_revoked_certificate_by_serial_number(certificate.x509.serial_number)
        if entry is None:
            return False, None
        for each in entry.extensions:
            if each.critical and each.oid.dotted_string not in ("2.5.29.21", "2.5.29.24"):  # reason, invalidity date
                raise StatusError("the CRL's entry has an unknown critical extension")
        return True, entry.revocation_date_utc
    except PARSE_ERRORS:
        raise StatusError("the CRL's entry cannot be read") from None
