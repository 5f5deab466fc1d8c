"""A public key infrastructure for tests: CAs, intermediates, leaves, CRLs, and a real HTTP server for CRLs and OCSP.

``Authority.root("Root").intermediate("Issuing").leaf("alpha", dns=("alpha.example",))`` is a chain. Whoever wants a
certificate with something odd in it passes ``extensions``, which replace those of the same kind. Times are relative to
the machine's clock, since real daemons read it.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import ipaddress
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID, ObjectIdentifier

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
IPSEC_IKE = ObjectIdentifier("1.3.6.1.5.5.7.3.17")
DAY = datetime.timedelta(days=1)
_CURVES: dict[str, type[ec.EllipticCurve]] = {
    "ecdsa-p256": ec.SECP256R1,
    "ecdsa-p384": ec.SECP384R1,
    "ecdsa-p521": ec.SECP521R1,
    "ecdsa-p224": ec.SECP224R1,
    "ecdsa-bp256": ec.BrainpoolP256R1,
}


def now() -> datetime.datetime:
    """Return the machine's time to the second."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def new_key(key_type: str) -> PrivateKey:
    """Return a fresh key: ``ecdsa-p256|p384|p521``, ``rsa-<bits>``, ``ed25519`` or ``ed448``."""
    if key_type in _CURVES:
        return ec.generate_private_key(_CURVES[key_type]())
    if key_type == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if key_type == "ed448":
        return ed448.Ed448PrivateKey.generate()
    return rsa.generate_private_key(65537, int(key_type.removeprefix("rsa-")))


@functools.cache
def key(key_type: str, label: str) -> PrivateKey:
    """Return the same key for the same words, so that a test run makes few RSA keys."""
    return new_key(key_type)


def key_pem(private_key: PrivateKey) -> bytes:
    """Return PKCS#8 PEM, as ``vpn-agent key import`` and swanctl read it."""
    return private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def der(certificate: x509.Certificate) -> bytes:
    """Return a certificate as DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def spki(certificate: x509.Certificate) -> bytes:
    """Return a certificate's SubjectPublicKeyInfo, DER."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def name(subject: str | x509.Name) -> x509.Name:
    """Return a subject: a common name within one organisation, or RFC 4514 text with ``=`` in it; empty is no name."""
    if isinstance(subject, x509.Name):
        return subject
    if not subject:
        return x509.Name([])
    if "=" in subject:
        return x509.Name.from_rfc4514_string(subject)
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "VPN Console tests"),
            x509.NameAttribute(NameOID.COMMON_NAME, subject),
        ]
    )


def key_usage(*uses: str) -> x509.KeyUsage:
    """Return a KeyUsage with these bits, named as in ``cryptography``."""
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    assert set(uses) <= set(names)
    return x509.KeyUsage(**{each: each in uses for each in names})


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """An end entity: its key, its certificate and the intermediates to send with it."""

    key: PrivateKey
    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...] = ()

    @property
    def chain(self) -> tuple[bytes, ...]:
        """DER, the leaf first."""
        return tuple(der(each) for each in (self.certificate, *self.intermediates))


