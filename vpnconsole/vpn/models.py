"""Intent: pre-shared keys, proposals, policies and tunnels. Names are NetBox's where it has one.

A tunnel is defined once, with two ends; both gateways' documents are derived from the same rows, so the ends cannot
disagree. Rules that need more than one row are in ``rules.py`` and applied by ``services.py``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import NamedTuple

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone

from agents.contract import algorithms
from agents.contract.carriage import RATES_KBPS
from agents.contract.secret import Secret
from vpnconsole.accounts.models import User
from vpnconsole.gateways.choices import IdentityTypeChoice
from vpnconsole.gateways.models import Gateway, GatewayContext
from vpnconsole.lib.fields import SLUG_VALIDATOR, PrefixField
from vpnconsole.lib.sealed import SealedField
from vpnconsole.vpn.choices import (
    ADDITIONAL_CHOICES,
    ESP_ENCRYPTION_CHOICES,
    GROUP_CHOICES,
    IKE_ENCRYPTION_CHOICES,
    INTEGRITY_CHOICES,
    PRF_CHOICES,
    QUEUE_CHOICES,
    AttachmentChoice,
    ConnectionTypeChoice,
    DfBitChoice,
    DpdActionChoice,
    ExchangeModeChoice,
    IkeVersionChoice,
    ModeChoice,
    PeerIdentityChoice,
    ReauthenticationChoice,
    SaDirection,
    SecretEncoding,
    SequenceNumbersChoice,
    Side,
    TunnelKindChoice,
    UniquePolicyChoice,
)

_SHORTEST_REAUTH_S = 60


def _between(low: int, high: int) -> list[MinValueValidator | MaxValueValidator]:
    return [MinValueValidator(low), MaxValueValidator(high)]


_SPI = [
    MinValueValidator(256, "SPIs of 1 to 255 are reserved (RFC 4303 section 2.1): use 256 (0x100) or more."),
    MaxValueValidator(2**32 - 1, "An SPI has 32 bits: 4294967295 (0xffffffff) is the last one."),
]


class PresharedKey(models.Model):
    """A key both ends of a tunnel know. Write-only: shown again only by a logged action."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    secret = SealedField()
    encoding = models.CharField(max_length=8, choices=SecretEncoding.choices, default=SecretEncoding.HEX)
    length_octets = models.PositiveIntegerField(editable=False)
    description = models.CharField(max_length=255, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now, editable=False)
    last_revealed_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return f"pre-shared key {self.name}"


class _Suite(models.Model):
    """What IKE and IPsec proposals share: a cipher (of their own tables) and, unless it is an AEAD, integrity."""

    encryption: models.CharField[str | None, str | None]
    name = models.CharField(max_length=100, unique=True)
    description = models.CharField(max_length=255, blank=True)
    integrity = models.CharField(max_length=32, choices=INTEGRITY_CHOICES, null=True, blank=True)  # noqa: DJ001 - None as in the contract
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True
        ordering = ["name"]

    def clean(self) -> None:
        """Refuse an AEAD with integrity and a cipher without."""
        super().clean()
        self.integrity = self.integrity or None
        cipher = algorithms.ENCRYPTION.get(self.encryption or "")
        if cipher is None:
            return
        if cipher.aead and self.integrity:
            raise ValidationError(
                {"integrity": f"{cipher.label} protects integrity itself: leave this empty."}, code="aead"
            )
        if not cipher.aead and not self.integrity:
            raise ValidationError(
                {"integrity": f"{cipher.label} needs an integrity algorithm beside it."}, code="required"
            )


class IKEProposal(_Suite):
    """One suite for the IKE SA; the additional key exchange is done beside the group (RFC 9370)."""

    encryption = models.CharField(max_length=32, choices=IKE_ENCRYPTION_CHOICES)
    prf = models.CharField("PRF", max_length=32, choices=PRF_CHOICES)
    group = models.CharField(
        "Diffie-Hellman group",
        max_length=32,
        choices=GROUP_CHOICES,
        error_messages={"blank": "IKE cannot agree on keys without a Diffie-Hellman group: choose one."},
    )

    additional_key_exchange = models.CharField(max_length=32, choices=ADDITIONAL_CHOICES, null=True, blank=True)  # noqa: DJ001 - None as in the contract

    class Meta(_Suite.Meta):
        verbose_name = "IKE proposal"

    def __str__(self) -> str:
        return f"IKE proposal {self.name}"

    def clean(self) -> None:
        """Refuse the same key exchange twice."""
        super().clean()
        self.additional_key_exchange = self.additional_key_exchange or None
        if self.additional_key_exchange == self.group:
            raise ValidationError(
                {"additional_key_exchange": "The group is this one already: choose another, or none."}, code="twice"
            )


