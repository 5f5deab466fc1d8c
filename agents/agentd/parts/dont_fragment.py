"""Don't Fragment set in every IPv4 outer header of tunnels that are to have that and an interface in the kernel.

XFRM cannot; a rule of ours sets it where the mark of the tunnel's SAs asks for it
(:data:`agents.dataplane.outer.WHOLE_MARK`). What is longer than the interface's MTU the kernel cuts before it is
encrypted, or answers, so what comes out fits, as long as that MTU fits the path. What it forwards the kernel cuts to
the interface's MTU and not to what it has learned of the path, and encrypted with DF it would be lost. So here the
interface's MTU follows the path.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence

from agents.agentd.nft import Command
from agents.agentd.parts.carried import Carried
from agents.agentd.parts.nftables import base_chain, matches, meta, payload, rule_of
from agents.contract.carriage import DfBit
from agents.contract.config import GatewayDocument, Tunnel
from agents.contract.manual import ManualTunnel
from agents.dataplane.mtu import inner_mtu, manual_mtu
from agents.dataplane.outer import OUTER_MARK, WHOLE_MARK

_OUT = "df-out"
_LAST = 300
_DF = 0x4000
_BITS = OUTER_MARK | WHOLE_MARK


def wanted(tunnels: Sequence[Carried], *, kernel: bool) -> tuple[Carried, ...]:
    """Return the tunnels it is done for; ``espd`` does it by itself."""
    return tuple(
        tunnel for tunnel in tunnels if kernel and tunnel.interface is not None and tunnel.carriage.df_bit is DfBit.SET
    )


def chains(asked: bool) -> list[Command]:
    """Return the chain, none where nobody asks for it."""
    return [base_chain("postrouting", _OUT, _LAST)] if asked else []


def rules(asked: bool) -> list[Command]:
    """Return the rule. A packet here is whole: fragments of it would be made later."""
    if not asked:
        return []
    to_be_whole = matches({"&": [meta("mark"), _BITS]}, _BITS)
    return [rule_of(_OUT, [to_be_whole, {"mangle": {"key": payload("ip", "frag-off"), "value": _DF}}])]


def room(
    document: GatewayDocument, tunnels: Sequence[Carried], path_mtu: Callable[[str, str], int]
) -> Mapping[str, int]:
    """Return the largest inner packet that fits the way to each tunnel's peers now, by id; none without a peer.

    ``path_mtu`` tells what the kernel knows of the way from one address to another.
    """
    every: tuple[Tunnel | ManualTunnel, ...] = (*document.tunnels, *document.manual_tunnels)
    configured = {each.id: each for each in every}
    found = {}
    for tunnel in tunnels:
        peers = tunnel.peers if tunnel.anywhere else tunnel.peers[:1]
        outer = min((path_mtu(*pair) for pair in _pairs(tunnel, peers)), default=None)
        if outer is not None:
            of = configured[tunnel.id]
            found[tunnel.id] = inner_mtu(of, outer) if isinstance(of, Tunnel) else manual_mtu(of, outer)
    return found


def _pairs(tunnel: Carried, peers: Sequence[str]) -> list[tuple[str, str]]:
    """Return each peer behind an address of ours of its IP version."""
    ours = {ipaddress.ip_address(each).version: each for each in reversed(tunnel.local)}
    versions = [(ipaddress.ip_address(peer).version, peer) for peer in peers]
    return [(ours[version], peer) for version, peer in versions if version in ours]
