"""What an IKE SA needs of the machine around it; :class:`agents.ike.v2.machine.Machine` is the only implementation.

Continuations are called with the answer and the time, inside the funnel; they must ask their SA whether it still lives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from agents.ike.crypto.errors import IntegrityError
from agents.ike.errors import PeerError, WireError
from agents.ike.outputs import Path
from agents.ike.tally import ExchangeTally

if TYPE_CHECKING:
    from agents.ike.fallback import Turns
    from agents.ike.hub import Hub
    from agents.ike.v2.sa import IkeSa
    from agents.ike.v2.tunnel import TunnelRuntime
    from agents.ike.wire.payloads import Identification


class Core(Protocol):
    """The machine as its SAs and tunnels see it; ``hub`` is what both IKE versions share."""

    hub: Hub
    turns: Turns
    version: str
    exchanges: ExchangeTally

    def react(self, error: WireError | PeerError | IntegrityError, now: float) -> None:
        """Report a fault that is no SA's."""
        ...

    def react_for(self, sa: IkeSa | None, error: WireError | PeerError | IntegrityError, now: float) -> None:
        """Turn a peer's fault into an answer, where one is due, and a report."""
        ...

    def pretends_nat(self, path: Path) -> bool:
        """Return whether a responder on this path asks for UDP encapsulation without a NAT."""
        ...

    def new_ike_spi(self) -> bytes:
        """Return 8 octets that name no other SA here."""
        ...

    def register(self, sa: IkeSa) -> None:
        """Route messages for the SA's own SPI to it."""
        ...

    def unregister(self, sa: IkeSa) -> None:
        """Forget the SA."""
        ...

    def authenticated(self, sa: IkeSa) -> None:
        """Note that a responder's SA is no longer half open."""
        ...

    def admit(self, sa: IkeSa, shown: Identification) -> TunnelRuntime:
        """Return the tunnel of a peer that has proven this identity: a new one where it comes on demand."""
        ...

    def candidates(self, local_address: str, remote_address: str) -> tuple[TunnelRuntime, ...]:
        """Return the tunnels between these addresses that take an initiation by the peer, in document order."""
        ...
