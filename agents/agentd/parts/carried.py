"""A tunnel as its host sees it, whatever keys it: what is up, what it protects, where its peers are now.

Negotiated, on-demand and manual tunnels of a document are the same value here, so that no part looks at kinds. Peers
of an on-demand tunnel and what it protects are those of its SAs: the document knows neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agents.agentd.host import TABLE_MAIN
from agents.contract.carriage import Attachment, Carriage
from agents.contract.config import Child, GatewayDocument, Mode, Tunnel, TunnelKind
from agents.contract.errors import FieldError
from agents.contract.manual import ManualTunnel
from agents.contract.status import ChildSaStatus, ChildStatus, TunnelStatus
from agents.contract.traffic import TrafficSelector

_SELECTOR = re.compile(r"(?P<networks>[^\[]+)(?:\[(?P<protocol>\d+|any)/(?P<ports>.+)\])?")
_PORTS = re.compile(r"(\d+)-(\d+)")
_TYPED = re.compile(r"type (\d+) code (\d+)-(\d+) code (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Protected:
    """One child, or one SA of an on-demand tunnel: its selectors and the inbound SPIs (8 hexadecimal digits) it has.

    ``mode`` is that of its SAs.
    """

    child: str
    local: tuple[TrafficSelector, ...]
    remote: tuple[TrafficSelector, ...]
    up: bool = False
    spis: tuple[str, ...] = ()
    mode: Mode = Mode.TUNNEL


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPair:
    """What an SA of transport mode carries: of the two outer addresses, what both selectors take."""

    child: str
    local: TrafficSelector
    remote: TrafficSelector
    spi: str

    @property
    def protocol(self) -> int:
        """The protocol both take, 0 for any."""
        return self.local.protocol or self.remote.protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """One enabled tunnel. ``peers`` are outer addresses, those in use first; empty where nobody has called yet.

    ``selector_routes`` tells whether the remote networks are to be routed. ``interface`` is the tunnel's own in the
    data plane in use, None where it shares the outer one. ``hosts`` is what goes through that in transport mode.
    ``endpoint_table`` is the routing table of its endpoint's context, for its outer packets.
    """

    id: str
    name: str
    local: tuple[str, ...]
    peers: tuple[str, ...]
    anywhere: bool
    selector_routes: bool
    carriage: Carriage
    protected: tuple[Protected, ...]
    mtu: int | None = None
    interface: str | None = None
    status: TunnelStatus | None = None
    hosts: tuple[HostPair, ...] = ()
    endpoint_table: int = TABLE_MAIN

    @property
    def up(self) -> bool:
        """Whether any SA stands."""
        return any(each.up for each in self.protected)

    @property
    def spis(self) -> tuple[str, ...]:
        """The inbound SPIs of all its SAs."""
        return tuple(spi for each in self.protected for spi in each.spis)

    @property
    def cost(self) -> int:
        """The lowest cost of any route it asks for."""
        costs = [route.cost for route in self.carriage.routes]
        return min([self.carriage.route_cost, *costs] if self.selector_routes or not costs else costs)


def carried(document: GatewayDocument, tunnels: Mapping[str, TunnelStatus], driver: str) -> tuple[Carried, ...]:
    """Return the enabled tunnels in the order of the document; ``tunnels`` is what ``iked`` says of them."""
    found = [_negotiated(each, tunnels.get(each.id), driver) for each in document.tunnels if each.enabled]
    found += [_manual(each, tunnels.get(each.id), driver) for each in document.manual_tunnels if each.enabled]
    tables = {context.name: context.table for context in document.contexts}
    return tuple(replace(each, endpoint_table=tables.get(each.carriage.endpoint_context, TABLE_MAIN)) for each in found)


def interface_name(tunnel_id: str) -> str:
    """Return the name of a tunnel's own interface."""
    return f"vpn{tunnel_id[:8]}"


def host_of(endpoint: str) -> str:
    """Return the address of ``192.0.2.1:500`` or ``[2001:db8::1]:500``."""
    return endpoint.rpartition(":")[0].removeprefix("[").removesuffix("]")


def _negotiated(tunnel: Tunnel, status: TunnelStatus | None, driver: str) -> Carried:
    on_demand = tunnel.kind is TunnelKind.ON_DEMAND
    in_use = [host_of(sa.remote) for sa in status.ike_sas] if status is not None else []
    configured = [] if tunnel.remote.anywhere else [tunnel.remote.address, *tunnel.remote.more_addresses]
    return Carried(
        id=tunnel.id,
        name=tunnel.name,
        local=tunnel.local_addresses,
        peers=tuple(dict.fromkeys([*in_use, *configured])),
        anywhere=tunnel.remote.anywhere,
        selector_routes=tunnel.add_routes,
        carriage=tunnel.carriage,
        protected=_of_sas(status) if on_demand else tuple(_of_child(each, status) for each in tunnel.children),
        mtu=tunnel.mtu,
        interface=_interface(tunnel, status, driver),
        status=status,
        hosts=_hosts(status, driver),
    )