class IPsecProposal(_Suite):
    """One suite of ESP, of AH (no encryption) or of ESP inside AH (both)."""

    encryption = models.CharField(max_length=32, choices=ESP_ENCRYPTION_CHOICES, null=True, blank=True)  # noqa: DJ001 - None as in the contract
    ah_integrity = models.CharField("AH", max_length=32, choices=INTEGRITY_CHOICES, null=True, blank=True)  # noqa: DJ001 - None as in the contract

    class Meta(_Suite.Meta):
        verbose_name = "IPsec proposal"

    def __str__(self) -> str:
        return f"IPsec proposal {self.name}"

    def clean(self) -> None:
        """Refuse a suite that protects nothing, and ESP's integrity where there is no ESP."""
        self.encryption = self.encryption or None
        self.ah_integrity = self.ah_integrity or None
        super().clean()
        if self.encryption is None and self.integrity:
            raise ValidationError({"integrity": "Without encryption there is no ESP: use the AH field."}, code="ah")
        if self.encryption is None and self.ah_integrity is None:
            raise ValidationError({"encryption": "Choose a cipher, or AH below, or both."}, code="required")


class IKEPolicy(models.Model):
    """How an IKE SA is negotiated and kept: proposals in order of preference, lifetime, liveness checks."""

    name = models.CharField(max_length=100, unique=True)
    description = models.CharField(max_length=255, blank=True)
    lifetime_s = models.PositiveIntegerField("Lifetime (s)", default=86_400, validators=_between(60, 99_999_999))
    lifetime_kilobytes = models.PositiveBigIntegerField(
        "Lifetime (kB, IKEv1)", default=0, validators=_between(0, 2**32 - 1), help_text="0 means no limit by volume"
    )
    exchange_mode = models.CharField(
        "Exchange mode (IKEv1)", max_length=16, choices=ExchangeModeChoice.choices, default=ExchangeModeChoice.MAIN
    )
    dpd_interval_s = models.PositiveIntegerField(
        "Liveness check every (s)", default=30, validators=_between(0, 86_400), help_text="0 turns the checks off"
    )
    dpd_action = models.CharField(
        "When the peer is gone", max_length=16, choices=DpdActionChoice.choices, default=DpdActionChoice.RESTART
    )
    reauth_s = models.PositiveIntegerField(
        "Reauthenticate every (s)", default=0, validators=_between(0, 99_999_999), help_text="0 means never"
    )
    reauthentication = models.CharField(
        max_length=20, choices=ReauthenticationChoice.choices, default=ReauthenticationChoice.MAKE_BEFORE_BREAK
    )
    keepalive_s = models.PositiveIntegerField(
        "NAT keepalive every (s)", default=20, validators=_between(0, 3_600), help_text="0 turns them off"
    )
    mobike = models.BooleanField("Follow address changes (MOBIKE)", default=True)
    fragmentation = models.BooleanField("Fragment large IKE messages", default=True)
    unique = models.CharField(
        "Second IKE SA of the same peer",
        max_length=16,
        choices=UniquePolicyChoice.choices,
        default=UniquePolicyChoice.REPLACE,
    )
    proposals = models.ManyToManyField(IKEProposal, through="IKEPolicyProposal", related_name="policies")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        verbose_name = "IKE policy"

    def __str__(self) -> str:
        return f"IKE policy {self.name}"

    def clean(self) -> None:
        """Refuse reauthentication at a pace nothing could keep."""
        super().clean()
        if 0 < self.reauth_s < _SHORTEST_REAUTH_S:
            raise ValidationError({"reauth_s": f"At least {_SHORTEST_REAUTH_S} s, or 0 for never."}, code="min_value")

    def ordered_proposals(self) -> list[IKEProposal]:
        """Return the proposals, most preferred first (free of queries after ``vpn.queries``)."""
        return [link.proposal for link in self.proposal_links.all()]


