"""What a gateway's agent does to enrol, in a few lines."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agents.contract.enrolment import EnrolmentRequest, SignedRequest, Token, prove

AnyKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def make_key() -> ec.EllipticCurvePrivateKey:
    """Return a key as an agent makes it."""
    return ec.generate_private_key(ec.SECP256R1())


def make_csr(key: AnyKey | None = None) -> str:
    """Return a certificate request in PEM that asks for a name it has no right to."""
    names = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "console.vpnconsole.internal")])
    wanted = x509.SubjectAlternativeName([x509.DNSName("console.vpnconsole.internal")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(names).add_extension(wanted, critical=False)
    request = builder.sign(key or make_key(), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def signed_request(token: Token, csr_pem: str | None = None, agent_port: int = 8471) -> SignedRequest:
    """Return the request an agent with ``token`` sends."""
    request = EnrolmentRequest(
        token_id=token.id,
        csr_pem=csr_pem or make_csr(),
        agent_version="1.2.3",
        hostname="paris",
        agent_port=agent_port,
    )
    return SignedRequest(request=request, proof=prove(token.secret, request))
