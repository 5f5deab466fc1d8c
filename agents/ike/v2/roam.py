"""The opener's decisions on paths; what either end does when its own addresses change (RFC 4555 sections 3.5, 3.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.ike.outputs import Path
from agents.ike.v2 import path as paths
from agents.ike.v2.states import SaState
from agents.ike.v2.tasks import mobike

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa
    from agents.ike.v2.tunnel import TunnelRuntime


def answered_on(sa: IkeSa, path: Path, now: float) -> None:
    """An answer came on another path than the one in use: with MOBIKE, a probe of the opener has found a way."""
    if not sa.mobility.enabled:
        paths.heard_from(sa, path)
    elif sa.opener and sa.state is SaState.ESTABLISHED and paths.pair(path) in map(paths.pair, paths.alternatives(sa)):
        mobike.move(sa, path, now)


def own_addresses_changed(tunnel: TunnelRuntime, now: float) -> None:
    """The host's addresses or those configured are others now: move, wait, or tell the peer what there is."""
    own = paths.own_addresses(tunnel)
    for sa in tuple(tunnel.sas):
        gone = sa.path.local_address not in own
        if gone and sa.initiator and sa.state in (SaState.INIT_SENT, SaState.AUTHENTICATING):
            sa.report("ike.address-lost", f"{sa.path.local_address} is gone: the negotiation begins again")
            sa.close(now)
            tunnel.retry_at = now
        elif sa.state is SaState.ESTABLISHED and not gone:
            _address_is_there(sa, own, now)
        elif sa.state is SaState.ESTABLISHED:
            _address_is_gone(sa, now)


def _address_is_there(sa: IkeSa, own: tuple[str, ...], now: float) -> None:
    if sa.mobility.lost_address == sa.path.local_address:
        sa.report("ike.address-back", f"{sa.path.local_address} is back")
        sa.requests.hurry(now)
        sa.core.touch(sa)
    sa.mobility.lost_address = None
    esp = sa.esp_path
    if sa.mobility.detour and esp.local_address in own:
        sa.mobility.detour = False
        paths.take(sa, esp, now)  # the address that ESP still has, and the opener still knows, is back
        sa.use_for_esp(None)
    mobike.announce_addresses(sa, now)


def _address_is_gone(sa: IkeSa, now: float) -> None:
    if sa.mobility.lost_address != sa.path.local_address:
        sa.report("ike.address-lost", f"{sa.path.local_address} is gone from this gateway")
    sa.mobility.lost_address = sa.path.local_address
    if not sa.mobility.enabled:
        return
    others = paths.alternatives(sa)
    if others and sa.opener:
        sa.mobility.lost_address = None
        mobike.move(sa, others[0], now)
    elif others:
        # Only the opener moves the SA; it hears from elsewhere that this address is no more (RFC 4555 section 3.6).
        sa.mobility.detour = True
        sa.use_for_esp(sa.esp_path)
        paths.take(sa, others[0], now)
        mobike.announce_addresses(sa, now)
