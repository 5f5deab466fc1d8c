"""Performs what the engine asks of the data plane and hands the results back.

Effects of one tunnel happen in the order asked for; those of different tunnels side by side. While the data plane is
away (``espd`` is being started again) effects wait for a while before they fail.

ESP keeps no order with IKE: the Delete of a replaced SA may overtake packets that were sent on it. So the inbound SA of
a child that another pair has taken the place of stays for :data:`LINGER_S`, within its lifetime; its outbound one goes
at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from agents.dataplane.base import DataplaneError, Direction, Driver, PolicySpec, SaId, SaSpec, Selector
from agents.ike.outputs import InstallChild, MoveChild, RemoveChild, SwitchOutbound
from agents.iked import trace
from agents.iked.traffic import Traffic
from agents.runtime.logs import bound

_log = logging.getLogger(__name__)

LINGER_S = 3.0
"""How long packets may be under way."""

Effect = InstallChild | SwitchOutbound | RemoveChild | MoveChild
Job = Callable[[], Awaitable[None]]


class Results(Protocol):
    """Where results go: the inputs of the engine."""

    def child_installed(self, install_id: int) -> None:
        """A child's SAs and policies are in place."""
        ...

    def child_install_failed(self, install_id: int, reason: str) -> None:
        """They are not, and nothing of them is left."""
        ...

    def child_unusable(self, tunnel_id: str, spi_in: int, reason: str) -> None:
        """A child that was installed cannot be used any more."""
        ...


