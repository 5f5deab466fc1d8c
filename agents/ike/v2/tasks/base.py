"""What every request of ours has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from agents.ike.errors import PeerError
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import Payload
from agents.ike.wire.registry import notify_name

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa


class Task(ABC):
    """One request: built when its turn comes, finished by the answer."""

    exchange: int

    @abstractmethod
    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the payloads of the request, or None when there is no need for it any more."""

    @abstractmethod
    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Handle the answer. A PeerError raised here comes back to :meth:`failed`."""

    def failed(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """Handle an answer that is not acceptable; by default that is only reported."""
        sa.report_error(error)

    def abandoned(self, sa: IkeSa, now: float) -> None:
        """Give back what an unanswered request holds: the SA ends. By default it holds nothing."""
        return None


def refusal(message: Message, codes: dict[int, str], what: str) -> PeerError | None:
    """Return the error an answer carries, or None; ``codes`` gives event codes by notify type."""
    notify = message.error()
    if notify is None:
        return None
    name = notify_name(notify.type)
    return PeerError(
        notify.type, codes.get(notify.type, "ike.peer-notify"), f"{what}: {name}", data=notify.data, received=name
    )
