"""The kernel as a data plane: XFRM states and policies by netlink.

Rows are ours by their ``reqid``; nothing is ever flushed and no row of another owner is replaced or removed. What the
kernel says by itself (acquire, expire, mapping, deletions by others) becomes notices. Not here: routes, links (kernel
policies need none) and UDP sockets (:mod:`agents.dataplane.kernel.sockets` prepares those of ``iked``).

Counters. The kernel counts a tunnel mode SA's octets as those of the inner packet, in both directions (it counts on the
way out before the ESP header is pushed, on the way in after it is pulled), which is what the seam asks for. In
transport mode that is what the IP header carries, without the header; with IPComp it is what compression left.

An SA may be a bundle of states (:mod:`agents.dataplane.kernel.bundles`): they come, move and go together, and one that
somebody takes out takes the others along.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from agents.contract.config import Mode
from agents.contract.status import NamedCount, QueueStatus, Rejections
from agents.dataplane.base import (
    DataplaneError,
    Direction,
    Expired,
    Features,
    Notice,
    PolicySpec,
    Rejected,
    Repaired,
    SaId,
    SaSpec,
    SaState,
    Selector,
    TunnelLink,
    UdpEncapsulation,
)
from agents.dataplane.kernel import bundles, messages, rows, tables
from agents.dataplane.kernel.channel import CREATE, Requests
from agents.dataplane.kernel.features import probe
from agents.dataplane.kernel.installed import Installed, Known
from agents.dataplane.kernel.notices import Ear
from agents.dataplane.kernel.rows import StateId
from agents.dataplane.kernel.suites import Attributes

_log = logging.getLogger(__name__)

_DIRECTIONS = {
    Direction.IN: (rows.POLICY_IN, rows.POLICY_FORWARD),
    Direction.OUT: (rows.POLICY_OUT,),
}
"""A policy of the seam and the kernel's policies that make it up."""
_TRANSPORT_DIRECTIONS = {Direction.IN: (rows.POLICY_IN,), Direction.OUT: (rows.POLICY_OUT,)}
"""In transport mode the host itself is the end: nothing is forwarded."""
_NOTHING: Mapping[StateId, Attributes] = MappingProxyType({})