class IPsecPolicy(models.Model):
    """How child SAs are negotiated and kept; an empty ``pfs_group`` means no further key exchange for them."""

    name = models.CharField(max_length=100, unique=True)
    description = models.CharField(max_length=255, blank=True)
    lifetime_s = models.PositiveIntegerField("Lifetime (s)", default=3_600, validators=_between(60, 99_999_999))
    lifetime_bytes = models.PositiveBigIntegerField(
        "Lifetime (octets)", default=0, validators=_between(0, 2**63 - 1), help_text="0 means no limit"
    )
    lifetime_packets = models.PositiveBigIntegerField(
        "Lifetime (packets)", default=0, validators=_between(0, 2**63 - 1), help_text="0 means no limit"
    )
    replay_window = models.PositiveIntegerField(
        default=64, validators=_between(0, 4096), help_text="packets; 0 turns replay protection off"
    )
    mode = models.CharField(max_length=16, choices=ModeChoice.choices, default=ModeChoice.TUNNEL)
    sequence_numbers = models.CharField(
        max_length=16, choices=SequenceNumbersChoice.choices, default=SequenceNumbersChoice.NORMAL
    )
    ipcomp = models.BooleanField("Compress (IPComp)", default=False)
    pfs_group = models.CharField("PFS group", max_length=32, choices=GROUP_CHOICES, null=True, blank=True)  # noqa: DJ001 - None as in the contract
    proposals = models.ManyToManyField(IPsecProposal, through="IPsecPolicyProposal", related_name="policies")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        verbose_name = "IPsec policy"

    def __str__(self) -> str:
        return f"IPsec policy {self.name}"

    def clean(self) -> None:
        """Bring no group into one form."""
        super().clean()
        self.pfs_group = self.pfs_group or None

    def ordered_proposals(self) -> list[IPsecProposal]:
        """Return the proposals, most preferred first (free of queries after ``vpn.queries``)."""
        return [link.proposal for link in self.proposal_links.all()]


class IKEPolicyProposal(models.Model):
    """The place of a proposal in an IKE policy; 1 is preferred most."""

    policy = models.ForeignKey(IKEPolicy, on_delete=models.CASCADE, related_name="proposal_links")
    proposal = models.ForeignKey(IKEProposal, on_delete=models.PROTECT, related_name="policy_links")
    seq = models.PositiveSmallIntegerField(validators=_between(1, 16))

    class Meta:
        ordering = ["seq"]
        constraints = [
            models.UniqueConstraint(fields=["policy", "seq"], name="ike_policy_seq_once"),
            models.UniqueConstraint(fields=["policy", "proposal"], name="ike_policy_proposal_once"),
        ]

    def __str__(self) -> str:
        return str(self.policy)


class IPsecPolicyProposal(models.Model):
    """The place of a proposal in an IPsec policy; 1 is preferred most."""

    policy = models.ForeignKey(IPsecPolicy, on_delete=models.CASCADE, related_name="proposal_links")
    proposal = models.ForeignKey(IPsecProposal, on_delete=models.PROTECT, related_name="policy_links")
    seq = models.PositiveSmallIntegerField(validators=_between(1, 16))

    class Meta:
        ordering = ["seq"]
        constraints = [
            models.UniqueConstraint(fields=["policy", "seq"], name="ipsec_policy_seq_once"),
            models.UniqueConstraint(fields=["policy", "proposal"], name="ipsec_policy_proposal_once"),
        ]

    def __str__(self) -> str:
        return str(self.policy)


class QosPolicy(models.Model):
    """How many queues a tunnel's outbound packets wait in: one, or four with strict priority by DSCP.

    ``rate_kbps`` is what four let go at most, at each end; empty means no limit.
    """

    name = models.CharField(max_length=100, unique=True)
    description = models.CharField(max_length=255, blank=True)
    queues = models.PositiveSmallIntegerField(choices=QUEUE_CHOICES, default=4)
    rate_kbps = models.PositiveIntegerField("Rate (kbit/s)", null=True, blank=True, validators=_between(*RATES_KBPS))
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        verbose_name = "QoS policy"
        verbose_name_plural = "QoS policies"

    def __str__(self) -> str:
        return f"QoS policy {self.name}"

    def clean(self) -> None:
        """Refuse a rate where there is one queue."""
        super().clean()
        if self.rate_kbps is not None and self.queues == 1:
            raise ValidationError(
                {"rate_kbps": "A rate needs four queues: with one there is nothing to let pass."}, code="queues"
            )


