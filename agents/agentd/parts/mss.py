"""TCP's largest segment (RFC 9293 section 3.7.1) lowered to what fits a tunnel that is to have that.

The MSS of SYNs that go into the tunnel or come out of it is rewritten, so both ends of a connection send packets that
fit, also where the path or a host swallows the ICMP that would tell them. It is never raised.

* A tunnel with an interface: what leaves by it gets the size of the route (``rt mtu``), what comes by it that of the
  interface.
* One that shares (kernel mode): what its pairs name and is about to be encrypted, or was decrypted, gets the size
  computed for the way to its peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents.agentd.host import HostView
from agents.agentd.nft import Command
from agents.agentd.parts.carried import Carried
from agents.agentd.parts.filter_clear import Pair, pairs, tcp_of
from agents.agentd.parts.nftables import base_chain, matches, meta, payload, rule_of
from agents.agentd.parts.routes import ways
from agents.contract.config import GatewayDocument, Tunnel
from agents.contract.manual import ManualTunnel
from agents.dataplane.mtu import inner_mtu, manual_mtu

_IN, _OUT = "mss-in", "mss-out"
_PRIORITY = -150
"""Where others mangle too: before addresses are translated on the way out, so that the pairs still match."""
_HEADERS = {4: 20 + 20, 6: 40 + 20}
_SIZE: dict[str, Any] = {"tcp option": {"name": "maxseg", "field": "size"}}
_SYN = matches(payload("tcp", "flags"), "syn", "in")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clamp:
    """What a tunnel's TCP is held to: inner packets of ``mtu`` octets. ``pairs`` only where it has no interface."""

    mtu: int
    interface: str | None = None
    pairs: tuple[Pair, ...] = ()


def wanted(document: GatewayDocument, tunnels: Sequence[Carried], view: HostView) -> tuple[Clamp, ...]:
    """Return the clamps of the tunnels that are to have one; where an interface or a way is not there, none yet."""
    every: tuple[Tunnel | ManualTunnel, ...] = (*document.tunnels, *document.manual_tunnels)
    configured = {each.id: each for each in every}
    found = []
    for tunnel in tunnels:
        if not tunnel.carriage.clamp_tcp_mss:
            continue
        if tunnel.interface is not None:
            if (link := view.link(tunnel.interface)) is not None:
                found.append(Clamp(mtu=tunnel.mtu or link.mtu, interface=tunnel.interface))
        elif (mtu := tunnel.mtu or _shared_mtu(configured[tunnel.id], tunnel, view)) is not None:
            found.append(Clamp(mtu=mtu, pairs=tuple(pairs([tunnel]))))
    return tuple(found)


def chains(clamps: Sequence[Clamp]) -> list[Command]:
    """Return the chains, none where nothing is clamped."""
    if not clamps:
        return []
    return [base_chain("prerouting", _IN, _PRIORITY), base_chain("postrouting", _OUT, _PRIORITY)]


def rules(clamps: Sequence[Clamp]) -> list[Command]:
    """Return the rules, in order."""
    found = []
    for clamp in clamps:
        if clamp.interface is not None:
            leaves, comes = (matches(meta(key), clamp.interface) for key in ("oifname", "iifname"))
            found.append(rule_of(_OUT, [leaves, _SYN, _set({"rt": {"key": "mtu"}})]))
            for version, name in ((4, "ipv4"), (6, "ipv6")):
                found.append(
                    rule_of(_IN, [comes, matches(meta("nfproto"), name), _SYN, _set(clamp.mtu - _HEADERS[version])])
                )
        for pair in clamp.pairs:
            size = _set(clamp.mtu - _HEADERS[pair.version])
            for chain, secured, outwards in ((_OUT, {"rt": {"key": "ipsec"}}, True), (_IN, meta("ipsec"), False)):
                if (tcp := tcp_of(pair, outwards=outwards)) is not None:
                    found.append(rule_of(chain, [*tcp, _SYN, matches(secured, True), size]))
    return found


def _set(size: Any) -> dict[str, Any]:
    return {"mangle": {"key": _SIZE, "value": size}}


def _shared_mtu(configured: Tunnel | ManualTunnel, tunnel: Carried, view: HostView) -> int | None:
    """Return the largest inner packet for the way to the peer, None where there is none."""
    try:
        links = [view.link(way.interface) for way in ways(tunnel, view)]
    except LookupError:
        return None
    outer = min((link.mtu for link in links if link is not None), default=None)
    if outer is None:
        return None
    return inner_mtu(configured, outer) if isinstance(configured, Tunnel) else manual_mtu(configured, outer)
