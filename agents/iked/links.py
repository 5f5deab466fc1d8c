"""The link of each tunnel: its name, what its packets go through, and the largest inner packet that fits the path.

The MTU is that of the route to the peer less the overhead of the tunnel (``agents.dataplane.mtu``). ``mtu`` of the
document wins over it. The peers of an on-demand tunnel are not known before they come, so there is no route to look at:
Ethernet's MTU is taken.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping

from agents.contract.carriage import Context
from agents.contract.config import GatewayDocument, Tunnel
from agents.contract.manual import ManualTunnel
from agents.dataplane import outer
from agents.dataplane.base import TunnelLink
from agents.dataplane.mtu import inner_mtu, manual_mtu

DEFAULT_PATH_MTU = 1_500
_LARGEST_PATH_MTU = 9_000
_IP_MTU = 14
_IPV6_MTU = 24


def link_name(tunnel_id: str) -> str:
    """Return the name of a tunnel's TUN: ``vpn`` and the first 8 hexadecimal digits of its id."""
    return f"vpn{tunnel_id[:8]}"


def linked(document: GatewayDocument) -> tuple[Tunnel | ManualTunnel, ...]:
    """Return the tunnels of a document that have a link: all that are enabled, however they are keyed."""
    found: tuple[Tunnel | ManualTunnel, ...] = (*document.tunnels, *document.manual_tunnels)
    return tuple(tunnel for tunnel in found if tunnel.enabled)


def tables(contexts: Iterable[Context]) -> Mapping[str, int]:
    """Return the routing table of each of a document's contexts by name; the main table's context is not among them."""
    return {context.name: context.table for context in contexts}


def tunnel_link(tunnel: Tunnel, contexts: Mapping[str, int]) -> TunnelLink:
    """Return the link of a tunnel; asks the routing table for the MTU towards the peer. ``contexts`` is of tables."""
    outer_mtu = DEFAULT_PATH_MTU
    if not tunnel.remote.anywhere:
        outer_mtu = path_mtu(tunnel.local.address, tunnel.remote.address)
    remote = None if tunnel.remote.anywhere else tunnel.remote.address
    return _link(tunnel, tunnel.mtu or inner_mtu(tunnel, outer_mtu), (tunnel.local.address, remote), contexts)


def manual_link(tunnel: ManualTunnel, contexts: Mapping[str, int]) -> TunnelLink:
    """The same for a tunnel with manual keys."""
    outer = (tunnel.local_address, tunnel.remote_address)
    return _link(tunnel, tunnel.mtu or manual_mtu(tunnel, path_mtu(*outer)), outer, contexts)


def _link(
    tunnel: Tunnel | ManualTunnel, mtu: int, outer: tuple[str, str | None], contexts: Mapping[str, int]
) -> TunnelLink:
    carriage = tunnel.carriage
    return TunnelLink(
        tunnel_id=tunnel.id,
        name=link_name(tunnel.id),
        mtu=mtu,
        attachment=carriage.attachment,
        queues=carriage.queues,
        rate_kbps=carriage.rate_kbps,
        table=contexts.get(carriage.context),
        local=outer[0],
        remote=outer[1],
    )


def path_mtu(local_address: str, remote_address: str) -> int:
    """Return the MTU of the route from one address to the other, 1500 where there is none yet."""
    v6 = ipaddress.ip_address(remote_address).version == 6
    with socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        outer.mark(probe)
        try:
            probe.bind((local_address, 0))
            probe.connect((remote_address, 9))
            level, option = (socket.IPPROTO_IPV6, _IPV6_MTU) if v6 else (socket.IPPROTO_IP, _IP_MTU)
            return min(probe.getsockopt(level, option), _LARGEST_PATH_MTU)
        except OSError:
            return DEFAULT_PATH_MTU
