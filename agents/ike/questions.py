"""Questions about authentication that only the shell can answer: a PSK, a signature, whether a chain is good.

Each is an output; its answer is an input that goes on with what the SA that asked wanted to do. What nobody waits for
any more, because the SA is gone or has its answer, is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from agents.contract.config import Identity
from agents.contract.secret import Secret
from agents.ike.outputs import FindPsk, Output, Sign, Validate, Verdict
from agents.ike.wire.payloads import Identification

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa
    from agents.ike.v2.tunnel import TunnelRuntime

_Answer = TypeVar("_Answer")

Continuation = Callable[[_Answer, float], None]
"""Called with the answer and the time, inside the engine's funnel; it must ask its SA whether it still wants it."""


class Waiting(Generic[_Answer]):
    """Who waits for which answer of one kind."""

    def __init__(self) -> None:
        self._by_number: dict[int, tuple[IkeSa, Continuation[_Answer]]] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def add(self, number: int, sa: IkeSa, then: Continuation[_Answer]) -> None:
        """Note that ``sa`` waits for the answer to request ``number``."""
        self._by_number[number] = (sa, then)

    def take(self, number: int) -> tuple[IkeSa, Continuation[_Answer]] | None:
        """Return who waits and what for, once; None when nobody does."""
        return self._by_number.pop(number, None)

    def drop(self, sa: IkeSa) -> None:
        """Forget what this SA asked."""
        for number in [number for number, (each, _) in self._by_number.items() if each is sa]:
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
        self, sa: IkeSa, tunnel: TunnelRuntime, then: Continuation[Secret | None], shown: Identity | None = None
    ) -> None:
        """Ask for the PSK of this tunnel; ``shown`` is the peer's identity where the tunnel's is partial."""
        config = tunnel.config
        self.psks.add(number := self._next(), sa, then)
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
        self, sa: IkeSa, certificate_id: str, signature: str, octets: bytes, then: Continuation[bytes | None]
    ) -> None:
        """Ask for a signature by the key of one of our certificates."""
        assert sa.tunnel is not None
        self.signatures.add(number := self._next(), sa, then)
        self._emit(
            Sign(
                request_id=number,
                tunnel_id=sa.tunnel.config.id,
                certificate=certificate_id,
                signature=signature,
                octets=octets,
            )
        )

    def validate(self, sa: IkeSa, chain: tuple[bytes, ...], shown: Identification, then: Continuation[Verdict]) -> None:
        """Ask whether a chain proves this identity to the SA's tunnel."""
        assert sa.tunnel is not None
        self.verdicts.add(number := self._next(), sa, then)
        self._emit(
            Validate(
                request_id=number,
                tunnel_id=sa.tunnel.config.id,
                chain=chain,
                id_type=shown.id_type,
                id_data=shown.data,
                policy=sa.tunnel.config.remote_auth,
            )
        )

    def pending(self) -> int:
        """Return how many answers are waited for."""
        return len(self.psks) + len(self.signatures) + len(self.verdicts)

    def drop(self, sa: IkeSa) -> None:
        """Forget what this SA asked: it is gone."""
        self.psks.drop(sa)
        self.signatures.drop(sa)
        self.verdicts.drop(sa)

    def _next(self) -> int:
        self._last += 1
        return self._last
