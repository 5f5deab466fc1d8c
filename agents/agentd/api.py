"""The agent's HTTPS API: TLS 1.3, and nobody but the console.

The client certificate must chain to the fleet CA and carry the console's name. Each TLS handshake is made by
:class:`Door` rather than by the HTTP server, because only so does a failed one become an event; an event per address
and reason is written at most once a minute, with a count, so that a scanner cannot fill the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, Self

from aiohttp import web

from agents.agentd.actions import UnknownTunnelError
from agents.agentd.answers import error_answer, json_answer, value_answer
from agents.agentd.capture.desk import CaptureDesk
from agents.agentd.capture.routes import CaptureRoutes
from agents.agentd.errors import AgentError, ConflictError, InvalidError, OutdatedError
from agents.agentd.identity import GatewayIdentity
from agents.agentd.journal import MOST_PER_PAGE, Journal
from agents.agentd.ledger import Accepted
from agents.agentd.trace_routes import TraceRoutes
from agents.agentd.traces import Traces
from agents.contract.actions import Action, ActionResult
from agents.contract.codec import decode
from agents.contract.enrolment import CONSOLE_NAME
from agents.contract.errors import DocumentError
from agents.contract.events import EventPage
from agents.contract.status import GatewayStatus

MOST_OCTETS = 8 * 1024 * 1024
HANDSHAKE_TIMEOUT_S = 10.0
MOST_HANDSHAKES = 64
SHUTDOWN_S = 2.0
REFUSAL_EVENT_EVERY_S = 60.0
_log = logging.getLogger(__name__)


class Service(Protocol):
    """What the API offers; ``agentd`` implements it, and its Unix socket offers the same."""

    async def offer(self, octets: bytes) -> Accepted:
        """Take a document or raise a ledger error."""
        ...

    async def status(self) -> GatewayStatus:
        """Report."""
        ...

    def events(self, after: int, limit: int) -> EventPage:
        """Read the journal."""
        ...

    async def perform(self, action: Action) -> ActionResult:
        """Perform an action or raise :class:`UnknownTunnelError`."""
        ...

    @property
    def captures(self) -> CaptureDesk:
        """Packet captures."""
        ...

    @property
    def traces(self) -> Traces:
        """Traces of what the processes do."""
        ...


class Refusals:
    """Writes ``agent.client-refused``, at most one per address and reason and minute."""

    def __init__(self, journal: Journal, *, every_s: float = REFUSAL_EVENT_EVERY_S) -> None:
        self._journal = journal
        self._every_s = every_s
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def refuse(self, address: str, reason: str) -> None:
        """Tell of one refused client."""
        now = time.monotonic()
        at, suppressed = self._last.get((address, reason), (float("-inf"), 0))
        if now - at < self._every_s:
            self._last[address, reason] = (at, suppressed + 1)
            return
        self._last = {key: value for key, value in self._last.items() if now - value[0] < self._every_s}
        self._last[address, reason] = (now, 0)
        attributes = {"address": address} | ({"repeated": str(suppressed)} if suppressed else {})
        _log.warning("client %s refused: %s", address, reason, extra={"trigger": "agent.client-refused"})
        self._journal.append(
            "agent.client-refused", f"API client {address} refused: {reason}", received=reason, attributes=attributes
        )


class Api:
    """Serves on ``address``:``port`` while entered; ``port`` 0 picks a free one, then found in ``port``."""

    def __init__(self, identity: GatewayIdentity, service: Service, journal: Journal, address: str, port: int) -> None:
        self._context = server_context(identity)
        self._refusals = Refusals(journal)
        self._runner = web.AppRunner(
            _application(service, self._refusals), access_log=None, keepalive_timeout=75, shutdown_timeout=SHUTDOWN_S
        )
        self._address = address
        self._server: asyncio.Server | None = None
        self._doors: dict[asyncio.Task[None], asyncio.Transport] = {}
        self.port = port

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        listening = _listen(self._address, self.port)
        self.port = listening.getsockname()[1]
        self._server = await asyncio.get_running_loop().create_server(self._door, sock=listening)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._doors:
            task.cancel()
        await self._runner.cleanup()

    def _door(self) -> asyncio.Protocol:
        return Door(self._welcome)

    def _welcome(self, transport: asyncio.Transport) -> None:
        """Start a handshake; when too many are under way the oldest, which takes suspiciously long, makes room."""
        if len(self._doors) >= MOST_HANDSHAKES:
            oldest, its_transport = next(iter(self._doors.items()))
            oldest.cancel()
            its_transport.abort()
            del self._doors[oldest]
        task = asyncio.create_task(self._shake_hands(transport))
        self._doors[task] = transport
        task.add_done_callback(lambda done: self._doors.pop(done, None))

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        address = _peer(transport)
        assert self._runner.server is not None
        protocol = self._runner.server()
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                protocol,
                self._context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
            )
        except ssl.SSLError as error:
            self._refusals.refuse(address, _handshake_reason(error))
            transport.abort()
        except OSError as error:  # the client left during the handshake, or took too long
            _log.debug("handshake with %s not finished: %s", address, error)
            transport.abort()
        else:
            assert secured is not None
            protocol.connection_made(secured)


class Door(asyncio.Protocol):
    """A fresh TCP connection, read by nobody until its handshake starts."""

    def __init__(self, welcome: Callable[[asyncio.Transport], None]) -> None:
        self._welcome = welcome

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the connection to the handshake."""
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self._welcome(transport)


