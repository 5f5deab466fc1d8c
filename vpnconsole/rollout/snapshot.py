"""One consistent read of everything one gateway's document needs, as frozen values.

:func:`take` is the only part of the rollout that reads intent from the database; what it returns holds no model, so
that :mod:`vpnconsole.rollout.compile` stays pure. Nothing is judged here: an impossible value is refused by the
compiler.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import connection, transaction

from agents.contract.carriage import LOCAL_CONTEXT
from agents.contract.secret import Secret
from vpnconsole.gateways.models import Gateway
from vpnconsole.vpn.queries import tunnels_of_gateway

if TYPE_CHECKING:
    from vpnconsole.vpn import models as vpn


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSnapshot:
    """One end of a tunnel: outer address, identity, who may start, and how its gateway routes.

    ``routes`` are networks with their costs. The peers of an on-demand tunnel stand as an end on no gateway.
    """

    side: str
    gateway_id: str
    address: str
    identity_type: str
    identity_value: str
    connection_type: str
    context: str = LOCAL_CONTEXT
    endpoint_context: str = LOCAL_CONTEXT
    route_cost: int = 0
    routes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriageSnapshot:
    """How both ends carry the tunnel's packets."""

    attachment: str = "shared"
    df_bit: str = "propagate"
    copy_dscp: bool = True
    clamp_tcp_mss: bool = False
    queues: int = 1
    rate_kbps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeProposalSnapshot:
    """One IKE suite by its slugs."""

    encryption: str
    integrity: str | None
    prf: str
    group: str
    additional_key_exchange: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IpsecProposalSnapshot:
    """One suite of ESP, AH or both by its slugs."""

    encryption: str | None
    integrity: str | None
    ah_integrity: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IkePolicySnapshot:
    """The IKE policy of a tunnel; proposals in order of preference."""

    proposals: tuple[IkeProposalSnapshot, ...]
    lifetime_s: int
    dpd_interval_s: int
    dpd_action: str = "restart"
    reauth_s: int = 0
    reauthentication: str = "make-before-break"
    keepalive_s: int = 20
    mobike: bool = True
    fragmentation: bool = True
    unique: str = "replace"
    exchange_mode: str = "main"
    lifetime_kilobytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IpsecPolicySnapshot:
    """An IPsec policy of a tunnel or of a pair; proposals in order of preference, limits of 0 mean none."""

    proposals: tuple[IpsecProposalSnapshot, ...]
    pfs_group: str | None
    lifetime_s: int
    lifetime_bytes: int
    replay_window: int
    lifetime_packets: int = 0
    mode: str = "tunnel"
    sequence_numbers: str = "normal"
    ipcomp: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorSnapshot:
    """One pair of protected networks, with the port range of each side; ``ipsec`` None is the tunnel's policy."""

    seq: int
    network_a: str
    network_b: str
    protocol: int
    ports_a: tuple[int, int]
    ports_b: tuple[int, int]
    ipsec: IpsecPolicySnapshot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelSnapshot:
    """One tunnel between two ends, seen from neither."""

    id: str
    name: str
    enabled: bool
    force_udp_encapsulation: bool
    add_routes: bool
    mtu: int | None
    end_a: EndSnapshot
    end_b: EndSnapshot
    ike: IkePolicySnapshot
    ipsec: IpsecPolicySnapshot
    selectors: tuple[SelectorSnapshot, ...]
    psk: Secret
    version: str = "v2"
    kind: str = "static"
    most_peers: int = 50
    carriage: CarriageSnapshot = CarriageSnapshot()


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualSaSnapshot:
    """One written-down SA; what is absent is None."""

    esp_spi: int | None = None
    encryption: str | None = None
    encryption_key: Secret | None = None
    integrity: str | None = None
    integrity_key: Secret | None = None
    ah_spi: int | None = None
    ah_integrity: str | None = None
    ah_key: Secret | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualChildSnapshot:
    """The SAs of one pair: what goes from A to B, and what comes back."""

    selector: SelectorSnapshot
    a_to_b: ManualSaSnapshot
    b_to_a: ManualSaSnapshot
    mode: str
    replay_window: int
    ipcomp: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualTunnelSnapshot:
    """One tunnel with manual keys, seen from neither end."""

    id: str
    name: str
    enabled: bool
    mtu: int | None
    end_a: EndSnapshot
    end_b: EndSnapshot
    children: tuple[ManualChildSnapshot, ...]
    carriage: CarriageSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySnapshot:
    """All of one gateway; tunnels sorted by id so that the same intent always compiles to the same octets.

    ``contexts`` are names with their tables, by name.
    """

    id: str
    name: str
    data_plane: str
    allow_legacy: bool = False
    packet_filter: bool = False
    contexts: tuple[tuple[str, int], ...] = ()
    tunnels: tuple[TunnelSnapshot, ...]
    manual_tunnels: tuple[ManualTunnelSnapshot, ...] = ()


