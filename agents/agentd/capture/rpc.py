"""Captures on ``agentd.sock``: what ``vpn-agent capture`` uses."""

from __future__ import annotations

from typing import Any

from agents.agentd.actions import UnknownTunnelError
from agents.agentd.capture.captures import CaptureRefusedError, UnknownCaptureError
from agents.agentd.capture.desk import CaptureDesk
from agents.contract.captures import CaptureRequest
from agents.contract.codec import from_plain, to_plain
from agents.contract.errors import DocumentError
from agents.runtime.rpc import Connection, Handler, RpcError


def capture_handlers(desk: CaptureDesk) -> dict[str, Handler]:
    """Return ``capture_start`` (CaptureRequest), ``capture_stop``, ``capture_remove`` and ``capture_file`` (``id``)."""

    async def start(params: dict[str, Any], _connection: Connection) -> Any:
        try:
            return to_plain(await desk.start(from_plain(CaptureRequest, params)))
        except DocumentError as error:
            raise RpcError("invalid", str(error), {"path": error.path}) from None
        except UnknownTunnelError as error:
            raise RpcError("unknown-tunnel", str(error)) from None
        except CaptureRefusedError as error:
            raise RpcError(error.code, str(error)) from None

    async def stop(params: dict[str, Any], _connection: Connection) -> Any:
        return to_plain(_known(lambda: desk.stop(str(params.get("id")))))

    async def remove(params: dict[str, Any], _connection: Connection) -> Any:
        _known(lambda: desk.remove(str(params.get("id"))))
        return {}

    async def file(params: dict[str, Any], _connection: Connection) -> Any:
        try:
            return {"path": str(_known(lambda: desk.captures.file(str(params.get("id")))))}
        except CaptureRefusedError as error:
            raise RpcError(error.code, str(error)) from None

    return {"capture_start": start, "capture_stop": stop, "capture_remove": remove, "capture_file": file}


def _known(ask: Any) -> Any:
    try:
        return ask()
    except UnknownCaptureError as error:
        raise RpcError("unknown-capture", str(error)) from None
