"""Documents and specs of the tests: two gateways, alpha and beta."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from agents.contract.config import (
    Child,
    ConnectionType,
    DataPlane,
    Endpoint,
    GatewayDocument,
    Identity,
    IdentityType,
    IkePolicy,
    IkeProposal,
    IpsecProposal,
    PresharedKey,
    Retransmission,
    TrafficSelector,
    Tunnel,
)
from agents.contract.secret import Secret
from agents.dataplane.base import REQID_BASE, Direction, PolicySpec, SaSpec, Selector

GCM = IkeProposal(encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group="group-31")
ESP_GCM = IpsecProposal(encryption="aes-128-gcm-16")


def uid(name: str) -> str:
    """Return the same UUID for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def ipv4(address: str) -> Identity:
    return Identity(type=IdentityType.IPV4, value=address)


def by_address(address: str) -> Endpoint:
    """Return an end that shows its address as its identity."""
    kind = IdentityType.IPV6 if ":" in address else IdentityType.IPV4
    return Endpoint(address=address, identity=Identity(type=kind, value=address))


def tunnel(
    name: str,
    local: str,
    remote: str,
    *,
    local_ts: str = "10.1.0.0/24",
    remote_ts: str = "10.2.0.0/24",
    connection_type: ConnectionType = ConnectionType.BOTH,
    proposals: Sequence[IkeProposal] = (GCM,),
    esp: Sequence[IpsecProposal] = (ESP_GCM,),
    pfs: Sequence[str] = (),
    enabled: bool = True,
    dpd_interval_s: int = 30,
    mtu: int | None = None,
    identity: str | None = None,
) -> Tunnel:
    return Tunnel(
        id=uid(identity or name),
        name=name,
        local=by_address(local),
        remote=by_address(remote),
        ike=IkePolicy(proposals=tuple(proposals), dpd_interval_s=dpd_interval_s),
        children=(
            Child(
                name="net",
                local_ts=(TrafficSelector(network=local_ts),),
                remote_ts=(TrafficSelector(network=remote_ts),),
                proposals=tuple(esp),
                pfs_groups=tuple(pfs),
            ),
        ),
        connection_type=connection_type,
        enabled=enabled,
        mtu=mtu,
    )


def psk(local: str | None, remote: str | None, secret: bytes = b"a shared secret", name: str = "psk") -> PresharedKey:
    return PresharedKey(id=uid(name), secret=Secret(secret), local_address=local, remote_address=remote)


def document(
    name: str,
    tunnels: Sequence[Tunnel],
    keys: Sequence[PresharedKey],
    *,
    generation: int = 1,
    data_plane: DataPlane = DataPlane.USERSPACE,
) -> GatewayDocument:
    return GatewayDocument(
        gateway_id=uid(name),
        gateway_name=name,
        generation=generation,
        nonce="0" * 32,
        data_plane=data_plane,
        retransmission=Retransmission(initial_ms=200, tries=4),
        preshared_keys=tuple(keys),
        tunnels=tuple(tunnels),
    )


def sa(direction: Direction, spi: int, *, tunnel_id: str = "t", reqid: int = REQID_BASE + 1) -> SaSpec:
    here, there = "192.0.2.1", "192.0.2.2"
    source, destination = (there, here) if direction is Direction.IN else (here, there)
    return SaSpec(
        tunnel_id=tunnel_id,
        direction=direction,
        spi=spi,
        source=source,
        destination=destination,
        reqid=reqid,
        encryption="aes-128-gcm-16",
        encryption_key=Secret(bytes(20)),
    )


def policy(direction: Direction, *, tunnel_id: str = "t", reqid: int = REQID_BASE + 1) -> PolicySpec:
    inner = ("10.1.0.0/24", "10.2.0.0/24")
    outer = ("192.0.2.1", "192.0.2.2")
    step = 1 if direction is Direction.OUT else -1
    return PolicySpec(
        tunnel_id=tunnel_id,
        direction=direction,
        selector=Selector(source=inner[::step][0], destination=inner[::step][1]),
        source=outer[::step][0],
        destination=outer[::step][1],
        reqid=reqid,
    )
