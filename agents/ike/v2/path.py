"""Which paths an IKE SA can take, and what it means to take another (RFC 7296 section 2.23, RFC 4555 section 3).

Without MOBIKE the end that is not behind a NAT follows the authenticated messages of the one that is. With MOBIKE only
UPDATE_SA_ADDRESSES moves anything of IKE, and it is the opener (the initiator of the first of a chain of rekeys) that
decides, in :mod:`agents.ike.v2.roam`. The exchanges are in :mod:`agents.ike.v2.tasks.mobike`; packets are the shell's.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from agents.contract.config import Mode, Tunnel
from agents.ike.outputs import Keepalive, MoveChild, Path
from agents.ike.paths import IKE_PORT, NAT_PORT, addresses_of, endpoint, same_version
from agents.ike.v2.child import ChildSa
from agents.ike.v2.states import ChildState, SaState

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa
    from agents.ike.v2.tunnel import TunnelRuntime

UNKNOWN_PATH_OCTETS = 65_535
PATIENT_TRIES = 2
"""A request goes out so often on its own path before it tries the others too."""
MOST_PROBES = 4
"""So many other paths are tried beside each transmission."""


def may_move(config: Tunnel) -> bool:
    """Return whether MOBIKE is wanted; in transport mode the outer addresses are the inner ones (RFC 4555 1.1)."""
    return config.ike.mobike and all(child.mode is Mode.TUNNEL for child in config.children)


def own_addresses(tunnel: TunnelRuntime) -> tuple[str, ...]:
    """Return the tunnel's addresses on our side that this host has now; all of them when that is not known."""
    configured, present = addresses_of(tunnel.config.local), tunnel.core.hub.addresses
    return configured if present is None else tuple(each for each in configured if each in present)


def additional_addresses(sa: IkeSa) -> tuple[str, ...]:
    """Return what the peer is told: the addresses we have beside the one in use (RFC 4555 section 3.4)."""
    assert sa.tunnel is not None
    return tuple(each for each in own_addresses(sa.tunnel) if each != sa.path.local_address)


def first_path(tunnel: TunnelRuntime, attempt: int) -> Path:
    """Return the path of a new negotiation: each attempt in a row takes the next pair of addresses."""
    config = tunnel.config
    locals_ = own_addresses(tunnel) or (config.local.address,)
    pairs = [
        (local, remote) for local in locals_ for remote in addresses_of(config.remote) if same_version(local, remote)
    ] or [(config.local.address, config.remote.address)]
    local, remote = pairs[attempt % len(pairs)]
    return Path(local_address=local, local_port=IKE_PORT, remote_address=remote, remote_port=IKE_PORT)


def alternatives(sa: IkeSa) -> tuple[Path, ...]:
    """Return the other paths that the opener may try, those from the address in use first."""
    if sa.tunnel is None:
        return ()
    now = sa.path
    remotes = dict.fromkeys((now.remote_address, *addresses_of(sa.tunnel.config.remote), *sa.mobility.peer_addresses))
    locals_ = sorted(own_addresses(sa.tunnel), key=lambda each: each != now.local_address)
    port = NAT_PORT if sa.nat.supported else IKE_PORT
    return tuple(
        Path(
            local_address=local,
            local_port=port,
            remote_address=remote,
            remote_port=now.remote_port if remote == now.remote_address else port,
        )
        for local in locals_
        for remote in remotes
        if same_version(local, remote) and (local, remote) != (now.local_address, now.remote_address)
    )


# --- following the peer


def heard_from(sa: IkeSa, path: Path) -> None:
    """A fresh authentic message came on another path: follow a NAT's new mapping where RFC 7296 allows it.

    An end behind a NAT itself must not, lest somebody on the way sends it elsewhere; but a responder behind a NAT can
    be reached at all only if that NAT is set up for it, and then it is the opener's mapping that changes.
    """
    if sa.state is SaState.INIT_RECEIVED and path.local_port == NAT_PORT:
        if path.local_port != sa.path.local_port:
            sa.report("ike.redirected-port", "The peer moved to UDP port 4500")
        sa.path = path
        return
    if sa.mobility.enabled or not sa.nat.remote or (sa.nat.local and sa.opener):
        return
    old, sa.path = sa.path, path
    sa.moves += 1
    sa.report(
        "ike.nat-moved",
        "The peer's messages come from another address or port",
        received=endpoint(path.remote_address, path.remote_port),
        configured=endpoint(old.remote_address, old.remote_port),
    )
    move_children(sa)