class Effects:
    """Runs effects against the driver attached; :meth:`attach` and :meth:`detach` follow the data plane's comings.

    ``failure`` is what an effect raised that none may raise, a bug: state is then unknown and the process must end.
    """

    def __init__(self, traffic: Traffic, results: Results, *, patience_s: float = 10.0) -> None:
        self._traffic = traffic
        self._results = results
        self._patience_s = patience_s
        self._driver: Driver | None = None
        self._settled = asyncio.Event()
        self._refusal = "the data plane is not ready"
        self._lanes: dict[str, deque[Job]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._held_back: dict[int, InstallChild] = {}
        self._epoch = 0
        self._tunnel_by_reqid: dict[int, str] = {}
        self._selectors: dict[int, set[tuple[Direction, Selector]]] = {}
        self._lingering: dict[SaId, tuple[RemoveChild, asyncio.TimerHandle]] = {}
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def driver(self) -> Driver | None:
        """The driver in use."""
        return self._driver

    def attach(self, driver: Driver) -> None:
        """Use this driver, which is open and holds nothing of ours."""
        self._driver = driver
        self._settled.set()

    def detach(self, reason: str, *, for_good: bool) -> None:
        """Stop using the driver. ``for_good`` makes effects fail at once with the reason instead of waiting."""
        self._driver = None
        self._refusal = reason
        if for_good:
            self._settled.set()
        else:
            self._settled.clear()

    def give_up_installs(self) -> None:
        """The engine is told that the data plane lost everything and gives up what it waits for: nobody wants those."""
        self._epoch += 1
        self._held_back.clear()
        self._forget_lingering()

    def tunnel_of(self, reqid: int) -> str | None:
        """Return the tunnel whose policies carry a reqid."""
        return self._tunnel_by_reqid.get(reqid)

    def perform(self, effect: Effect) -> None:
        """Take on one effect; its result reaches :class:`Results` later."""
        match effect:
            case InstallChild():
                if effect.outbound_later:
                    self._held_back[effect.install_id] = effect
                epoch = self._epoch
                self.enqueue(effect.tunnel_id, lambda: self._install(effect, lambda: epoch != self._epoch))
            case SwitchOutbound():
                held_back = self._held_back.pop(effect.install_id, None)
                if held_back is not None:
                    self.enqueue(held_back.tunnel_id, lambda: self._switch(held_back))
            case RemoveChild():
                self.enqueue(effect.tunnel_id, lambda: self._remove(effect))
            case MoveChild():
                if not self._moved_while_held_back(effect):
                    self.enqueue(effect.tunnel_id, lambda: self._move(effect))

    def _moved_while_held_back(self, effect: MoveChild) -> bool:
        """An outbound SA that still waits for its switch will be installed where the peer is by then."""
        for install_id, held_back in self._held_back.items():
            if held_back.outbound.id == effect.old:
                self._held_back[install_id] = replace(held_back, outbound=effect.spec)
                return True
        return False

    def enqueue(self, tunnel_id: str, job: Job) -> None:
        """Run ``job`` after everything asked for this tunnel before."""
        lane = self._lanes.get(tunnel_id)
        if lane is not None:
            lane.append(job)
            return
        self._lanes[tunnel_id] = deque((job,))
        task = asyncio.create_task(self._work(tunnel_id))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def settle(self, timeout_s: float) -> None:
        """Wait until nothing is under way, at most ``timeout_s``; what is left then is given up."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in self._tasks:
            task.cancel()
        self._forget_lingering()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self.failure.done():
            self.failure.set_exception(error)

    async def _work(self, tunnel_id: str) -> None:
        lane = self._lanes[tunnel_id]
        try:
            while lane:
                await lane.popleft()()
        finally:
            del self._lanes[tunnel_id]

    @property
    def refusal(self) -> str:
        """Why there is no driver, where there is none."""
        return self._refusal

    async def ready(self) -> Driver:
        """Return the driver, after waiting a while for one that may come. Raises DataplaneError where none does."""
        if not self._settled.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s):
                    await self._settled.wait()
        if self._driver is None:
            raise DataplaneError("wait", "data plane", 0, self._refusal)
        return self._driver

    async def _install(self, effect: InstallChild, stale: Callable[[], bool]) -> None:
        done: list[SaSpec | PolicySpec] = []
        try:
            driver = await self.ready()
            if stale():
                return
            for sa in (effect.inbound,) if effect.outbound_later else (effect.inbound, effect.outbound):
                await driver.add_sa(sa)
                done.append(sa)
                self._traffic.started(sa, effect.inbound.spi, effect.child)
                trace.installed(sa)
            for policy in effect.policies:
                await driver.add_policy(policy)
                trace.policy("put in place", policy)
                done.append(policy)
                self._tunnel_by_reqid[policy.reqid] = effect.tunnel_id
                self._selectors.setdefault(policy.reqid, set()).add((policy.direction, policy.selector))
        except DataplaneError as error:
            trace.failed(str(error))
            self._held_back.pop(effect.install_id, None)
            await self._undo(effect, done)
            if not stale():
                self._results.child_install_failed(effect.install_id, str(error))
        else:
            if stale():
                await self._undo(effect, done)
            else:
                self._results.child_installed(effect.install_id)

    async def _undo(self, effect: InstallChild, done: list[SaSpec | PolicySpec]) -> None:
        """Take back a half-done installation; policies that the SAs being replaced still need are left."""
        for step in reversed(done):
            if isinstance(step, SaSpec):
                await self._remove_sa(effect.tunnel_id, step.id)
            elif not effect.replaces:
                await self._remove_policy(effect.tunnel_id, step)

    async def _switch(self, effect: InstallChild) -> None:
        try:
            driver = await self.ready()
            await driver.add_sa(effect.outbound)
        except DataplaneError as error:
            self._results.child_unusable(effect.tunnel_id, effect.inbound.spi, str(error))
        else:
            self._traffic.started(effect.outbound, effect.inbound.spi, effect.child)
            trace.installed(effect.outbound)

    async def _remove(self, effect: RemoveChild) -> None:
        gone = set(effect.sas)
        for install_id, held_back in tuple(self._held_back.items()):
            if held_back.inbound.id in gone:
                del self._held_back[install_id]
        await self._count_last(effect.tunnel_id)
        for policy in effect.policies:
            await self._remove_policy(effect.tunnel_id, policy)
            left = self._selectors.get(policy.reqid, set())
            left.discard((policy.direction, policy.selector))
            if not left:
                self._tunnel_by_reqid.pop(policy.reqid, None)
                self._selectors.pop(policy.reqid, None)
        if effect.policies:  # nothing has taken its place: what still lingers of this child goes with it
            whose = (effect.tunnel_id, effect.child)
            for sa in [sa for sa, (was, _) in self._lingering.items() if (was.tunnel_id, was.child) == whose]:
                self._lingering.pop(sa)[1].cancel()
                await self._remove_sa(effect.tunnel_id, sa)
        for sa in effect.sas:
            if effect.policies or LINGER_S <= 0 or not self._traffic.is_inbound(sa):
                await self._remove_sa(effect.tunnel_id, sa)
            else:
                later = asyncio.get_running_loop().call_later(LINGER_S, self._end_lingering, sa)
                self._lingering[sa] = (effect, later)

    def _end_lingering(self, sa: SaId) -> None:
        effect, _ = self._lingering.pop(sa)
        self.enqueue(effect.tunnel_id, lambda: self._end(effect.tunnel_id, sa))

    async def _end(self, tunnel_id: str, sa: SaId) -> None:
        await self._count_last(tunnel_id)
        await self._remove_sa(tunnel_id, sa)

    def _forget_lingering(self) -> None:
        for _, later in self._lingering.values():
            later.cancel()
        self._lingering.clear()

    async def _move(self, effect: MoveChild) -> None:
        spec = effect.spec
        if self._driver is None:
            return  # nothing to move: the SAs went with the data plane
        try:
            await self._driver.update_mapping(effect.old, spec.source, spec.destination, spec.encapsulation)
        except DataplaneError as error:
            self._warn(effect.tunnel_id, error)
        else:
            self._traffic.moved(effect.old, spec.id)
            trace.moved(effect.old, spec)

    async def _count_last(self, tunnel_id: str) -> None:
        if self._driver is None:
            return
        try:
            await self._traffic.refresh(self._driver)
        except DataplaneError as error:
            self._warn(tunnel_id, error)

    async def _remove_sa(self, tunnel_id: str, sa: SaId) -> None:
        self._traffic.ended(sa)
        trace.removed(sa)
        if self._driver is not None:
            try:
                await self._driver.remove_sa(sa)
            except DataplaneError as error:
                self._warn(tunnel_id, error)

    async def _remove_policy(self, tunnel_id: str, policy: PolicySpec) -> None:
        trace.policy("taken out", policy)
        if self._driver is not None:
            try:
                await self._driver.remove_policy(policy)
            except DataplaneError as error:
                self._warn(tunnel_id, error)

    def _warn(self, tunnel_id: str, error: DataplaneError) -> None:
        bound(_log, tunnel=tunnel_id).warning("%s", error)
        trace.failed(str(error))
