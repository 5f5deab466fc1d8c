"""Enrolment: a one-time token is exchanged for a certificate.

The P-256 key is made here and never leaves. Both messages carry a proof keyed by the token (``contract.enrolment``),
so a console that cannot show one is not believed, whatever transport it was reached over. Nothing is stored unless
everything about the grant is right.
"""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agents.agentd import identity
from agents.agentd.errors import EnrolmentError
from agents.agentd.identity import GatewayIdentity
from agents.contract.codec import decode, encode
from agents.contract.enrolment import (
    EnrolmentGrant,
    EnrolmentRequest,
    SignedGrant,
    SignedRequest,
    Token,
    prove,
    proven,
    server_name,
)
from agents.contract.errors import DocumentError, FieldError
from agents.runtime.version import VERSION

TIMEOUT_S = 30.0
_MOST_OCTETS = 256 * 1024


async def enrol(console_url: str, token_text: str, port: int, directory: Path) -> GatewayIdentity:
    """Enrol this machine and store its identity in ``directory``; raises :class:`EnrolmentError`."""
    try:
        token = Token.parse(token_text)
    except FieldError as error:
        raise EnrolmentError(f"the token {error.problem}") from None
    key = ec.generate_private_key(ec.SECP256R1())
    request = EnrolmentRequest(
        token_id=token.id,
        csr_pem=_signing_request(key),
        agent_version=VERSION,
        hostname=socket.gethostname()[:255],
        agent_port=port,
    )
    answer = await _exchange(console_url, SignedRequest(request=request, proof=prove(token.secret, request)))
    if not proven(token.secret, answer.grant, answer.proof):
        raise EnrolmentError("the answer does not prove that it comes from the console which issued the token")
    check_grant(answer.grant, key.public_key())
    return identity.store(
        directory,
        gateway_id=answer.grant.gateway_id,
        gateway_name=answer.grant.gateway_name,
        agent_port=port,
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        certificate_pem=answer.grant.certificate_pem,
        fleet_ca_pem=answer.grant.fleet_ca_pem,
    )


def check_grant(grant: EnrolmentGrant, public_key: ec.EllipticCurvePublicKey) -> None:
    """Raise :class:`EnrolmentError` for a certificate not for this key and gateway, or not from the CA beside it."""
    try:
        certificate = x509.load_pem_x509_certificate(grant.certificate_pem.encode())
        authority = x509.load_pem_x509_certificate(grant.fleet_ca_pem.encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        signs = authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound):
        raise EnrolmentError("the answer holds no usable certificate") from None
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):  # another name, a key of another kind, a wrong signature
        raise EnrolmentError("the certificate in the answer is not signed by the fleet CA in it") from None
    if not signs:
        raise EnrolmentError("the fleet CA in the answer is not a certificate authority")
    if certificate.public_key() != public_key:
        raise EnrolmentError("the certificate in the answer is for another key")
    if not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc:
        raise EnrolmentError("the certificate in the answer is not valid now: check this gateway's clock")
    if server_name(grant.gateway_id) not in names.get_values_for_type(x509.DNSName):
        raise EnrolmentError("the certificate in the answer is for another gateway")


def _signing_request(key: ec.EllipticCurvePrivateKey) -> str:
    # The console decides the names in the certificate; the request only carries the key and proves its possession.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vpn-agent")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode("ascii")


async def _exchange(console_url: str, request: SignedRequest) -> SignedGrant:
    url = console_url.rstrip("/") + "/enrol/v1"
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(
                url, data=encode(request), headers={"Content-Type": "application/json"}, allow_redirects=False
            ) as response,
        ):
            octets = await _read_bounded(response)
            if response.status != 200:
                raise EnrolmentError(f"the console refused: {_refusal(response.status, octets)}")
    except aiohttp.InvalidURL:
        raise EnrolmentError(f"{console_url} is not a URL like https://console.example.org") from None
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise EnrolmentError(f"the console cannot be reached: {str(error) or type(error).__name__}") from None
    try:
        return decode(SignedGrant, octets)
    except DocumentError as error:
        raise EnrolmentError(f"the console's answer cannot be read: {error}") from None


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    octets = b""
    async for chunk in response.content.iter_chunked(16_384):
        octets += chunk
        if len(octets) > _MOST_OCTETS:
            raise EnrolmentError("the console's answer is too long to be a grant")
    return octets


def _refusal(status: int, octets: bytes) -> str:
    try:
        return str(json.loads(octets)["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {status}"
