"""A data plane in memory, for tests of everything above the seam.

Here: :class:`FakeDriver`, which keeps SAs, policies and links in plain dicts, records every call, and lets a test raise
failures (:meth:`FakeDriver.fail`), count traffic and speak the notices a real data plane would. Deliberately not here:
any packet, any cryptography, any limit that fires by itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from agents.contract import algorithms
from agents.contract.config import Mode
from agents.contract.status import NO_REJECTIONS, Counters, NamedCount, QueueStatus, Rejections
from agents.dataplane.base import (
    Acquired,
    DataplaneError,
    Direction,
    Expired,
    Features,
    Lost,
    Mapped,
    Notice,
    PolicySpec,
    Rejected,
    SaId,
    SaProtocol,
    SaSpec,
    SaState,
    Selector,
    TunnelLink,
    UdpEncapsulation,
)

PolicyKey = tuple[Direction, Selector]
"""What makes two policies the same row: a repeat replaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    operation: str
    errno: int
    reason: str


class FakeDriver:
    """A :class:`~agents.dataplane.base.Driver` whose state a test can read, and whose world a test can move.

    ``calls`` holds the operations performed in order, ``(operation, target)``, failed ones included. Adding an SA that
    exists raises EEXIST and moving one that does not ESRCH, as the kernel does; anything before :meth:`open` raises
    ENOTCONN.
    """

    def __init__(self, *, name: str = "fake", available: bool = True, reason: str = "kept in memory") -> None:
        self.name = name
        self.available = available
        self.reason = reason
        self.sas: dict[SaId, SaSpec] = {}
        self.policies: dict[PolicyKey, PolicySpec] = {}
        self.links: dict[str, TunnelLink] = {}
        self.calls: list[tuple[str, str]] = []
        self.is_open = False
        self._counters: dict[SaId, Counters] = {}
        self._last_used: dict[SaId, float] = {}
        self._rejected: dict[SaId, Rejections] = {}
        self._queues: dict[str, tuple[QueueStatus, ...]] = {}
        self._counts: dict[str, int] = {}
        self._failures: deque[_Failure] = deque()
        self._notices: asyncio.Queue[Notice | None] = asyncio.Queue()

    # The driver protocol

    async def features(self) -> Features:
        """Report every algorithm of the contract's tables, mode and protocol; needs no :meth:`open`."""
        self._enter("features", "", needs_open=False)
        return Features(
            driver=self.name,
            available=self.available,
            reason=self.reason,
            encryptions=frozenset(algorithms.ENCRYPTION) if self.available else frozenset(),
            integrities=frozenset(algorithms.INTEGRITY) if self.available else frozenset(),
            modes=frozenset(Mode),
            protocols=frozenset(SaProtocol),
            extended_sequence_numbers=True,
            compression=True,
        )

    async def open(self) -> None:
        """Start empty: what an earlier session left is gone."""
        self._enter("open", "", needs_open=False)
        self._forget()
        self._notices = asyncio.Queue()
        self.is_open = True

    async def close(self) -> None:
        """Forget everything and end :meth:`notices`; a second time does nothing."""
        self._enter("close", "", needs_open=False)
        if self.is_open:
            self._forget()
            self.is_open = False
            self._notices.put_nowait(None)

    async def open_link(self, link: TunnelLink) -> None:
        """Record the link; a repeat changes it, and other queues begin at nothing."""
        self._enter("open_link", link.name)
        self.links[link.tunnel_id] = link
        if link.queues == 1:
            self._queues.pop(link.tunnel_id, None)
        elif len(self._queues.get(link.tunnel_id, ())) != link.queues:
            self._queues[link.tunnel_id] = tuple(QueueStatus(queue=number) for number in range(link.queues))

    async def close_link(self, tunnel_id: str) -> None:
        """Forget the link."""
        self._enter("close_link", tunnel_id)
        self.links.pop(tunnel_id, None)
        self._queues.pop(tunnel_id, None)

    async def add_sa(self, spec: SaSpec) -> None:
        """Record an SA; raises EEXIST when its id is taken."""
        self._enter("add_sa", _target(spec.id))
        if spec.id in self.sas:
            raise DataplaneError("add_sa", _target(spec.id), errno.EEXIST, "an SA of this SPI exists")
        self.sas[spec.id] = spec
        self._counters[spec.id] = Counters()

    async def remove_sa(self, sa: SaId) -> None:
        """Forget an SA and its counters."""
        self._enter("remove_sa", _target(sa))
        self._drop(sa)

    async def add_policy(self, spec: PolicySpec) -> None:
        """Record a policy by direction and selector."""
        self._enter("add_policy", f"{spec.direction} {spec.selector.source} {spec.selector.destination}")
        self.policies[(spec.direction, spec.selector)] = spec

    async def remove_policy(self, spec: PolicySpec) -> None:
        """Forget a policy by direction and selector, unless one of another reqid or other protocols took its place."""
        self._enter("remove_policy", f"{spec.direction} {spec.selector.source} {spec.selector.destination}")
        there = self.policies.get((spec.direction, spec.selector))
        if there is not None and _kind(there) == _kind(spec):
            del self.policies[(spec.direction, spec.selector)]

    async def update_mapping(
        self, sa: SaId, source: str, destination: str, encapsulation: UdpEncapsulation | None
    ) -> None:
        """Give an SA other outer addresses and ports; counters move with it. Raises ESRCH when it is unknown."""
        self._enter("update_mapping", _target(sa))
        if sa not in self.sas:
            raise DataplaneError("update_mapping", _target(sa), errno.ESRCH, "no such SA")
        old, counters, used = self.sas[sa], self._counters[sa], self._last_used.get(sa)
        rejected = self._rejected.get(sa)
        self._drop(sa)
        new = dataclasses.replace(old, source=source, destination=destination, encapsulation=encapsulation)
        self.sas[new.id] = new
        self._counters[new.id] = counters
        if used is not None:
            self._last_used[new.id] = used
        if rejected is not None:
            self._rejected[new.id] = rejected

    async def list_sas(self) -> tuple[SaState, ...]:
        """Return the SAs in the order they were added."""
        self._enter("list_sas", "")
        return tuple(
            SaState(
                id=key,
                tunnel_id=spec.tunnel_id,
                direction=spec.direction,
                reqid=spec.reqid,
                counters=self._counters[key],
                last_used=self._last_used.get(key),
                rejected=self._rejected.get(key, NO_REJECTIONS),
            )
            for key, spec in self.sas.items()
        )

    async def list_policies(self) -> tuple[PolicySpec, ...]:
        """Return the policies in the order they were added."""
        self._enter("list_policies", "")
        return tuple(self.policies.values())

    async def queues(self) -> Mapping[str, tuple[QueueStatus, ...]]:
        """Return the queues of the links that have several, as :meth:`queue` moved them."""
        self._enter("queues", "")
        return dict(self._queues)

    async def counts(self) -> tuple[NamedCount, ...]:
        """Return what :meth:`count_named` counted, by name."""
        self._enter("counts", "")
        return tuple(NamedCount(name=name, count=count) for name, count in sorted(self._counts.items()))

    async def notices(self) -> AsyncIterator[Notice]:
        """Yield what the test made the data plane say, until :meth:`close`."""
        queue = self._notices
        while (notice := await queue.get()) is not None:
            yield notice

    # What a test may do

    def fail(self, operation: str, reason: str = "refused by the test", error: int = errno.EINVAL) -> None:
        """Make the next call of ``operation`` raise; calls queue up."""
        self._failures.append(_Failure(operation=operation, errno=error, reason=reason))

    def count(self, sa: SaId, *, packets: int, octets: int, at: float | None = None) -> None:
        """Let ``packets`` of ``octets`` inner octets in all pass through an SA, at Unix time ``at`` (now)."""
        spec = self.sas[sa]
        if spec.direction is Direction.IN:
            more = Counters(packets_in=packets, bytes_in=octets)
        else:
            more = Counters(packets_out=packets, bytes_out=octets)
        self._counters[sa] += more
        self._last_used[sa] = time.time() if at is None else at

    def refuse(self, sa: SaId, rejections: Rejections) -> None:
        """Let an SA refuse so many packets more; says nothing by itself (:meth:`reject`)."""
        self._rejected[sa] = self._rejected.get(sa, NO_REJECTIONS) + rejections

    def queue(self, tunnel_id: str, status: QueueStatus) -> None:
        """Let one queue of a link that has several be as ``status`` says."""
        rows = self._queues[tunnel_id]
        self._queues[tunnel_id] = tuple(status if row.queue == status.queue else row for row in rows)

    def count_named(self, name: str, count: int) -> None:
        """Add to one of the data plane's own counters."""
        self._counts[name] = self._counts.get(name, 0) + count

    def expire(self, sa: SaId, *, hard: bool) -> None:
        """Say that an SA reached a limit; a hard one removes it first."""
        if hard:
            self._drop(sa)
        self.say(Expired(id=sa, hard=hard))

    def acquire(self, reqid: int, selector: Selector) -> None:
        """Say that traffic matched a policy without an SA."""
        self.say(Acquired(reqid=reqid, selector=selector))

    def move(self, sa: SaId, address: str, port: int) -> None:
        """Say that an authenticated packet came from another address or port."""
        self.say(Mapped(id=sa, address=address, port=port))

    def reject(self, code: str, count: int, sa: SaId | None = None) -> None:
        """Say that packets were refused."""
        self.say(Rejected(code=code, count=count, id=sa))

    def lose(self, reason: str = "the data plane process ended") -> None:
        """Drop every SA and policy, as when the process behind the driver dies, and say so."""
        self.sas.clear()
        self.policies.clear()
        self._counters.clear()
        self._last_used.clear()
        self._rejected.clear()
        self.say(Lost(reason=reason))

    def say(self, notice: Notice) -> None:
        """Put any notice before the reader of :meth:`notices`."""
        self._notices.put_nowait(notice)

    # Inside

    def _enter(self, operation: str, target: str, *, needs_open: bool = True) -> None:
        self.calls.append((operation, target))
        if needs_open and not self.is_open:
            raise DataplaneError(operation, target, errno.ENOTCONN, "the driver is not open")
        for failure in self._failures:
            if failure.operation == operation:
                self._failures.remove(failure)
                raise DataplaneError(operation, target, failure.errno, failure.reason)

    def _drop(self, sa: SaId) -> None:
        self.sas.pop(sa, None)
        self._counters.pop(sa, None)
        self._last_used.pop(sa, None)
        self._rejected.pop(sa, None)

    def _forget(self) -> None:
        self.sas.clear()
        self.policies.clear()
        self.links.clear()
        self._counters.clear()
        self._last_used.clear()
        self._rejected.clear()
        self._queues.clear()


def _kind(policy: PolicySpec) -> tuple[object, ...]:
    return policy.reqid, policy.mode, policy.protocols, policy.compressed


def _target(sa: SaId) -> str:
    return f"{sa.protocol} {sa.spi:08x} to {sa.destination}"
