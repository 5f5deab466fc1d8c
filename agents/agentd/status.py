"""Puts the report together: what the ledger holds, what ``iked`` says, what the last pass came to.

A configured tunnel is always listed. When ``iked`` cannot be asked, it is down with that as its reason.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import os
import time
from collections.abc import Mapping
from pathlib import Path

from agents.agentd.capture.captures import Captures
from agents.agentd.iked_link import IkedLink
from agents.agentd.journal import Journal
from agents.agentd.ledger import Accepted, Ledger
from agents.agentd.parts.congestion import counted as congested
from agents.agentd.parts.filter import counters_of
from agents.agentd.reconciler import PassStatus
from agents.agentd.route_ledger import RouteLedger
from agents.agentd.totals import Totals
from agents.agentd.traces import Traces
from agents.contract.codec import from_plain
from agents.contract.config import Tunnel
from agents.contract.errors import DocumentError
from agents.contract.manual import ManualTunnel
from agents.contract.status import (
    ChildStatus,
    ComponentHealth,
    DataPlaneStatus,
    GatewayStatus,
    Reason,
    TunnelState,
    TunnelStatus,
)
from agents.pki import documents
from agents.pki.documents import Certificates, DocumentCertificateError
from agents.pki.keys import KeyFolder
from agents.runtime import log_levels
from agents.runtime.paths import Paths
from agents.runtime.rpc import Client, RpcError, RpcUnavailable
from agents.runtime.version import VERSION

_ESPD_TIMEOUT_S = 2.0


class StatusReporter:
    """Answers "how is this gateway" afresh each time."""

    def __init__(
        self,
        gateway_id: str,
        ledger: Ledger,
        link: IkedLink,
        journal: Journal,
        paths: Paths,
        *,
        routes: RouteLedger,
        totals: Totals,
        captures: Captures,
        traces: Traces,
    ) -> None:
        self._gateway_id = gateway_id
        self._ledger = ledger
        self._link = link
        self._journal = journal
        self._routes = routes
        self._totals = totals
        self._captures = captures
        self._traces = traces
        self._espd_socket = paths.espd_socket
        self._keys = KeyFolder(paths.keys)
        self._certificates: tuple[str, Certificates] = ("", Certificates())
        self._started_at = time.time()

    async def report(self, last_pass: PassStatus, filtered: Mapping[str, int]) -> GatewayStatus:
        """Return the status as of now; ``filtered`` is what each counter of the packet filter says."""
        await self._link.refresh()
        espd, trace = await asyncio.gather(espd_health(self._espd_socket), self._traces.status())
        accepted, view = self._ledger.current, self._link.view
        tunnels: tuple[Tunnel | ManualTunnel, ...] = ()
        if accepted is not None:
            tunnels = (*accepted.document.tunnels, *accepted.document.manual_tunnels)
        return GatewayStatus(
            gateway_id=self._gateway_id,
            agent_version=VERSION,
            boot_id=self._link.boot_id,
            observed_at=time.time(),
            accepted_generation=accepted.document.generation if accepted is not None else 0,
            accepted_digest=accepted.digest if accepted is not None else "",
            applied_generation=last_pass.applied_generation,
            refusal=self._ledger.refusal,
            problems=(*last_pass.problems, *self._credential_problems(accepted)),
            data_plane=view.data_plane if view is not None else DataPlaneStatus(reason=self._link.away_reason),
            components=(self._own_health(), *self._iked_health(), espd),
            tunnels=tuple(
                self._totals.total(
                    dataclasses.replace(
                        self._tunnel(tunnel, last_pass.routes.get(tunnel.id, ())),
                        filter=counters_of(tunnel.id, filtered),
                    )
                )
                for tunnel in tunnels
            ),
            exchanges=view.exchanges if view is not None else (),
            route_ledger=self._routes.lines(),
            data_plane_counts=(*view.data_plane_counts, *congested(filtered)) if view is not None else (),
            captures=self._captures.statuses(),
            trace=trace,
            last_event=self._journal.last,
            ipsec_counts=self._totals.ipsec(),
        )

    def _credential_problems(self, accepted: Accepted | None) -> list[str]:
        """Return why certificates of the document cannot be shown, looked up anew: a key file may come at any time."""
        if accepted is None or not accepted.document.certificates:
            return []
        if self._certificates[0] != accepted.digest:
            try:
                self._certificates = (accepted.digest, documents.parse(accepted.document))
            except DocumentCertificateError as error:
                return [str(error)]
        now = datetime.datetime.now(datetime.UTC)
        found = documents.problems(self._certificates[1], self._keys, now)
        return [each.sentence for each in found]

    def _tunnel(self, tunnel: Tunnel | ManualTunnel, routes: tuple[str, ...]) -> TunnelStatus:
        view = self._link.view
        if view is not None and tunnel.id in view.tunnels:
            return dataclasses.replace(view.tunnels[tunnel.id], routes=routes)
        if view is not None:
            reason, since = "The configuration with this tunnel is not in force yet.", time.time()
        else:
            reason, since = f"The state is not known: {self._link.away_reason}.", self._link.away_since
        return TunnelStatus(
            id=tunnel.id,
            name=tunnel.name,
            state=TunnelState.DOWN if tunnel.enabled else TunnelState.DISABLED,
            since=since,
            reason=Reason(code="agent.component-lost", message=reason) if view is None and tunnel.enabled else None,
            step=reason if view is not None and tunnel.enabled else None,
            children=tuple(ChildStatus(name=child.name, up=False) for child in tunnel.children),
            routes=routes,
            kind="manual" if isinstance(tunnel, ManualTunnel) else str(tunnel.kind),
        )

    def _own_health(self) -> ComponentHealth:
        return ComponentHealth(
            name="agentd",
            healthy=True,
            version=VERSION,
            pid=os.getpid(),
            started_at=self._started_at,
            log_level=log_levels.level_of("agentd"),
        )

    def _iked_health(self) -> tuple[ComponentHealth, ...]:
        """Return ``iked`` and its parts; which parts there are is not known while it is away."""
        view = self._link.view
        if view is not None:
            return (view.health, *view.parts)
        return (ComponentHealth(name="iked", healthy=False, detail=self._link.away_reason),)


async def espd_health(path: Path) -> ComponentHealth:
    """Ask ``espd`` how it is; a short connection of its own, so that no data plane session is opened."""
    try:
        async with await Client.connect(path) as client:
            answer = await client.call("health", timeout_s=_ESPD_TIMEOUT_S)
        return from_plain(ComponentHealth, answer["health"], "health")
    except (RpcError, RpcUnavailable) as error:
        return ComponentHealth(name="espd", healthy=False, detail=str(error))
    except (DocumentError, KeyError, TypeError) as error:
        return ComponentHealth(name="espd", healthy=False, detail=f"its answer cannot be read: {error}")
