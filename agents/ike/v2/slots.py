"""How many differently narrowed children stand under one configured child, and which reqid each has.

A peer may narrow one configured child several times over (RFC 7296 section 2.9). Each set of selectors has a slot and
with it a reqid of its own, so that traffic never leaves on the SA of another set; slots are bounded. A rekey stays in
the slot of the child it replaces.

Two children of one gateway cannot protect the same traffic where the data plane has one table of policies: the second
one is refused, since its traffic would leave by the first one's peer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agents.contract.config import Mode
from agents.ike import identity, selectors
from agents.ike.errors import PeerError
from agents.ike.timers import DUPLICATE_GRACE_S
from agents.ike.v2.child import ChildSa, host_of
from agents.ike.v2.negotiation import Accepted
from agents.ike.v2.states import ChildState
from agents.ike.wire.registry import NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa

MOST_SLOTS = 64
MOST_SAS = 2 * MOST_SLOTS


def find(sa: IkeSa, accepted: Accepted, replaced: ChildSa | None) -> int:
    """Return the slot of a child to be made: that of the same peer's with these selectors, or a free one.

    Raises PeerError (NO_ADDITIONAL_SAS) when there are too many.
    """
    assert sa.tunnel is not None
    name = accepted.config.name
    children = [(other, child) for other in sa.tunnel.sas for child in other.children if child.name == name]
    if len(children) >= MOST_SAS:
        raise _too_many(name, MOST_SAS)
    if replaced is not None:
        return replaced.agreement.slot
    wanted = (set(accepted.local_ts), set(accepted.remote_ts))
    taken = set()
    for other, child in children:
        agreement = child.agreement
        if (set(agreement.local_ts), set(agreement.remote_ts)) == wanted and _same_peer(sa, other):
            return agreement.slot
        taken.add(agreement.slot)
    slot = next((each for each in range(MOST_SLOTS) if each not in taken), None)
    if slot is None:
        raise _too_many(name, MOST_SLOTS)
    return slot


def doubled(children: Iterable[ChildSa]) -> tuple[ChildSa, float] | None:
    """Return a child that is ours to delete because both ends asked for the same one and both stayed, and from when on.

    The end that answers a request for a child it has deletes the older one at once; where that was being rekeyed, both
    stay. Then, as with rekeys (RFC 7296 section 2.8.1), the one with the lowest nonce goes, by the end that asked for
    it; of two that the peer asked for none does.
    """
    settled: dict[tuple[str, int], list[ChildSa]] = {}
    for child in children:
        if child.state is ChildState.INSTALLED:
            settled.setdefault((child.name, child.agreement.slot), []).append(child)
    for twins in settled.values():
        loser = min(twins, key=ChildSa.lowest_nonce)
        if loser.agreement.initiator and not all(each.agreement.initiator for each in twins):
            return loser, max(each.installed_at for each in twins) + DUPLICATE_GRACE_S
    return None


def _same_peer(one: IkeSa, other: IkeSa) -> bool:
    """Whether both are of one peer: the configured identity may be a partial one, which several peers have."""
    shown = (one.auth.identity, other.auth.identity)
    return one is other or None in shown or identity.same(*shown)  # type: ignore[arg-type]


def check_free(sa: IkeSa, accepted: Accepted, slot: int) -> None:
    """Raise PeerError when another child protects some of this traffic, or another host has this address of a NAT."""
    assert sa.tunnel is not None
    config = sa.tunnel.config
    if accepted.mode is Mode.TRANSPORT:
        sa.core.hub.check_host(host_of(sa), accepted.config.name, sa.path.remote_address, accepted.original)
    owner = sa.core.hub.protected_by_other(
        selectors.policies(
            tunnel_id=config.id,
            reqid=sa.core.hub.reqid(config.id, accepted.config.name, sa.tunnel.slot(slot)),
            local_address=sa.path.local_address,
            remote_address=sa.path.remote_address,
            local_ts=accepted.local_ts,
            remote_ts=accepted.remote_ts,
        ),
        sa.tunnel.slot(slot),
    )
    if owner is None:
        return
    raise PeerError(
        NotifyType.TS_UNACCEPTABLE,
        "child.selectors-taken",
        f"{owner} protects the traffic of child {accepted.config.name} already",
        received=f"{selectors.describe_all(accepted.local_ts)} = {selectors.describe_all(accepted.remote_ts)}",
        configured=owner,
        field="children.remote_ts",
        attributes={"child": accepted.config.name},
    )


def _too_many(name: str, most: int) -> PeerError:
    return PeerError(
        NotifyType.NO_ADDITIONAL_SAS,
        "child.too-many",
        f"Child {name} stands as often as it may",
        received=f"more than {most}",
        configured=str(most),
        field="children",
        attributes={"child": name},
    )
