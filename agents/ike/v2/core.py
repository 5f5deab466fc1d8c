"""What an IKE SA needs of the engine around it; the engine is the only implementation.

Continuations are called with the answer and the time, inside the engine's funnel; they must ask their SA whether it
still lives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from agents.contract.config import Retransmission
from agents.dataplane.base import Features, PolicySpec, SaId
from agents.ike.crypto.errors import IntegrityError
from agents.ike.errors import PeerError, WireError
from agents.ike.outputs import Entropy, Output, Path
from agents.ike.timers import Owner
from agents.ike.v2.tally import ExchangeTally

if TYPE_CHECKING:
    from agents.ike.questions import Questions
    from agents.ike.v2.child import ChildSa
    from agents.ike.v2.credentials import Credentials
    from agents.ike.v2.sa import IkeSa
    from agents.ike.v2.tunnel import TunnelRuntime

InstallContinuation = Callable[[str | None, float], None]
"""Called with None when the child is installed, or with the reason why not."""


class Core(Protocol):
    """The engine as its SAs and tunnels see it."""

    entropy: Entropy
    exchanges: ExchangeTally
    retransmission: Retransmission
    require_udp_encapsulation: bool
    features: Features | None
    addresses: frozenset[str] | None
    """This host's addresses; None while they are not known."""
    credentials: Credentials
    questions: Questions

    def emit(self, output: Output) -> None:
        """Queue one output."""
        ...

    def report(
        self,
        code: str,
        message: str,
        *,
        tunnel_id: str | None = None,
        received: str | None = None,
        configured: str | None = None,
        field: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Queue one report and count it."""
        ...

    def react(self, sa: IkeSa | None, error: WireError | PeerError | IntegrityError, now: float) -> None:
        """Turn a peer's fault into an answer, where one is due, and a report."""
        ...

    def pretends_nat(self, path: Path) -> bool:
        """Return whether a responder on this path asks for UDP encapsulation without a NAT."""
        ...

    def new_ike_spi(self) -> bytes:
        """Return 8 octets that name no other SA here."""
        ...

    def new_esp_spi(self) -> int:
        """Return an inbound SPI that no other child here has."""
        ...

    def free_esp_spi(self, spi: int) -> None:
        """Give an inbound SPI back."""
        ...

    def new_cpi(self) -> int:
        """Return an inbound CPI that no other child here has."""
        ...

    def free_cpi(self, cpi: int | None) -> None:
        """Give an inbound CPI back; None is none."""
        ...

    def reqid(self, tunnel_id: str, child: str, slot: int) -> int:
        """Return the reqid of this child and slot: the same as long as the tunnel is configured."""
        ...

    def protected_by_other(self, policies: Sequence[PolicySpec]) -> str | None:
        """Return the name of a tunnel one of whose children protects some of this traffic with another reqid."""
        ...

    def removed(self, child: ChildSa) -> None:
        """Note that an installed child leaves the data plane."""
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

    def touch(self, owner: Owner) -> None:
        """Look at the owner's deadline, and for a tunnel at its needs, when the present input is done."""
        ...

    def install(
        self,
        sa: IkeSa,
        child: ChildSa,
        *,
        replaces: tuple[SaId, ...],
        outbound_later: bool,
        then: InstallContinuation,
    ) -> None:
        """Ask for the child's SAs and policies."""
        ...

    def candidates(self, local_address: str, remote_address: str) -> tuple[TunnelRuntime, ...]:
        """Return the tunnels between these addresses that take an initiation by the peer, in document order."""
        ...
