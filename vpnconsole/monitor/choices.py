"""Words for tunnels and action jobs: one vocabulary for page, API and events."""

from __future__ import annotations

from django.db import models


class ConsoleState(models.TextChoices):
    """The state of a tunnel as the console tells it: what its gateways report, and what only the console can know."""

    NOT_DEPLOYED = "not-deployed", "not deployed"
    DEPLOYING = "deploying", "deploying"
    NEGOTIATING = "negotiating", "negotiating"
    UP = "up", "up"
    PARTLY_UP = "partly-up", "partly up"
    IDLE = "idle", "idle"
    DOWN = "down", "down"
    UNREACHABLE = "unreachable", "unreachable"
    DISABLED = "disabled", "disabled"


#: Something is wrong and a person should look.
PROBLEMS = frozenset({ConsoleState.DOWN, ConsoleState.PARTLY_UP, ConsoleState.UNREACHABLE})


class JobState(models.TextChoices):
    """Where an action is on its way to the gateway."""

    QUEUED = "queued", "queued"
    SENT = "sent", "sent"
    ACCEPTED = "accepted", "accepted"
    REFUSED = "refused", "refused"
    FAILED = "failed", "failed"
