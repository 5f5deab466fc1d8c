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
        sa.core.hub.touch(sa)
    sa.mobility.lost_address = None
    left = sa.mobility.detour
    if left is not None and left.local_address in own:
        sa.mobility.detour = None
        paths.take(sa, left, now)  # the address that the opener may still have is back
        sa.use_for_esp(None)
        paths.move_children(sa)
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
        _detour(sa, others[0], now)


def _detour(sa: IkeSa, path: Path, now: float) -> None:
    """Speak from another address meanwhile: only the opener moves the SA (RFC 4555 section 3.6).

    ESP goes along where the peer's end stays the same, since that is proven: what left from the lost address would be
    lost. Some openers (strongSwan) take the new address without a word.
    """
    old = sa.esp_path
    sa.mobility.detour = sa.mobility.detour or old
    paths.take(sa, path, now)
    if (path.remote_address, path.remote_port) == (old.remote_address, old.remote_port):
        sa.use_for_esp(None)
        paths.move_children(sa)
        paths.report_move(sa, old, path)
    else:
        sa.use_for_esp(old)
    mobike.announce_addresses(sa, now)
