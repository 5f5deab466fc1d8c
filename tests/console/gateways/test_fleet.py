"""The fleet CA: whom it signs for, what the certificates say, and that both sides' TLS accepts them."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.contract.enrolment import CONSOLE_NAME, server_name
from tests.console.gateways.agent import make_csr, make_key
from vpnconsole.gateways import fleet
from vpnconsole.gateways.models import FleetCA, Gateway

pytestmark = pytest.mark.django_db
DER = x509.load_pem_x509_csr(make_csr().encode()).public_bytes(serialization.Encoding.DER)


def _names(certificate: x509.Certificate) -> list[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


def test_there_is_one_authority() -> None:
    assert fleet.ensure_fleet_ca() == fleet.ensure_fleet_ca()
    assert FleetCA.objects.count() == 1


def test_its_key_is_sealed_and_not_shown() -> None:
    ca = fleet.ensure_fleet_ca()
    assert b"PRIVATE KEY" in ca.key.reveal()
    assert "PRIVATE" not in repr(ca.key) + repr(fleet.console_client_credentials()) + repr(vars(ca))


def test_a_gateway_s_certificate_says_its_name_only_whatever_was_asked_for(paris: Gateway) -> None:
    key = make_key()
    certificate = fleet.issue_gateway_certificate(make_csr(key), paris)
    assert certificate.public_key() == key.public_key()
    assert _names(certificate) == [server_name(str(paris.pk))]
    assert CONSOLE_NAME not in certificate.subject.rfc4514_string()
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    lasts = certificate.not_valid_after_utc - timezone.now()
    assert timedelta(days=824) < lasts <= timedelta(days=825)


@pytest.mark.parametrize(
    ("csr_pem", "problem"),
    [
        ("", "not a certificate request"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "not a certificate request"),
        ("caf\u00e9", "not a certificate request"),
        (make_csr(rsa.generate_private_key(public_exponent=65537, key_size=2048)), "P-256"),
        (make_csr(ec.generate_private_key(ec.SECP384R1())), "P-256"),
    ],
    ids=["empty", "damaged", "not-ascii", "rsa", "p-384"],
)
def test_other_requests_are_refused_with_the_reason(paris: Gateway, csr_pem: str, problem: str) -> None:
    with pytest.raises(fleet.RequestRefusedError, match=problem):
        fleet.issue_gateway_certificate(csr_pem, paris)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_request_is_refused_and_nothing_else_happens(paris: Gateway, changes: list[tuple[int, int]]) -> None:
    octets = bytearray(DER)
    for position, value in changes:
        octets[position % len(octets)] = value
    if octets == DER:
        return
    body = base64.encodebytes(bytes(octets)).decode()
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(fleet.RequestRefusedError):
        fleet.issue_gateway_certificate(pem, paris)


def test_a_request_not_signed_by_its_own_key_is_refused(paris: Gateway) -> None:
    request = x509.load_pem_x509_csr(make_csr().encode())
    octets = bytearray(request.public_bytes(serialization.Encoding.DER))
    octets[-1] ^= 1
    changed = x509.load_der_x509_csr(bytes(octets)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(fleet.RequestRefusedError, match="not signed by"):
        fleet.issue_gateway_certificate(changed, paris)


def test_the_console_s_certificate_is_kept_and_renewed_in_time() -> None:
    first = fleet.console_client_credentials()
    assert _names(x509.load_pem_x509_certificate(first.certificate_pem.encode())) == [CONSOLE_NAME]
    assert fleet.console_client_credentials() == first
    with time_machine.travel(timezone.now() + fleet.CONSOLE_VALIDITY - timedelta(days=29)):
        renewed = fleet.console_client_credentials()
    assert renewed.certificate_pem != first.certificate_pem
    assert renewed.ca_pem == first.ca_pem


def test_tls_between_console_and_gateway(paris: Gateway, tmp_path: Path) -> None:
    key = make_key()
    gateway = fleet.pem(fleet.issue_gateway_certificate(make_csr(key), paris))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    console = fleet.console_client_credentials()
    server = _context(ssl.PROTOCOL_TLS_SERVER, tmp_path / "s", gateway, pem, console.ca_pem)
    client = _context(
        ssl.PROTOCOL_TLS_CLIENT, tmp_path / "c", console.certificate_pem, console.key_pem.reveal(), console.ca_pem
    )
    assert _handshake(server, client, server_name(str(paris.pk))) == CONSOLE_NAME
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _handshake(server, client, server_name("0" * 8))


def _context(protocol: int, directory: Path, certificate: str, key: bytes, ca: str) -> ssl.SSLContext:
    directory.mkdir()
    (directory / "both.pem").write_bytes(key + certificate.encode())
    context = ssl.SSLContext(protocol)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ca)
    context.load_cert_chain(directory / "both.pem")
    return context


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str:
    """Return the name the server sees in the client's certificate."""
    ours, theirs = socket.socketpair()
    seen: list[str] = []

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as connection:
                der = connection.getpeercert(binary_form=True)
                seen.extend(_names(x509.load_der_x509_certificate(der or b"")))
                connection.recv(1)
        except ssl.SSLError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as connection:
            connection.send(b"x")
    finally:
        ours.close()
        thread.join(10)
    return seen[0]
