"""Traces on the HTTPS API."""

from __future__ import annotations

from aiohttp import web

from agents.agentd.answers import error_answer, value_answer
from agents.agentd.traces import TraceRunningError, Traces, UnknownTraceError
from agents.contract.codec import decode
from agents.contract.errors import DocumentError
from agents.contract.traces import TraceRequest
from agents.runtime.rpc import RpcError


class TraceRoutes:
    """Begin, end, read; 404 for a trace that is not there, 409 while another runs, 502 where a process refuses."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    async def start(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/traces`` (TraceRequest): TraceStatus."""
        try:
            wanted = decode(TraceRequest, await request.read())
        except DocumentError as error:
            return error_answer(400, "invalid", error.problem, path=error.path)
        try:
            return value_answer(await self._traces.start(wanted))
        except TraceRunningError as error:
            return error_answer(409, "busy", str(error))
        except RpcError as error:
            return error_answer(502, "refused", str(error))

    async def stop(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/traces/ID/stop``: TraceStatus."""
        try:
            return value_answer(await self._traces.stop(request.match_info["id"]))
        except UnknownTraceError as error:
            return error_answer(404, "unknown-trace", str(error))
        except RpcError as error:
            return error_answer(502, "refused", str(error))

    async def fetch(self, request: web.Request) -> web.StreamResponse:
        """``GET /v1/traces/ID``: text."""
        try:
            text = await self._traces.text(request.match_info["id"])
        except UnknownTraceError as error:
            return error_answer(404, "unknown-trace", str(error))
        except RpcError as error:
            return error_answer(502, "refused", str(error))
        return web.Response(
            text=text, content_type="text/plain", charset="utf-8", headers={"Cache-Control": "no-store"}
        )