@dataclass(kw_only=True)
class Authority:
    """A CA with its list of the revoked. ``parent`` is None for a root."""

    key: PrivateKey
    certificate: x509.Certificate
    parent: Authority | None = None
    crl_url: str | None = None
    ocsp_url: str | None = None
    revoked: dict[int, datetime.datetime] = field(default_factory=dict)

    @classmethod
    def root(
        cls,
        subject: str | x509.Name = "Root",
        key_type: str = "ecdsa-p256",
        *,
        crl_url: str | None = None,
        ocsp_url: str | None = None,
        path_length: int | None = None,
        valid: tuple[datetime.datetime, datetime.datetime] | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        private_key: PrivateKey | None = None,
    ) -> Authority:
        """Return a self-signed CA; ``crl_url`` and ``ocsp_url`` go into what it issues."""
        own = private_key or new_key(key_type)
        made = _certificate(
            name(subject), name(subject), own, own, None, ca=True, path_length=path_length, valid=valid,
            urls=(None, None), names=(), usages=(), extensions=extensions,
        )  # fmt: skip
        return cls(key=own, certificate=made, crl_url=crl_url, ocsp_url=ocsp_url)

    def intermediate(
        self,
        subject: str | x509.Name = "Issuing",
        key_type: str = "ecdsa-p256",
        *,
        crl_url: str | None = None,
        ocsp_url: str | None = None,
        path_length: int | None = None,
        valid: tuple[datetime.datetime, datetime.datetime] | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        private_key: PrivateKey | None = None,
    ) -> Authority:
        """Return a CA below this one."""
        own = private_key or new_key(key_type)
        made = _certificate(
            name(subject), self.certificate.subject, own, self.key, self.certificate, ca=True, path_length=path_length,
            valid=valid, urls=(self.crl_url, self.ocsp_url), names=(), usages=(), extensions=extensions,
        )  # fmt: skip
        return Authority(key=own, certificate=made, parent=self, crl_url=crl_url, ocsp_url=ocsp_url)

    def leaf(
        self,
        subject: str | x509.Name = "gateway",
        key_type: str = "ecdsa-p256",
        *,
        dns: Iterable[str] = (),
        addresses: Iterable[str] = (),
        emails: Iterable[str] = (),
        usages: Iterable[ObjectIdentifier] = (),
        valid: tuple[datetime.datetime, datetime.datetime] | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        private_key: PrivateKey | None = None,
        hash_: hashes.HashAlgorithm | None = None,
        rsa_padding: padding.PSS | None = None,
    ) -> Leaf:
        """Return an end entity with these subjectAltNames and extended key usages (none of either by default)."""
        own = private_key or new_key(key_type)
        names: list[x509.GeneralName] = [x509.DNSName(each) for each in dns]
        names += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
        names += [x509.RFC822Name(each) for each in emails]
        made = _certificate(
            name(subject), self.certificate.subject, own, self.key, self.certificate, ca=False, path_length=None,
            valid=valid, urls=(self.crl_url, self.ocsp_url), names=names, usages=tuple(usages), extensions=extensions,
            hash_=hash_, rsa_padding=rsa_padding,
        )  # fmt: skip
        return Leaf(key=own, certificate=made, intermediates=self.intermediates)

    @property
    def intermediates(self) -> tuple[x509.Certificate, ...]:
        """This CA and those above it, without the root: what a leaf's owner sends along."""
        return () if self.parent is None else (self.certificate, *self.parent.intermediates)

    def revoke(self, certificate: x509.Certificate, at: datetime.datetime | None = None) -> None:
        """From now on CRLs and OCSP answers call this certificate revoked."""
        self.revoked[certificate.serial_number] = at or now() - DAY / 24

    def crl(
        self,
        *,
        last_update: datetime.datetime | None = None,
        next_update: datetime.datetime | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        signer: PrivateKey | None = None,
        issuer: x509.Name | None = None,
    ) -> bytes:
        """Return a CRL as DER, current unless told otherwise."""
        last = last_update or now() - DAY / 24
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=issuer or self.certificate.subject, last_update=last, next_update=next_update or last + 7 * DAY
        )
        builder = builder.add_extension(x509.CRLNumber(len(self.revoked) + 1), critical=False)
        for value, critical in extensions:
            builder = builder.add_extension(value, critical)
        for serial, since in self.revoked.items():
            builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, since).build())
        own = signer or self.key
        return builder.sign(own, hash_for(own)).public_bytes(serialization.Encoding.DER)

    def responder(self, **options: object) -> Leaf:
        """Return an OCSP responder that this CA has delegated to (id-kp-OCSPSigning)."""
        return self.leaf("OCSP responder", usages=(ExtendedKeyUsageOID.OCSP_SIGNING,), **options)  # type: ignore[arg-type]

    def ocsp_answer(
        self,
        request: bytes,
        *,
        responder: Leaf | None = None,
        this_update: datetime.datetime | None = None,
        next_update: datetime.datetime | None = None,
        unknown: bool = False,
        nonce: bool = True,
        serial_shift: int = 0,
        forged: bool = False,
    ) -> bytes:
        """Answer an OCSP request (DER) by this CA's list, signed by the CA or by ``responder``."""
        asked = ocsp.load_der_ocsp_request(request)
        since = None if unknown else self.revoked.get(asked.serial_number)
        status = ocsp.OCSPCertStatus.REVOKED if since else ocsp.OCSPCertStatus.GOOD
        this = this_update or now() - DAY / 24
        builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
            issuer_name_hash=asked.issuer_name_hash,
            issuer_key_hash=asked.issuer_key_hash,
            serial_number=asked.serial_number + serial_shift,
            algorithm=asked.hash_algorithm,
            cert_status=ocsp.OCSPCertStatus.UNKNOWN if unknown else status,
            this_update=this,
            next_update=next_update or this + DAY,
            revocation_time=since,
            revocation_reason=None,
        )
        owner = responder.certificate if responder is not None else self.certificate
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, owner)
        if responder is not None:
            builder = builder.certificates([responder.certificate])
        if nonce:
            for each in asked.extensions:
                if isinstance(each.value, x509.OCSPNonce):
                    builder = builder.add_extension(each.value, critical=False)
        own = responder.key if responder is not None else self.key
        octets = builder.sign(own, hash_for(own)).public_bytes(serialization.Encoding.DER)
        if forged:  # of the responder the answer names, but not signed by it
            assert responder is None, "the signature must stand at the end"
            octets = octets[:-1] + bytes((octets[-1] ^ 1,))
        return octets


