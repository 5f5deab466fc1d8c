"""``espd.sock``: the driver protocol of :mod:`agents.dataplane.base` by RPC, for one client that matters (``iked``).

A session starts with ``open``, which drops SAs and policies of the session before. A client that goes away leaves them
working: it may be restarting, and traffic need not stop for that. Links outlive ``open``; those that the new session
has not asked for within :data:`LINK_GRACE_S` are removed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import functools
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from agents.contract.algorithms import ENCRYPTION, INTEGRITY
from agents.contract.codec import from_plain, to_plain
from agents.contract.config import Mode
from agents.contract.errors import DocumentError
from agents.contract.status import ComponentHealth, NamedCount
from agents.dataplane.base import (
    Acquired,
    DataplaneError,
    Direction,
    Expired,
    Features,
    PolicySpec,
    SaId,
    SaProtocol,
    SaSpec,
    TunnelLink,
    UdpEncapsulation,
)
from agents.dataplane.plain import IkeDatagram, PathLimit, features_to_plain, notice_from_plain, notice_to_plain
from agents.dataplane.userspace.sadb import path_of
from agents.dataplane.userspace.sharing import owner
from agents.espd import memory, tun
from agents.espd.ah_socket import AhSocket
from agents.espd.datapath import Datapath
from agents.espd.shared import SharedNumbers, TableFull
from agents.espd.sockets import EspSocket, IkeMessage, RawSocket
from agents.espd.steering import Share
from agents.espd.workers import MERGED, TOLD, Pool, divided
from agents.runtime import log_levels, rpc, tracing
from agents.runtime.version import VERSION

LINK_GRACE_S = 30.0
TICK_S = 1.0
TIDY_S = 30.0
MAX_UNTOLD = 10_000

Answer = Callable[[dict[str, Any]], Any]
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Service:
    """One data path behind one socket. Use :meth:`run`.

    With ``share`` it is one of several workers, whose first has the others in ``pool``.
    """

    def __init__(self, path: Path, share: Share | None = None, pool: Pool | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._started_at = time.time()
        self._share = share
        self._pool = pool
        self._slots: dict[SaId, int] = {}
        self._leaving: set[SaId] = set()
        self._spreading: set[asyncio.Task[None]] = set()
        self._datapath = Datapath(loop, self._ike_arrived, self._notices_wait, share, self._link_restored)
        self._outgoing: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self._untold = 0
        self._fresh_links: set[str] | None = None
        self._sweep: asyncio.TimerHandle | None = None
        answers: dict[str, Answer] = {
            "features": self._features,
            "open": self._open,
            "close": self._close,
            "open_link": self._open_link,
            "close_link": self._close_link,
            "add_sa": self._add_sa,
            "remove_sa": self._remove_sa,
            "add_policy": self._add_policy,
            "remove_policy": self._remove_policy,
            "update_mapping": self._update_mapping,
            "list_sas": self._list_sas,
            "list_policies": self._list_policies,
            "queues": self._queues,
            "counts": self._counts,
            "bind": self._bind,
            "send_ike": self._send_ike,
            "keep_alive": self._keep_alive,
            "health": self._health,
            "log_level": lambda params: log_levels.answer(("espd",), params),
            "trace": tracing.answer,
        }
        self._server = rpc.Server(path, {name: self._handler(name, answer) for name, answer in answers.items()})

    async def run(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Serve until ``stop`` is set; raises OSError where a worker does not start."""
        try:
            if self._pool is not None:
                await self._pool.reach()
            async with self._server, asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._speak()), group.create_task(self._tick())]
                if self._pool is not None:
                    tasks.append(group.create_task(self._pool.listen(self._heard, stop)))
                ready()
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            if self._sweep is not None:
                self._sweep.cancel()
            self._datapath.close()
            if self._pool is not None:
                await self._pool.close()

    # Notifications

    def _ike_arrived(self, message: IkeMessage) -> None:
        datagram = IkeDatagram(
            local_address=message.arrival.local_address,
            remote_address=message.arrival.remote_address,
            remote_port=message.arrival.remote_port,
            datagram=message.octets,
        )
        self._tell("ike", datagram.to_plain())

    def _notices_wait(self) -> None:
        for notice in self._datapath.engine.take_notices():
            if isinstance(notice, Expired) and notice.hard:
                self._gone(notice.id)
            self._tell("notice", notice_to_plain(notice))

    def _tell(self, method: str, params: dict[str, Any]) -> None:
        """Queue a notification; a flood that nobody can follow is cut off rather than kept."""
        if self._outgoing.qsize() < MAX_UNTOLD:
            self._outgoing.put_nowait((method, params))
        else:
            self._untold += 1

    def _heard(self, method: str, params: dict[str, Any]) -> None:
        """Another worker has something to say: what the first may have said already goes through its engine."""
        if method == "notice":
            notice = notice_from_plain(params)
            if isinstance(notice, Expired):
                self._datapath.engine.expired_elsewhere(notice)
            elif isinstance(notice, Acquired):
                self._datapath.engine.acquired_elsewhere(notice, time.monotonic())
            else:
                self._tell(method, params)
            self._notices_wait()
        else:
            self._tell(method, params)

    def _link_restored(self, link: TunnelLink) -> None:
        """What other workers have of a device that is gone goes too, and they take the new one."""
        self._spread(("close_link", {"tunnel_id": link.tunnel_id}), ("open_link", {"link": to_plain(link)}))

    def _gone(self, sa: SaId) -> None:
        """An SA went here without a call: other workers let go of it, and its slot is not another's before."""
        if sa in self._slots:
            self._leaving.add(sa)
        self._spread(("remove_sa", {"sa": to_plain(sa)}))

    def _spread(self, *calls: tuple[str, dict[str, Any]]) -> None:
        """Tell other workers of what happened here without a call."""
        if self._pool is not None:
            task = self._loop.create_task(self._tell_others(self._pool, calls))
            self._spreading.add(task)
            task.add_done_callback(self._spreading.discard)

    async def _tell_others(self, pool: Pool, calls: Sequence[tuple[str, dict[str, Any]]]) -> None:
        async with pool.order:
            for method, params in calls:
                try:
                    await pool.tell(method, params)
                except rpc.RpcError as error:
                    _log.error("a worker does not follow: %s", error)
                if method == "remove_sa":
                    self._leaving.discard(from_plain(SaId, params["sa"], "sa"))
            self._release_slots()

    async def _speak(self) -> None:
        while True:
            method, params = await self._outgoing.get()
            await self._server.notify(method, params)

    async def _tick(self) -> None:
        engine = self._datapath.engine
        tidied_at = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            engine.handle_timer(now)
            self._datapath.restore_links()
            if now - tidied_at >= TIDY_S:
                tidied_at = now
                memory.give_back()
            self._notices_wait()
            # While nobody can follow, packets refused add up rather than being lost from what is told.
            if self._outgoing.qsize() < MAX_UNTOLD // 2:
                for rejected in engine.take_rejected():
                    self._tell("notice", notice_to_plain(rejected))

    # Methods

    def _handler(self, name: str, answer: Answer) -> rpc.Handler:
        """Wrap a method: its errors become RPC errors. Nothing of the parameters gets into them but paths and
        addresses."""

        @functools.wraps(answer)
        async def handle(params: dict[str, Any], _connection: rpc.Connection) -> Any:
            if self._pool is None or not (name in TOLD or name in MERGED):
                return _answered(name, answer, params)
            async with self._pool.order:
                return await self._answered_by_all(self._pool, name, answer, params)

        return handle

    async def _answered_by_all(self, pool: Pool, name: str, answer: Answer, params: dict[str, Any]) -> Any:
        params = divided(name, params, pool.workers)
        result = _answered(name, answer, params)
        try:
            answers = await pool.tell(name, params)
        except rpc.RpcError:
            if name == "add_sa":
                # What not every worker has, none may use.
                sa = from_plain(SaSpec, params["spec"], "spec").id
                self._datapath.engine.remove_sa(sa)
                self._gone(sa)
            raise
        self._release_slots()
        merge = MERGED.get(name)
        return result if merge is None else merge(result, answers)

    def _features(self, _params: dict[str, Any]) -> dict[str, Any]:
        problem = tun.probe()
        features = Features(
            driver="userspace",
            available=problem is None,
            reason=problem or "ESP in this agent's own process, through TUN devices",
            encryptions=frozenset(slug for slug, row in ENCRYPTION.items() if row.esp),
            integrities=frozenset(INTEGRITY),
            modes=frozenset(Mode),
            protocols=frozenset(SaProtocol) if _works(AhSocket) else frozenset({SaProtocol.ESP}),
            extended_sequence_numbers=True,
            compression=True,
            plain_esp=_works(RawSocket),
            owns_port_4500=True,
        )
        return {"features": features_to_plain(features)}

    def _open(self, _params: dict[str, Any]) -> dict[str, Any]:
        self._datapath.engine.clear()
        self._datapath.release_sockets()
        self._fresh_links = set()
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep = self._loop.call_later(LINK_GRACE_S, self._sweep_links)
        return {}

    def _sweep_links(self) -> None:
        fresh, self._fresh_links = self._fresh_links or set(), None
        for tunnel_id in self._datapath.links:
            if tunnel_id not in fresh:
                self._datapath.close_link(tunnel_id)

    def _close(self, _params: dict[str, Any]) -> dict[str, Any]:
        self._datapath.close()
        return {}

    def _open_link(self, params: dict[str, Any]) -> dict[str, Any]:
        link = from_plain(TunnelLink, params.get("link"), "link")
        with_errno("open_link", link.name, self._datapath.open_link, link)
        if self._fresh_links is not None:
            self._fresh_links.add(link.tunnel_id)
        return {}

    def _close_link(self, params: dict[str, Any]) -> dict[str, Any]:
        self._datapath.close_link(_text(params, "tunnel_id"))
        return {}

    def _add_sa(self, params: dict[str, Any]) -> dict[str, Any]:
        spec = from_plain(SaSpec, params.get("spec"), "spec")
        numbers, elsewhere = self._part_of(spec, params)
        self._datapath.engine.add_sa(spec, time.monotonic(), numbers, elsewhere=elsewhere)
        try:
            with_errno("add_sa", str(spec.destination), self._datapath.need_path, path_of(spec))
        except DataplaneError:
            self._datapath.engine.remove_sa(spec.id)
            raise
        return {}

    def _part_of(self, spec: SaSpec, params: dict[str, Any]) -> tuple[SharedNumbers | None, bool]:
        """Return what this worker has to know of an SA that all have: the numbers, and whether another one opens it.

        The first gives it a slot, which the others find in the call's parameters.
        """
        share = self._share
        if share is None:
            return None, False
        if spec.direction is Direction.IN:
            return None, owner(spec, share.workers) != share.worker
        if share.worker == 0:
            try:
                if spec.id not in self._slots:
                    self._slots[spec.id] = share.table.allocate()
            except TableFull as error:
                raise DataplaneError("add_sa", spec.destination, errno.ENOSPC, str(error)) from None
            params["slot"] = self._slots[spec.id]
        slot = params.get("slot")
        if not isinstance(slot, int):
            raise DocumentError("slot", "must be a number")
        return SharedNumbers(share.table, slot, share.worker), False

    def _release_slots(self) -> None:
        """Let go of the slots of SAs that are gone, in all workers."""
        if self._share is not None:
            for sa in self._slots.keys() - self._leaving:
                if not self._datapath.engine.has(sa):
                    self._share.table.release(self._slots.pop(sa))

    def _remove_sa(self, params: dict[str, Any]) -> dict[str, Any]:
        self._datapath.engine.remove_sa(from_plain(SaId, params.get("sa"), "sa"))
        self._datapath.release_sockets()
        return {}

    def _add_policy(self, params: dict[str, Any]) -> dict[str, Any]:
        self._datapath.engine.add_policy(_policy(params))
        return {}

    def _remove_policy(self, params: dict[str, Any]) -> dict[str, Any]:
        self._datapath.engine.remove_policy(_policy(params))
        return {}

    def _update_mapping(self, params: dict[str, Any]) -> dict[str, Any]:
        engine = self._datapath.engine
        sa = from_plain(SaId, params.get("sa"), "sa")
        plain = params.get("encapsulation")
        encapsulation = None if plain is None else from_plain(UdpEncapsulation, plain, "encapsulation")
        destination = _text(params, "destination")
        path = engine.update_mapping(sa, _text(params, "source"), destination, encapsulation)
        if sa in self._slots:
            self._slots[dataclasses.replace(sa, destination=destination)] = self._slots.pop(sa)
        with_errno("update_mapping", path.local_address, self._datapath.need_path, path)
        self._datapath.release_sockets()
        return {}

    def _list_sas(self, _params: dict[str, Any]) -> dict[str, Any]:
        offset = time.time() - time.monotonic()
        states = [
            state if state.last_used is None else dataclasses.replace(state, last_used=state.last_used + offset)
            for state in self._datapath.engine.list_sas()
        ]
        return {"sas": to_plain(states)}

    def _list_policies(self, _params: dict[str, Any]) -> dict[str, Any]:
        return {"policies": to_plain(self._datapath.engine.list_policies())}

    def _queues(self, _params: dict[str, Any]) -> dict[str, Any]:
        return {"queues": to_plain(self._datapath.queues())}

    def _counts(self, _params: dict[str, Any]) -> dict[str, Any]:
        counted = self._datapath.counters().items()
        return {"counts": to_plain([NamedCount(name=name, count=count) for name, count in counted])}

    def _bind(self, params: dict[str, Any]) -> dict[str, Any]:
        addresses = params.get("addresses")
        if not isinstance(addresses, list) or not all(isinstance(each, str) for each in addresses):
            raise DocumentError("addresses", "must be a list of texts")
        with_errno("bind", " ".join(addresses), self._datapath.bind, tuple(addresses))
        return {}

    def _send_ike(self, params: dict[str, Any]) -> dict[str, Any]:
        datagram = IkeDatagram.from_plain(params)
        self._need_port("send_ike", datagram.local_address)
        packet_octets = with_errno(
            "send_ike",
            datagram.remote_address,
            self._datapath.send_ike,
            datagram.local_address,
            datagram.datagram,
            datagram.remote_address,
            datagram.remote_port,
        )
        if packet_octets is not None:
            limit = PathLimit(
                local_address=datagram.local_address,
                remote_address=datagram.remote_address,
                remote_port=datagram.remote_port,
                packet_octets=packet_octets,
            )
            self._tell("too_big", to_plain(limit))
        return {}

    def _keep_alive(self, params: dict[str, Any]) -> dict[str, Any]:
        local_address, remote_address = _text(params, "local_address"), _text(params, "remote_address")
        port = params.get("remote_port")
        if not isinstance(port, int) or not 0 < port < 65536:
            raise DocumentError("remote_port", "must be a port")
        self._need_port("keep_alive", local_address)
        with_errno("keep_alive", remote_address, self._datapath.keep_alive, local_address, remote_address, port)
        return {}

    def _need_port(self, operation: str, local_address: str) -> None:
        if not self._datapath.holds_port(local_address):
            raise DataplaneError(operation, local_address, errno.ENOTCONN, "UDP 4500 is not bound there")

    def _health(self, _params: dict[str, Any]) -> dict[str, Any]:
        links = self._datapath.links
        workers = "" if self._pool is None else f", {self._pool.workers} workers"
        health = ComponentHealth(
            name="espd",
            healthy=True,
            version=VERSION,
            pid=os.getpid(),
            started_at=self._started_at,
            detail=f"{len(links)} links, {len(self._datapath.engine.list_sas())} SAs{workers}",
            log_level=log_levels.level_of("espd"),
        )
        return {
            "health": to_plain(health),
            "counters": self._datapath.counters() | ({"untold": self._untold} if self._untold else {}),
            "links": to_plain(list(links.values())),
        }


def with_errno(operation: str, target: str, function: Callable[..., _T], *arguments: object) -> _T:
    """Return what ``function`` does; an OSError becomes the :class:`DataplaneError` of this operation."""
    try:
        return function(*arguments)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DataplaneError(operation, target, error.errno or 0, reason) from None


def _answered(name: str, answer: Answer, params: dict[str, Any]) -> Any:
    try:
        return answer(params)
    except DataplaneError as error:
        data = {"operation": error.operation, "target": error.target, "errno": error.errno, "reason": error.reason}
        raise rpc.RpcError("dataplane", str(error), data) from None
    except DocumentError as error:
        raise rpc.RpcError("invalid", f"{name}: {error}", {"path": error.path}) from None


def _policy(params: dict[str, Any]) -> PolicySpec:
    return from_plain(PolicySpec, params.get("spec"), "spec")


def _text(params: dict[str, Any], name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str):
        raise DocumentError(name, "must be text")
    return value


def _works(raw: Callable[[str], EspSocket]) -> bool:
    try:
        raw("127.0.0.1").close()
    except OSError:
        return False
    return True
