"""Where something of IKEv1 was read: phase, message and exchange, as words for people and as attributes of events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents.ike.v1.states import EXPECTED
from agents.ike.wire.header import NO_SPI, Header
from agents.ike.wire.isakmp.registry import Exchange, Flag, exchange_name

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa

_PHASE_1 = (Exchange.MAIN, Exchange.AGGRESSIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Phase, number of the message where it is known, exchange like ``main-mode``, and in phase 2 the child's name."""

    phase: int
    exchange: str
    message: int | None = None
    child: str | None = None

    @property
    def sentence(self) -> str:
        """Return the place as the second half of a sentence."""
        message = "" if self.message is None else f", message {self.message}"
        of_child = "" if self.child is None else f", child {self.child}"
        return f"in IKE phase {self.phase}{message} ({self.exchange}){of_child}"

    @property
    def attributes(self) -> dict[str, str]:
        """Return the parts for an event."""
        message = {} if self.message is None else {"message": str(self.message)}
        child = {} if self.child is None else {"child": self.child}
        return {"phase": str(self.phase), **message, "exchange": self.exchange, **child}


def phase1(sa: IsakmpSa, message: int | None = None) -> Place:
    """Return the place of a message of phase 1: that which came or went last, unless its number is given."""
    return Place(phase=1, message=message or sa.exchange.step or None, exchange=exchange_name(sa.exchange.number))


def quick(message: int, child: str | None = None) -> Place:
    """Return the place of a message of Quick Mode."""
    return Place(phase=2, message=message, exchange=exchange_name(Exchange.QUICK), child=child)


def of(header: Header, sa: IsakmpSa | None) -> Place | None:
    """Return the place of a message that has come and that nothing has taken yet; None where its header says nothing.

    ``sa`` is the one that the message bears the cookies of.
    """
    name = exchange_name(header.exchange)
    if header.exchange in _PHASE_1:
        begins = header.spi_r == NO_SPI and (sa is None or not sa.initiator)
        expected = None if sa is None else EXPECTED.get(sa.state, (None, None))[1]
        return Place(phase=1, message=1 if begins else expected, exchange=name)
    if header.exchange == Exchange.QUICK:
        known = None if sa is None else sa.exchanges.get(header.message_id)
        first = None if sa is None else 1
        return Place(phase=2, message=first if known is None else known.step + 1, exchange=name)
    if header.exchange == Exchange.INFORMATIONAL:
        under_way = sa is not None and sa.progressing
        return Place(phase=2 if header.flags & Flag.ENCRYPTED and not under_way else 1, exchange=name)
    return None