def esp_heard_from(sa: IkeSa, address: str, port: int) -> None:
    """Authentic ESP came from another address or port: ESP follows, and IKE too where there is no MOBIKE (3.8)."""
    if not sa.nat.remote or (sa.nat.local and sa.opener):
        return
    moved = dataclasses.replace(sa.esp_path, remote_address=address, remote_port=port)
    if not sa.mobility.enabled:
        if moved != sa.path:
            heard_from(sa, moved)
        return
    sa.use_for_esp(moved)
    move_children(sa)


def move_children(sa: IkeSa) -> None:
    """Put every child on the SA's path, inside UDP or not as the NATs ask.

    One in transport mode protects the two addresses it was made between: where they are others now, it ends.
    """
    for child in sa.children:
        _move_child(sa, child)


def _move_child(sa: IkeSa, child: ChildSa) -> None:
    ends = (child.outbound.source, child.outbound.destination)
    if child.agreement.mode is Mode.TRANSPORT and pair(sa.esp_path) != ends:
        if child.state is not ChildState.DELETING:
            child.expire_at = child.installed_at
            sa.core.hub.touch(sa)
        return
    old_in, old_out = child.sa_ids
    before = (child.inbound, child.outbound)
    child.move(sa.esp_path, sa.encapsulated)
    if (child.inbound, child.outbound) == before or sa.tunnel is None:
        return
    for old, spec in ((old_in, child.inbound), (old_out, child.outbound)):
        sa.core.hub.emit(MoveChild(tunnel_id=sa.tunnel.config.id, old=old, spec=spec))


# --- taking another path


def take(sa: IkeSa, path: Path, now: float) -> None:
    """Use this path for IKE from now on; a request without answer goes out on it at once (RFC 4555 section 3.5)."""
    sa.path = path
    sa.moves += 1
    sa.path_octets = UNKNOWN_PATH_OCTETS
    sa.requests.hurry(now)
    sa.core.hub.touch(sa)


def inherit(successor: IkeSa, old: IkeSa) -> None:
    """Give the SA that a rekey made the path of the old one, if that moved while the rekey was under way."""
    if old.moves > successor.moves:
        successor.path, successor.nat, successor.moves = old.path, old.nat, old.moves
        successor.use_for_esp(old.esp_path if old.esp_path != old.path else None)


def report_move(sa: IkeSa, old: Path, new: Path) -> None:
    """Report that the tunnel runs between other addresses."""
    was, now = describe(old), describe(new)
    sa.report(
        "ike.mobike-moved",
        f"The tunnel moved from {was} to {now}",
        received=now,
        attributes={
            "old_local": old.local_address,
            "old_remote": old.remote_address,
            "local": new.local_address,
            "remote": new.remote_address,
        },
    )


def to_probe(sa: IkeSa) -> tuple[Path, ...]:
    """Return where an unanswered request goes besides: some of the other paths, in turn. Nothing moves yet."""
    outstanding = sa.requests.outstanding
    if not sa.mobility.enabled or not sa.opener or sa.state is not SaState.ESTABLISHED or outstanding is None:
        return ()
    others = alternatives(sa)
    if outstanding.tries <= PATIENT_TRIES or not others:
        return ()
    if outstanding.tries == PATIENT_TRIES + 1:
        sa.report("ike.address-probed", f"No answer on {describe(sa.path)}: {len(others)} other paths are tried")
    sa.mobility.probed = True
    start = (outstanding.tries - PATIENT_TRIES - 1) * MOST_PROBES % len(others)
    return (*others[start:], *others[:start])[:MOST_PROBES]


# --- keeping a NAT's mapping


def keepalive_at(sa: IkeSa) -> float | None:
    """Return when a NAT in front of us needs to see a packet (RFC 3948 section 4), None without one."""
    if not sa.nat.local or sa.tunnel is None or sa.state is not SaState.ESTABLISHED:
        return None
    interval_s = sa.tunnel.config.ike.keepalive_s
    return sa.last_sent + interval_s if interval_s else None


def keep_alive(sa: IkeSa, now: float) -> None:
    """Send a keepalive if nothing went out for so long."""
    due = keepalive_at(sa)
    if due is not None and now >= due:
        sa.last_sent = now
        sa.core.hub.emit(Keepalive(path=sa.esp_path if sa.encapsulated else sa.path))


# --- words


def describe(path: Path) -> str:
    """Return both ends for people."""
    return f"{endpoint(path.local_address, path.local_port)} = {endpoint(path.remote_address, path.remote_port)}"


def pair(path: Path) -> tuple[str, str]:
    """Return the two addresses."""
    return path.local_address, path.remote_address