class Policies(NamedTuple):
    """What a tunnel negotiates by."""

    ike_policy: IKEPolicy
    ipsec_policy: IPsecPolicy


class Tunnel(models.Model):
    """A tunnel of one of three kinds; ``mtu`` empty lets the data plane compute it.

    ``static`` and ``manual`` ones have two ends. An ``on-demand`` one has end A only; whoever proves the peer identity
    may be at the other end, ``most_peers`` at a time. Manual keys are with the selector pairs: nothing is negotiated,
    so there are neither policies nor a pre-shared key.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=63, unique=True, validators=[SLUG_VALIDATOR])
    description = models.CharField(max_length=255, blank=True)
    kind = models.CharField(max_length=16, choices=TunnelKindChoice.choices, default=TunnelKindChoice.STATIC)
    enabled = models.BooleanField(default=True)
    disabled_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    disabled_at = models.DateTimeField(null=True, blank=True)
    version = models.CharField(
        "IKE version", max_length=16, choices=IkeVersionChoice.choices, default=IkeVersionChoice.V2
    )
    ike_policy = models.ForeignKey(
        IKEPolicy, null=True, blank=True, on_delete=models.PROTECT, related_name="tunnels", verbose_name="IKE policy"
    )
    ipsec_policy = models.ForeignKey(
        IPsecPolicy,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="tunnels",
        verbose_name="IPsec policy",
    )
    psk = models.ForeignKey(
        PresharedKey,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="tunnels",
        verbose_name="Pre-shared key",
    )
    peer_identity_type = models.CharField(max_length=8, choices=PeerIdentityChoice.choices, blank=True)
    peer_identity_value = models.CharField(max_length=256, blank=True)
    most_peers = models.PositiveIntegerField("Peers at a time", default=50, validators=_between(1, 8_000))
    mtu = models.PositiveIntegerField("MTU", null=True, blank=True, validators=_between(256, 65_535))
    force_udp_encapsulation = models.BooleanField("Always encapsulate in UDP", default=False)
    add_routes = models.BooleanField("Add routes to the remote networks", default=True)
    attachment = models.CharField(max_length=16, choices=AttachmentChoice.choices, default=AttachmentChoice.SHARED)
    df_bit = models.CharField("DF bit", max_length=16, choices=DfBitChoice.choices, default=DfBitChoice.PROPAGATE)
    copy_dscp = models.BooleanField("Copy the DSCP to the outer header", default=True)
    clamp_tcp_mss = models.BooleanField("Clamp TCP's segment size", default=False)
    qos_policy = models.ForeignKey(
        QosPolicy, null=True, blank=True, on_delete=models.PROTECT, related_name="tunnels", verbose_name="QoS policy"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                name="tunnel_negotiates_or_manual",
                condition=models.Q(kind="manual", ike_policy=None, ipsec_policy=None, psk=None)
                | models.Q(ike_policy__isnull=False, ipsec_policy__isnull=False, psk__isnull=False),
                violation_error_message="A tunnel has policies and a key, or manual keys.",
            )
        ]

    def __str__(self) -> str:
        return f"tunnel {self.name}"

    @property
    def is_manual(self) -> bool:
        """Whether its keys are written down rather than negotiated."""
        return self.kind == TunnelKindChoice.MANUAL

    @property
    def is_on_demand(self) -> bool:
        """Whether its peers come from anywhere."""
        return self.kind == TunnelKindChoice.ON_DEMAND

    @property
    def allows_v1(self) -> bool:
        """Whether IKEv1 may be spoken."""
        return self.version != IkeVersionChoice.V2 and not self.is_manual

    @property
    def exchange_mode(self) -> str:
        """The mode of phase 1 where IKEv1 may be spoken, else an empty text."""
        return self.policies.ike_policy.exchange_mode if self.allows_v1 else ""

    @property
    def policies(self) -> Policies:
        """What it negotiates by; raises ValueError for one with manual keys."""
        if self.ike_policy is None or self.ipsec_policy is None:
            raise ValueError(f"{self} negotiates nothing")
        return Policies(self.ike_policy, self.ipsec_policy)

    @property
    def preshared_key(self) -> PresharedKey:
        """What its ends prove themselves by; raises ValueError for one with manual keys."""
        if self.psk is None:
            raise ValueError(f"{self} has manual keys")
        return self.psk

    @property
    def queues(self) -> int:
        """1, or 4 with strict priority."""
        return self.qos_policy.queues if self.qos_policy else 1

    def ipsec_policy_of(self, pair: SelectorPair) -> IPsecPolicy:
        """What a pair's SAs are negotiated by; raises ValueError for a tunnel with manual keys."""
        return pair.ipsec_policy or self.policies.ipsec_policy

    @property
    def own_policies(self) -> int:
        """How many of its pairs have an IPsec policy of their own (free of queries after ``vpn.queries``)."""
        return sum(pair.ipsec_policy_id is not None for pair in self.selectors.all())

    def policy_choices(self, pairs: Iterable[SelectorPair]) -> list[tuple[str, IKEPolicy | IPsecPolicy]]:
        """Return each choice of a policy with the form's field: those of the tunnel, then those of ``pairs``."""
        return [("ike_policy", self.policies.ike_policy), *self.ipsec_choices(pairs)]

    def ipsec_choices(self, pairs: Iterable[SelectorPair]) -> list[tuple[str, IPsecPolicy]]:
        """Return each choice of an IPsec policy with the form's field: the tunnel's, then those of ``pairs``."""
        chosen = [("ipsec_policy", self.policies.ipsec_policy)]
        for index, pair in enumerate(pairs):
            if pair.ipsec_policy is not None:
                chosen.append((f"selectors.{index}.ipsec_policy", pair.ipsec_policy))
        return chosen

    @property
    def rate_kbps(self) -> int | None:
        """What each end sends at most."""
        return self.qos_policy.rate_kbps if self.qos_policy else None

    @property
    def end_a(self) -> TunnelEnd:
        """The end on side A (free of queries after ``vpn.queries``)."""
        return self._end(Side.A)

    @property
    def end_b(self) -> TunnelEnd:
        """The end on side B; raises TunnelEnd.DoesNotExist for an on-demand tunnel."""
        return self._end(Side.B)

    def _end(self, side: str) -> TunnelEnd:
        for end in self.ends.all():
            if end.side == side:
                return end
        raise TunnelEnd.DoesNotExist(f"{self} has no end {side}")


