"""Snapshot, generation and nonce in; one :class:`GatewayDocument` out. Pure: no database, no clock, no entropy.

Each tunnel is turned to face the gateway it is compiled for, so the two documents of a tunnel mirror each other. One
child per selector pair, because a pair is what comes up or stays down on its own, with the pair's own IPsec policy or
the tunnel's. Each tunnel brings its own PSK row with the pair of addresses and identities it belongs to: two tunnels
that share the remote address never share a key by accident.

The SAs of a tunnel with manual keys are mirrored as well: what goes from A to B is outbound at A and inbound at B. The
peers of an on-demand tunnel have no address, and so has the key's row; it names their identity, which may be partial.

Who starts: each end's connection type goes into its gateway's document as it is. With ``both`` on both ends both may
start; what happens when they do at once is the daemon's business (RFC 7296 section 2.25).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agents.contract import carriage, config, manual
from agents.contract.errors import DocumentError, FieldError
from vpnconsole.rollout.snapshot import (
    CarriageSnapshot,
    EndSnapshot,
    GatewaySnapshot,
    IkePolicySnapshot,
    IpsecPolicySnapshot,
    ManualChildSnapshot,
    ManualSaSnapshot,
    ManualTunnelSnapshot,
    SelectorSnapshot,
    TunnelSnapshot,
)


def compile_document(snapshot: GatewaySnapshot, *, generation: int, nonce: str) -> config.GatewayDocument:
    """Build one gateway's document; raises :class:`DocumentError` naming tunnel and field of an impossible value."""
    keys, tunnels, manual_tunnels = [], [], []
    for index, tunnel in enumerate(snapshot.tunnels):
        with _naming(f"tunnels[{index}]", tunnel.name):
            here, there = _oriented(tunnel, snapshot.id)
            keys.append(_preshared_key(tunnel, here, there))
            tunnels.append(_tunnel(tunnel, here, there))
    for index, each in enumerate(snapshot.manual_tunnels):
        with _naming(f"manual_tunnels[{index}]", each.name):
            here, there = _oriented(each, snapshot.id)
            manual_tunnels.append(_manual_tunnel(each, here, there))
    try:
        return config.GatewayDocument(
            gateway_id=snapshot.id,
            gateway_name=snapshot.name,
            generation=generation,
            nonce=nonce,
            data_plane=config.DataPlane(snapshot.data_plane),
            allow_legacy=snapshot.allow_legacy,
            preshared_keys=tuple(keys),
            tunnels=tuple(tunnels),
            manual_tunnels=tuple(manual_tunnels),
            contexts=tuple(carriage.Context(name=name, table=table) for name, table in snapshot.contexts),
            packet_filter=snapshot.packet_filter,
        )
    except FieldError as error:
        raise DocumentError(error.field, error.problem) from None


@contextmanager
def _naming(at: str, name: str) -> Iterator[None]:
    """Name the tunnel whose field is refused."""
    try:
        yield
    except FieldError as error:
        raise DocumentError(f"{at}.{error.field}", f"{error.problem} (tunnel {name})") from None


def _oriented(tunnel: TunnelSnapshot | ManualTunnelSnapshot, gateway_id: str) -> tuple[EndSnapshot, EndSnapshot]:
    if tunnel.end_a.gateway_id == gateway_id:
        return tunnel.end_a, tunnel.end_b
    if tunnel.end_b.gateway_id == gateway_id:
        return tunnel.end_b, tunnel.end_a
    raise FieldError("local", "neither end is on this gateway")


def _tunnel(tunnel: TunnelSnapshot, here: EndSnapshot, there: EndSnapshot) -> config.Tunnel:
    return config.Tunnel(
        id=tunnel.id,
        name=tunnel.name,
        local=config.Endpoint(address=here.address, identity=_identity(here)),
        remote=config.Endpoint(address=there.address, identity=_identity(there)),
        ike=_ike(tunnel.ike),
        children=tuple(_child(pair, pair.ipsec or tunnel.ipsec, here.side) for pair in tunnel.selectors),
        version=config.IkeVersion(tunnel.version),
        connection_type=config.ConnectionType(here.connection_type),
        enabled=tunnel.enabled,
        force_udp_encapsulation=tunnel.force_udp_encapsulation,
        add_routes=tunnel.add_routes,
        mtu=tunnel.mtu,
        kind=config.TunnelKind(tunnel.kind),
        most_peers=tunnel.most_peers,
        carriage=_carriage(tunnel.carriage, here),
    )


def _carriage(shared: CarriageSnapshot, here: EndSnapshot) -> carriage.Carriage:
    return carriage.Carriage(
        attachment=carriage.Attachment(shared.attachment),
        df_bit=carriage.DfBit(shared.df_bit),
        copy_dscp=shared.copy_dscp,
        clamp_tcp_mss=shared.clamp_tcp_mss,
        queues=shared.queues,
        rate_kbps=shared.rate_kbps,
        context=here.context,
        endpoint_context=here.endpoint_context,
        route_cost=here.route_cost,
        routes=tuple(carriage.StaticRoute(network=network, cost=cost) for network, cost in here.routes),
    )


