"""Questions about authentication that only the shell can answer: a PSK, a signature, whether a chain is good.

Each is an output; its answer is an input that goes on with what the SA that asked wanted to do. What nobody waits for
any more, because the SA is gone or has its answer, is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from agents.contract.config import Identity, Tunnel
from agents.contract.secret import Secret
from agents.ike.crypto.errors import IntegrityError
from agents.ike.errors import PeerError, WireError
from agents.ike.outputs import FindPsk, Output, Sign, Validate, Verdict

_Answer = TypeVar("_Answer")

Continuation = Callable[[_Answer, float], None]
"""Called with the answer and the time, inside the engine's funnel; it must ask its SA whether it still wants it."""


class Reactor(Protocol):
    """Who answers for what goes wrong in a step: an SA, a tunnel or a machine."""

    @property
    def version(self) -> str:
        """The IKE version: ``v1`` or ``v2``."""
        ...

    def react(self, error: WireError | PeerError | IntegrityError, now: float) -> None:
        """Turn a peer's fault into an answer, where one is due, and a report."""
        ...

    def abandon(self) -> None:
        """A bug of ours ended the step: leave no request half answered."""
        ...


class Waiting(Generic[_Answer]):
    """Who waits for which answer of one kind."""

    def __init__(self) -> None:
        self._by_number: dict[int, tuple[Reactor, Continuation[_Answer]]] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def add(self, number: int, asker: Reactor, then: Continuation[_Answer]) -> None:
        """Note that ``asker`` waits for the answer to request ``number``."""
        self._by_number[number] = (asker, then)

    def take(self, number: int) -> tuple[Reactor, Continuation[_Answer]] | None:
        """Return who waits and what for, once; None when nobody does."""
        return self._by_number.pop(number, None)

    def drop(self, asker: Reactor) -> None:
        """Forget what it asked."""
        for number in [number for number, (each, _) in self._by_number.items() if each is asker]:
            del self._by_number[number]


class Questions:
    """All that is asked and not answered."""

    def __init__(self, emit: Callable[[Output], None]) -> None:
        self.psks: Waiting[Secret | None] = Waiting()
        self.signatures: Waiting[bytes | None] = Waiting()
        self.verdicts: Waiting[Verdict] = Waiting()
        self._emit = emit
        self._last = 0

    def find_psk(
        self, asker: Reactor, config: Tunnel, then: Continuation[Secret | None], shown: Identity | None = None
    ) -> None:
        """Ask for the PSK of this tunnel; ``shown`` is the peer's identity where the tunnel's is partial."""
        self.psks.add(number := self._next(), asker, then)
        self._emit(
            FindPsk(
                request_id=number,
                tunnel_id=config.id,
                local_address=config.local.address,
                remote_address=config.remote.address,
                local_identity=config.local.identity,
                remote_identity=config.remote.identity,
                shown_identity=shown,
            )
        )

    def sign(
        self,
        asker: Reactor,
        config: Tunnel,
        certificate_id: str,
        signature: str,
        octets: bytes,
        then: Continuation[bytes | None],
    ) -> None:
        """Ask for a signature by the key of one of our certificates."""
        self.signatures.add(number := self._next(), asker, then)
        self._emit(
            Sign(
                request_id=number,
                tunnel_id=config.id,
                certificate=certificate_id,
                signature=signature,
                octets=octets,
            )
        )

    def validate(
        self,
        asker: Reactor,
        config: Tunnel,
        chain: tuple[bytes, ...],
        shown: tuple[int, bytes],
        then: Continuation[Verdict],
    ) -> None:
        """Ask whether a chain proves this identity (type and data of the ID payload) to the tunnel."""
        self.verdicts.add(number := self._next(), asker, then)
        self._emit(
            Validate(
                request_id=number,
                tunnel_id=config.id,
                chain=chain,
                id_type=shown[0],
                id_data=shown[1],
                policy=config.remote_auth,
            )
        )

    def pending(self) -> int:
        """Return how many answers are waited for."""
        return len(self.psks) + len(self.signatures) + len(self.verdicts)

    def drop(self, asker: Reactor) -> None:
        """Forget what it asked: it is gone."""
        self.psks.drop(asker)
        self.signatures.drop(asker)
        self.verdicts.drop(asker)

    def _next(self) -> int:
        self._last += 1
        return self._last
