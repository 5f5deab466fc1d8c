"""States of an ISAKMP SA and of a child, and which message of phase 1 a state waits for (RFC 2409 sections 5.1 to 5.4).

::

    Main Mode        initiator  SA_SENT -> KE_SENT -> ID_SENT -+
                     responder  SA_ANSWERED -> KE_ANSWERED ----+-> ESTABLISHED -> CLOSED
    Aggressive Mode  initiator  AGGRESSIVE_SENT ---------------+
                     responder  AGGRESSIVE_ANSWERED -----------+

A Delete is not answered in IKEv1, so there is no state between ESTABLISHED and CLOSED.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from agents.ike.wire.isakmp.registry import Exchange


class SaState(StrEnum):
    """State of one ISAKMP SA; the values are what status shows."""

    SA_SENT = "sa-sent"
    KE_SENT = "ke-sent"
    ID_SENT = "id-sent"
    AGGRESSIVE_SENT = "aggressive-sent"
    SA_ANSWERED = "sa-answered"
    KE_ANSWERED = "ke-answered"
    AGGRESSIVE_ANSWERED = "aggressive-answered"
    ESTABLISHED = "established"
    CLOSED = "closed"


class ChildState(StrEnum):
    """State of one pair of IPsec SAs. ``REPLACED`` is one whose successor is in place; it carries what still comes."""

    INSTALLING = "installing"
    INSTALLED = "installed"
    REPLACED = "replaced"
    GONE = "gone"


EXPECTED: Mapping[SaState, tuple[Exchange, int]] = MappingProxyType(
    {
        SaState.SA_SENT: (Exchange.MAIN, 2),
        SaState.KE_SENT: (Exchange.MAIN, 4),
        SaState.ID_SENT: (Exchange.MAIN, 6),
        SaState.SA_ANSWERED: (Exchange.MAIN, 3),
        SaState.KE_ANSWERED: (Exchange.MAIN, 5),
        SaState.AGGRESSIVE_SENT: (Exchange.AGGRESSIVE, 2),
        SaState.AGGRESSIVE_ANSWERED: (Exchange.AGGRESSIVE, 3),
    }
)
"""The message a state waits for: exchange and number."""

PROGRESSING = frozenset(EXPECTED)
INITIATED = frozenset({SaState.SA_SENT, SaState.KE_SENT, SaState.ID_SENT, SaState.AGGRESSIVE_SENT})

LIVE_CHILD = frozenset({ChildState.INSTALLING, ChildState.INSTALLED})
"""A child in one of these counts as "there": no other is made for it."""

UP_CHILD = frozenset({ChildState.INSTALLED, ChildState.REPLACED})
"""A child in one of these carries traffic."""

STEP_TEXTS: Mapping[SaState, str] = MappingProxyType(
    {
        SaState.SA_SENT: "waiting for the peer's first answer",
        SaState.KE_SENT: "waiting for the peer's key exchange",
        SaState.ID_SENT: "authenticating",
        SaState.AGGRESSIVE_SENT: "waiting for the peer's answer",
        SaState.SA_ANSWERED: "waiting for the peer's key exchange",
        SaState.KE_ANSWERED: "waiting for the peer's authentication",
        SaState.AGGRESSIVE_ANSWERED: "waiting for the peer's authentication",
        SaState.ESTABLISHED: "negotiating IPsec SAs",
    }
)
"""What is under way, as status shows it."""
