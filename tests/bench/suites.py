"""What the handshake benchmark negotiates: suites, and the configuration of responders and initiators for each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agents.contract.config import (
    AuthKind,
    Certificate,
    ConnectionType,
    Endpoint,
    GatewayDocument,
    Identity,
    IdentityType,
    IkeProposal,
    IkeVersion,
    LocalAuthentication,
    RemoteAuthentication,
    Revocation,
    TrustAnchor,
    Tunnel,
    UniquePolicy,
)
from deploy.lab.vici import Message
from tests.iked.cast import ESP_GCM, document, psk, tunnel
from tests.interop import words
from tests.interop.words import esp_keywords, ike_keywords
from tests.pki import Authority, Leaf, der, new_key

RESPONDER = "192.0.2.1"
INITIATORS = "198.18.0.0/16"
PSK = b"a secret for the benchmark"
CLIENT, GATEWAY = "client.example.net", "gateway.example.net"
_LOCAL_NET, _REMOTE_NETS = "10.1.0.0/24", "10.64.0.0/10"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One row of the benchmark. Least figures by processor time: ``target`` beside charon, ``least_per_s`` alone."""

    name: str
    group: str
    version: IkeVersion = IkeVersion.V2
    certificates: bool = False
    target: float | None = None
    least_per_s: int = 0

    @property
    def ike(self) -> IkeProposal:
        """The IKE proposal of every end."""
        if self.version is IkeVersion.V1:
            return replace(CBC, group=self.group)
        return IkeProposal(encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group=self.group)

    @property
    def legacy(self) -> bool:
        """Whether every end must allow legacy algorithms."""
        return words.legacy((self.ike,), (), ())


CBC = IkeProposal(encryption="aes-128-cbc", integrity="hmac-sha2-256-128", prf="prf-hmac-sha2-256", group="group-14")
SUITES = (
    Suite(name="X25519, PSK", group="group-31", target=0.3, least_per_s=300),
    Suite(name="MODP-2048, PSK", group="group-14", target=1.0),
    Suite(name="P-256, ECDSA certificates", group="group-19", certificates=True),
    Suite(name="Main Mode, MODP-1024, PSK", group="group-2", version=IkeVersion.V1),
    Suite(name="Main Mode, MODP-1536, PSK", group="group-5", version=IkeVersion.V1),
    Suite(name="Main Mode, MODP-2048, PSK", group="group-14", version=IkeVersion.V1, target=1.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proofs:
    """One CA and the two ends' certificates."""

    authority: Authority
    client: Leaf
    gateway: Leaf


def new_proofs(key_type: str = "ecdsa-p256") -> Proofs:
    """Return fresh keys and certificates."""
    authority = Authority.root("Benchmark")
    client, gateway = (
        authority.leaf(name, dns=(dns,), private_key=new_key(key_type))
        for name, dns in (("client", CLIENT), ("gateway", GATEWAY))
    )
    return Proofs(authority=authority, client=client, gateway=gateway)


def address(number: int) -> str:
    """Return the address of the initiator with this number."""
    return f"198.18.{number // 250}.{number % 250 + 1}"


def network(suite: Suite, number: int) -> str:
    """Return what our responder narrows the inner network of the initiator with this number to; IKEv1 has no less."""
    if suite.version is IkeVersion.V1:
        return _REMOTE_NETS
    return f"10.{100 + number // 250}.{number % 250}.0/24"


def responder_document(suite: Suite, count: int, proofs: Proofs) -> GatewayDocument:
    """Return our responder's document: one tunnel per initiator."""
    tunnels = [
        _tunnel(
            suite, number, RESPONDER, address(number), GATEWAY, CLIENT, (_LOCAL_NET, network(suite, number)),
            ConnectionType.RESPONDER_ONLY,
        )
        for number in range(count)
    ]  # fmt: skip
    keys = [psk(RESPONDER, address(number), PSK, f"k{number}") for number in range(count)]
    return _with_certificates(
        suite, document("responder", tunnels, keys, allow_legacy=suite.legacy), proofs, proofs.gateway
    )


def initiator_document(suite: Suite, number: int, proofs: Proofs) -> GatewayDocument:
    """Return the document of one initiator."""
    mine = _tunnel(
        suite, number, address(number), RESPONDER, CLIENT, GATEWAY, (_REMOTE_NETS, _LOCAL_NET),
        ConnectionType.INITIATOR_ONLY,
    )  # fmt: skip
    return _with_certificates(
        suite, document(f"i{number}", [mine], [], allow_legacy=suite.legacy), proofs, proofs.client
    )


def charon_connection(suite: Suite, proofs: Proofs) -> Message:
    """Return strongSwan's one connection for all initiators."""
    connection: Message = {
        "version": "1" if suite.version is IkeVersion.V1 else "2",
        "local_addrs": [RESPONDER],
        "remote_addrs": ["%any"],
        "proposals": [ike_keywords(suite.ike)],
        "unique": "never",
        "rekey_time": "0s",
        "local-1": {"auth": "psk", "id": GATEWAY},
        "remote-1": {"auth": "psk", "id": CLIENT},
        "children": {
            "net": {
                "local_ts": [_LOCAL_NET],
                "remote_ts": [_REMOTE_NETS],
                "esp_proposals": [esp_keywords(ESP_GCM)],
                "rekey_time": "0s",
            }
        },
    }
    if suite.certificates:
        connection["local-1"] |= {"auth": "pubkey", "certs": [der(proofs.gateway.certificate)]}
        connection["remote-1"] |= {"auth": "pubkey", "cacerts": [der(proofs.authority.certificate)]}
    return connection


def _tunnel(
    suite: Suite, number: int, local: str, remote: str, me: str, other: str, networks: tuple[str, str],
    kind: ConnectionType,
) -> Tunnel:  # fmt: skip
    made = tunnel(
        f"t{number}", local, remote, local_ts=networks[0], remote_ts=networks[1], connection_type=kind,
        proposals=(suite.ike,),
    )  # fmt: skip
    return replace(
        made,
        local=Endpoint(address=local, identity=Identity(type=IdentityType.FQDN, value=me)),
        remote=Endpoint(address=remote, identity=Identity(type=IdentityType.FQDN, value=other)),
        ike=replace(made.ike, unique=UniquePolicy.NEVER, mobike=False),
        version=suite.version,
    )


def _with_certificates(suite: Suite, plain: GatewayDocument, proofs: Proofs, own: Leaf) -> GatewayDocument:
    if not suite.certificates:
        return plain
    local = LocalAuthentication(kind=AuthKind.CERTIFICATE, certificate="own")
    remote = RemoteAuthentication(kind=AuthKind.CERTIFICATE, trust_anchors=("ca",), revocation=Revocation.OFF)
    tunnels = [replace(each, local_auth=local, remote_auth=remote) for each in plain.tunnels]
    return replace(
        plain,
        certificates=(Certificate(id="own", chain=_texts(own.chain)),),
        trust_anchors=(TrustAnchor(id="ca", certificate=_texts([der(proofs.authority.certificate)])[0]),),
        tunnels=tuple(tunnels),
    )


def _texts(octets: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(base64.b64encode(each).decode() for each in octets)
