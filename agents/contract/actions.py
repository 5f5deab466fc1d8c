"""The one-shot verbs an operator may send: ``POST /v1/actions``. They are not configuration."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verb(StrEnum):
    """What to do to one tunnel; seed 003 section 11 for the two clears."""

    INITIATE = "initiate"
    TERMINATE = "terminate"
    REKEY_IKE = "rekey-ike"
    REKEY_CHILD = "rekey-child"
    CLEAR_IKE = "clear-ike"
    CLEAR_IPSEC = "clear-ipsec"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One verb for one tunnel; ``id`` makes a repeated request harmless: the agent performs an id once."""

    id: str
    verb: Verb
    tunnel_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResult:
    """Whether the verb was taken on; what came of it shows in status and events."""

    id: str
    accepted: bool
    message: str
