"""Questions to ``agentd.sock``, and the failures every command line words alike."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from agents.contract.actions import Action, ActionResult, Verb
from agents.contract.codec import from_plain, to_plain
from agents.contract.events import EventPage
from agents.contract.status import GatewayStatus, TunnelStatus
from agents.runtime.rpc import Client, RpcError, RpcUnavailable

T = TypeVar("T")
FAILED = 1


class CommandError(Exception):
    """What the command line says instead of an answer."""


class Agentd:
    """The questions, over one connection."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def status(self) -> GatewayStatus:
        """Ask how the gateway is."""
        return from_plain(GatewayStatus, await self.client.call("status"))

    async def events(self, after: int, limit: int) -> EventPage:
        """Read the journal."""
        return from_plain(EventPage, await self.client.call("events", {"after": after, "limit": limit}))

    async def log_levels(self, component: str | None = None, level: str | None = None) -> dict[str, str]:
        """Return what each component logs from, after setting one where it is named."""
        params = {} if component is None else {"component": component, "level": level}
        levels: dict[str, str] = (await self.client.call("log_level", params))["levels"]
        return levels

    async def filtered(self) -> dict[str, Any]:
        """Return whether the packet filter is ``on`` and its counts of ``strangers``."""
        answer: dict[str, Any] = await self.client.call("filter")
        return answer

    async def contexts(self) -> list[dict[str, Any]]:
        """Return the routing contexts and what each is made of."""
        answer: list[dict[str, Any]] = (await self.client.call("contexts"))["contexts"]
        return answer

    async def act(self, verb: Verb, tunnel_id: str) -> ActionResult:
        """Ask for a verb, under an id of its own."""
        action = Action(id=str(uuid.uuid4()), verb=verb, tunnel_id=tunnel_id)
        return from_plain(ActionResult, await self.client.call("action", to_plain(action)))


def find_tunnel(status: GatewayStatus, text: str) -> TunnelStatus:
    """Return the tunnel of this name or id; raises :class:`CommandError`."""
    for tunnel in status.tunnels:
        if text in (tunnel.name, tunnel.id):
            return tunnel
    names = ", ".join(tunnel.name for tunnel in status.tunnels) or "none is configured"
    raise CommandError(f"there is no tunnel {text!r}; tunnels: {names}")


def ask(socket: Path, question: Callable[[Agentd], Coroutine[Any, Any, T]]) -> T:
    """Connect, ask, return; raises :class:`CommandError` when nobody answers."""

    async def run() -> T:
        async with await Client.connect(socket) as client:
            return await question(Agentd(client))

    try:
        return asyncio.run(run())
    except RpcUnavailable as error:
        raise CommandError(f"the agent does not answer ({error}): is it running, with this --run directory?") from None
    except RpcError as error:
        raise CommandError(error.message) from None


def fail(program: str, error: Exception) -> int:
    """Print why a command did not succeed and return its exit status."""
    print(f"{program}: {error}", file=sys.stderr)
    return FAILED
