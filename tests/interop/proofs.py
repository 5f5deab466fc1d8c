"""How the two ends of a cell prove who they are, where that is not the pre-shared key of every cell."""

from __future__ import annotations

from typing import Protocol

from agents.contract.config import GatewayDocument
from deploy.lab.vici import Message, Vici


class Proof(Protocol):
    """Puts credentials where each end wants them."""

    def put_ours(self, document: GatewayDocument) -> GatewayDocument:
        """Return our document with certificates, anchors and authentication."""

    def put_theirs(self, connection: Message) -> None:
        """Change strongSwan's connection."""

    def load_theirs(self, vici: Vici) -> None:
        """Load keys, CAs and revocation data into strongSwan."""