class TunnelEnd(models.Model):
    """One end: which gateway, from which address, under which identity, who may start, and how it routes."""

    tunnel = models.ForeignKey(Tunnel, on_delete=models.CASCADE, related_name="ends")
    side = models.CharField(max_length=1, choices=Side.choices)
    gateway = models.ForeignKey(Gateway, on_delete=models.PROTECT, related_name="tunnel_ends")
    address = models.GenericIPAddressField(unpack_ipv4=True)
    identity_type = models.CharField(max_length=8, choices=IdentityTypeChoice.choices)
    identity_value = models.CharField(max_length=256)
    connection_type = models.CharField(
        max_length=16, choices=ConnectionTypeChoice.choices, default=ConnectionTypeChoice.BOTH
    )
    #: None is the gateway's main table, called ``local``.
    context = models.ForeignKey(
        GatewayContext, null=True, blank=True, on_delete=models.PROTECT, related_name="tunnel_ends"
    )
    #: That of its outer packets: which table says where they leave. None is ``local`` again.
    endpoint_context = models.ForeignKey(
        GatewayContext, null=True, blank=True, on_delete=models.PROTECT, related_name="tunnel_endpoints"
    )
    route_cost = models.PositiveIntegerField(default=0, validators=_between(0, 65_535))

    class Meta:
        ordering = ["side"]
        constraints = [models.UniqueConstraint(fields=["tunnel", "side"], name="tunnel_side_once")]
        indexes = [models.Index(fields=["gateway", "address"])]

    def __str__(self) -> str:
        return str(self.tunnel)


class TunnelRoute(models.Model):
    """A network that one end's gateway reaches through the tunnel; of several ways to it the lowest cost is used."""

    end = models.ForeignKey(TunnelEnd, on_delete=models.CASCADE, related_name="routes")
    network = PrefixField()
    cost = models.PositiveIntegerField(default=1, validators=_between(0, 65_535))

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["end", "network"], name="tunnel_route_once")]

    def __str__(self) -> str:
        return self.network


