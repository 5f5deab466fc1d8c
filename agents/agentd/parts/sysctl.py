"""Kernel settings without which a gateway forwards nothing.

``ip_forward`` (and IPv6 forwarding, only where a tunnel carries IPv6, since it changes how a host treats router
advertisements) must be on. Reverse path filtering in strict mode drops decrypted packets whose way back is not the way
they came: it is loosened (2) on the tunnel's interface, or where it has none on those that lead to its peers, and only
where it is strict. Where transport mode leads what is for a peer into the tunnel's interface, it is loosened on both,
since the peer's ESP and IKE come in as before. It asks for the way of packets without our mark, so for an endpoint that
is not in the main context it is loosened where the peer's packets come in, before the tunnel is up: IKE would not be
heard. Settings are left as they are when tunnels go: something else may need them by then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agents.agentd.host import TABLE_MAIN, HostView
from agents.agentd.parts.carried import Carried
from agents.agentd.parts.routes import ways

_STRICT, _LOOSE = "1", "2"


def plan(tunnels: Sequence[Carried], view: HostView, setting: Callable[[str], str | None]) -> dict[str, str]:
    """Return the settings to change, by path below ``/proc/sys``."""
    versions = {ts.version for tunnel in tunnels for each in tunnel.protected for ts in each.local}
    changes: dict[str, str] = {}
    if 4 in versions and setting("net/ipv4/ip_forward") == "0":
        changes["net/ipv4/ip_forward"] = "1"
    if 6 in versions and setting("net/ipv6/conf/all/forwarding") == "0":
        changes["net/ipv6/conf/all/forwarding"] = "1"
    interfaces = [each for tunnel in tunnels if tunnel.up for each in _interfaces(tunnel, view)]
    interfaces += [each for tunnel in tunnels if tunnel.endpoint_table != TABLE_MAIN for each in _uplinks(tunnel, view)]
    for interface in dict.fromkeys(interfaces):
        name = f"net/ipv4/conf/{interface}/rp_filter"
        # The kernel uses the greater of "all" and the interface's own, so 2 here is loose whatever "all" says.
        if setting(name) in ("0", _STRICT) and _STRICT in (setting(name), setting("net/ipv4/conf/all/rp_filter")):
            changes[name] = _LOOSE
    return changes


def _uplinks(tunnel: Carried, view: HostView) -> list[str]:
    """Return the interfaces that have the local address or lead to the peers; they differ for an address of ``lo``."""
    own = [each.interface for each in view.addresses if each.address in tunnel.local]
    try:
        return [*own, *(way.interface for way in ways(tunnel, view))]
    except LookupError:
        return own  # the endpoints part reports it


def _interfaces(tunnel: Carried, view: HostView) -> list[str]:
    own = [tunnel.interface] if tunnel.interface is not None else []
    if own and not tunnel.hosts:
        return own
    try:
        return [*own, *(way.interface for way in ways(tunnel, view))]
    except LookupError:
        return own  # the routes part reports it
