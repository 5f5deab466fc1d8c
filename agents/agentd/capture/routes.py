"""Captures on the HTTPS API."""

from __future__ import annotations

from aiohttp import web

from agents.agentd.actions import UnknownTunnelError
from agents.agentd.answers import error_answer, json_answer, value_answer
from agents.agentd.capture.captures import CaptureRefusedError, UnknownCaptureError
from agents.agentd.capture.desk import CaptureDesk
from agents.contract.captures import CaptureRequest
from agents.contract.codec import decode
from agents.contract.errors import DocumentError

MEDIA_TYPE = "application/x-pcapng"


class CaptureRoutes:
    """Begin, end, fetch, delete; 404 for what is not there, 409 for what cannot be now."""

    def __init__(self, desk: CaptureDesk) -> None:
        self._desk = desk

    async def start(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/captures`` (CaptureRequest): CaptureStatus."""
        try:
            wanted = decode(CaptureRequest, await request.read())
        except DocumentError as error:
            return error_answer(400, "invalid", error.problem, path=error.path)
        try:
            return value_answer(await self._desk.start(wanted))
        except UnknownTunnelError as error:
            return error_answer(404, "unknown-tunnel", str(error))
        except CaptureRefusedError as error:
            return error_answer(409, error.code, str(error))

    async def stop(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/captures/ID/stop``: CaptureStatus."""
        try:
            return value_answer(self._desk.stop(request.match_info["id"]))
        except UnknownCaptureError as error:
            return error_answer(404, "unknown-capture", str(error))

    async def fetch(self, request: web.Request) -> web.StreamResponse:
        """``GET /v1/captures/ID``: the file."""
        try:
            path = self._desk.hand_out(request.match_info["id"])
        except UnknownCaptureError as error:
            return error_answer(404, "unknown-capture", str(error))
        except CaptureRefusedError as error:
            return error_answer(409, error.code, str(error))
        return web.FileResponse(path, headers={"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store"})

    async def remove(self, request: web.Request) -> web.StreamResponse:
        """``DELETE /v1/captures/ID``: nothing."""
        try:
            self._desk.remove(request.match_info["id"])
        except UnknownCaptureError as error:
            return error_answer(404, "unknown-capture", str(error))
        return json_answer({})