class KernelDriver:
    """A :class:`~agents.dataplane.base.Driver` on the XFRM of the network namespace it is opened in.

    ``last_used`` is the kernel's own where it keeps one (Linux 6.2); else the time of the listing that first saw the
    packet counter moved. Rejected packets are announced by the listing that first sees them.
    """

    def __init__(self) -> None:
        self._requests: Requests | None = None
        self._ear: Ear | None = None
        self._sas = Installed()
        self._policies: dict[tuple[Direction, Selector], PolicySpec] = {}
        self._policy_of_row: dict[tuple[int, Selector], PolicySpec] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._queue: asyncio.Queue[Notice | None] = asyncio.Queue()
        # One request at a time: close() must not take the socket from under one that waits for its answer.
        self._turn = asyncio.Lock()

    async def features(self) -> Features:
        """Install and remove one SA per algorithm, on a socket of its own; needs no :meth:`open`."""
        return await probe()

    async def open(self) -> None:
        """Connect and remove the states and policies in our range of reqids."""
        if self._requests is not None:
            await self.close()
        self._queue = asyncio.Queue()
        requests = Requests()
        try:
            await requests.bind()
            await tables.sweep(requests)
            self._ear = Ear(self._queue, self)
            self._ear.start()
        except DataplaneError:
            requests.close()
            raise
        self._requests = requests

    async def close(self) -> None:
        """Remove every row of ours and end :meth:`notices`."""
        async with self._turn:
            if self._requests is None:
                return
            requests, self._requests = self._requests, None
            self._sas.clear()
            self._policies.clear()
            self._policy_of_row.clear()
            if self._ear is not None:
                await self._ear.stop()
                self._ear = None
            self._queue.put_nowait(None)
            try:
                await tables.sweep(requests)
            finally:
                requests.close()

    async def open_link(self, link: TunnelLink) -> None:
        """Do nothing: policies steer the traffic."""

    async def close_link(self, tunnel_id: str) -> None:
        """Do nothing: there is no link."""

    async def add_sa(self, spec: SaSpec) -> None:
        """Install one SA with all its states or none; raises EEXIST when an SPI (CPI) of its destination is taken."""
        async with self._turn:
            requests = self._open("add_sa", _target(spec.id))
            await self._install(requests, "add_sa", spec)
            self._sas.add(Known(spec=spec))

    async def remove_sa(self, sa: SaId) -> None:
        """Remove one SA that this driver installed; any other is left alone."""
        async with self._turn:
            requests = self._open("remove_sa", _target(sa))
            for state in self._sas.pop(sa):
                await tables.remove_state(requests, state)

    async def add_policy(self, spec: PolicySpec) -> None:
        """Install or replace one policy; raises EEXIST when one of another owner has its direction and selector."""
        async with self._turn:
            await self._put_policy(spec)

    async def remove_policy(self, spec: PolicySpec) -> None:
        """Remove one policy, unless another has taken its place: of another owner or tunnel, or for other protocols."""
        async with self._turn:
            requests = self._open("remove_policy", rows.policy_target(spec))
            known = self._policies.get(_key(spec))
            if known is not None and rows.kinds(rows.templates(known)) == rows.kinds(rows.templates(spec)):
                self._forget_policy(known)
            for direction, piece in _rows(spec):
                await _remove_own(requests, piece, direction)

    async def update_mapping(
        self, sa: SaId, source: str, destination: str, encapsulation: UdpEncapsulation | None
    ) -> None:
        """Take the SA out and put it back under its new addresses, going on with its sequence numbers and counts.

        The kernel keeps an SA by its addresses, so there is no change in place. Where the old state ended is read from
        the notice of its deletion: nothing can have been sent under its key after that, so no number is used twice.
        The tunnel's policies of that direction follow. Raises ESRCH for an SA that is not ours or not there; should it
        not come back, that is told as a hard expiry too.
        """
        async with self._turn:
            requests = self._open("update_mapping", _target(sa))
            known = self._sas.get(sa)
            if known is None or self._ear is None:
                raise DataplaneError("update_mapping", _target(sa), errno.ESRCH, "no such SA of ours")
            spec = dataclasses.replace(known.spec, source=source, destination=destination, encapsulation=encapsulation)
            bundles.states(spec)  # refuses what cannot be before anything is taken out
            leaving = self._sas.pop(sa)
            try:
                resume = await self._take_out(requests, self._ear, leaving, destination)
                await self._install(requests, "update_mapping", spec, resume)
            except DataplaneError:
                self._queue.put_nowait(Expired(id=sa, hard=True))
                self._spawn(self._tidy(leaving))
                raise
            self._sas.add(Known(spec=spec, row=_without_rejections(known.row), moved_at=known.moved_at))
            await self._move_policies(known.spec, spec)

    async def list_sas(self) -> tuple[SaState, ...]:
        """Return the SAs in our range; ``tunnel_id`` is None for one that this driver did not install.

        A bundle is one SA; packets that any of its states rejected are its own.
        """
        async with self._turn:
            dumped = {row.id: row for row in await tables.dump_states(self._open("list_sas", "all"))}
        now = time.time()
        found = []
        for sa in self._sas:
            known, row = self._sas.get(sa), dumped.get(StateId.of(sa))
            if known is not None and row is not None:
                whole = _with_rejections(
                    row, [dumped[each] for each in bundles.state_ids(known.spec) if each in dumped]
                )
                self._note(known, whole, now)
                found.append(_state(sa, whole, known))
        for name, row in dumped.items():
            if name.sa is not None and not self._sas.uses(name):
                found.append(_state(name.sa, row, None))
        return tuple(found)

    async def list_policies(self) -> tuple[PolicySpec, ...]:
        """Return the policies in our range: as they were added where the kernel holds all their rows, else row by row.

        An inbound row counts only together with its forward twin, so a policy that lost one is not listed.
        """
        async with self._turn:
            dumped = await tables.dump_policies(self._open("list_policies", "all"))
        rest = {(row.direction, row.selector): row for row in dumped}
        found = []
        for spec in self._policies.values():
            wanted = [(direction, _canonical(piece.selector)) for direction, piece in _rows(spec)]
            if all(key in rest and _same(rest[key], spec) for key in wanted):
                found.append(spec)
                for key in wanted:
                    del rest[key]
        for (direction, selector), row in rest.items():
            if direction == rows.POLICY_OUT:
                found.append(rows.unknown_policy(Direction.OUT, row))
            elif direction == rows.POLICY_IN and (rows.POLICY_FORWARD, selector) in rest:
                found.append(rows.unknown_policy(Direction.IN, row))
        return tuple(found)

    async def queues(self) -> Mapping[str, tuple[QueueStatus, ...]]:
        """Return nothing: this driver makes no links, so no tunnel has queues."""
        return {}

    async def counts(self) -> tuple[NamedCount, ...]:
        """Return nothing: this driver counts by SA only."""
        return ()

    async def notices(self) -> AsyncIterator[Notice]:
        """Yield what the kernel says of our rows, until :meth:`close`."""
        queue = self._queue
        while (notice := await queue.get()) is not None:
            yield notice

    def _open(self, operation: str, target: str) -> Requests:
        if self._requests is None:
            raise DataplaneError(operation, target, errno.ENOTCONN, "the driver is not open")
        return self._requests

    # What the ear asks (agents.dataplane.kernel.notices.Owner)

    def vanished(self, state: StateId) -> tuple[SaId, ...]:
        """Forget the SAs that a state was part of, which someone else took out or which ended, and return them."""
        gone = self._sas.users(state)
        self._forget(gone, lambda other: other != state)
        return gone

    def flushed(self, protocol: int | None) -> tuple[tuple[SaId, ...], bool]:
        """Forget the SAs with a state of a protocol, with None all; returns them and whether any are left."""
        gone = self._sas.with_protocol(protocol)
        self._forget(gone, lambda state: protocol is not None and state.protocol != protocol)
        return gone, bool(self._sas)

    async def missing(self) -> tuple[SaId, ...]:
        """Forget the SAs that the kernel no longer has whole, and return them: what a lost notice may have been of."""
        if self._requests is None:
            return ()
        async with self._turn:
            if self._requests is None:
                return ()
            present = {row.id for row in await tables.dump_states(self._requests)}
            gone = self._sas.missing(present)
            self._forget(gone, lambda state: state in present)
            return gone

    def policy_gone(self, key: tuple[int, Selector] | None) -> None:
        """Put back what is still wanted of a policy that someone else removed, or with None of all policies."""
        if key is None:
            specs = tuple(self._policies.values())
        else:
            specs = (self._policy_of_row[key],) if key in self._policy_of_row else ()
        if specs:
            self._spawn(self._repair(specs))

    # Inside

    async def _install(
        self, requests: Requests, operation: str, spec: SaSpec, resume: Mapping[StateId, Attributes] = _NOTHING
    ) -> None:
        done: list[StateId] = []
        try:
            for state in bundles.states(spec, resume):
                if state.id.protocol == rows.PROTOCOL_COMPRESSION and self._sas.shared(state.id, spec):
                    continue
                await requests.send(operation, str(state.id), state.message, messages.NEWSA, CREATE)
                done.append(state.id)
        except DataplaneError:
            for name in reversed(done):
                await tables.remove_state(requests, name)
            raise

    async def _take_out(
        self, requests: Requests, ear: Ear, leaving: Iterable[StateId], destination: str
    ) -> dict[StateId, Attributes]:
        """Remove states; returns where each ended, under the name of its successor at ``destination``."""
        ended = {}
        for state in leaving:
            with ear.expect_deletion(state) as deletion:
                await requests.send("update_mapping", str(state), rows.state_id_message(state), messages.DELSA)
                ended[dataclasses.replace(state, destination=destination)] = await deletion.wait()
        return ended

    def _forget(self, gone: Iterable[SaId], is_left: Callable[[StateId], bool]) -> None:
        """Forget SAs that ended, and take those of their states along that are left."""
        left = [state for sa in gone for state in self._sas.pop(sa) if is_left(state)]
        if left:
            self._spawn(self._tidy(left))

    async def _tidy(self, states: Iterable[StateId]) -> None:
        """Remove what is left of SAs that ended, unless it has come back meanwhile."""
        async with self._turn:
            for state in states:
                if self._requests is None or self._sas.uses(state):
                    continue
                try:
                    await tables.remove_state(self._requests, state)
                except DataplaneError as error:
                    _log.error("a state of an SA that ended could not be removed: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _repair(self, specs: tuple[PolicySpec, ...]) -> None:
        async with self._turn:
            for spec in specs:
                if self._requests is None or self._policies.get(_key(spec)) is not spec:
                    continue  # removed or replaced by ourselves meanwhile
                try:
                    if await _in_place(self._requests, spec):
                        continue  # removed and added again by ourselves
                    await self._put_policy(spec)
                except DataplaneError as error:
                    _log.error("a policy that someone removed could not be put back: %s", error)
                else:
                    detail = f"The policy {rows.policy_target(spec)} was removed by someone else and is back"
                    self._queue.put_nowait(Repaired(reqid=spec.reqid, detail=detail))

    async def _put_policy(self, spec: PolicySpec) -> None:
        requests = self._open("add_policy", rows.policy_target(spec))
        done: list[tuple[int, PolicySpec]] = []
        try:
            for direction, piece in _rows(spec):
                await tables.write_policy(requests, piece, direction)
                done.append((direction, piece))
        except DataplaneError:
            for direction, piece in done:
                await _remove_own(requests, piece, direction)
            raise
        self._policies[_key(spec)] = spec
        for direction, piece in _rows(spec):
            self._policy_of_row[direction, _canonical(piece.selector)] = spec

    def _forget_policy(self, spec: PolicySpec) -> None:
        del self._policies[_key(spec)]
        for direction, piece in _rows(spec):
            key = direction, _canonical(piece.selector)
            if self._policy_of_row.get(key) is spec:
                del self._policy_of_row[key]

    async def _move_policies(self, old: SaSpec, new: SaSpec) -> None:
        for policy in tuple(self._policies.values()):
            same = (policy.direction, policy.reqid, policy.source, policy.destination)
            if same == (old.direction, old.reqid, old.source, old.destination):
                await self._put_policy(dataclasses.replace(policy, source=new.source, destination=new.destination))

    def _note(self, known: Known, row: rows.StateRow, now: float) -> None:
        """Compare a listing with the one before: announce newly rejected packets, date the last use."""
        before = known.row
        if row.packets > (before.packets if before is not None else 0):
            known.moved_at = now
        for code, count, was in (
            ("esp.integrity", row.unauthentic, before.unauthentic if before else 0),
            ("esp.replay", row.replayed, before.replayed if before else 0),
            ("esp.late", row.late, before.late if before else 0),
        ):
            if count > was:
                self._queue.put_nowait(Rejected(code=code, count=count - was, id=known.spec.id))
        known.row = row


async def _in_place(requests: Requests, spec: PolicySpec) -> bool:
    for direction, piece in _rows(spec):
        row = await tables.find_policy(requests, piece, direction)
        if row is None or not _same(row, spec):
            return False
    return True


async def _remove_own(requests: Requests, piece: PolicySpec, direction: int) -> None:
    row = await tables.find_policy(requests, piece, direction)
    if row is not None and rows.kinds(row.templates) == rows.kinds(rows.templates(piece)):
        await tables.remove_policy_row(requests, row)


def _rows(spec: PolicySpec) -> Iterator[tuple[int, PolicySpec]]:
    """Yield the kernel's policies that make up one of the seam: direction and piece."""
    directions = _TRANSPORT_DIRECTIONS if spec.mode is Mode.TRANSPORT else _DIRECTIONS
    for piece in rows.pieces(spec):
        for direction in directions[spec.direction]:
            yield direction, piece


def _same(row: rows.PolicyRow, spec: PolicySpec) -> bool:
    return (row.templates, row.priority) == (rows.templates(spec), spec.priority)


def _key(spec: PolicySpec) -> tuple[Direction, Selector]:
    return spec.direction, _canonical(spec.selector)


def _canonical(selector: Selector) -> Selector:
    """Return the selector as the kernel's rows read."""
    return dataclasses.replace(
        selector,
        source=str(ipaddress.ip_network(selector.source)),
        destination=str(ipaddress.ip_network(selector.destination)),
    )


def _with_rejections(own: rows.StateRow, parts: Iterable[rows.StateRow]) -> rows.StateRow:
    """Return an SA's own row with what all its states rejected."""
    late = replayed = unauthentic = 0
    for part in parts:
        late, replayed, unauthentic = late + part.late, replayed + part.replayed, unauthentic + part.unauthentic
    return dataclasses.replace(own, late=late, replayed=replayed, unauthentic=unauthentic)


def _without_rejections(row: rows.StateRow | None) -> rows.StateRow | None:
    """Return a listing's row for the successor of its state, whose statistics start at nothing."""
    return None if row is None else dataclasses.replace(row, late=0, replayed=0, unauthentic=0)


def _state(sa: SaId, row: rows.StateRow, known: Known | None) -> SaState:
    if known is not None:
        direction = known.spec.direction
    else:
        direction = Direction.IN if row.replay_window > bundles.OUTBOUND_ESN_WINDOW else Direction.OUT
    return SaState(
        id=sa,
        tunnel_id=known.spec.tunnel_id if known is not None else None,
        direction=direction,
        reqid=row.reqid,
        counters=row.counters(direction),
        last_used=row.last_used if known is None or row.last_used is not None else known.moved_at,
        rejected=Rejections(integrity=row.unauthentic, replayed=row.replayed, late=row.late),
    )


def _target(sa: SaId) -> str:
    return str(StateId.of(sa))
