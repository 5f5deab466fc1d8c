"""Interfaces of tunnels: the data plane makes them, this part sees that they stay up and keep a configured MTU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agents.agentd.host import HostView
from agents.agentd.parts.carried import Carried


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


def plan(tunnels: Iterable[Carried], view: HostView) -> LinkPlan:
    """Compare the links of tunnels that have a child up with what they should be."""
    changes, problems = [], []
    for tunnel in tunnels:
        if tunnel.interface is None or not tunnel.up:
            continue
        link = view.link(tunnel.interface)
        if link is None:
            problems.append(f"{tunnel.name}: its interface {tunnel.interface} is not there")
            continue
        mtu = tunnel.mtu or link.mtu
        if not link.up or link.mtu != mtu:
            changes.append(LinkChange(tunnel_id=tunnel.id, name=link.name, mtu=mtu))
    return LinkPlan(changes=tuple(changes), problems=tuple(problems))