class SelectorPair(models.Model):
    """Inner traffic between two networks: one child SA pair. Port ranges are inclusive; protocol 0 is any.

    ``place`` orders the pairs of a tunnel as rules; ``seq`` names the child for as long as the pair stands, wherever it
    is moved to. ``ipsec_policy`` None is the tunnel's.
    """

    tunnel = models.ForeignKey(Tunnel, on_delete=models.CASCADE, related_name="selectors")
    place = models.PositiveSmallIntegerField(default=0, validators=_between(0, 64))
    seq = models.PositiveSmallIntegerField(validators=_between(1, 64))
    network_a = PrefixField()
    network_b = PrefixField()
    protocol = models.PositiveSmallIntegerField(default=0, validators=_between(0, 255))
    port_a_start = models.PositiveIntegerField(default=0, validators=_between(0, 65_535))
    port_a_end = models.PositiveIntegerField(default=65_535, validators=_between(0, 65_535))
    port_b_start = models.PositiveIntegerField(default=0, validators=_between(0, 65_535))
    port_b_end = models.PositiveIntegerField(default=65_535, validators=_between(0, 65_535))
    ipsec_policy = models.ForeignKey(
        IPsecPolicy,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="selector_pairs",
        verbose_name="IPsec policy",
    )

    class Meta:
        ordering = ["place", "seq"]
        constraints = [models.UniqueConstraint(fields=["tunnel", "seq"], name="tunnel_selector_seq_once")]

    def __str__(self) -> str:
        return f"{self.network_a} - {self.network_b}"


class ManualChild(models.Model):
    """What the manual SAs of one selector pair have in common; both ends are made from it."""

    pair = models.OneToOneField(SelectorPair, on_delete=models.CASCADE, related_name="manual")
    mode = models.CharField(max_length=16, choices=ModeChoice.choices, default=ModeChoice.TUNNEL)
    replay_window = models.PositiveIntegerField(default=0, validators=_between(0, 4096))
    ipcomp = models.BooleanField("Compress (IPComp)", default=False)

    def __str__(self) -> str:
        return str(self.pair)

    def sa(self, direction: str) -> ManualSa | None:
        """Return the SA of that direction (seen from end A), the one for both where there is only that."""
        rows = {row.direction: row for row in self.sas.all()}
        return rows.get(direction) or rows.get(SaDirection.BOTH)


class ManualSa(models.Model):
    """One written-down SA: ESP where ``esp_spi`` is set, AH where ``ah_spi`` is. Its keys are write-only.

    ``in`` and ``out`` are seen from end A: what goes out of A comes in at B.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    child = models.ForeignKey(ManualChild, on_delete=models.CASCADE, related_name="sas")
    direction = models.CharField(max_length=4, choices=SaDirection.choices)
    esp_spi = models.BigIntegerField("ESP SPI", null=True, blank=True, validators=_SPI)
    encryption = models.CharField(max_length=32, choices=ESP_ENCRYPTION_CHOICES, null=True, blank=True)  # noqa: DJ001 - None as in the contract
    encryption_key = SealedField(null=True)  # type: ignore[misc]  # read by key()
    integrity = models.CharField(max_length=32, choices=INTEGRITY_CHOICES, null=True, blank=True)  # noqa: DJ001 - None as in the contract
    integrity_key = SealedField(null=True)  # type: ignore[misc]  # read by key()
    ah_spi = models.BigIntegerField("AH SPI", null=True, blank=True, validators=_SPI)
    ah_integrity = models.CharField("AH", max_length=32, choices=INTEGRITY_CHOICES, null=True, blank=True)  # noqa: DJ001 - None as in the contract
    ah_key = SealedField(null=True)  # type: ignore[misc]  # read by key()
    updated_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-direction"]
        constraints = [models.UniqueConstraint(fields=["child", "direction"], name="manual_sa_direction_once")]

    def __str__(self) -> str:
        return f"manual SA of {self.child}"

    def key(self, name: str) -> Secret | None:
        """Return one of its three keys by field, None where it has none."""
        secret: Secret | None = getattr(self, name)
        return secret
