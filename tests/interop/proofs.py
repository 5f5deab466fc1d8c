"""How the two ends of a cell prove who they are, where that is not the pre-shared key of every cell.

Certificates come from CAs made once per run. Their CRLs and OCSP answers are served inside the peer's namespace, at an
address both ends reach; what is revoked there is revoked for the whole run, so those leaves are leaves of their own.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed448
from cryptography.hazmat.primitives.serialization import pkcs12

from agents.contract.config import (
    AuthKind,
    Certificate,
    GatewayDocument,
    LocalAuthentication,
    RemoteAuthentication,
    Revocation,
    TrustAnchor,
)
from agents.pki.keys import KeyFolder
from deploy.lab.netns import Namespace
from deploy.lab.vici import Message, Vici
from tests.interop.rig import THEIRS, OurGateway
from tests.pki import Authority, Leaf, RevocationServer, der, key, key_pem

_PORT = 8080
_URL = f"http://{THEIRS}:{_PORT}"
_DEAD_URL = f"http://{THEIRS}:{_PORT + 1}"
_CLONE_NEWNET = 0x4000_0000
_NAMES = {"ours": "ours.example.net", "theirs": "theirs.example.net"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One end: ``key_type`` of :func:`tests.pki.new_key`, empty for the pre-shared key; how deep its CAs stand.

    ``checks`` is where its certificate's status is found: ``crl``, ``ocsp``, ``dead`` (nobody answers) or empty.
    ``signature`` is one of our slugs.
    """

    key_type: str = "ecdsa-p256"
    signature: str = ""
    intermediates: int = 0
    checks: str = ""
    revoked: bool = False
    subject: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What each end shows, and how hard each checks; ``expected`` are the slugs that our status must name."""

    ours: Side = Side()
    theirs: Side = Side()
    revocation: Revocation = Revocation.OFF
    their_revocation: str = ""
    expected: tuple[str, str] | None = None

    def put_ours(self, document: GatewayDocument) -> GatewayDocument:
        """Return our document with certificates, anchors and authentication."""
        (tunnel,) = document.tunnels
        certificates: tuple[Certificate, ...] = ()
        anchors: tuple[TrustAnchor, ...] = ()
        local, remote = LocalAuthentication(), RemoteAuthentication()
        if self.ours.key_type:
            leaf = _leaf("ours", self.ours)
            certificates = (Certificate(id="ours", chain=tuple(_text(each) for each in leaf.chain)),)
            wanted = (self.ours.signature,) if self.ours.signature else ()
            local = LocalAuthentication(kind=AuthKind.CERTIFICATE, certificate="ours", signatures=wanted)
        if self.theirs.key_type:
            anchors = (TrustAnchor(id="theirs", certificate=_text(der(_root("theirs", self.theirs).certificate))),)
            remote = RemoteAuthentication(
                kind=AuthKind.CERTIFICATE,
                trust_anchors=("theirs",),
                signatures=(self.theirs.signature,) if self.theirs.signature else (),
                revocation=self.revocation,
                fetch_private=True,
            )
        tunnel = replace(tunnel, local_auth=local, remote_auth=remote)
        return replace(document, certificates=certificates, trust_anchors=anchors, tunnels=(tunnel,))

    def put_theirs(self, connection: Message) -> None:
        """Change strongSwan's connection."""
        if self.theirs.key_type:
            connection["local-1"]["auth"] = _their_scheme(self.theirs.signature)
            connection["local-1"]["certs"] = [der(_leaf("theirs", self.theirs).certificate)]
        if self.ours.key_type:
            connection["remote-1"]["auth"] = "pubkey"
            connection["remote-1"]["cacerts"] = [der(_root("ours", self.ours).certificate)]
            if self.their_revocation:
                connection["remote-1"]["revocation"] = self.their_revocation

    def load_theirs(self, vici: Vici) -> None:
        """Load its key, its CAs and ours into strongSwan."""
        if self.ours.key_type:
            vici.request("load-cert", {"type": "X509", "flag": "CA", "data": der(_root("ours", self.ours).certificate)})
        if self.theirs.key_type:
            leaf = _leaf("theirs", self.theirs)
            vici.request("load-key", {"type": "any", "data": key_pem(leaf.key)})
            for each in (_root("theirs", self.theirs).certificate, *leaf.intermediates):
                vici.request("load-cert", {"type": "X509", "flag": "CA", "data": der(each)})

    def load_ours(self, gateway: OurGateway) -> None:
        """Put our key where the daemon looks for it."""
        if self.ours.key_type:
            KeyFolder(gateway.state / "keys").add(_leaf("ours", self.ours).key)


