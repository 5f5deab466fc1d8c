"""States of a delivery and what they mean for progress; one table for page, API and tasks."""

from __future__ import annotations

from django.db import models


class DeliveryState(models.TextChoices):
    """Where one gateway's part of a deployment is."""

    WAITING = "waiting", "waiting"
    COMPILING = "compiling", "compiling"
    PUSHING = "pushing", "pushing"
    WAITING_GATEWAY = "waiting-gateway", "waiting for the gateway"
    ACCEPTED = "accepted", "accepted"
    APPLIED = "applied", "applied"
    UNCHANGED = "unchanged", "nothing to change"
    REFUSED = "refused", "refused"
    FAILED = "failed", "failed"
    SUPERSEDED = "superseded", "superseded"


#: The gateway still has something to come: shown as pending, looked after by the sweep.
UNFINISHED = frozenset(
    {
        DeliveryState.WAITING,
        DeliveryState.COMPILING,
        DeliveryState.PUSHING,
        DeliveryState.WAITING_GATEWAY,
        DeliveryState.ACCEPTED,
    }
)

#: A person has to do something before this delivery can succeed.
FAULTY = frozenset({DeliveryState.REFUSED, DeliveryState.FAILED})

PERCENT = {
    DeliveryState.WAITING: 0,
    DeliveryState.COMPILING: 20,
    DeliveryState.PUSHING: 50,
    DeliveryState.WAITING_GATEWAY: 50,
    DeliveryState.ACCEPTED: 80,
    DeliveryState.APPLIED: 100,
    DeliveryState.UNCHANGED: 100,
    DeliveryState.REFUSED: 100,
    DeliveryState.FAILED: 100,
    DeliveryState.SUPERSEDED: 100,
}
