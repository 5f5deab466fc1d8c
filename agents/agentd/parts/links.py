"""Interfaces of tunnels: the data plane makes them, this part sees that they stay up and keep a configured MTU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agents.agentd.host import HostView
from agents.agentd.parts.carried import Carried

_NO_LIMITS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChange:
    """Bring a link up with this MTU in octets. ``follows``: nobody changed it, but the path is another."""

    tunnel_id: str
    name: str
    mtu: int
    follows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPlan:
    """Links to put right, and tunnels whose link is missing."""

    changes: tuple[LinkChange, ...] = ()
    problems: tuple[str, ...] = ()


def plan(tunnels: Iterable[Carried], view: HostView, room: Mapping[str, int] = _NO_LIMITS) -> LinkPlan:
    """Compare the links of tunnels that have a child up with what they should be.

    ``room`` has the largest inner packet of tunnels whose links are to follow the path, by id.
    """
    changes, problems = [], []
    for tunnel in tunnels:
        if tunnel.interface is None or not tunnel.up:
            continue
        link = view.link(tunnel.interface)
        if link is None:
            problems.append(f"{tunnel.name}: its interface {tunnel.interface} is not there")
            continue
        fits = room.get(tunnel.id)
        mtu = tunnel.mtu or fits or link.mtu
        if fits is not None:
            mtu = min(mtu, fits)
        if not link.up or link.mtu != mtu:
            follows = link.up and fits is not None
            changes.append(LinkChange(tunnel_id=tunnel.id, name=link.name, mtu=mtu, follows=follows))
    return LinkPlan(changes=tuple(changes), problems=tuple(problems))
