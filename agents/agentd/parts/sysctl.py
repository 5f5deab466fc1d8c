"""Kernel settings without which a gateway forwards nothing.

``ip_forward`` (and IPv6 forwarding, only where a tunnel carries IPv6, since it changes how a host treats router
advertisements) must be on. Reverse path filtering in strict mode drops decrypted packets whose way back is not the way
they came: it is loosened (2) on the tunnel's TUN, or in kernel mode on the interface that leads to the peer, and only
where it is strict. Settings are left as they are when tunnels go: something else may need them by then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agents.agentd.host import HostView
from agents.agentd.parts.routes import interface_name, next_hop
from agents.contract.config import GatewayDocument
from agents.contract.status import TunnelStatus

_STRICT, _LOOSE = "1", "2"


def plan(
    document: GatewayDocument,
    tunnels: Mapping[str, TunnelStatus],
    driver: str,
    view: HostView,
    setting: Callable[[str], str | None],
) -> dict[str, str]:
    """Return the settings to change, by path below ``/proc/sys``."""
    enabled = [tunnel for tunnel in document.tunnels if tunnel.enabled]
    versions = {ts.version for tunnel in enabled for child in tunnel.children for ts in child.local_ts}
    changes: dict[str, str] = {}
    if 4 in versions and setting("net/ipv4/ip_forward") == "0":
        changes["net/ipv4/ip_forward"] = "1"
    if 6 in versions and setting("net/ipv6/conf/all/forwarding") == "0":
        changes["net/ipv6/conf/all/forwarding"] = "1"
    for tunnel in enabled:
        status = tunnels.get(tunnel.id)
        if status is None or not any(child.up for child in status.children):
            continue
        if driver == "kernel":
            try:
                interface = next_hop(view, tunnel.remote.address).interface
            except LookupError:
                continue  # the routes part reports it
        else:
            interface = status.interface or interface_name(tunnel.id)
        name = f"net/ipv4/conf/{interface}/rp_filter"
        # The kernel uses the greater of "all" and the interface's own, so 2 here is loose whatever "all" says.
        if setting(name) in ("0", _STRICT) and _STRICT in (setting(name), setting("net/ipv4/conf/all/rp_filter")):
            changes[name] = _LOOSE
    return changes
