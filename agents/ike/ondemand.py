"""On-demand tunnels: every peer that has proven who it is gets a tunnel of its own, made after the configured one.

The configured tunnel lets peers in and never begins; of each identity there is one peer, whatever address it comes
from (seed 003 section 9.3). The peers' tunnels have the configured one's id, since document, data plane and status
know no other, and reqids of their own. A peer with neither IKE SA nor child left is forgotten: nobody knows where to
call it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from agents.contract.config import ConnectionType, DpdAction, Endpoint, Tunnel, TunnelKind
from agents.contract.status import ChildStatus, TunnelState, TunnelStatus
from agents.ike import identity
from agents.ike.errors import PeerError
from agents.ike.identity import Shown
from agents.ike.timers import Owner

if TYPE_CHECKING:
    from agents.ike.hub import Hub

SLOTS = 256
"""Slots of one configured child that a peer has to itself: more than either IKE version uses."""

_AUTHENTICATION_FAILED = 24
"""Both versions have it under this number (RFC 2408 section 3.14.1, RFC 7296 section 3.10.1)."""

_STATES = (TunnelState.UP, TunnelState.PARTLY_UP, TunnelState.NEGOTIATING)


class PeerTunnel(Owner, Protocol):
    """A tunnel as far as peers of on-demand ones are concerned."""

    config: Tunnel
    state: TunnelState

    @property
    def hub(self) -> Hub:
        """What both IKE versions share."""
        ...


_Runtime = TypeVar("_Runtime", bound=PeerTunnel)


@dataclass(frozen=True, slots=True)
class Membership(Generic[_Runtime]):
    """What makes a tunnel a peer's: the configured one it came by, the identity it proved, and its number there."""

    template: _Runtime
    shown: Shown
    number: int


class Peers(Generic[_Runtime]):
    """The tunnels of the peers that came by one on-demand tunnel, in the order in which they came."""

    def __init__(self) -> None:
        self._all: dict[int, tuple[_Runtime, Membership[_Runtime]]] = {}

    def __iter__(self) -> Iterator[_Runtime]:
        return iter([runtime for runtime, _ in self._all.values()])

    def __len__(self) -> int:
        return len(self._all)

    def find(self, shown: Shown) -> _Runtime | None:
        """Return the tunnel of the peer with this identity."""
        return next((runtime for runtime, of in self._all.values() if identity.same(of.shown, shown)), None)

    def admit(
        self,
        template: _Runtime,
        shown: Shown,
        address: str,
        make: Callable[[Tunnel, Membership[_Runtime]], _Runtime],
    ) -> _Runtime:
        """Return the tunnel of a peer that has proven this identity. Raises PeerError when there are too many peers."""
        found = self.find(shown)
        if found is not None:
            return found
        hub, config = template.hub, template.config
        number = hub.peer_numbers.take(config.id, config.most_peers)
        if number is None:
            raise _too_many(config, shown)
        membership = Membership(template, shown, number)
        runtime = make(of_peer(config, shown, address), membership)
        self._all[number] = (runtime, membership)
        hub.touch(template)
        return runtime

    def forget(self, runtime: _Runtime, membership: Membership[_Runtime]) -> None:
        """A peer has nothing left here."""
        if self._all.pop(membership.number, None) is not None:
            hub = runtime.hub
            hub.peer_numbers.give_back(runtime.config.id, membership.number)
            hub.agenda.remove(runtime)
            hub.touch(membership.template)

    def state(self, config: Tunnel, own: TunnelState) -> TunnelState:
        """Return the state of the configured tunnel, whose own SAs are those of peers that have proven nothing yet."""
        if not config.enabled:
            return TunnelState.DISABLED
        states = {own, *(runtime.state for runtime, _ in self._all.values())}
        found = next((each for each in _STATES if each in states), TunnelState.IDLE)
        return TunnelState.UP if found is TunnelState.PARTLY_UP else found


class PeerNumbers:
    """Numbers of the peers of every on-demand tunnel, 1 and up: one peer's at a time, whatever version it speaks."""

    def __init__(self) -> None:
        self._taken: dict[str, set[int]] = {}

    def take(self, tunnel_id: str, most: int) -> int | None:
        """Return the lowest free number, None when there are ``most`` peers."""
        taken = self._taken.setdefault(tunnel_id, set())
        if len(taken) >= most:
            return None
        number = next(each for each in range(1, len(taken) + 2) if each not in taken)
        taken.add(number)
        return number

    def give_back(self, tunnel_id: str, number: int) -> None:
        """A peer is gone."""
        taken = self._taken.get(tunnel_id, set())
        taken.discard(number)
        if not taken:
            self._taken.pop(tunnel_id, None)


def of_peer(config: Tunnel, shown: Shown, address: str) -> Tunnel:
    """Return what the configured tunnel is for one peer at this address."""
    remote = Endpoint(address=address, identity=identity.from_shown(shown) or config.remote.identity)
    return replace(
        config,
        kind=TunnelKind.STATIC,
        remote=remote,
        connection_type=ConnectionType.RESPONDER_ONLY,
        ike=replace(config.ike, dpd_action=DpdAction.CLEAR),
    )


def again(config: Tunnel, peer: Tunnel) -> Tunnel:
    """Return what a changed configured tunnel is for a peer that had this before."""
    fresh = replace(config, kind=TunnelKind.STATIC, remote=peer.remote, connection_type=ConnectionType.RESPONDER_ONLY)
    return replace(fresh, ike=replace(config.ike, dpd_action=DpdAction.CLEAR))


def slot_of(membership: Membership[_Runtime] | None, slot: int) -> int:
    """Return the slot of a child's reqid: a peer has its own range."""
    return slot if membership is None else membership.number * SLOTS + slot


def anywhere(local_address: str) -> str:
    """Return what the peers of an on-demand tunnel at this address have as theirs in the document."""
    return "::" if ":" in local_address else "0.0.0.0"  # noqa: S104 - nothing is bound


def merged(statuses: Iterable[TunnelStatus]) -> TunnelStatus:
    """Return the status of an on-demand tunnel that both IKE versions have peers of."""
    found = sorted(statuses, key=lambda each: _STATES.index(each.state) if each.state in _STATES else len(_STATES))
    best = found[0]
    children = [
        ChildStatus(
            name=child.name,
            up=any(each.children[index].up for each in found),
            sas=tuple(sa for each in found for sa in each.children[index].sas),
        )
        for index, child in enumerate(best.children)
    ]
    return replace(
        best,
        ike_sas=tuple(sa for each in found for sa in each.ike_sas),
        children=tuple(children),
        peers=sum(each.peers for each in found),
    )


def _too_many(config: Tunnel, shown: Shown) -> PeerError:
    return PeerError(
        _AUTHENTICATION_FAILED,
        "ike.too-many-peers",
        f"Tunnel {config.name} serves as many peers as it may; {identity.describe(shown)} was turned away",
        received=f"peer {config.most_peers + 1}",
        configured=str(config.most_peers),
        field="most_peers",
        fatal=True,
    )
