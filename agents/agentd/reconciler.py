"""Observe, plan, apply: the one way anything on the gateway comes to be as the document says.

A pass takes no hint about what changed and returns a status, not an error: boot, repair and edit are the same code.
It is woken by an accepted document, by ``iked``, by the kernel's routing messages and by the clock. While ``iked`` is
away its tunnels are unknown, so routes stay as they are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agents.agentd.contexts import ContextKeeper
from agents.agentd.errors import HostError
from agents.agentd.filtering import FilterKeeper
from agents.agentd.host import Host, HostView
from agents.agentd.iked_link import IkedLink, IkedView
from agents.agentd.journal import Journal
from agents.agentd.kept_filter import KeptFilter
from agents.agentd.ledger import Accepted, Ledger
from agents.agentd.parts import congestion, contexts, dont_fragment, ike, links, mss, routes, sysctl
from agents.agentd.parts.carried import Carried, carried
from agents.agentd.parts.filter import Beside
from agents.agentd.route_ledger import RouteLedger
from agents.agentd.routing import RouteKeeper
from agents.runtime.rpc import RpcError, RpcUnavailable

INTERVAL_S = 10.0
SETTLE_S = 0.05
"""After a wake-up, so that a burst of kernel messages is one pass; longer after a pass that took longer, so that many
tunnels coming up leave half of a core to those who bring them up."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassStatus:
    """What a pass came to. ``routes`` maps tunnel ids to the networks routed for them."""

    applied_generation: int = 0
    problems: tuple[str, ...] = ()
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Reconciler:
    """Keeps one gateway right. ``status`` is the outcome of the last pass."""

    def __init__(
        self,
        ledger: Ledger,
        link: IkedLink,
        journal: Journal,
        host: Host,
        route_ledger: RouteLedger,
        kept: KeptFilter,
        *,
        interval_s: float = INTERVAL_S,
        on_pass: Callable[[], None] | None = None,
    ) -> None:
        self._ledger = ledger
        self._link = link
        self._journal = journal
        self._host = host
        self._interval_s = interval_s
        self._on_pass = on_pass
        self._wake = asyncio.Event()
        self._passing = asyncio.Lock()
        self.contexts = ContextKeeper(host, journal)
        self.filter = FilterKeeper(host, journal, kept)
        self._routes = RouteKeeper(host, journal, route_ledger)
        self._settings: dict[str, str] = {}
        self.status = PassStatus()

    def wake(self) -> None:
        """Ask for a pass soon."""
        self._wake.set()

    async def run(self) -> None:
        """Make passes until cancelled; the filter of before is back before the first, which may wait for ``iked``."""
        accepted = self._ledger.current
        if accepted is not None and accepted.document.packet_filter:
            async with self._passing:
                await self.filter.hold()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_kernel())
            while True:
                started = time.monotonic()
                await self.reconcile()
                took_s = time.monotonic() - started
                try:
                    async with asyncio.timeout(self._interval_s):
                        await self._wake.wait()
                except TimeoutError:
                    continue
                await asyncio.sleep(max(SETTLE_S, took_s))

    async def reconcile(self) -> PassStatus:
        """Make one pass and return what it came to."""
        async with self._passing:
            self._wake.clear()
            try:
                status = await self._pass()
            except Exception as error:  # the funnel: whatever a pass meets, the next one starts from a fresh look
                _log.exception("a reconcile pass failed", extra={"trigger": "agent.pass"})
                status = PassStatus(
                    applied_generation=self.status.applied_generation,
                    problems=(f"a pass failed: {type(error).__name__}; see the agent's log",),
                    routes=self.status.routes,
                )
            self._report_problems(status.problems)
            self.status = status
            if self._on_pass is not None:
                self._on_pass()
            return status

    async def _watch_kernel(self) -> None:
        async for _change in self._host.changes():
            self.wake()

    async def _pass(self) -> PassStatus:
        accepted = self._ledger.current
        problems: list[str] = []
        await self._link.refresh()
        if self._link.view is not None and accepted is not None:
            problems += await self._configure(accepted, self._link.view)
        view = self._link.view
        if view is None:
            return PassStatus(
                applied_generation=self.status.applied_generation,
                problems=(*problems, self._link.away_reason),
                routes=self.status.routes,
            )
        host_view = await self._host.look()
        if accepted is None:
            problems += await self.filter.apply(False, (), host_view, kernel=False, vrfs=False)
            host_view, in_the_way = await self.contexts.apply(None, (), host_view)
            problems += in_the_way
            problems += await self._routes.apply(routes.WantedRoutes(), (), host_view)
            return PassStatus(problems=tuple(problems))
        problems += await self._apply(accepted, view, host_view)
        applied = self.status.applied_generation
        if not ike.must_configure(accepted, view.generation, self._link.configured_digest):
            applied = view.generation
            self._note_applied(accepted)
        return PassStatus(
            applied_generation=applied, problems=tuple(dict.fromkeys(problems)), routes=self._routes.by_tunnel()
        )

    async def _configure(self, accepted: Accepted, view: IkedView) -> list[str]:
        if not ike.must_configure(accepted, view.generation, self._link.configured_digest):
            return []
        tunnels = carried(accepted.document, view.tunnels, view.data_plane.driver or "")
        host_view = await self._host.look()
        # Before a new tunnel's first message: it is to leave where its endpoint's context says, and to be let through.
        problems = await self.contexts.lead(tunnels, host_view)
        problems += await self._filter(accepted, view, tunnels, host_view)
        try:
            await self._link.configure(accepted)
        except RpcError as error:
            return [*problems, f"iked refuses the configuration: {error.message}"]
        except RpcUnavailable as error:
            return [*problems, f"iked could not be configured: {error}"]
        await self._link.refresh()
        return problems

    async def _filter(
        self, accepted: Accepted, view: IkedView, tunnels: Sequence[Carried], host_view: HostView
    ) -> list[str]:
        kernel = view.data_plane.driver == "kernel"
        beside = Beside(
            clamps=mss.wanted(accepted.document, tunnels, host_view),
            congestion=congestion.wanted(tunnels, kernel=kernel),
            dont_fragment=bool(dont_fragment.wanted(tunnels, kernel=kernel)),
        )
        return await self.filter.apply(
            accepted.document.packet_filter, tunnels, host_view, kernel=kernel, vrfs=self.contexts.vrfs, beside=beside
        )

    async def _apply(self, accepted: Accepted, view: IkedView, host_view: HostView) -> list[str]:
        document, driver = accepted.document, view.data_plane.driver or ""
        tunnels = carried(document, view.tunnels, driver)
        host_view, problems = await self.contexts.apply(document, tunnels, host_view)
        whole = dont_fragment.wanted(tunnels, kernel=driver == "kernel")
        room = dont_fragment.room(document, whole, self._host.path_mtu)
        problems += await self._put_links(tunnels, host_view, room)
        problems += self._apply_settings(sysctl.plan(tunnels, host_view, self._host.setting))
        routed, unroutable = contexts.routable(tunnels, vrfs=self.contexts.vrfs)
        wanted = routes.wanted(routed, routes.tables(document), host_view)
        problems += unroutable
        problems += await self._routes.apply(wanted, tunnels, host_view, vrfs=self.contexts.vrfs)
        return problems + await self._filter(accepted, view, tunnels, host_view)

    async def _put_links(self, tunnels: Sequence[Carried], host_view: HostView, room: Mapping[str, int]) -> list[str]:
        link_plan = links.plan(tunnels, host_view, room)
        problems = list(link_plan.problems)
        for change in link_plan.changes:
            try:
                await self._host.set_link(change.name, change.mtu)
            except HostError as error:
                problems.append(str(error))
                continue
            if change.follows:
                _log.info("%s has MTU %d, for which the way to its peer has room", change.name, change.mtu)
                continue
            text = f"{change.name} is up with MTU {change.mtu} again"
            self._journal.append("agent.repaired", text, tunnel_id=change.tunnel_id)
        return problems

    def _apply_settings(self, settings: Mapping[str, str]) -> list[str]:
        problems = []
        for name, value in settings.items():
            try:
                self._host.change_setting(name, value)
            except HostError as error:
                problems.append(str(error))
                continue
            if self._settings.get(name) == value:
                self._journal.append("agent.repaired", f"{name} is {value} again", attributes={"setting": name})
            _log.info("%s set to %s", name, value)
            self._settings[name] = value
        return problems

    def _note_applied(self, accepted: Accepted) -> None:
        generation = str(accepted.document.generation)
        if accepted.digest != self._journal.recall("applied"):
            self._journal.append(
                "agent.config-applied",
                f"Generation {generation} is in force",
                attributes={"generation": generation},
                remember={"applied": accepted.digest},
            )

    def _report_problems(self, problems: tuple[str, ...]) -> None:
        """Journal each problem once when it appears; it stands in the status as long as it lasts."""
        for problem in problems:
            if problem not in self.status.problems and problem != self._link.away_reason:
                self._journal.append("agent.repair-failed", problem)
