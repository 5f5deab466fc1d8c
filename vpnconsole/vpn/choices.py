"""Fixed choices about tunnels, with the words people see. Algorithms come from the contract's tables."""

from __future__ import annotations

from django.db import models

from agents.contract import algorithms


class Side(models.TextChoices):
    """The two ends of a tunnel; the letters carry no rank."""

    A = "a", "A"
    B = "b", "B"


class SecretEncoding(models.TextChoices):
    """How the text of a pre-shared key becomes octets."""

    HEX = "hex", "Hexadecimal"
    ASCII = "ascii", "Text (ASCII)"


class ConnectionTypeChoice(models.TextChoices):
    """Who may start the negotiation; the values are the contract's."""

    BOTH = "both", "Start and answer"
    INITIATOR_ONLY = "initiator-only", "Start only"
    RESPONDER_ONLY = "responder-only", "Answer only"


ENCRYPTION_CHOICES = [(row.slug, row.label) for row in algorithms.ENCRYPTION.values()]
INTEGRITY_CHOICES = [(row.slug, row.label) for row in algorithms.INTEGRITY.values()]
PRF_CHOICES = [(row.slug, row.label) for row in algorithms.PSEUDO_RANDOM.values()]
GROUP_CHOICES = [(row.slug, row.label) for row in algorithms.KEY_EXCHANGE.values()]
