"""What the driver put into the kernel: SAs, the states that make each one up, and what the last listing saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

from agents.dataplane.base import SaId, SaSpec
from agents.dataplane.kernel import bundles
from agents.dataplane.kernel.rows import SHARED, StateId, StateRow, Steering


@dataclasses.dataclass(slots=True)
class Known:
    """An SA we installed, the interface it is tied to, and what the last listing saw of it."""

    spec: SaSpec
    steering: Steering = SHARED
    row: StateRow | None = None
    moved_at: float | None = None


class Installed:
    """SAs by id, and which of them a state belongs to.

    An IPComp state may serve several SAs of one child: a peer that always names the same CPI does so at a rekey.
    """

    def __init__(self) -> None:
        self._sas: dict[SaId, Known] = {}
        self._users: dict[StateId, list[SaId]] = {}

    def __bool__(self) -> bool:
        return bool(self._sas)

    def __iter__(self) -> Iterator[SaId]:
        return iter(tuple(self._sas))

    def get(self, sa: SaId) -> Known | None:
        """Return what is known of an SA."""
        return self._sas.get(sa)

    def add(self, known: Known) -> None:
        """Take note of an SA whose states are in place."""
        self._sas[known.spec.id] = known
        for state in bundles.state_ids(known.spec, known.steering):
            self._users.setdefault(state, []).append(known.spec.id)

    def pop(self, sa: SaId) -> tuple[StateId, ...]:
        """Forget an SA; returns those of its states that no other uses, outermost first."""
        known = self._sas.pop(sa, None)
        if known is None:
            return ()
        unused = []
        for state in bundles.state_ids(known.spec, known.steering):
            users = self._users[state]
            users.remove(sa)
            if not users:
                del self._users[state]
                unused.append(state)
        return tuple(reversed(unused))

    def uses(self, state: StateId) -> bool:
        """Whether a state is one of ours."""
        return state in self._users

    def shared(self, state: StateId, spec: SaSpec, steering: Steering) -> bool:
        """Whether an SA of the same child already has this state, between the same addresses and for one interface."""
        for user in self._users.get(state, ()):
            known = self._sas[user]
            other = known.spec
            if (other.reqid, other.source, other.mode, known.steering) == (
                spec.reqid, spec.source, spec.mode, steering
            ):  # fmt: skip
                return True
        return False

    def of_tunnel(self, tunnel_id: str) -> tuple[Known, ...]:
        """Return a tunnel's SAs, in the order in which they came."""
        return tuple(known for known in self._sas.values() if known.spec.tunnel_id == tunnel_id)

    def users(self, state: StateId) -> tuple[SaId, ...]:
        """Return the SAs that a state is part of."""
        return tuple(self._users.get(state, ()))

    def with_protocol(self, protocol: int | None) -> tuple[SaId, ...]:
        """Return the SAs that have a state of this protocol, with None all."""
        if protocol is None:
            return tuple(self._sas)
        return tuple(
            dict.fromkeys(sa for state in self._users if state.protocol == protocol for sa in self.users(state))
        )

    def missing(self, present: Collection[StateId]) -> tuple[SaId, ...]:
        """Return the SAs that lack a state among those that the kernel has."""
        return tuple(dict.fromkeys(sa for state in self._users if state not in present for sa in self.users(state)))

    def clear(self) -> None:
        """Forget everything."""
        self._sas.clear()
        self._users.clear()
