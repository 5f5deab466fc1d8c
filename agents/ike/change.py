"""What a changed document does to a running tunnel: an explicit table. Editing one tunnel never bounces another.

============================================  =====================================================================
changed                                       consequence
============================================  =====================================================================
nothing; name, mtu, add_routes, most_peers;   keep: labels, the agent's business, or for those who come
of carriage all but what follows
more_addresses of either end                  keep: the peer is told; the SA moves off an address that is no more
connection_type, and of ike all but           keep: takes effect from now on
lifetime_s, reauth_s and proposals
ike.lifetime_s, ike.reauth_s                  keep, retimed: new times for the SA as it stands
ike.proposals                                 rekey the IKE SA, unless it has the first proposal's suite already: so
                                              that the peer, edited a moment later, does not rekey once more
child proposals, pfs_groups, replay_window,   rekey that child
sequence_numbers, ipcomp
carriage: df_bit, copy_dscp                   rekey every child: its SAs write the outer headers
order of children, or selectors of one        rekey those that another place among the rules follows for; their policies
                                              come anew with the SA
child lifetimes (s, bytes, packets)           keep, retimed (octet and packet limits: from the next rekey on)
child local_ts, remote_ts, mode               delete that child and make it anew
child added                                   make it
child removed                                 delete it
addresses, identities, the tunnel's PSK,      re-authenticate: delete the IKE SA and begin again
authentication, PPK, force_udp_encapsulation,
version, kind
enabled to disabled; tunnel removed           drop
disabled to enabled; tunnel added             start
============================================  =====================================================================

A rekey that the other end refuses, because it has not been edited yet, is tried again; the tunnel stays up meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum

from agents.contract.config import Child, Endpoint, Tunnel
from agents.ike import rules


class Fate(StrEnum):
    """What happens to the IKE SA of a tunnel."""

    KEEP = "keep"
    REKEY = "rekey"
    REAUTHENTICATE = "re-authenticate"
    DROP = "drop"
    START = "start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The consequences of one tunnel's change; children by name."""

    fate: Fate
    retime: bool = False
    rekey_children: frozenset[str] = frozenset()
    remake_children: frozenset[str] = frozenset()
    retime_children: frozenset[str] = frozenset()
    delete_children: frozenset[str] = frozenset()


_TUNNEL_FATES: dict[str, Fate] = {
    "id": Fate.KEEP,
    "name": Fate.KEEP,
    "mtu": Fate.KEEP,
    "add_routes": Fate.KEEP,
    "connection_type": Fate.KEEP,
    "ike": Fate.KEEP,  # looked at field by field
    "children": Fate.KEEP,  # looked at one by one
    "enabled": Fate.KEEP,  # decided before this table is asked
    "local_auth": Fate.REAUTHENTICATE,
    "remote_auth": Fate.REAUTHENTICATE,
    "ppk": Fate.REAUTHENTICATE,
    "ppk_required": Fate.REAUTHENTICATE,
    "local": Fate.REAUTHENTICATE,
    "remote": Fate.REAUTHENTICATE,
    "force_udp_encapsulation": Fate.REAUTHENTICATE,
    "version": Fate.REAUTHENTICATE,
    "kind": Fate.REAUTHENTICATE,
    "most_peers": Fate.KEEP,
    "carriage": Fate.KEEP,  # what of it is in an SA is looked at below
}
_CHILD_REMAKE = ("local_ts", "remote_ts", "mode")
_CHILD_REKEY = ("proposals", "pfs_groups", "replay_window", "sequence_numbers", "ipcomp")
_CHILD_RETIME = ("lifetime_s", "lifetime_bytes", "lifetime_packets")
_IKE_RETIME = ("lifetime_s", "reauth_s")
_CARRIAGE_REKEY = ("df_bit", "copy_dscp")


def plan(old: Tunnel, new: Tunnel, psk_changed: bool) -> Plan:
    """Return what the change from ``old`` to ``new`` (the same tunnel id) does."""
    if not new.enabled:
        return Plan(fate=Fate.DROP if old.enabled else Fate.KEEP)
    if not old.enabled:
        return Plan(fate=Fate.START)
    changed = {field.name for field in fields(Tunnel) if getattr(old, field.name) != getattr(new, field.name)}
    if _main(old.local) == _main(new.local):
        changed.discard("local")
    if _main(old.remote) == _main(new.remote):
        changed.discard("remote")
    if psk_changed or any(_TUNNEL_FATES[name] is Fate.REAUTHENTICATE for name in changed):
        return Plan(fate=Fate.REAUTHENTICATE)
    before = {child.name: child for child in old.children}
    after = {child.name: child for child in new.children}
    common = [(before[name], after[name]) for name in before if name in after]
    remake = frozenset(was.name for was, now in common if must_remake(was, now))
    rekey = frozenset(was.name for was, now in common if must_rekey(was, now))
    if any(getattr(old.carriage, name) != getattr(new.carriage, name) for name in _CARRIAGE_REKEY):
        rekey = frozenset(was.name for was, _now in common)
    rekey |= {was.name for was, _now in common if _rank_changed(old, new, was.name)}
    retime = frozenset(was.name for was, now in common if _differs(was, now, _CHILD_RETIME))
    return Plan(
        fate=Fate.REKEY if old.ike.proposals != new.ike.proposals else Fate.KEEP,
        retime=any(getattr(old.ike, name) != getattr(new.ike, name) for name in _IKE_RETIME),
        rekey_children=rekey - remake,
        remake_children=remake,
        retime_children=retime - rekey - remake,
        delete_children=frozenset(before) - frozenset(after),
    )


def must_remake(old: Child, new: Child) -> bool:
    """Return whether a child made by ``old`` must be deleted and made anew."""
    return _differs(old, new, _CHILD_REMAKE)


def must_rekey(old: Child, new: Child) -> bool:
    """Return whether a child made by ``old`` must be rekeyed."""
    return _differs(old, new, _CHILD_REKEY)


def _rank_changed(old: Tunnel, new: Tunnel, name: str) -> bool:
    return rules.rank(old.children, name) != rules.rank(new.children, name)


def _main(end: Endpoint) -> Endpoint:
    """Return an end without the addresses it may move to."""
    return replace(end, more_addresses=())


def _differs(old: Child, new: Child, names: tuple[str, ...]) -> bool:
    return any(getattr(old, name) != getattr(new, name) for name in names)