@contextmanager
def still() -> Iterator[None]:
    """Open a transaction whose reads all see the same moment; inside another transaction, that one has to see to it."""
    outermost = not connection.in_atomic_block
    with transaction.atomic():
        # On SQLite every transaction is like that; PostgreSQL by default looks anew with each statement.
        if outermost and connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


def take(gateway_id: UUID) -> GatewaySnapshot:
    """Read one gateway's intent in one transaction; raises ``Gateway.DoesNotExist``."""
    with still():
        gateway = Gateway.objects.get(pk=gateway_id)
        contexts = tuple((row.name, row.table) for row in gateway.contexts.all())
        rows = sorted(tunnels_of_gateway(gateway_id), key=lambda row: str(row.id))
        tunnels = tuple(_tunnel(tunnel) for tunnel in rows if not tunnel.is_manual)
        manual_tunnels = tuple(_manual(tunnel) for tunnel in rows if tunnel.is_manual)
    return GatewaySnapshot(
        id=str(gateway.id),
        name=gateway.name,
        data_plane=gateway.data_plane,
        allow_legacy=gateway.allow_legacy,
        packet_filter=gateway.packet_filter,
        contexts=contexts,
        tunnels=tunnels,
        manual_tunnels=manual_tunnels,
    )


def _tunnel(tunnel: vpn.Tunnel) -> TunnelSnapshot:
    policies = tunnel.policies
    return TunnelSnapshot(
        id=str(tunnel.id),
        name=tunnel.name,
        enabled=tunnel.enabled,
        force_udp_encapsulation=tunnel.force_udp_encapsulation,
        add_routes=tunnel.add_routes,
        mtu=tunnel.mtu,
        end_a=_end(tunnel.end_a),
        end_b=_peers(tunnel) if tunnel.is_on_demand else _end(tunnel.end_b),
        ike=_ike(policies.ike_policy),
        ipsec=_ipsec(policies.ipsec_policy),
        selectors=tuple(_selector(pair) for pair in tunnel.selectors.all()),
        psk=tunnel.preshared_key.secret,
        version=tunnel.version,
        kind=tunnel.kind,
        most_peers=tunnel.most_peers,
        carriage=_carriage(tunnel),
    )


def _manual(tunnel: vpn.Tunnel) -> ManualTunnelSnapshot:
    return ManualTunnelSnapshot(
        id=str(tunnel.id),
        name=tunnel.name,
        enabled=tunnel.enabled,
        mtu=tunnel.mtu,
        end_a=_end(tunnel.end_a),
        end_b=_end(tunnel.end_b),
        children=tuple(
            ManualChildSnapshot(
                selector=_selector(pair),
                a_to_b=_manual_sa(pair.manual.sa("out")),
                b_to_a=_manual_sa(pair.manual.sa("in")),
                mode=pair.manual.mode,
                replay_window=pair.manual.replay_window,
                ipcomp=pair.manual.ipcomp,
            )
            for pair in tunnel.selectors.all()
        ),
        carriage=_carriage(tunnel),
    )