def hash_for(
    private_key: PrivateKey,
) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """Return the hash that suits a key; none for Edwards curves."""
    if isinstance(private_key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return None
    if isinstance(private_key, ec.EllipticCurvePrivateKey) and private_key.key_size > 256:
        return hashes.SHA384() if private_key.key_size == 384 else hashes.SHA512()
    return hashes.SHA256()


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    own: PrivateKey,
    signer: PrivateKey,
    issued_by: x509.Certificate | None,
    *,
    ca: bool,
    path_length: int | None,
    valid: tuple[datetime.datetime, datetime.datetime] | None,
    urls: tuple[str | None, str | None],
    names: Sequence[x509.GeneralName],
    usages: Sequence[ObjectIdentifier],
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
    hash_: hashes.HashAlgorithm | None = None,
    rsa_padding: padding.PSS | None = None,
) -> x509.Certificate:
    start, end = valid or (now() - DAY, now() + 365 * DAY)
    signer_key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    wanted: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=ca, path_length=path_length), True),
        (key_usage("key_cert_sign", "crl_sign") if ca else key_usage("digital_signature"), True),
        (x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False),
        (signer_key_id, False),
    ]
    if names:
        wanted.append((x509.SubjectAlternativeName(names), not subject.rdns))
    if usages:
        wanted.append((x509.ExtendedKeyUsage(usages), False))
    crl_url, ocsp_url = urls
    if crl_url is not None:
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(crl_url)], None, None, None)
        wanted.append((x509.CRLDistributionPoints([point]), False))
    if ocsp_url is not None:
        where = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(ocsp_url))
        wanted.append((x509.AuthorityInformationAccess([where]), False))
    replaced = {value.oid for value, _ in extensions}
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=own.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=start,
        not_valid_after=end,
    )
    for value, critical in [each for each in wanted if each[0].oid not in replaced] + list(extensions):
        if value is not None:
            builder = builder.add_extension(value, critical)
    algorithm = cast("hashes.SHA256 | None", hash_) or hash_for(signer)
    return builder.sign(signer, algorithm, rsa_padding=rsa_padding)


def key_file_name(private_key: PrivateKey) -> str:
    """Return the name a gateway keeps this key under: SHA-256 of its SubjectPublicKeyInfo."""
    public = private_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(public).hexdigest()


Answer = Callable[[bytes], tuple[int, dict[str, str], bytes]]
"""From the body of a request to status, headers and body."""


class RevocationServer:
    """HTTP on a real socket, in threads: answers by path, and counts what was asked.

    ``with RevocationServer("127.0.0.1") as server: server.publish_crl("/root.crl", root)``.
    """

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self, b"")

            def do_POST(self) -> None:
                outer._answer(self, self.rfile.read(int(self.headers.get("Content-Length", "0"))))

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer((address, port), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.url = f"http://{address}:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def publish_crl(self, path: str, authority: Authority) -> str:
        """Serve this CA's CRL, made when asked; returns the URL."""
        return self.publish(path, lambda _: (200, {"Content-Type": "application/pkix-crl"}, authority.crl()))

    def publish_ocsp(self, path: str, authority: Authority, responder: Leaf | None = None) -> str:
        """Answer OCSP requests by this CA's list; returns the URL."""
        kind = {"Content-Type": "application/ocsp-response"}
        return self.publish(path, lambda body: (200, kind, authority.ocsp_answer(body, responder=responder)))

    def publish(self, path: str, answer: Answer) -> str:
        """Serve whatever a test wants; returns the URL."""
        self.answers[path] = answer
        return self.url + path

    def _answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self.asked.append(handler.path)
        answer = self.answers.get(handler.path)
        status, headers, octets = answer(body) if answer is not None else (404, {}, b"")
        handler.send_response(status)
        for header, value in headers.items():
            handler.send_header(header, value)
        handler.send_header("Content-Length", str(len(octets)))
        handler.end_headers()
        handler.wfile.write(octets)
