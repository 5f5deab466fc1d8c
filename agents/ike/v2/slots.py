"""How many differently narrowed children stand under one configured child, and which reqid each has.

A peer may narrow one configured child several times over (RFC 7296 section 2.9). Each set of selectors has a slot and
with it a reqid of its own, so that traffic never leaves on the SA of another set; slots are bounded. A rekey stays in
the slot of the child it replaces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.ike.errors import PeerError
from agents.ike.v2.child import ChildSa
from agents.ike.v2.negotiation import Accepted
from agents.ike.wire.registry import NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.tunnel import TunnelRuntime

MOST_SLOTS = 64
MOST_SAS = 2 * MOST_SLOTS


def find(tunnel: TunnelRuntime, accepted: Accepted, replaced: ChildSa | None) -> int:
    """Return the slot of a child to be made. Raises PeerError (NO_ADDITIONAL_SAS) when there are too many."""
    name = accepted.config.name
    children = [child for sa in tunnel.sas for child in sa.children if child.name == name]
    if len(children) >= MOST_SAS:
        raise _too_many(name, MOST_SAS)
    if replaced is not None:
        return replaced.agreement.slot
    wanted = (set(accepted.local_ts), set(accepted.remote_ts))
    taken = set()
    for child in children:
        agreement = child.agreement
        if (set(agreement.local_ts), set(agreement.remote_ts)) == wanted:
            return agreement.slot
        taken.add(agreement.slot)
    slot = next((each for each in range(MOST_SLOTS) if each not in taken), None)
    if slot is None:
        raise _too_many(name, MOST_SLOTS)
    return slot


def _too_many(name: str, most: int) -> PeerError:
    return PeerError(
        NotifyType.NO_ADDITIONAL_SAS,
        "child.too-many",
        f"Child {name} stands as often as it may",
        received=f"more than {most}",
        configured=str(most),
        field="children",
    )
