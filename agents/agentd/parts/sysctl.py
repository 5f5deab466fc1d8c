"""Kernel settings without which a gateway forwards nothing.

``ip_forward`` (and IPv6 forwarding, only where a tunnel carries IPv6, since it changes how a host treats router
advertisements) must be on. Reverse path filtering in strict mode drops decrypted packets whose way back is not the way
they came: it is loosened (2) on the tunnel's interface, or where it has none on those that lead to its peers, and only
where it is strict. Where transport mode leads what is for a peer into the tunnel's interface, it is loosened on both,
since the peer's ESP and IKE come in as before. Settings are left as they are when tunnels go: something else may need
them by then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agents.agentd.host import HostView
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
    for interface in dict.fromkeys(each for tunnel in tunnels if tunnel.up for each in _interfaces(tunnel, view)):
        name = f"net/ipv4/conf/{interface}/rp_filter"
        # The kernel uses the greater of "all" and the interface's own, so 2 here is loose whatever "all" says.
        if setting(name) in ("0", _STRICT) and _STRICT in (setting(name), setting("net/ipv4/conf/all/rp_filter")):
            changes[name] = _LOOSE
    return changes


def _interfaces(tunnel: Carried, view: HostView) -> list[str]:
    own = [tunnel.interface] if tunnel.interface is not None else []
    if own and not tunnel.hosts:
        return own
    try:
        return [*own, *(way.interface for way in ways(tunnel, view))]
    except LookupError:
        return own  # the routes part reports it