def _manual(tunnel: ManualTunnel, status: TunnelStatus | None, driver: str) -> Carried:
    """Return a tunnel with manual keys; the seed gives those no routes from selectors (003 section 9.4)."""
    return Carried(
        id=tunnel.id,
        name=tunnel.name,
        local=tunnel.local_addresses,
        peers=(tunnel.remote_address,),
        anywhere=False,
        selector_routes=False,
        carriage=tunnel.carriage,
        protected=tuple(
            _protected(child.name, child.mode, (child.local_ts,), (child.remote_ts,), status)
            for child in tunnel.children
        ),
        mtu=tunnel.mtu,
        interface=_interface(tunnel, status, driver),
        status=status,
        hosts=_hosts(status, driver),
    )


def _interface(tunnel: Tunnel | ManualTunnel, status: TunnelStatus | None, driver: str) -> str | None:
    if driver == "kernel" and tunnel.carriage.attachment is Attachment.SHARED:
        return None
    return (status.interface if status is not None else None) or interface_name(tunnel.id)


def _of_child(child: Child, status: TunnelStatus | None) -> Protected:
    return _protected(child.name, child.mode, child.local_ts, child.remote_ts, status)


def _protected(
    name: str,
    mode: Mode,
    local: tuple[TrafficSelector, ...],
    remote: tuple[TrafficSelector, ...],
    status: TunnelStatus | None,
) -> Protected:
    children: tuple[ChildStatus, ...] = status.children if status is not None else ()
    now = next((each for each in children if each.name == name), None)
    return Protected(
        child=name,
        local=local,
        remote=remote,
        up=now is not None and now.up,
        spis=tuple(sa.spi_in for sa in now.sas) if now is not None else (),
        mode=mode,
    )


def _hosts(status: TunnelStatus | None, driver: str) -> tuple[HostPair, ...]:
    """Return what SAs in transport mode carry, once where a rekey has two of the same: as negotiated, not configured.

    Policies steer it in the kernel's data plane, which needs nothing here.
    """
    found: dict[tuple[TrafficSelector, TrafficSelector], HostPair] = {}
    for child in status.children if status is not None and driver != "kernel" else ():
        for sa in child.sas:
            if sa.mode != Mode.TRANSPORT:
                continue
            for local in selectors(sa.local_ts):
                for remote in selectors(sa.remote_ts):
                    pair = HostPair(child=child.name, local=local, remote=remote, spi=sa.spi_in)
                    if local.version == remote.version and {0, pair.protocol} >= {local.protocol, remote.protocol}:
                        found.setdefault((local, remote), pair)
    return tuple(found.values())


def _of_sas(status: TunnelStatus | None) -> tuple[Protected, ...]:
    """Return what the SAs that are up protect, those of one peer's child (two during a rekey) together."""
    grouped: dict[tuple[str, str, tuple[str, ...], tuple[str, ...]], list[ChildSaStatus]] = {}
    for child in status.children if status is not None else ():
        for sa in child.sas:
            grouped.setdefault((child.name, sa.mode, sa.local_ts, sa.remote_ts), []).append(sa)
    return tuple(
        Protected(
            child=name,
            local=selectors(local),
            remote=selectors(remote),
            up=True,
            spis=tuple(sa.spi_in for sa in sas),
            mode=Mode.TRANSPORT if mode == Mode.TRANSPORT else Mode.TUNNEL,
        )
        for (name, mode, local, remote), sas in grouped.items()
    )


def selectors(texts: tuple[str, ...]) -> tuple[TrafficSelector, ...]:
    """Read selectors as an SA's status words them: prefixes, then protocol and ports where they matter.

    What is not of that form is left out: it is text of another process, and only routes and filters hang on it.
    """
    found = []
    for text in texts:
        match = _SELECTOR.fullmatch(text)
        if match is None:
            continue
        try:
            found += [_selector(each, match["protocol"], match["ports"]) for each in match["networks"].split(",")]
        except FieldError:
            continue
    return tuple(found)


def _selector(network: str, protocol: str | None, ports: str | None) -> TrafficSelector:
    start, end = 0, 65_535
    if ports is not None and (pair := _PORTS.fullmatch(ports)) is not None:
        start, end = int(pair[1]), int(pair[2])
    elif ports is not None and (typed := _TYPED.fullmatch(ports)) is not None:
        start, end = int(typed[1]) << 8 | int(typed[2]), int(typed[3]) << 8 | int(typed[4])
    number = 0 if protocol in (None, "any") else int(protocol or 0)
    return TrafficSelector(network=network, protocol=number, start_port=start, end_port=end)
