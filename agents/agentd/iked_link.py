"""The connection to ``iked``: made again whenever it ends, its events taken into the journal, its status kept at hand.

``view`` is None while ``iked`` is away; what is unknown is then unknown, and nobody acts on it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.agentd.journal import Journal
from agents.agentd.ledger import Accepted
from agents.contract.actions import Verb
from agents.contract.codec import from_plain, to_plain
from agents.contract.errors import DocumentError
from agents.contract.events import Event
from agents.contract.status import ComponentHealth, DataPlaneStatus, ExchangeCounters, NamedCount, TunnelStatus
from agents.runtime.rpc import Client, RpcError, RpcUnavailable

FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 1.0
CALL_TIMEOUT_S = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class IkedView:
    """What ``iked`` said last."""

    generation: int
    data_plane: DataPlaneStatus
    health: ComponentHealth
    parts: tuple[ComponentHealth, ...]
    tunnels: Mapping[str, TunnelStatus]
    counters: Mapping[str, int]
    exchanges: tuple[ExchangeCounters, ...]
    data_plane_counts: tuple[NamedCount, ...] = ()
    ipsec_counts: tuple[NamedCount, ...] = ()


class IkedLink:
    """One connection at a time. ``on_change`` is called whenever status or events may have moved.

    ``on_view`` is called with each view, once more with the last one when ``iked`` ends politely, and the ``boot_id``
    that its counters are of; ``on_end`` when the connection has ended.
    """

    def __init__(self, path: Path, journal: Journal, on_change: Callable[[], None]) -> None:
        self._path = path
        self._journal = journal
        self._on_change = on_change
        self._client: Client | None = None
        self._refreshing = asyncio.Lock()
        self._seen = False
        self.on_view: Callable[[IkedView, str], None] = lambda _view, _boot_id: None
        self.on_end: Callable[[], None] = lambda: None
        self.view: IkedView | None = None
        self.away_since = time.time()
        self.away_reason = "iked has not started yet"
        self.configured_digest: str | None = None

    @property
    def boot_id(self) -> str:
        """The run of ``iked`` that its counters and event numbers belong to; the last one known while it is away."""
        return self._journal.position()[0]

    async def run(self) -> None:
        """Connect, follow, connect again, until cancelled."""
        delay_s = FIRST_RETRY_S
        while True:
            try:
                client = await Client.connect(self._path)
            except RpcUnavailable:
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, LONGEST_RETRY_S)
                continue
            delay_s = FIRST_RETRY_S
            try:
                await self._follow(client)
                self._lost()
            finally:
                await client.close()

    async def refresh(self) -> None:
        """Ask for status and new events now; afterwards ``view`` is current, or None."""
        client = self._client
        if client is None:
            return
        async with self._refreshing:
            try:
                plain = await client.call("status", timeout_s=CALL_TIMEOUT_S)
                view = _view(plain)
                await self._take_events(client)
            except (RpcError, RpcUnavailable, DocumentError) as error:
                _log.warning("iked does not answer as it should: %s", error)
                if client is self._client:
                    self.view, self.away_reason = None, f"iked does not answer: {error}"
                return
            if client is self._client:
                self.view = view
                self.on_view(view, self.boot_id)

    async def configure(self, accepted: Accepted) -> None:
        """Hand the document over; raises :class:`RpcError` or :class:`RpcUnavailable`."""
        client = self._connected()
        self.configured_digest = None
        await client.call("configure", {"document": to_plain(accepted.document)}, timeout_s=30)
        if client is self._client:
            self.configured_digest = accepted.digest

    async def action(self, verb: Verb, tunnel_id: str) -> tuple[bool, str]:
        """Pass an action on; raises :class:`RpcError` or :class:`RpcUnavailable`."""
        answer = await self._connected().call("action", {"verb": str(verb), "tunnel_id": tunnel_id})
        return bool(answer.get("accepted")), str(answer.get("message", ""))

    async def log_level(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Pass a change of a log level on, or with no parameters ask; raises as :meth:`action`."""
        answer: dict[str, Any] = await self._connected().call("log_level", dict(params), timeout_s=CALL_TIMEOUT_S)
        return answer

    async def trace(self, params: Mapping[str, Any], timeout_s: float = CALL_TIMEOUT_S) -> dict[str, Any]:
        """Switch the trace or ask for it; raises as :meth:`action`."""
        answer: dict[str, Any] = await self._connected().call("trace", dict(params), timeout_s=timeout_s)
        return answer

    def _connected(self) -> Client:
        if self._client is None:
            raise RpcUnavailable("iked is not running; it is started again by itself")
        return self._client

    async def _follow(self, client: Client) -> None:
        self._client, self.configured_digest = client, None
        await self.refresh()
        if self._seen:
            self._journal.append("agent.component-back", "iked is back", attributes={"component": "iked"})
        self._seen = True
        self._on_change()
        async for method, params in client.notifications():
            if method == "changed":
                self._on_change()
            elif method == "last":
                self._take_last(params)

    def _take_last(self, plain: Any) -> None:
        """``iked`` ends and says what it counted; its events of the end are still in its ring, and go with it."""
        try:
            self.on_view(_view(plain), self.boot_id)
        except DocumentError as error:
            _log.warning("iked's last report cannot be read: %s", error)

    def _lost(self) -> None:
        if self._client is None:
            return
        self._client = self.view = self.configured_digest = None
        self.on_end()
        self.away_since, self.away_reason = time.time(), "iked stopped; it is started again by itself"
        self._journal.append("agent.component-lost", "iked stopped", attributes={"component": "iked"})
        self._on_change()

    async def _take_events(self, client: Client) -> None:
        while True:
            boot_id, after = self._journal.position()
            page = await client.call("events", {"after": after, "boot_id": boot_id}, timeout_s=CALL_TIMEOUT_S)
            new_boot_id = str(page["boot_id"])
            known = after if new_boot_id == boot_id else 0
            events = [from_plain(Event, plain) for plain in page["events"]]
            oldest, last = int(page["oldest"]), int(page["last"])
            if oldest > known + 1 and last > known:
                _log.warning("iked dropped %d events before they were read", oldest - known - 1)
            read_to = max((event.sequence for event in events), default=last)
            self._journal.ingest(new_boot_id, events, read_to)
            if read_to >= last:
                return


def _view(plain: Any) -> IkedView:
    try:
        tunnels = [from_plain(TunnelStatus, each, "tunnels[]") for each in plain["tunnels"]]
        return IkedView(
            generation=int(plain["generation"]),
            data_plane=from_plain(DataPlaneStatus, plain["data_plane"], "data_plane"),
            health=from_plain(ComponentHealth, plain["health"], "health"),
            parts=tuple(from_plain(ComponentHealth, each, "parts[]") for each in plain["parts"]),
            tunnels={tunnel.id: tunnel for tunnel in tunnels},
            counters={str(code): int(count) for code, count in plain["counters"].items()},
            exchanges=tuple(from_plain(ExchangeCounters, each, "exchanges[]") for each in plain["exchanges"]),
            data_plane_counts=_named(plain.get("data_plane_counts", ()), "data_plane_counts[]"),
            ipsec_counts=_named(plain.get("ipsec_counts", ()), "ipsec_counts[]"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DocumentError):
            raise
        raise DocumentError("status", f"lacks {error}") from None


def _named(plain: Any, path: str) -> tuple[NamedCount, ...]:
    return tuple(from_plain(NamedCount, each, path) for each in plain)
