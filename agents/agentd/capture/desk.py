"""Captures as they are asked for: of a tunnel of the document in force, where it lives now."""

from __future__ import annotations

from pathlib import Path

from agents.agentd.actions import UnknownTunnelError
from agents.agentd.capture.captures import Captures
from agents.agentd.capture.scope import scope_of
from agents.agentd.iked_link import IkedLink
from agents.agentd.journal import Journal
from agents.agentd.ledger import Ledger
from agents.contract.captures import CaptureRequest
from agents.contract.config import Tunnel
from agents.contract.manual import ManualTunnel
from agents.contract.status import CaptureStatus


class CaptureDesk:
    """Begins, ends and hands out captures."""

    def __init__(self, captures: Captures, ledger: Ledger, link: IkedLink, journal: Journal) -> None:
        self.captures = captures
        self._ledger = ledger
        self._link = link
        self._journal = journal

    async def start(self, request: CaptureRequest) -> CaptureStatus:
        """Begin a capture; raises UnknownTunnelError and CaptureRefusedError."""
        tunnel = self._tunnel(request.tunnel_id)
        await self._link.refresh()
        view = self._link.view
        status = view.tunnels.get(tunnel.id) if view is not None else None
        return self.captures.start(request, tunnel.name, scope_of(request.view, tunnel, status))

    def stop(self, capture_id: str) -> CaptureStatus:
        """End a capture; raises UnknownCaptureError."""
        return self.captures.stop(capture_id)

    def remove(self, capture_id: str) -> None:
        """Delete a capture; raises UnknownCaptureError."""
        self.captures.remove(capture_id)

    def hand_out(self, capture_id: str) -> Path:
        """Return the file and write down that it was read; raises UnknownCaptureError and CaptureRefusedError."""
        path = self.captures.file(capture_id)
        status = self.captures.stop(capture_id)
        attributes = {"capture": capture_id, "view": status.view}
        text = f"Capture with {status.packets} {status.view} packets read by the console"
        self._journal.append("agent.capture-read", text, tunnel_id=status.tunnel_id, attributes=attributes)
        return path

    def _tunnel(self, tunnel_id: str) -> Tunnel | ManualTunnel:
        current = self._ledger.current
        if current is not None:
            document = current.document
            found: dict[str, Tunnel | ManualTunnel] = {each.id: each for each in document.tunnels}
            found |= {each.id: each for each in document.manual_tunnels}
            if tunnel_id in found:
                return found[tunnel_id]
        raise UnknownTunnelError("the configuration in force has no such tunnel")