def _manual_tunnel(tunnel: ManualTunnelSnapshot, here: EndSnapshot, there: EndSnapshot) -> manual.ManualTunnel:
    return manual.ManualTunnel(
        id=tunnel.id,
        name=tunnel.name,
        local_address=here.address,
        remote_address=there.address,
        children=tuple(_manual_child(child, here.side) for child in tunnel.children),
        enabled=tunnel.enabled,
        mtu=tunnel.mtu,
        carriage=_carriage(tunnel.carriage, here),
    )


def _manual_child(child: ManualChildSnapshot, local_side: str) -> manual.ManualChild:
    local, remote = _turned(child.selector, local_side)
    a_to_b, b_to_a = _manual_sa(child.a_to_b), _manual_sa(child.b_to_a)
    inbound, outbound = (b_to_a, a_to_b) if local_side == "a" else (a_to_b, b_to_a)
    return manual.ManualChild(
        name=child_name(child.selector.seq),
        local_ts=local,
        remote_ts=remote,
        inbound=inbound,
        outbound=outbound,
        mode=config.Mode(child.mode),
        replay_window=child.replay_window,
        ipcomp=child.ipcomp,
    )


def _manual_sa(row: ManualSaSnapshot) -> manual.ManualSa:
    return manual.ManualSa(
        esp_spi=row.esp_spi,
        encryption=row.encryption,
        encryption_key=row.encryption_key,
        integrity=row.integrity,
        integrity_key=row.integrity_key,
        ah_spi=row.ah_spi,
        ah_integrity=row.ah_integrity,
        ah_key=row.ah_key,
    )


def _preshared_key(tunnel: TunnelSnapshot, here: EndSnapshot, there: EndSnapshot) -> config.PresharedKey:
    return config.PresharedKey(
        id=tunnel.id,
        secret=tunnel.psk,
        local_address=here.address,
        remote_address=there.address if there.gateway_id else None,
        local_identity=_identity(here),
        remote_identity=_identity(there),
    )


def _identity(end: EndSnapshot) -> config.Identity:
    return config.Identity(type=config.IdentityType(end.identity_type), value=end.identity_value)


def _ike(policy: IkePolicySnapshot) -> config.IkePolicy:
    return config.IkePolicy(
        proposals=tuple(
            config.IkeProposal(
                encryption=row.encryption,
                integrity=row.integrity,
                prf=row.prf,
                group=row.group,
                additional_key_exchanges=(row.additional_key_exchange,) if row.additional_key_exchange else (),
            )
            for row in policy.proposals
        ),
        lifetime_s=policy.lifetime_s,
        dpd_interval_s=policy.dpd_interval_s,
        dpd_action=config.DpdAction(policy.dpd_action),
        reauth_s=policy.reauth_s,
        reauthentication=config.Reauthentication(policy.reauthentication),
        keepalive_s=policy.keepalive_s,
        mobike=policy.mobike,
        fragmentation=policy.fragmentation,
        unique=config.UniquePolicy(policy.unique),
        exchange_mode=config.ExchangeMode(policy.exchange_mode),
        lifetime_kilobytes=policy.lifetime_kilobytes,
    )


def _child(pair: SelectorSnapshot, policy: IpsecPolicySnapshot, local_side: str) -> config.Child:
    local, remote = _turned(pair, local_side)
    return config.Child(
        name=child_name(pair.seq),
        local_ts=(local,),
        remote_ts=(remote,),
        proposals=tuple(
            config.IpsecProposal(encryption=row.encryption, integrity=row.integrity, ah_integrity=row.ah_integrity)
            for row in policy.proposals
        ),
        pfs_groups=(policy.pfs_group,) if policy.pfs_group else (),
        lifetime_s=policy.lifetime_s,
        lifetime_bytes=policy.lifetime_bytes,
        lifetime_packets=policy.lifetime_packets,
        replay_window=policy.replay_window,
        mode=config.Mode(policy.mode),
        sequence_numbers=config.SequenceNumbers(policy.sequence_numbers),
        ipcomp=policy.ipcomp,
    )


def _turned(pair: SelectorSnapshot, local_side: str) -> tuple[config.TrafficSelector, config.TrafficSelector]:
    """Return a pair as the gateway on ``local_side`` sees it: local, remote."""
    side_a = _selector(pair.network_a, pair.protocol, pair.ports_a)
    side_b = _selector(pair.network_b, pair.protocol, pair.ports_b)
    return (side_a, side_b) if local_side == "a" else (side_b, side_a)


def child_name(seq: int) -> str:
    """Return the name of the child that carries selector pair ``seq``: how a status row finds its pair again."""
    return f"pair-{seq}"


def _selector(network: str, protocol: int, ports: tuple[int, int]) -> config.TrafficSelector:
    start_port, end_port = ports
    return config.TrafficSelector(network=network, protocol=protocol, start_port=start_port, end_port=end_port)
