"""An agent's HTTPS API on loopback for tests: real TLS with certificates of the fleet CA, a ledger's rules, no data
plane.

It runs in a thread of its own and touches no database. What it answers is set by its attributes; what it was sent is
kept in ``documents`` and ``actions``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agents.contract import codec
from agents.contract.actions import Action, ActionResult
from agents.contract.captures import CaptureRequest
from agents.contract.config import GatewayDocument
from agents.contract.errors import DocumentError
from agents.contract.events import KINDS, Event, EventPage
from agents.contract.status import (
    STATUS_SCHEMA_VERSION,
    CaptureStatus,
    ChildStatus,
    ComponentHealth,
    Counters,
    DataPlaneStatus,
    GatewayStatus,
    ProcessTrace,
    Reason,
    Refusal,
    TraceStatus,
    TunnelState,
    TunnelStatus,
)
from agents.contract.traces import TraceRequest
from agents.contract.upgrade import load_document


class HostKey:
    """A key made on the gateway and the certificate request for it."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())

    def csr_pem(self) -> str:
        """Return a request; the console ignores its names."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(self.key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.PEM).decode()

    def key_pem(self) -> str:
        """Return the private key."""
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


class FakeAgent:
    """Use as a context manager; ``port`` is fixed before, so that it can appear where it was awaited."""

    def __init__(
        self, *, gateway_id: str, key_pem: str, certificate_pem: str, ca_pem: str, port: int, boot_id: str = "boot-1"
    ) -> None:
        self.gateway_id = gateway_id
        self.port = port
        self.boot_id = boot_id
        self.document: GatewayDocument | None = None
        self.documents: list[GatewayDocument] = []
        self.actions: list[Action] = []
        self.events: list[Event] = []
        self.oldest_event = 1
        self.refuse: tuple[str, str] | None = None
        self.refusal: Refusal | None = None
        self.applied: int | None = None
        self.state = TunnelState.UP
        self.reason: Reason | None = None
        self.counters: Callable[[], Counters] = Counters
        self.schema = STATUS_SCHEMA_VERSION
        self.captures: dict[str, CaptureStatus] = {}
        self.capture_requests: list[CaptureRequest] = []
        self.capture_file = b""
        self.trace: TraceStatus | None = None
        self.trace_requests: list[TraceRequest] = []
        self.trace_text = b""
        #: By how much the gateway's clock is ahead of the console's.
        self.clock_wrong_s = 0.0
        #: More of a status than the rest says.
        self.more: dict[str, object] = {}
        #: False: the agent answers but cannot ask its IKE daemon.
        self.iked = True
        self.problem_status = 0
        self.puts = 0
        #: Whole answers by path, instead of what the API would say.
        self.raw: dict[str, tuple[int, bytes]] = {}
        self.raw_headers: dict[str, str] = {}
        #: Set to let PUT answer; a test clears it to catch a push in the middle.
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.put_came = threading.Event()
        self._tls = _server_context(key_pem, certificate_pem, ca_pem)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.may_answer.set()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def emit(self, code: str, message: str = "", **fields: str) -> None:
        """Write a journal entry."""
        self.events.append(
            Event(
                sequence=len(self.events) + 1,
                time=time.time(),
                code=code,
                severity=KINDS[code].severity,
                message=message or KINDS[code].summary,
                **fields,  # type: ignore[arg-type]
            )
        )

    def status(self) -> GatewayStatus:
        """Report what the ledger holds; every tunnel in one state."""
        held = self.document
        tunnels = held.tunnels if held else ()
        status = GatewayStatus(
            gateway_id=self.gateway_id,
            agent_version="1.2.3",
            boot_id=self.boot_id,
            observed_at=time.time() + self.clock_wrong_s,
            schema=self.schema,
            accepted_generation=held.generation if held else 0,
            accepted_digest=codec.digest(held) if held else "",
            applied_generation=self.applied if self.applied is not None else (held.generation if held else 0),
            refusal=self.refusal,
            data_plane=DataPlaneStatus(driver="userspace", reason="the kernel has no ESP"),
            components=(ComponentHealth(name="iked", healthy=self.iked, pid=4711 if self.iked else None),),
            tunnels=tuple(
                TunnelStatus(
                    id=tunnel.id,
                    name=tunnel.name,
                    state=self.state if tunnel.enabled else TunnelState.DISABLED,
                    since=1_790_000_000.0,
                    reason=self.reason,
                    children=tuple(
                        ChildStatus(name=child.name, up=self.state is TunnelState.UP) for child in tunnel.children
                    ),
                    counters=self.counters(),
                )
                for tunnel in tunnels
            ),
            last_event=len(self.events),
            captures=tuple(self.captures.values()),
            trace=self.trace,
        )
        return dataclasses.replace(status, **self.more)  # type: ignore[arg-type]

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        app = web.Application(middlewares=[self._say_raw])
        app.router.add_put("/v1/config", self._put)
        app.router.add_get("/v1/status", self._get_status)
        app.router.add_get("/v1/events", self._get_events)
        app.router.add_post("/v1/actions", self._post_action)
        if self.schema >= 4:
            app.router.add_post("/v1/captures", self._post_capture)
            app.router.add_post("/v1/captures/{id}/stop", self._stop_capture)
            app.router.add_get("/v1/captures/{id}", self._get_capture)
        if self.schema >= 5:
            app.router.add_post("/v1/traces", self._post_trace)
            app.router.add_post("/v1/traces/{id}/stop", self._stop_trace)
            app.router.add_get("/v1/traces/{id}", self._get_trace)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=self._tls).start()
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    @web.middleware
    async def _say_raw(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in self.raw:
            status, body = self.raw[request.path]
            return web.Response(status=status, body=body, headers=self.raw_headers)
        return await handler(request)

    async def _put(self, request: web.Request) -> web.Response:
        octets = await request.read()
        self.puts += 1
        self.put_came.set()
        await asyncio.to_thread(self.may_answer.wait)
        if self.problem_status:
            return web.json_response({"error": "broken", "message": "out of order"}, status=self.problem_status)
        try:
            document = load_document(octets)
        except DocumentError as error:
            return web.json_response({"error": "invalid", "path": error.path, "message": error.problem}, status=422)
        self.documents.append(document)
        if self.refuse is not None:
            path, message = self.refuse
            self.refusal = Refusal(generation=document.generation, path=path, message=message, at=time.time())
            return web.json_response({"error": "invalid", "path": path, "message": message}, status=422)
        held, digest = self.document, codec.digest(document)
        if held is not None and (
            document.generation < held.generation
            or (document.generation == held.generation and digest != codec.digest(held))
        ):
            code = "generation-outdated" if document.generation < held.generation else "generation-conflict"
            body = {"error": code, "message": code, "generation": held.generation, "digest": codec.digest(held)}
            return web.json_response(body, status=409)
        self.document = document
        return web.json_response({"generation": document.generation, "digest": digest})

    async def _get_status(self, _request: web.Request) -> web.Response:
        return web.Response(body=codec.encode(self.status()), content_type="application/json")

    async def _get_events(self, request: web.Request) -> web.Response:
        after, limit = int(request.query["after"]), int(request.query["limit"])
        kept = [event for event in self.events if event.sequence > after and event.sequence >= self.oldest_event]
        page = EventPage(events=tuple(kept[:limit]), oldest=self.oldest_event, last=len(self.events))
        return web.Response(body=codec.encode(page), content_type="application/json")

    async def _post_action(self, request: web.Request) -> web.Response:
        action = codec.from_plain(Action, json.loads(await request.read()))
        if self.document is None or action.tunnel_id not in {tunnel.id for tunnel in self.document.tunnels}:
            return web.json_response({"error": "unknown-tunnel", "message": "not here"}, status=404)
        self.actions.append(action)
        result = ActionResult(id=action.id, accepted=True, message=f"{action.verb} begun")
        return web.Response(body=codec.encode(result), content_type="application/json")

    async def _post_capture(self, request: web.Request) -> web.Response:
        wanted = codec.from_plain(CaptureRequest, json.loads(await request.read()))
        if self.document is None or wanted.tunnel_id not in {tunnel.id for tunnel in self.document.tunnels}:
            return web.json_response({"error": "unknown-tunnel", "message": "not here"}, status=404)
        if any(each.running and each.id != wanted.id for each in self.captures.values()):
            return web.json_response({"error": "busy", "message": "A capture is running already."}, status=409)
        status = CaptureStatus(
            id=wanted.id, tunnel_id=wanted.tunnel_id, view=str(wanted.view), running=True, started_at=time.time()
        )
        self.captures[wanted.id] = status
        self.capture_requests.append(wanted)
        return web.Response(body=codec.encode(status), content_type="application/json")

    async def _stop_capture(self, request: web.Request) -> web.Response:
        status = self.captures.get(request.match_info["id"])
        if status is None:
            return web.json_response({"error": "unknown-capture", "message": "no such capture"}, status=404)
        self.captures[status.id] = dataclasses.replace(status, running=False, packets=7, ended_because="stopped")
        return web.Response(body=codec.encode(self.captures[status.id]), content_type="application/json")

    async def _get_capture(self, request: web.Request) -> web.StreamResponse:
        status = self.captures.get(request.match_info["id"])
        if status is None or status.running:
            return web.json_response({"error": "running", "message": "The capture is running."}, status=409)
        return web.Response(body=self.capture_file, content_type="application/x-pcapng")

    async def _post_trace(self, request: web.Request) -> web.Response:
        wanted = codec.from_plain(TraceRequest, json.loads(await request.read()))
        if self.trace is not None and self.trace.running and self.trace.id != wanted.id:
            return web.json_response({"error": "busy", "message": "A trace is running already."}, status=409)
        self.trace_requests.append(wanted)
        now = time.time() + self.clock_wrong_s
        self.trace = TraceStatus(
            id=wanted.id,
            categories=tuple(map(str, wanted.categories)),
            started_at=now,
            ends_at=now + wanted.seconds,
            octets=wanted.octets,
            version=wanted.version,
            processes=tuple(ProcessTrace(process=name, running=True) for name in ("agentd", "iked", "espd")),
        )
        return web.Response(body=codec.encode(self.trace), content_type="application/json")

    def end_trace(self, because: str) -> None:
        """Let the trace be over, with one line in each process."""
        assert self.trace is not None
        over = [
            dataclasses.replace(each, running=False, records=1, ended_because=because) for each in self.trace.processes
        ]
        self.trace = dataclasses.replace(self.trace, processes=tuple(over))

    async def _stop_trace(self, request: web.Request) -> web.Response:
        if self.trace is None or self.trace.id != request.match_info["id"]:
            return web.json_response({"error": "unknown-trace", "message": "no such trace"}, status=404)
        self.end_trace("switched off")
        return web.Response(body=codec.encode(self.trace), content_type="application/json")

    async def _get_trace(self, request: web.Request) -> web.StreamResponse:
        if self.trace is None or self.trace.id != request.match_info["id"]:
            return web.json_response({"error": "unknown-trace", "message": "no such trace"}, status=404)
        return web.Response(body=self.trace_text, content_type="text/plain")


def hold(agent: FakeAgent, document: GatewayDocument, **changes: object) -> None:
    """Put a document into the agent's ledger behind the console's back."""
    agent.document = dataclasses.replace(document, **changes)  # type: ignore[arg-type]


def _server_context(key_pem: str, certificate_pem: str, ca_pem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ca_pem)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "credentials.pem"
        path.write_text(certificate_pem + key_pem)
        context.load_cert_chain(path)
    return context