def authority(owner: str, side: Side) -> bytes:
    """Return the root that an end's certificate leads to, in DER."""
    return der(_root(owner, side).certificate)


def pkcs12_file(owner: str, side: Side, name: str, password: str) -> bytes:
    """Return an end's key and certificate as a file that old libraries read too."""
    leaf = _leaf(owner, side)
    builder = serialization.PrivateFormat.PKCS12.encryption_builder().kdf_rounds(2000)
    builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC).hmac_hash(hashes.SHA1())
    assert not isinstance(leaf.key, ed448.Ed448PrivateKey)
    encryption = builder.build(password.encode())
    return pkcs12.serialize_key_and_certificates(name.encode(), leaf.key, leaf.certificate, None, encryption)


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _their_scheme(slug: str) -> str:
    """Return the ``auth`` that makes strongSwan sign so."""
    if not slug or slug.startswith("method-"):
        return "pubkey"
    return "ike:" + slug.replace("rsa-pss-sha2-", "rsa/pss-sha").replace("-sha2-", "-sha")


def _path(owner: str, side: Side, depth: int) -> str:
    return f"/{owner}-{side.checks}-{'revoked' if side.revoked else 'good'}-{side.intermediates}-{depth}"


@functools.cache
def _authorities(owner: str, checks: str, revoked: bool, intermediates: int, key_type: str) -> tuple[Authority, ...]:
    """Return the CAs from the root down to the one that issues."""
    side = Side(checks=checks, revoked=revoked, intermediates=intermediates)
    base = _DEAD_URL if checks == "dead" else _URL

    def urls(depth: int) -> dict[str, str | None]:
        where = base + _path(owner, side, depth)
        return {
            "crl_url": where if checks in ("crl", "dead") else None,
            "ocsp_url": where if checks == "ocsp" else None,
        }

    ca_key = key_type if key_type == "rsa-4096" else "ecdsa-p256"
    chain = [Authority.root(f"Root of {owner} {checks} {revoked} {intermediates} {key_type}", ca_key, **urls(0))]  # type: ignore[arg-type]
    for depth in range(1, intermediates + 1):
        chain.append(chain[-1].intermediate(f"Issuing {depth} of {owner}", ca_key, **urls(depth)))  # type: ignore[arg-type]
    return tuple(chain)


def _chain(owner: str, side: Side) -> tuple[Authority, ...]:
    return _authorities(owner, side.checks, side.revoked, side.intermediates, side.key_type)


def _root(owner: str, side: Side) -> Authority:
    return _chain(owner, side)[0]


@functools.cache
def _leaf(owner: str, side: Side) -> Leaf:
    """Return the end's certificate; revoked at its issuer where it is to be."""
    issuer = _chain(owner, side)[-1]
    own = key(side.key_type, owner)
    leaf = issuer.leaf(side.subject or f"gateway {owner}", dns=(_NAMES[owner],), private_key=own)
    if side.revoked:
        issuer.revoke(leaf.certificate)
    return leaf


@contextlib.contextmanager
def revocation_server(namespace: Namespace) -> Iterator[RevocationServer]:
    """Serve every CRL and OCSP answer of this module inside a namespace."""
    made: list[RevocationServer] = []

    def inside() -> None:
        with namespace.path.open("rb") as handle:
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"entering {namespace.name}")
        made.append(RevocationServer(THEIRS, _PORT))

    # A thread's namespace is its own, and the socket it makes stays in there whoever serves it.
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    if not made:
        raise OSError(os.strerror(0), f"no HTTP server in {namespace.name}")
    with made[0] as server:
        yield server


def publish(server: RevocationServer, proof: Proof) -> None:
    """Let the server answer for the CAs of a proof."""
    for owner, side in (("ours", proof.ours), ("theirs", proof.theirs)):
        if side.key_type and side.checks in ("crl", "ocsp"):
            _leaf(owner, side)
            for depth, authority in enumerate(_chain(owner, side)):
                put = server.publish_crl if side.checks == "crl" else server.publish_ocsp
                put(_path(owner, side, depth), authority)