def _manual_sa(row: vpn.ManualSa | None) -> ManualSaSnapshot:
    if row is None:
        return ManualSaSnapshot()
    return ManualSaSnapshot(
        esp_spi=row.esp_spi,
        encryption=row.encryption,
        encryption_key=row.key("encryption_key"),
        integrity=row.integrity,
        integrity_key=row.key("integrity_key"),
        ah_spi=row.ah_spi,
        ah_integrity=row.ah_integrity,
        ah_key=row.key("ah_key"),
    )


def _carriage(tunnel: vpn.Tunnel) -> CarriageSnapshot:
    return CarriageSnapshot(
        attachment=tunnel.attachment,
        df_bit=tunnel.df_bit,
        copy_dscp=tunnel.copy_dscp,
        clamp_tcp_mss=tunnel.clamp_tcp_mss,
        queues=tunnel.queues,
        rate_kbps=tunnel.rate_kbps,
    )


def _selector(pair: vpn.SelectorPair) -> SelectorSnapshot:
    return SelectorSnapshot(
        seq=pair.seq,
        network_a=pair.network_a,
        network_b=pair.network_b,
        protocol=pair.protocol,
        ports_a=(pair.port_a_start, pair.port_a_end),
        ports_b=(pair.port_b_start, pair.port_b_end),
        ipsec=_ipsec(pair.ipsec_policy) if pair.ipsec_policy else None,
    )


def _peers(tunnel: vpn.Tunnel) -> EndSnapshot:
    version = ipaddress.ip_address(tunnel.end_a.address).version
    return EndSnapshot(
        side="b",
        gateway_id="",
        address="0.0.0.0" if version == 4 else "::",  # noqa: S104 - nothing is bound
        identity_type=tunnel.peer_identity_type,
        identity_value=tunnel.peer_identity_value,
        connection_type="initiator-only",
    )


def _end(end: vpn.TunnelEnd) -> EndSnapshot:
    return EndSnapshot(
        side=end.side,
        gateway_id=str(end.gateway_id),
        address=end.address,
        identity_type=end.identity_type,
        identity_value=end.identity_value,
        connection_type=end.connection_type,
        context=end.context.name if end.context else LOCAL_CONTEXT,
        endpoint_context=end.endpoint_context.name if end.endpoint_context else LOCAL_CONTEXT,
        route_cost=end.route_cost,
        routes=tuple((row.network, row.cost) for row in end.routes.all()),
    )


def _ike(policy: vpn.IKEPolicy) -> IkePolicySnapshot:
    return IkePolicySnapshot(
        proposals=tuple(
            IkeProposalSnapshot(
                encryption=row.encryption,
                integrity=row.integrity,
                prf=row.prf,
                group=row.group,
                additional_key_exchange=row.additional_key_exchange,
            )
            for row in policy.ordered_proposals()
        ),
        lifetime_s=policy.lifetime_s,
        dpd_interval_s=policy.dpd_interval_s,
        dpd_action=policy.dpd_action,
        reauth_s=policy.reauth_s,
        reauthentication=policy.reauthentication,
        keepalive_s=policy.keepalive_s,
        mobike=policy.mobike,
        fragmentation=policy.fragmentation,
        unique=policy.unique,
        exchange_mode=policy.exchange_mode,
        lifetime_kilobytes=policy.lifetime_kilobytes,
    )


def _ipsec(policy: vpn.IPsecPolicy) -> IpsecPolicySnapshot:
    return IpsecPolicySnapshot(
        proposals=tuple(
            IpsecProposalSnapshot(encryption=row.encryption, integrity=row.integrity, ah_integrity=row.ah_integrity)
            for row in policy.ordered_proposals()
        ),
        pfs_group=policy.pfs_group,
        lifetime_s=policy.lifetime_s,
        lifetime_bytes=policy.lifetime_bytes,
        replay_window=policy.replay_window,
        lifetime_packets=policy.lifetime_packets,
        mode=policy.mode,
        sequence_numbers=policy.sequence_numbers,
        ipcomp=policy.ipcomp,
    )
