"""The engine's snapshot as the agent reports it: Unix time, traffic counters, interface names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from agents.contract.status import ChildSaStatus, ChildStatus, IkeSaStatus, QueueStatus, TunnelStatus
from agents.dataplane.base import Direction
from agents.iked.traffic import NOTHING, Sum, Traffic

_DRIFT_S = 0.5


class UnixTime:
    """Turns monotonic seconds into Unix seconds by an offset that only a real change of the clock moves.

    Were it taken anew each time, the same moment would read a little differently in every report.
    """

    def __init__(self, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._offset = wall() - monotonic()

    def follow(self) -> None:
        """Take over a clock that was set."""
        offset = self._wall() - self._monotonic()
        if abs(offset - self._offset) > _DRIFT_S:
            self._offset = offset

    def __call__(self, moment: float) -> float:
        """Return the Unix time of a monotonic moment, to the millisecond."""
        return round(moment + self._offset, 3)

    def maybe(self, moment: float | None) -> float | None:
        """The same for a moment that may be unknown."""
        return None if moment is None else self(moment)


def report(
    snapshot: Iterable[TunnelStatus],
    traffic: Traffic,
    queues: Mapping[str, tuple[QueueStatus, ...]],
    unix: UnixTime,
    interface: Callable[[str], str | None],
    rate_kbps: Callable[[str], int | None],
) -> tuple[TunnelStatus, ...]:
    """Return the engine's snapshot with what the engine cannot know."""
    unix.follow()
    by_child = traffic.by_child()
    totals: dict[str, Sum] = {}
    for (tunnel_id, _name), total in by_child.items():
        totals[tunnel_id] = totals.get(tunnel_id, NOTHING) + total
    return tuple(
        dataclasses.replace(
            tunnel,
            since=unix(tunnel.since),
            ike_sas=tuple(_ike_sa(sa, unix) for sa in tunnel.ike_sas),
            children=tuple(
                _child(tunnel.id, child, by_child.get((tunnel.id, child.name), NOTHING), traffic, unix)
                for child in tunnel.children
            ),
            counters=totals.get(tunnel.id, NOTHING).counters,
            rejected=totals.get(tunnel.id, NOTHING).rejected,
            queues=queues.get(tunnel.id, ()),
            rate_kbps=rate_kbps(tunnel.id),
            interface=interface(tunnel.id),
        )
        for tunnel in snapshot
    )


def _ike_sa(sa: IkeSaStatus, unix: UnixTime) -> IkeSaStatus:
    return dataclasses.replace(sa, established_at=unix(sa.established_at), rekey_at=unix.maybe(sa.rekey_at))


def _child(tunnel_id: str, child: ChildStatus, total: Sum, traffic: Traffic, unix: UnixTime) -> ChildStatus:
    sas = tuple(_child_sa(tunnel_id, sa, traffic, unix) for sa in child.sas)
    return dataclasses.replace(child, sas=sas, counters=total.counters, rejected=total.rejected)


def _child_sa(tunnel_id: str, sa: ChildSaStatus, traffic: Traffic, unix: UnixTime) -> ChildSaStatus:
    inbound = traffic.of_sa(tunnel_id, Direction.IN, int(sa.spi_in, 16))
    outbound = traffic.of_sa(tunnel_id, Direction.OUT, int(sa.spi_out, 16))
    both = inbound + outbound
    return dataclasses.replace(
        sa,
        installed_at=unix(sa.installed_at),
        rekey_at=unix.maybe(sa.rekey_at),
        expires_at=unix.maybe(sa.expires_at),
        counters=both.counters,
        rejected=both.rejected,
    )
