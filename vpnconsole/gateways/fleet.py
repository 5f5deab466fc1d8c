"""The fleet's certificate authority: it signs what gateways make and what the console shows to them.

P-256 throughout. A gateway's key never comes here: only its certificate request does. Every certificate names exactly
one DNS name of the contract, so that dialled addresses may change freely. Not here: who may ask (``services.enrol``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from django.db import IntegrityError, transaction
from django.utils import timezone

from agents.contract.enrolment import CONSOLE_NAME, server_name
from agents.contract.secret import Secret
from vpnconsole.gateways.models import FleetCA, Gateway

CA_VALIDITY = timedelta(days=20 * 365)
GATEWAY_VALIDITY = timedelta(days=825)
CONSOLE_VALIDITY = timedelta(days=825)
RENEW_BEFORE = timedelta(days=30)
# Clocks of freshly installed gateways are late more often than early.
_BACKDATE = timedelta(hours=1)


class RequestRefusedError(ValueError):
    """A certificate request cannot be signed; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentials:
    """What the console shows to agents, and whom it trusts: PEM texts; ``key_pem`` is PKCS #8 without a password."""

    certificate_pem: str
    key_pem: Secret
    ca_pem: str


def ensure_fleet_ca() -> FleetCA:
    """Return the authority, made on first use."""
    ca = FleetCA.objects.first()
    if ca is not None:
        return ca
    try:
        with transaction.atomic():
            return _create()
    except IntegrityError:
        # Another process was first; its row is there now.
        return FleetCA.objects.get()


def _create() -> FleetCA:
    now = timezone.now()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "VPN Console fleet CA")])
    certificate = (
        _builder(name, name, key.public_key(), now, CA_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    console_key, console_certificate = _console_certificate(key, certificate, now)
    return FleetCA.objects.create(
        key=_key_pem(key),
        certificate_pem=_pem(certificate),
        console_key=_key_pem(console_key),
        console_certificate_pem=_pem(console_certificate),
    )


def issue_gateway_certificate(csr_pem: str, gateway: Gateway) -> x509.Certificate:
    """Sign a gateway's request; names in the request are ignored. Raises :class:`RequestRefusedError`."""
    key = _requested_key(csr_pem)
    ca = ensure_fleet_ca()
    names = (server_name(str(gateway.pk)), ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    return _leaf(_load_key(ca.key), _load(ca.certificate_pem), key, timezone.now(), GATEWAY_VALIDITY, *names)


def console_client_credentials() -> ClientCredentials:
    """Return the console's client certificate, renewed when it is about to end."""
    ca = ensure_fleet_ca()
    now = timezone.now()
    if _load(ca.console_certificate_pem).not_valid_after_utc - now < RENEW_BEFORE:
        key, certificate = _console_certificate(_load_key(ca.key), _load(ca.certificate_pem), now)
        ca.console_key, ca.console_certificate_pem = _key_pem(key), _pem(certificate)
        ca.save(update_fields=["console_key", "console_certificate_pem"])
    return ClientCredentials(
        certificate_pem=ca.console_certificate_pem, key_pem=ca.console_key, ca_pem=ca.certificate_pem
    )


def pem(certificate: x509.Certificate) -> str:
    """Return a certificate as PEM text."""
    return _pem(certificate)


def _console_certificate(
    ca_key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, now: datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.CLIENT_AUTH
    return key, _leaf(ca_key, ca, key.public_key(), now, CONSOLE_VALIDITY, CONSOLE_NAME, usage)


def _leaf(
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    validity: timedelta,
    dns_name: str,
    *usages: x509.ObjectIdentifier,
) -> x509.Certificate:
    # The common name holds 64 characters at most, the DNS name stands whole in the extension.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, dns_name[:64])])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _builder(subject, ca.subject, key, now, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(dns_name)]), critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, validity: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + validity)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _requested_key(csr_pem: str) -> ec.EllipticCurvePublicKey:
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode("ascii"))
        key = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise RequestRefusedError("is not a certificate request in PEM that could be read") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RequestRefusedError("must be for a P-256 key")
    if not is_signed:
        raise RequestRefusedError("is not signed by the key it names")
    return key


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _load(text: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(text.encode("ascii"))


def _key_pem(key: ec.EllipticCurvePrivateKey) -> Secret:
    return Secret(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _load_key(key_pem: Secret) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(key_pem.reveal(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key
