"""Snapshot, generation and nonce in; one :class:`GatewayDocument` out. Pure: no database, no clock, no entropy.

Each tunnel is turned to face the gateway it is compiled for, so the two documents of a tunnel mirror each other. One
child per selector pair, because a pair is what comes up or stays down on its own. Each tunnel brings its own PSK row
with the pair of addresses and identities it belongs to: two tunnels that share the remote address never share a key by
accident.

Who starts: each end's connection type goes into its gateway's document as it is. With ``both`` on both ends both may
start; what happens when they do at once is the daemon's business (RFC 7296 section 2.25).
"""

from __future__ import annotations

from agents.contract import config
from agents.contract.errors import DocumentError, FieldError
from vpnconsole.rollout.snapshot import (
    EndSnapshot,
    GatewaySnapshot,
    IkePolicySnapshot,
    IpsecPolicySnapshot,
    SelectorSnapshot,
    TunnelSnapshot,
)


def compile_document(snapshot: GatewaySnapshot, *, generation: int, nonce: str) -> config.GatewayDocument:
    """Build one gateway's document; raises :class:`DocumentError` naming tunnel and field of an impossible value."""
    keys, tunnels = [], []
    for index, tunnel in enumerate(snapshot.tunnels):
        try:
            here, there = _oriented(tunnel, snapshot.id)
            keys.append(_preshared_key(tunnel, here, there))
            tunnels.append(_tunnel(tunnel, here, there))
        except FieldError as error:
            raise DocumentError(f"tunnels[{index}].{error.field}", f"{error.problem} (tunnel {tunnel.name})") from None
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
        )
    except FieldError as error:
        raise DocumentError(error.field, error.problem) from None


def _oriented(tunnel: TunnelSnapshot, gateway_id: str) -> tuple[EndSnapshot, EndSnapshot]:
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
        children=tuple(_child(pair, tunnel.ipsec, here.side) for pair in tunnel.selectors),
        version=config.IkeVersion(tunnel.version),
        connection_type=config.ConnectionType(here.connection_type),
        enabled=tunnel.enabled,
        force_udp_encapsulation=tunnel.force_udp_encapsulation,
        add_routes=tunnel.add_routes,
        mtu=tunnel.mtu,
    )


def _preshared_key(tunnel: TunnelSnapshot, here: EndSnapshot, there: EndSnapshot) -> config.PresharedKey:
    return config.PresharedKey(
        id=tunnel.id,
        secret=tunnel.psk,
        local_address=here.address,
        remote_address=there.address,
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
    side_a = _selector(pair.network_a, pair.protocol, pair.ports_a)
    side_b = _selector(pair.network_b, pair.protocol, pair.ports_b)
    local, remote = (side_a, side_b) if local_side == "a" else (side_b, side_a)
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


def child_name(seq: int) -> str:
    """Return the name of the child that carries selector pair ``seq``: how a status row finds its pair again."""
    return f"pair-{seq}"


def _selector(network: str, protocol: int, ports: tuple[int, int]) -> config.TrafficSelector:
    start_port, end_port = ports
    return config.TrafficSelector(network=network, protocol=protocol, start_port=start_port, end_port=end_port)
