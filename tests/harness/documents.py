"""Documents for tests: two ends of one tunnel, mirrored."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agents.contract.config import (
    Certificate,
    Child,
    ConnectionType,
    Endpoint,
    GatewayDocument,
    Identity,
    IdentityType,
    IkePolicy,
    IkeProposal,
    IpsecProposal,
    PostquantumKey,
    PresharedKey,
    Retransmission,
    TrafficSelector,
    TrustAnchor,
    Tunnel,
)
from agents.contract.secret import Secret

FAST_IKE = IkeProposal(encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group="group-31")
FAST_ESP = IpsecProposal(encryption="chacha20-poly1305")


def ipv4_identity(address: str) -> Identity:
    return Identity(type=IdentityType.IPV6 if ":" in address else IdentityType.IPV4, value=address)


def endpoint(address: str, identity: Identity | None = None) -> Endpoint:
    return Endpoint(address=address, identity=identity or ipv4_identity(address))


def selectors(*networks: str) -> tuple[TrafficSelector, ...]:
    return tuple(TrafficSelector(network=network) for network in networks)


def child(
    name: str = "main",
    local: Sequence[str] = ("10.1.0.0/16",),
    remote: Sequence[str] = ("10.2.0.0/16",),
    **changes: object,
) -> Child:
    base = Child(name=name, local_ts=selectors(*local), remote_ts=selectors(*remote), proposals=(FAST_ESP,))
    return replace(base, **changes)  # type: ignore[arg-type]


def mirrored(one: Child) -> Child:
    return replace(one, local_ts=one.remote_ts, remote_ts=one.local_ts)


@dataclass(kw_only=True)
class Side:
    """What one end's document is made of; change it, then ask for :meth:`document`."""

    name: str
    tunnels: list[Tunnel]
    keys: list[PresharedKey]
    retransmission: Retransmission = field(default_factory=Retransmission)
    generation: int = 0
    allow_legacy: bool = False
    certificates: list[Certificate] = field(default_factory=list)
    anchors: list[TrustAnchor] = field(default_factory=list)
    ppks: list[PostquantumKey] = field(default_factory=list)

    def document(self) -> GatewayDocument:
        self.generation += 1
        return GatewayDocument(
            gateway_id=str(uuid.uuid5(uuid.NAMESPACE_DNS, self.name)),
            gateway_name=self.name,
            generation=self.generation,
            nonce="0" * 32,
            retransmission=self.retransmission,
            allow_legacy=self.allow_legacy,
            preshared_keys=tuple(self.keys),
            postquantum_keys=tuple(self.ppks),
            certificates=tuple(self.certificates),
            trust_anchors=tuple(self.anchors),
            tunnels=tuple(self.tunnels),
        )

    def change(self, index: int = 0, **changes: object) -> None:
        self.tunnels[index] = replace(self.tunnels[index], **changes)  # type: ignore[arg-type]


def key(secret: bytes, local: str | None = None, remote: str | None = None, **more: object) -> PresharedKey:
    row = PresharedKey(
        id=str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{local}-{remote}-{more}")),
        secret=Secret(secret),
        local_address=local,
        remote_address=remote,
    )
    return replace(row, **more)  # type: ignore[arg-type]


def tunnel(
    local: Endpoint,
    remote: Endpoint,
    *,
    name: str = "paris-lyon",
    children: tuple[Child, ...] = (),
    ike: IkePolicy | None = None,
    connection_type: ConnectionType = ConnectionType.BOTH,
    **changes: object,
) -> Tunnel:
    values: dict[str, object] = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
        "name": name,
        "local": local,
        "remote": remote,
        "ike": ike or IkePolicy(proposals=(FAST_IKE,)),
        "children": children or (child(),),
        "connection_type": connection_type,
    }
    return Tunnel(**values | changes)  # type: ignore[arg-type]


def pair(
    *,
    paris: str = "192.0.2.1",
    lyon: str = "192.0.2.2",
    children: tuple[Child, ...] = (),
    ike: IkePolicy | None = None,
    types: tuple[ConnectionType, ConnectionType] = (ConnectionType.INITIATOR_ONLY, ConnectionType.RESPONDER_ONLY),
    secret: bytes = b"a shared secret of both",
    **changes: object,
) -> tuple[Side, Side]:
    """Return the two ends of one tunnel; ``children`` are as paris sees them."""
    ours = children or (child(),)
    left = tunnel(
        endpoint(paris),
        endpoint(lyon),
        children=ours,
        ike=ike,
        connection_type=types[0],
        **changes,  # type: ignore[arg-type]
    )
    right = tunnel(
        endpoint(lyon),
        endpoint(paris),
        children=tuple(mirrored(each) for each in ours),
        ike=ike,
        connection_type=types[1],
        **changes,  # type: ignore[arg-type]
    )
    return (
        Side(name="paris", tunnels=[left], keys=[key(secret, paris, lyon)]),
        Side(name="lyon", tunnels=[right], keys=[key(secret, lyon, paris)]),
    )
