"""The link of each tunnel: its name, what its packets go through, and the largest inner packet that fits the path.

The MTU is that of the route to the peer less the overhead of the tunnel (``agents.dataplane.mtu``). ``mtu`` of the
document wins over it. The peers of an on-demand tunnel are not known before they come, so there is no route to look at:
Ethernet's MTU is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agents.contract.carriage import Context
from agents.contract.config import GatewayDocument, Tunnel
from agents.contract.manual import ManualTunnel
from agents.dataplane.base import TunnelLink
from agents.dataplane.mtu import inner_mtu, manual_mtu
from agents.dataplane.outer import DEFAULT_PATH_MTU, path_mtu


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
