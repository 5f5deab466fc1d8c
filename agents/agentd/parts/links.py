"""The TUNs of userspace mode: ``espd`` makes them, this part sees that they stay up and keep a configured MTU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agents.agentd.host import HostView
from agents.agentd.parts.routes import interface_name
from agents.contract.config import GatewayDocument
from agents.contract.status import TunnelStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChange:
    """Bring a link up with this MTU in octets."""

    tunnel_id: str
    name: str
    mtu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPlan:
    """Links to put right, and tunnels whose link is missing."""

    changes: tuple[LinkChange, ...] = ()
    problems: tuple[str, ...] = ()


def plan(document: GatewayDocument, tunnels: Mapping[str, TunnelStatus], driver: str, view: HostView) -> LinkPlan:
    """Compare the links of tunnels that have a child up with what they should be."""
    if driver != "userspace":
        return LinkPlan()
    changes, problems = [], []
    for tunnel in document.tunnels:
        status = tunnels.get(tunnel.id)
        if status is None or not any(child.up for child in status.children):
            continue
        name = status.interface or interface_name(tunnel.id)
        link = view.link(name)
        if link is None:
            problems.append(f"{tunnel.name}: its interface {name} is not there")
            continue
        mtu = tunnel.mtu or link.mtu
        if not link.up or link.mtu != mtu:
            changes.append(LinkChange(tunnel_id=tunnel.id, name=name, mtu=mtu))
    return LinkPlan(changes=tuple(changes), problems=tuple(problems))
