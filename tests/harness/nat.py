"""A NAT between the hosts of a :class:`tests.harness.world.World`: mappings that expire, static forwards, rebinding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agents.ike.outputs import Transmit
from tests.harness.world import World

Inside = tuple[str, int]


@dataclass(kw_only=True)
class _Mapping:
    port: int
    used_at: float


@dataclass(kw_only=True)
class NatBox:
    """A NAT with one outside address; a :class:`~tests.harness.world.Network`'s ``rewrite``.

    ``forwards`` are static, by outside port. A mapping ends when nothing went out by it for ``timeout_s``; what comes
    in does not keep it (RFC 4787, requirement 6). ``lost`` counts datagrams to ports that lead nowhere.
    """

    world: World
    inside: frozenset[str]
    outside: str
    timeout_s: float = float("inf")
    forwards: dict[int, Inside] = field(default_factory=dict)
    next_port: int = 20_000
    lost: int = 0
    mappings: dict[Inside, _Mapping] = field(default_factory=dict)

    def __call__(self, transmit: Transmit) -> Transmit | None:
        """Translate the source of what leaves, and the destination of what comes."""
        path = transmit.path
        if path.local_address in self.inside and path.remote_address not in self.inside:
            port = self._outside_port((path.local_address, path.local_port))
            return replace(transmit, path=replace(path, local_address=self.outside, local_port=port))
        if path.remote_address != self.outside:
            return transmit
        target = self._inside(path.remote_port)
        if target is None:
            self.lost += 1
            return None
        return replace(transmit, path=replace(path, remote_address=target[0], remote_port=target[1]))

    def rebind(self, outside: str | None = None) -> None:
        """Forget every mapping, as after a reboot; perhaps with another outside address."""
        self.mappings.clear()
        self.outside = outside or self.outside

    def _outside_port(self, inside: Inside) -> int:
        for port, target in self.forwards.items():
            if target == inside:
                return port
        mapping = self.mappings.get(inside)
        if mapping is None or self.world.now - mapping.used_at > self.timeout_s:
            self.next_port += 1
            mapping = self.mappings[inside] = _Mapping(port=self.next_port, used_at=self.world.now)
        mapping.used_at = self.world.now
        return mapping.port

    def _inside(self, port: int) -> Inside | None:
        if port in self.forwards:
            return self.forwards[port]
        for inside, mapping in self.mappings.items():
            if mapping.port == port and self.world.now - mapping.used_at <= self.timeout_s:
                return inside
        return None


def chained(*boxes: NatBox) -> Callable[[Transmit], Transmit | None]:
    """Return the way through several boxes, each before hosts of its own."""

    def rewrite(transmit: Transmit) -> Transmit | None:
        there: Transmit | None = transmit
        for box in boxes:
            there = None if there is None else box(there)
        return there

    return rewrite
