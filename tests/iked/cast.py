"""Documents and specs of the tests: two gateways, alpha and beta."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from agents.contract.config import (
    ConnectionType,
    DataPlane,
    GatewayDocument,
    IkePolicy,
    IkeProposal,
    IpsecProposal,
    PresharedKey,
    Retransmission,
    TrafficSelector,
    Tunnel,
)
from agents.contract.manual import ManualChild, ManualSa, ManualTunnel
from agents.contract.secret import Secret
from agents.dataplane.base import REQID_BASE, Direction, PolicySpec, SaSpec, Selector
from tests.harness import documents

GCM = IkeProposal(encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group="group-31")
ESP_GCM = IpsecProposal(encryption="aes-128-gcm-16")

ipv4 = documents.ipv4_identity
by_address = documents.endpoint


def uid(name: str) -> str:
    """Return the same UUID for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


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
    net = documents.child("net", (local_ts,), (remote_ts,), proposals=tuple(esp), pfs_groups=tuple(pfs))
    return documents.tunnel(
        by_address(local),
        by_address(remote),
        name=name,
        children=(net,),
        ike=IkePolicy(proposals=tuple(proposals), dpd_interval_s=dpd_interval_s),
        connection_type=connection_type,
        id=uid(identity or name),
        enabled=enabled,
        mtu=mtu,
    )


def psk(local: str | None, remote: str | None, secret: bytes = b"a shared secret", name: str = "psk") -> PresharedKey:
    return documents.key(secret, local, remote, id=uid(name))


def document(
    name: str,
    tunnels: Sequence[Tunnel],
    keys: Sequence[PresharedKey],
    *,
    generation: int = 1,
    data_plane: DataPlane = DataPlane.USERSPACE,
    allow_legacy: bool = False,
    manual_tunnels: Sequence[ManualTunnel] = (),
) -> GatewayDocument:
    return GatewayDocument(
        gateway_id=uid(name),
        gateway_name=name,
        generation=generation,
        nonce="0" * 32,
        data_plane=data_plane,
        allow_legacy=allow_legacy,
        retransmission=Retransmission(initial_ms=200, tries=4),
        preshared_keys=tuple(keys),
        tunnels=tuple(tunnels),
        manual_tunnels=tuple(manual_tunnels),
    )


CBC_SHA1 = ManualSa(
    esp_spi=0x1001,
    encryption="aes-128-cbc",
    encryption_key=Secret(bytes(range(16))),
    integrity="hmac-sha1-96",
    integrity_key=Secret(bytes(range(20))),
)
AH_SHA1 = ManualSa(ah_spi=0x2001, ah_integrity="hmac-sha1-96", ah_key=Secret(bytes(range(1, 21))))


def manual_child(
    name: str = "net",
    local_ts: str = "10.1.0.0/24",
    remote_ts: str = "10.2.0.0/24",
    *,
    sa: ManualSa = CBC_SHA1,
    outbound: ManualSa | None = None,
    **more: object,
) -> ManualChild:
    """Return a child whose directions have the same attributes unless ``outbound`` is given."""
    made = ManualChild(
        name=name,
        local_ts=TrafficSelector(network=local_ts),
        remote_ts=TrafficSelector(network=remote_ts),
        inbound=sa,
        outbound=outbound or sa,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def manual(
    name: str, local: str, remote: str, *, children: Sequence[ManualChild] = (), enabled: bool = True
) -> ManualTunnel:
    return ManualTunnel(
        id=uid(name),
        name=name,
        local_address=local,
        remote_address=remote,
        children=tuple(children) or (manual_child(),),
        enabled=enabled,
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
