"""``iked.sock``: how ``agentd`` configures, asks and acts (``docs/architecture.md``)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from agents.contract.actions import Verb
from agents.contract.codec import from_plain, to_plain
from agents.contract.config import GatewayDocument
from agents.contract.errors import DocumentError
from agents.ike.errors import LocalError
from agents.iked.keeper import Keeper
from agents.iked.runtime import Runtime
from agents.pki.documents import DocumentCertificateError
from agents.pki.documents import parse as parse_certificates
from agents.runtime import log_levels, tracing
from agents.runtime.rpc import Connection, Handler, RpcError


class Control:
    """The handlers of the control socket."""

    def __init__(self, runtime: Runtime, keeper: Keeper) -> None:
        self._runtime = runtime
        self._keeper = keeper
        self._configuring = asyncio.Lock()

    def handlers(self) -> Mapping[str, Handler]:
        """Return the methods by name."""
        return {
            "configure": self.configure,
            "status": self.status,
            "action": self.action,
            "events": self.events,
            "log_level": self.log_level,
            "trace": self.trace,
        }

    async def configure(self, params: dict[str, Any], _connection: Connection) -> dict[str, Any]:
        """Take a whole document; a repeat changes nothing. Raises RpcError ``invalid`` with the path."""
        try:
            document = from_plain(GatewayDocument, params.get("document"))
        except DocumentError as error:
            raise RpcError("invalid", str(error), {"path": error.path, "problem": error.problem}) from None
        try:
            parse_certificates(document)
        except DocumentCertificateError as error:
            raise RpcError("invalid", str(error), {"path": error.path, "problem": error.problem}) from None
        async with self._configuring:
            await self._keeper.configure(document)
        return {}

    async def status(self, _params: dict[str, Any], _connection: Connection) -> dict[str, Any]:
        """Return :meth:`report`."""
        return await self.report()

    async def report(self) -> dict[str, Any]:
        """Return tunnels, data plane, health of the whole and of its parts, counts of events, messages and packets."""
        runtime = self._runtime
        tunnels = await runtime.status()
        return {
            "tunnels": to_plain(tunnels),
            "data_plane": to_plain(runtime.data_plane),
            "generation": 0 if runtime.document is None else runtime.document.generation,
            "health": to_plain(runtime.health()),
            "parts": to_plain(runtime.parts(tunnels)),
            "counters": runtime.counters(),
            "exchanges": to_plain(runtime.exchanges()),
            "data_plane_counts": to_plain(runtime.data_plane_counts()),
            "ipsec_counts": to_plain(runtime.traffic.ipsec.named()),
        }

    async def action(self, params: dict[str, Any], _connection: Connection) -> dict[str, Any]:
        """Perform one verb on one tunnel; a refusal is an answer, not an error."""
        try:
            verb = Verb(str(params.get("verb")))
        except ValueError:
            raise RpcError("invalid", "unknown verb", {"path": "verb", "problem": "is not a verb"}) from None
        try:
            self._runtime.action(verb, str(params.get("tunnel_id")))
        except LocalError as error:
            return {"accepted": False, "message": str(error)}
        return {"accepted": True, "message": f"{verb} started"}

    async def log_level(self, params: dict[str, Any], _connection: Connection) -> dict[str, Any]:
        """Return what ``iked`` and its parts log from, after setting one of them where params name it."""
        return log_levels.answer(("iked", *log_levels.PARTS), params)

    async def trace(self, params: dict[str, Any], _connection: Connection) -> dict[str, Any]:
        """Switch this process's trace on or off, or return what it recorded."""
        return tracing.answer(params)

    async def events(self, params: dict[str, Any], _connection: Connection) -> dict[str, Any]:
        """Return the events after ``after`` of this boot."""
        after, boot_id = params.get("after", 0), params.get("boot_id")
        if not isinstance(after, int):
            raise RpcError("invalid", "after must be a whole number", {"path": "after"})
        return self._runtime.events.page(after, boot_id if isinstance(boot_id, str) else None)