def server_context(identity: GatewayIdentity) -> ssl.SSLContext:
    """Return the TLS settings: 1.3 only, client certificate from the fleet CA required."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(identity.certificate, identity.key)
    context.load_verify_locations(cafile=identity.fleet_ca)
    return context


def _application(service: Service, refusals: Refusals) -> web.Application:
    routes = _Routes(service)
    application = web.Application(middlewares=[_errors, _console_only(refusals)], client_max_size=MOST_OCTETS)
    application.router.add_put("/v1/config", routes.config)
    application.router.add_get("/v1/status", routes.status)
    application.router.add_get("/v1/events", routes.events)
    application.router.add_post("/v1/actions", routes.actions)
    captures = CaptureRoutes(service.captures)
    application.router.add_post("/v1/captures", captures.start)
    application.router.add_post("/v1/captures/{id}/stop", captures.stop)
    application.router.add_get("/v1/captures/{id}", captures.fetch)
    application.router.add_delete("/v1/captures/{id}", captures.remove)
    traces = TraceRoutes(service.traces)
    application.router.add_post("/v1/traces", traces.start)
    application.router.add_post("/v1/traces/{id}/stop", traces.stop)
    application.router.add_get("/v1/traces/{id}", traces.fetch)
    return application


class _Routes:
    """Configuration, status, events and actions: read, call, answer."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def config(self, request: web.Request) -> web.Response:
        try:
            accepted = await self._service.offer(await request.read())
        except (OutdatedError, ConflictError) as error:
            code = "generation-outdated" if isinstance(error, OutdatedError) else "generation-conflict"
            return error_answer(409, code, str(error), generation=error.generation, digest=error.digest)
        except InvalidError as error:
            return error_answer(422, "invalid", error.problem, path=error.path)
        return json_answer({"generation": accepted.document.generation, "digest": accepted.digest})

    async def status(self, _request: web.Request) -> web.Response:
        return value_answer(await self._service.status())

    async def events(self, request: web.Request) -> web.Response:
        after = _number(request, "after", 0)
        limit = _number(request, "limit", MOST_PER_PAGE)
        return value_answer(self._service.events(after, limit))

    async def actions(self, request: web.Request) -> web.Response:
        try:
            action = decode(Action, await request.read())
        except DocumentError as error:
            return error_answer(400, "invalid", error.problem, path=error.path)
        try:
            return value_answer(await self._service.perform(action))
        except UnknownTunnelError as error:
            return error_answer(404, "unknown-tunnel", str(error))


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _console_only(refusals: Refusals) -> Any:
    @web.middleware
    async def admit(request: web.Request, handler: _Handler) -> web.StreamResponse:
        tls = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
        certificate = (tls.getpeercert() if tls is not None else None) or {}
        names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
        if names != [CONSOLE_NAME]:
            shown = ", ".join(names)[:200] or "no name"
            refusals.refuse(_peer(request.transport), f"its certificate is for {shown}, not for the console")
            response = error_answer(403, "refused", "This certificate is not the console's.")
            response.force_close()
            return response
        return await handler(request)

    return admit


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Give the HTTP server's own errors the API's form."""
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        return error_answer(400, "too-large", f"At most {MOST_OCTETS} octets.")
    except web.HTTPNotFound:
        return error_answer(404, "not-found", f"There is nothing at {request.path[:200]}.")
    except web.HTTPMethodNotAllowed as error:
        response = error_answer(405, "method-not-allowed", f"Allowed: {', '.join(sorted(error.allowed_methods))}.")
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response
    except web.HTTPBadRequest as error:
        return error_answer(400, "invalid", error.text or "The request cannot be read.")
    except AgentError as error:
        _log.error("%s %s failed: %s", request.method, request.path, error)
        return error_answer(500, "internal", str(error))


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise web.HTTPBadRequest(text=f"{name} must be a whole number.")
    return int(text)


def _listen(address: str, port: int) -> socket.socket:
    """Listen on one address, or with an empty one on all, IPv6 and IPv4."""
    family = socket.AF_INET6 if ":" in address or (not address and socket.has_dualstack_ipv6()) else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    with contextlib.ExitStack() as undo:
        undo.callback(listening.close)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not address and family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind((address, port))
        listening.listen(128)
        listening.setblocking(False)
        undo.pop_all()
    return listening


def _peer(transport: asyncio.BaseTransport | None) -> str:
    name = transport.get_extra_info("peername") if transport is not None else None
    return str(name[0]).removeprefix("::ffff:") if isinstance(name, tuple) else "unknown"


def _handshake_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not from the fleet CA ({error.verify_message})"
    known = {
        "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
        "HTTP_REQUEST": "it spoke plain HTTP",
        "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
    }
    return known.get(error.reason or "", f"the TLS handshake failed ({error.reason or 'unreadable'})")
