"""States of an IKE SA and of a child, and which requests a state takes. Exchanges per RFC 7296 sections 1.2 to 1.4.

::

    initiator  INIT_SENT -> AUTHENTICATING -> ESTABLISHED -+-> REKEYED -> DELETING -> CLOSED
    responder  INIT_RECEIVED -> ESTABLISHED ---------------+

``REKEYED`` is the old SA after its successor took the children; it only waits for its Delete. ``CLOSED`` lingers to
answer retransmissions of the request that closed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from agents.ike.wire.registry import Exchange


class SaState(StrEnum):
    """State of one IKE SA; the values are what status shows."""

    INIT_SENT = "init-sent"
    INIT_RECEIVED = "init-received"
    AUTHENTICATING = "authenticating"
    ESTABLISHED = "established"
    REKEYED = "rekeyed"
    DELETING = "deleting"
    CLOSED = "closed"


class ChildState(StrEnum):
    """State of one pair of ESP SAs."""

    INSTALLING = "installing"
    INSTALLED = "installed"
    REKEYING = "rekeying"
    REPLACED = "replaced"
    DELETING = "deleting"
    GONE = "gone"


_STANDING: frozenset[int] = frozenset({Exchange.CREATE_CHILD_SA, Exchange.INFORMATIONAL, Exchange.IKE_FOLLOWUP_KE})

REQUESTS: Mapping[SaState, frozenset[int]] = MappingProxyType(
    {
        SaState.INIT_SENT: frozenset(),
        SaState.INIT_RECEIVED: frozenset({Exchange.IKE_AUTH, Exchange.IKE_INTERMEDIATE}),
        SaState.AUTHENTICATING: frozenset(),
        SaState.ESTABLISHED: _STANDING,
        SaState.REKEYED: _STANDING,
        SaState.DELETING: _STANDING,
        SaState.CLOSED: frozenset(),
    }
)
"""Requests a state takes; CREATE_CHILD_SA on an SA that is going is answered with TEMPORARY_FAILURE (2.25.2)."""

PROGRESSING = frozenset({SaState.INIT_SENT, SaState.INIT_RECEIVED, SaState.AUTHENTICATING})

LIVE_CHILD = frozenset({ChildState.INSTALLING, ChildState.INSTALLED, ChildState.REKEYING})
"""A child in one of these counts as "there": no other is made for it."""

UP_CHILD = frozenset({ChildState.INSTALLED, ChildState.REKEYING, ChildState.REPLACED})
"""A child in one of these carries traffic; a replaced one does until its Delete comes."""

STEP_TEXTS: Mapping[SaState, str] = MappingProxyType(
    {
        SaState.INIT_SENT: "waiting for the peer's first answer",
        SaState.INIT_RECEIVED: "waiting for the peer's authentication",
        SaState.AUTHENTICATING: "authenticating",
        SaState.ESTABLISHED: "negotiating IPsec SAs",
        SaState.REKEYED: "rekeyed",
        SaState.DELETING: "deleting",
    }
)
