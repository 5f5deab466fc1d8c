"""Puts ``agentd`` together and runs it until SIGTERM.

Ending it leaves routes, ``iked`` and ``espd`` alone: tunnels do not notice, and the next start finds them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import signal
from collections.abc import Callable
from typing import Any

from agents.agentd import applicable, identity
from agents.agentd.actions import Actions, UnknownTunnelError
from agents.agentd.api import Api
from agents.agentd.capture.captures import Captures
from agents.agentd.capture.desk import CaptureDesk
from agents.agentd.capture.rpc import capture_handlers
from agents.agentd.database import Database
from agents.agentd.errors import ConflictError, InvalidError, OutdatedError
from agents.agentd.host import Host, LinuxHost
from agents.agentd.identity import GatewayIdentity
from agents.agentd.iked_link import IkedLink, IkedView
from agents.agentd.journal import Journal
from agents.agentd.kept_filter import KeptFilter
from agents.agentd.ledger import Accepted, Ledger
from agents.agentd.levels import Levels
from agents.agentd.parts.filter import STRANGERS
from agents.agentd.reconciler import Reconciler
from agents.agentd.route_ledger import RouteLedger
from agents.agentd.status import StatusReporter
from agents.agentd.totals import Totals
from agents.agentd.traces import Traces
from agents.contract.actions import Action, ActionResult
from agents.contract.codec import from_plain, to_plain
from agents.contract.config import GatewayDocument
from agents.contract.errors import DocumentError
from agents.contract.events import EventPage
from agents.contract.status import GatewayStatus
from agents.runtime import sd_notify
from agents.runtime.paths import Paths
from agents.runtime.rpc import Connection, Handler, RpcError, Server
from agents.runtime.version import VERSION

_log = logging.getLogger(__name__)


class Agent:
    """One gateway's agent: what the API and the local socket offer, over one ledger, journal and reconciler."""

    def __init__(self, gateway: GatewayIdentity, paths: Paths, host: Host, database: Database) -> None:
        self._host = host
        self._moved = asyncio.Event()
        self.journal = Journal(database, on_growth=self._moved.set)
        self.journal.adopt(gateway.gateway_id)
        self.ledger = Ledger(paths.document, gateway.gateway_id)
        self.link = IkedLink(paths.iked_socket, self.journal, self._iked_changed)
        self.routes = RouteLedger(database)
        kept = KeptFilter(paths.kept_filter)
        self.reconciler = Reconciler(
            self.ledger, self.link, self.journal, host, self.routes, kept, on_pass=self._moved.set
        )
        self.totals = Totals(database)
        self.link.on_view = self._count
        self.link.on_end = self.totals.save
        self._actions = Actions(database, self.ledger, self.link, self.journal)
        self.levels = Levels(self.link, paths.espd_socket)
        self.traces = Traces(self.link, paths.espd_socket, self.journal)
        captures = Captures(paths.captures, self.journal, self._moved.set)
        self.captures = CaptureDesk(captures, self.ledger, self.link, self.journal)
        self._reporter = StatusReporter(
            gateway.gateway_id,
            self.ledger,
            self.link,
            self.journal,
            paths,
            routes=self.routes,
            totals=self.totals,
            captures=captures,
            traces=self.traces,
        )

    async def run(self) -> None:
        """Follow ``iked`` and reconcile until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.link.run())
            tasks.create_task(self.reconciler.run())

    async def offer(self, octets: bytes) -> Accepted:
        """Take a document, or refuse it with an event and the ledger's error."""
        try:
            accepted, news = await self.ledger.offer(octets, self._applicable)
        except InvalidError as error:
            attributes = {"generation": str(error.generation)} if error.generation else {}
            self.journal.append(
                "agent.config-refused", f"Configuration refused: {error}", field=error.path, attributes=attributes
            )
            raise
        except (OutdatedError, ConflictError) as error:
            self.journal.append("agent.config-refused", f"Configuration refused: {error}", field="generation")
            raise
        if news:
            generation = accepted.document.generation
            attributes = {"generation": str(generation), "digest": accepted.digest}
            self.journal.append("agent.config-accepted", f"Generation {generation} accepted", attributes=attributes)
            self.reconciler.wake()
        return accepted

    async def status(self) -> GatewayStatus:
        """Report as of now."""
        return await self._reporter.report(self.reconciler.status, await self.reconciler.filter.counts())

    def events(self, after: int, limit: int) -> EventPage:
        """Read the journal."""
        return self.journal.page(after, limit)

    async def perform(self, action: Action) -> ActionResult:
        """Perform an action once; raises :class:`UnknownTunnelError`."""
        return await self._actions.perform(action)

    async def filtered(self) -> dict[str, Any]:
        """Return whether the packet filter is in force and how many packets of strangers it dropped."""
        keeper = self.reconciler.filter
        counts = await keeper.counts()
        return {"on": keeper.on, "strangers": {name.rpartition("-")[2]: counts.get(name) for name in STRANGERS}}

    async def tell(self, server: Server) -> None:
        """Notify the local socket's connections whenever status or events moved, until cancelled."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            await server.notify("changed", {})

    def _count(self, view: IkedView, boot_id: str) -> None:
        self.totals.take(view, boot_id)
        if (accepted := self.ledger.current) is not None:
            document = accepted.document
            ids = {tunnel.id for tunnel in document.tunnels} | {tunnel.id for tunnel in document.manual_tunnels}
            self.totals.keep(ids)
            self.captures.captures.forget(frozenset(ids))

    def _iked_changed(self) -> None:
        self._moved.set()
        self.reconciler.wake()

    async def _applicable(self, document: GatewayDocument) -> None:
        await applicable.check(document, self._host)


def handlers(agent: Agent) -> dict[str, Handler]:
    """Return the methods of ``agentd.sock``: what the command lines use."""

    async def status(_params: dict[str, Any], _connection: Connection) -> Any:
        return to_plain(await agent.status())

    async def events(params: dict[str, Any], _connection: Connection) -> Any:
        after, limit = params.get("after", 0), params.get("limit", 1_000)
        if not isinstance(after, int) or not isinstance(limit, int):
            raise RpcError("invalid", "after and limit are whole numbers")
        return to_plain(agent.events(after, limit))

    async def action(params: dict[str, Any], _connection: Connection) -> Any:
        try:
            return to_plain(await agent.perform(from_plain(Action, params)))
        except DocumentError as error:
            raise RpcError("invalid", str(error)) from None
        except UnknownTunnelError as error:
            raise RpcError("unknown-tunnel", str(error)) from None

    async def reconcile(_params: dict[str, Any], _connection: Connection) -> Any:
        outcome = await agent.reconciler.reconcile()
        return {"applied_generation": outcome.applied_generation, "problems": list(outcome.problems)}

    async def log_level(params: dict[str, Any], _connection: Connection) -> Any:
        return await agent.levels.answer(params)

    async def filtered(_params: dict[str, Any], _connection: Connection) -> Any:
        return await agent.filtered()

    async def contexts(_params: dict[str, Any], _connection: Connection) -> Any:
        return {"contexts": list(agent.reconciler.contexts.shown)}

    async def trace(params: dict[str, Any], _connection: Connection) -> Any:
        return await agent.traces.answer(params)

    return {
        "status": status,
        "events": events,
        "action": action,
        "reconcile": reconcile,
        "log_level": log_level,
        "filter": filtered,
        "contexts": contexts,
        "trace": trace,
        **capture_handlers(agent.captures),
    }


async def serve(paths: Paths, listen: tuple[str, int] | None, *, on_ready: Callable[[int], None] | None = None) -> None:
    """Run until SIGTERM or SIGINT; raises :class:`NotEnrolledError` and :class:`OSError` for a taken address."""
    paths.prepare()
    gateway = identity.load(paths.identity)
    address, port = listen or ("", gateway.agent_port)
    database = Database(paths.journal)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(database.close)
        host = await stack.enter_async_context(LinuxHost())
        agent = Agent(gateway, paths, host, database)
        stack.callback(agent.totals.save)
        agent.captures.captures.open()
        stack.callback(agent.captures.captures.close)
        server = await stack.enter_async_context(Server(paths.agentd_socket, handlers(agent)))
        api = await stack.enter_async_context(Api(gateway, agent, agent.journal, address, port))
        _tell_enrolment(agent.journal, gateway)
        agent.journal.append("agent.started", f"Agent {VERSION} started", attributes={"version": VERSION})
        _log.info("gateway %s (%s) serves on port %d", gateway.gateway_name, gateway.gateway_id, api.port)
        sd_notify.ready()
        if on_ready is not None:
            on_ready(api.port)
        await _run_until(stop, agent, server)
        sd_notify.stopping()


def _tell_enrolment(journal: Journal, gateway: GatewayIdentity) -> None:
    """Write ``agent.enrolled`` the first time the agent runs with a certificate."""
    fingerprint = hashlib.sha256(gateway.certificate.read_bytes()).hexdigest()
    if journal.recall("certificate") != fingerprint:
        journal.append("agent.enrolled", f"Enrolled as {gateway.gateway_name}", remember={"certificate": fingerprint})


async def _run_until(stop: asyncio.Event, agent: Agent, server: Server) -> None:
    """Run until ``stop``; a task that fails ends the process with its error, and the supervisor starts it again."""
    working = [asyncio.create_task(agent.run()), asyncio.create_task(agent.tell(server))]
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([*working, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (*working, stopping):
            task.cancel()
        await asyncio.gather(*working, stopping, return_exceptions=True)
