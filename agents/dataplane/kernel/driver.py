"""The kernel as a data plane: XFRM states and policies by netlink.

Rows are ours by their ``reqid``; nothing is ever flushed and no row of another owner is replaced or removed. What the
kernel says by itself (acquire, expire, mapping, deletions by others) becomes notices. Policies steer the traffic, of
tunnels with an interface of their own together with the routes into it (:mod:`agents.dataplane.kernel.links`). Not
here: routes and UDP sockets (:mod:`agents.dataplane.kernel.sockets` prepares those of ``iked``).

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
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from agents.contract.carriage import Attachment
from agents.contract.status import NamedCount, QueueStatus, Rejections
from agents.dataplane.base import (
    REQID_BASE,
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
    TunnelLink,
    UdpEncapsulation,
)
from agents.dataplane.kernel import bundles, links, messages, rows, tables
from agents.dataplane.kernel.channel import CREATE, Requests
from agents.dataplane.kernel.features import probe
from agents.dataplane.kernel.installed import Installed, Known
from agents.dataplane.kernel.links import Links
from agents.dataplane.kernel.notices import Ear
from agents.dataplane.kernel.policies import Placed, Policies, RowKey, is_of_the_host
from agents.dataplane.kernel.rows import SHARED, StateId, Steering
from agents.dataplane.kernel.statistics import Statistics
from agents.dataplane.kernel.suites import Attributes

_log = logging.getLogger(__name__)

_NOTHING: Mapping[StateId, Attributes] = MappingProxyType({})


class KernelDriver:
    """A :class:`~agents.dataplane.base.Driver` on the XFRM of the network namespace it is opened in.

    ``last_used`` is the kernel's own where it keeps one (Linux 6.2); else the time of the listing that first saw the
    packet counter moved. Rejected packets are announced by the listing that first sees them.
    """

    def __init__(self) -> None:
        self._requests: Requests | None = None
        self._ear: Ear | None = None
        self._statistics: Statistics | None = None
        self._links = Links(self._link_gone)
        self._sas = Installed()
        self._policies = Policies()
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
            self._links = Links(self._link_gone)
            await self._links.open()
            self._ear = Ear(self._queue, self)
            self._ear.start()
        except DataplaneError:
            requests.close()
            raise
        self._requests = requests
        self._statistics = Statistics()

    async def close(self) -> None:
        """Remove every row of ours and end :meth:`notices`."""
        async with self._turn:
            if self._requests is None:
                return
            requests, self._requests = self._requests, None
            self._sas.clear()
            self._policies.clear()
            if self._ear is not None:
                await self._ear.stop()
                self._ear = None
            if self._statistics is not None:
                self._statistics.close()
                self._statistics = None
            self._queue.put_nowait(None)
            try:
                await tables.sweep(requests)
            finally:
                requests.close()
                await self._links.close()

    async def open_link(self, link: TunnelLink) -> None:
        """Make the interface of a tunnel that has one of its own; one that shares needs none.

        SAs and policies that the tunnel has already go over to its interface, or back when it no longer has one.
        Raises EOPNOTSUPP where the kernel has no interfaces for tunnels, EEXIST where somebody else's has the name.
        What it refuses of queues and their rate is raised when all else is done.
        """
        links.check(link)
        async with self._turn:
            requests = self._open("open_link", link.name)
            if link.attachment is Attachment.INTERFACE:
                await self._links.put(link)
                await self._steer(requests, link.tunnel_id, self._links.steering(link.tunnel_id))
                await self._links.put_queues(link.tunnel_id)
            else:
                await self._steer(requests, link.tunnel_id, SHARED)
                await self._links.remove(link.tunnel_id)

    async def close_link(self, tunnel_id: str) -> None:
        """Remove the tunnel's interface, if it has one."""
        async with self._turn:
            self._open("close_link", tunnel_id)
            await self._links.remove(tunnel_id)

    async def add_sa(self, spec: SaSpec) -> None:
        """Install one SA with all its states or none; raises EEXIST when an SPI (CPI) of its destination is taken."""
        async with self._turn:
            requests = self._open("add_sa", _target(spec.id))
            steering = self._steering(spec)
            await self._install(requests, "add_sa", spec, steering)
            self._sas.add(Known(spec=spec, steering=steering))

    async def remove_sa(self, sa: SaId) -> None:
        """Remove one SA that this driver installed; any other is left alone."""
        async with self._turn:
            requests = self._open("remove_sa", _target(sa))
            for state in self._sas.pop(sa):
                await tables.remove_state(requests, state)

    async def add_policy(self, spec: PolicySpec) -> None:
        """Install or replace one policy; raises EEXIST when one of another owner has its direction and selector."""
        async with self._turn:
            requests = self._open("add_policy", rows.policy_target(spec))
            await self._policies.put(requests, spec, self._steering(spec))

    async def remove_policy(self, spec: PolicySpec) -> None:
        """Remove one policy, unless another has taken its place: of another owner or tunnel, or for other protocols."""
        async with self._turn:
            requests = self._open("remove_policy", rows.policy_target(spec))
            await self._policies.remove(requests, spec, self._links.steering(spec.tunnel_id))

    async def update_mapping(
        self, sa: SaId, source: str, destination: str, encapsulation: UdpEncapsulation | None
    ) -> None:
        """Take the SA out and put it back under its new addresses, going on with its sequence numbers and counts.

        The kernel keeps an SA by its addresses, so only other ports are changed in place, where nothing is lost. Where
        the old state ended is read from the notice of its deletion: nothing can have been sent under its key after
        that, so no number is used twice. The tunnel's policies of that direction follow. Raises ESRCH for an SA that is
        not ours or not there; should it not come back, that is told as a hard expiry too.
        """
        async with self._turn:
            requests = self._open("update_mapping", _target(sa))
            known = self._sas.get(sa)
            if known is None or self._ear is None:
                raise DataplaneError("update_mapping", _target(sa), errno.ESRCH, "no such SA of ours")
            spec = dataclasses.replace(known.spec, source=source, destination=destination, encapsulation=encapsulation)
            states = bundles.states(
                spec, steering=known.steering
            )  # refuses what cannot be before anything is taken out
            if _only_ports_differ(known.spec, spec):
                for state in states:
                    if state.id.protocol == rows.PROTOCOL_ESP:
                        await requests.send("update_mapping", str(state.id), state.message, messages.UPDSA)
                known.spec = spec
                return
            out = spec.direction is Direction.OUT
            await self._links.follow(spec.tunnel_id, *((source, destination) if out else (destination, source)))
            become = (spec, known.steering)
            failure = await self._replace(requests, "update_mapping", (known,), lambda _known: become)
            if failure is not None:
                raise failure
            await self._policies.move(requests, known.spec, spec)

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
            return self._policies.listed(await tables.dump_policies(self._open("list_policies", "all")))

    async def queues(self) -> Mapping[str, tuple[QueueStatus, ...]]:
        """Return what the queues of tunnels that have four counted, by tunnel id."""
        async with self._turn:
            self._open("queues", "all")
            return await self._links.queues()

    async def counts(self) -> tuple[NamedCount, ...]:
        """Return the kernel's counters of the whole namespace; none where it keeps none."""
        self._open("counts", "all")
        return () if self._statistics is None else self._statistics.read()

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

    def policy_gone(self, key: RowKey | None) -> None:
        """Put back what is still wanted of a policy that someone else removed, or with None of all policies."""
        if wanted := self._policies.wanted(key):
            self._spawn(self._repair(wanted))

    def _link_gone(self, tunnel_id: str) -> None:
        self._spawn(self._repair_link(tunnel_id))

    # Inside

    def _steering(self, spec: SaSpec | PolicySpec) -> Steering:
        return SHARED if is_of_the_host(spec.mode) else self._links.require(spec.tunnel_id)

    async def _steer(self, requests: Requests, tunnel_id: str, steering: Steering) -> None:
        """Tie what a tunnel has already to another interface."""
        moving = [
            known
            for known in self._sas.of_tunnel(tunnel_id)
            if known.steering != steering and not is_of_the_host(known.spec.mode)
        ]
        failure = await self._replace(requests, "open_link", moving, lambda known: (known.spec, steering))
        if failure is not None:
            _log.warning("an SA could not go over to another interface and has ended: %s", failure)
        await self._policies.steer(requests, tunnel_id, steering)

    async def _replace(
        self,
        requests: Requests,
        operation: str,
        sas: Iterable[Known],
        becomes: Callable[[Known], tuple[SaSpec, Steering]],
    ) -> DataplaneError | None:
        """Take SAs out, all of them before any comes back, since they may share a state; they go on where they were.

        Should one not come back, that is told as a hard expiry, and the last refusal is returned.
        """
        leaving = [(known, self._sas.pop(known.spec.id)) for known in sas]
        failure: DataplaneError | None = None
        taken_out: list[tuple[Known, dict[StateId, Attributes]]] = []
        for known, states in leaving:
            try:
                taken_out.append(
                    (known, await self._take_out(requests, operation, states, becomes(known)[0].destination))
                )
            except DataplaneError as error:
                failure = error
                self._lost(known, states)
        for known, resume in taken_out:
            spec, steering = becomes(known)
            try:
                await self._install(requests, operation, spec, steering, resume)
            except DataplaneError as error:
                failure = error
                self._lost(known, ())
            else:
                row = _without_rejections(known.row)
                self._sas.add(Known(spec=spec, steering=steering, row=row, moved_at=known.moved_at))
        return failure

    def _lost(self, known: Known, states: Iterable[StateId]) -> None:
        """Tell that an SA did not come back, and remove what may be left of it."""
        self._queue.put_nowait(Expired(id=known.spec.id, hard=True))
        self._spawn(self._tidy(states))

    async def _install(
        self,
        requests: Requests,
        operation: str,
        spec: SaSpec,
        steering: Steering,
        resume: Mapping[StateId, Attributes] = _NOTHING,
    ) -> None:
        done: list[StateId] = []
        try:
            for state in bundles.states(spec, resume, steering):
                if state.id.protocol == rows.PROTOCOL_COMPRESSION and self._sas.shared(state.id, spec, steering):
                    continue
                await requests.send(operation, str(state.id), state.message, messages.NEWSA, CREATE)
                done.append(state.id)
        except DataplaneError:
            for name in reversed(done):
                await tables.remove_state(requests, name)
            raise

    async def _take_out(
        self, requests: Requests, operation: str, leaving: Iterable[StateId], destination: str
    ) -> dict[StateId, Attributes]:
        """Remove states; returns where each ended, under the name of its successor at ``destination``."""
        ended: dict[StateId, Attributes] = {}
        for state in leaving:
            assert self._ear is not None
            with self._ear.expect_deletion(state) as deletion:
                await requests.send(operation, str(state), rows.state_id_message(state), messages.DELSA)
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

    async def _repair_link(self, tunnel_id: str) -> None:
        async with self._turn:
            if self._requests is None:
                return
            try:
                name = await self._links.put_back(tunnel_id)
            except DataplaneError as error:
                _log.error("an interface that someone removed could not be made again: %s", error)
                return
            if name is not None:
                detail = f"The interface {name} was removed by someone else and is back"
                reqid = next((known.spec.reqid for known in self._sas.of_tunnel(tunnel_id)), REQID_BASE)
                self._queue.put_nowait(Repaired(reqid=reqid, detail=detail))

    async def _repair(self, wanted: tuple[Placed, ...]) -> None:
        async with self._turn:
            for placed in wanted:
                if self._requests is None:
                    continue
                try:
                    if not await self._policies.put_back(self._requests, placed):
                        continue  # removed or replaced by ourselves
                except DataplaneError as error:
                    _log.error("a policy that someone removed could not be put back: %s", error)
                else:
                    detail = f"The policy {rows.policy_target(placed.spec)} was removed by someone else and is back"
                    self._queue.put_nowait(Repaired(reqid=placed.spec.reqid, detail=detail))

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


def _only_ports_differ(old: SaSpec, new: SaSpec) -> bool:
    """Whether an SA stays where it is and in UDP."""
    in_udp = old.encapsulation is not None and new.encapsulation is not None
    return in_udp and (old.source, old.destination) == (new.source, new.destination)


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
