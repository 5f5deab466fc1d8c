"""One-shot verbs: each id is performed once, and a repeated request gets the first one's answer.

The id is on the disk before ``iked`` is asked, so an ``agentd`` killed in between does not perform it twice. When
``iked`` cannot be asked at all, nothing was performed and the id is free again.
"""

from __future__ import annotations

import asyncio

from agents.agentd.database import Database
from agents.agentd.errors import AgentError
from agents.agentd.iked_link import IkedLink
from agents.agentd.journal import Journal
from agents.agentd.ledger import Ledger
from agents.contract.actions import Action, ActionResult
from agents.contract.codec import decode, encode
from agents.runtime.rpc import RpcError, RpcUnavailable

KEEP = 1_000


class UnknownTunnelError(AgentError):
    """The document in force has no tunnel of this id."""


class Actions:
    """Performs actions on the tunnels of the document in force."""

    def __init__(self, database: Database, ledger: Ledger, link: IkedLink, journal: Journal) -> None:
        self._database = database
        self._ledger = ledger
        self._link = link
        self._journal = journal
        self._performing = asyncio.Lock()

    async def perform(self, action: Action) -> ActionResult:
        """Perform or recall; raises :class:`UnknownTunnelError`."""
        async with self._performing:
            earlier = self._earlier(action.id)
            if earlier is not None:
                return earlier
            name = self._tunnel_name(action.tunnel_id)
            self._remember(
                ActionResult(id=action.id, accepted=True, message="the agent restarted while it performed this")
            )
            try:
                accepted, message = await self._link.action(action.verb, action.tunnel_id)
            except RpcUnavailable as error:
                self._forget(action.id)
                return ActionResult(id=action.id, accepted=False, message=str(error))
            except RpcError as error:
                accepted, message = False, error.message
            result = ActionResult(id=action.id, accepted=accepted, message=message[:1_000])
            self._remember(result)
            outcome = "taken on" if accepted else f"refused: {message}"
            self._journal.append(
                "agent.action",
                f"{action.verb} of {name} {outcome}",
                tunnel_id=action.tunnel_id,
                attributes={"verb": str(action.verb), "action": action.id, "accepted": str(accepted).lower()},
            )
            return result

    def _tunnel_name(self, tunnel_id: str) -> str:
        current = self._ledger.current
        if current is not None:
            for tunnels in (current.document.tunnels, current.document.manual_tunnels):
                for tunnel in tunnels:
                    if tunnel.id == tunnel_id:
                        return tunnel.name
        raise UnknownTunnelError("the configuration in force has no such tunnel")

    def _earlier(self, action_id: str) -> ActionResult | None:
        rows = self._database.rows("SELECT body FROM action WHERE id = ?", action_id)
        body = rows[0][0] if rows else None
        return decode(ActionResult, body) if isinstance(body, bytes) else None

    def _remember(self, result: ActionResult) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO action (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                (result.id, encode(result)),
            )
            connection.execute("DELETE FROM action WHERE number <= (SELECT max(number) FROM action) - ?", (KEEP,))

    def _forget(self, action_id: str) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM action WHERE id = ?", (action_id,))
