"""Fixed choices about tunnels, with the words people see. Algorithms come from the contract's tables."""

from __future__ import annotations

from django.db import models

from agents.contract import algorithms


class Side(models.TextChoices):
    """The two ends of a tunnel; the letters carry no rank."""

    A = "a", "A"
    B = "b", "B"


class TunnelKindChoice(models.TextChoices):
    """How the ends of a tunnel come to their keys; the values are the contract's, and ``manual``."""

    STATIC = "static", "Static"
    ON_DEMAND = "on-demand", "On-demand"
    MANUAL = "manual", "Manual keys"


class PeerIdentityChoice(models.TextChoices):
    """What the peers of an on-demand tunnel call themselves; the values are the contract's."""

    FQDN = "fqdn", "Domain name"
    EMAIL = "email", "E-mail address"
    IPV4 = "ipv4", "IPv4 address"
    IPV6 = "ipv6", "IPv6 address"
    KEY_ID = "key-id", "Key ID"
    DN = "dn", "Distinguished name"
    ANY = "any", "Anything"


class SaDirection(models.TextChoices):
    """Which way a manual SA protects, seen from end A."""

    BOTH = "both", "Both ways"
    IN = "in", "B to A"
    OUT = "out", "A to B"


class AttachmentChoice(models.TextChoices):
    """Whether a tunnel has an interface of its own; the values are the contract's."""

    SHARED = "shared", "Shared (economical): policies choose what goes through"
    INTERFACE = "interface", "An interface of its own (circuit-based): routes choose"


class DfBitChoice(models.TextChoices):
    """The outer header's Don't Fragment bit; the values are the contract's."""

    PROPAGATE = "propagate", "As in the inner packet"
    SET = "set", "Always set"
    CLEAR = "clear", "Always clear"


class SecretEncoding(models.TextChoices):
    """How the text of a pre-shared key becomes octets."""

    HEX = "hex", "Hexadecimal"
    ASCII = "ascii", "Text (ASCII)"


class ConnectionTypeChoice(models.TextChoices):
    """Who may start the negotiation; the values are the contract's."""

    BOTH = "both", "Start and answer"
    INITIATOR_ONLY = "initiator-only", "Start only"
    RESPONDER_ONLY = "responder-only", "Answer only"


class IkeVersionChoice(models.TextChoices):
    """Which IKE versions may be spoken; the values are the contract's."""

    V2 = "v2", "IKEv2"
    V2_ELSE_V1 = "v2-else-v1", "IKEv2, else IKEv1"
    V1 = "v1", "IKEv1"


class ExchangeModeChoice(models.TextChoices):
    """Phase 1 of IKEv1; the values are the contract's."""

    MAIN = "main", "Main Mode"
    AGGRESSIVE = "aggressive", "Aggressive Mode"


class DpdActionChoice(models.TextChoices):
    """What happens when the peer stops answering; the values are the contract's."""

    RESTART = "restart", "Negotiate again at once"
    CLEAR = "clear", "Stay down until the peer or an operator starts"
    HOLD = "hold", "Negotiate again when traffic asks for it"


class ReauthenticationChoice(models.TextChoices):
    """Order of new and old IKE SA; the values are the contract's."""

    MAKE_BEFORE_BREAK = "make-before-break", "New SA first, then the old one ends"
    BREAK_BEFORE_MAKE = "break-before-make", "Old SA ends first (short interruption)"


class UniquePolicyChoice(models.TextChoices):
    """What a second IKE SA of the same peer does; the values are the contract's."""

    REPLACE = "replace", "Replaces the first"
    KEEP = "keep", "Is refused while the first stands"
    NEVER = "never", "Stands beside the first"


class ModeChoice(models.TextChoices):
    """IPsec mode; the values are the contract's."""

    TUNNEL = "tunnel", "Tunnel: between networks"
    TRANSPORT = "transport", "Transport: between the two gateways themselves"


class SequenceNumbersChoice(models.TextChoices):
    """Extended sequence numbers; the values are the contract's."""

    NORMAL = "normal", "32 bits"
    PREFER_EXTENDED = "prefer-extended", "64 bits where the peer can, else 32"
    EXTENDED = "extended", "64 bits only"


IKE_ENCRYPTION_CHOICES = [(row.slug, row.label) for row in algorithms.ENCRYPTION.values() if row.ike]
ESP_ENCRYPTION_CHOICES = [(row.slug, row.label) for row in algorithms.ENCRYPTION.values() if row.esp]
INTEGRITY_CHOICES = [(row.slug, row.label) for row in algorithms.INTEGRITY.values()]
PRF_CHOICES = [(row.slug, row.label) for row in algorithms.PSEUDO_RANDOM.values()]
GROUP_CHOICES = [(row.slug, row.label) for row in algorithms.KEY_EXCHANGE.values() if not row.additional_only]
ADDITIONAL_CHOICES = [
    (row.slug, row.label)
    for row in sorted(algorithms.KEY_EXCHANGE.values(), key=lambda row: not row.additional_only)
    if not row.legacy
]
QUEUE_CHOICES = [(1, "1: no priority"), (4, "4: strict priority by DSCP")]
