"""Gateways, managed ones and extranet peers, how they enrol, and the fleet's certificate authority.

What a gateway reports of itself is not here (``monitor``), nor what it is to do (``vpn``, ``rollout``).
"""

from __future__ import annotations

import ipaddress
import re
import uuid

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone

from agents.contract.carriage import Context
from agents.contract.config import Identity, IdentityType
from agents.contract.errors import FieldError
from vpnconsole.accounts.models import User
from vpnconsole.gateways import profiles
from vpnconsole.gateways.choices import DataPlaneChoice, GatewayKind, IdentityTypeChoice
from vpnconsole.lib.fields import SLUG_VALIDATOR, PrefixField
from vpnconsole.lib.sealed import SealedField

_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        # Digits and dots that are no address are a slip of the pen, not a name.
        return bool(_HOST_NAME.fullmatch(text)) and not text.replace(".", "").isdigit()
    return True


class Gateway(models.Model):
    """A machine that ends tunnels. Managed ones run our agent; of extranet ones we know addresses and identities."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=63, unique=True, validators=[SLUG_VALIDATOR])
    kind = models.CharField(max_length=16, choices=GatewayKind.choices, default=GatewayKind.MANAGED)
    description = models.CharField(max_length=255, blank=True)
    agent_host = models.CharField(max_length=255, blank=True, help_text="address or name the console dials")
    agent_port = models.PositiveIntegerField(default=8470, validators=[MinValueValidator(1), MaxValueValidator(65_535)])
    data_plane = models.CharField(max_length=16, choices=DataPlaneChoice.choices, default=DataPlaneChoice.AUTO)
    allow_legacy = models.BooleanField("Allow legacy algorithms", default=False)
    packet_filter = models.BooleanField("Packet filter", default=False)
    profile = models.CharField("Make", max_length=32, choices=profiles.CHOICES, default=profiles.GENERIC)
    enrolled_at = models.DateTimeField(null=True, blank=True, editable=False)
    certificate_pem = models.TextField(blank=True, editable=False)
    certificate_serial = models.CharField(max_length=40, blank=True, editable=False)
    agent_version = models.CharField(max_length=64, blank=True, editable=False)
    last_contact_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_contact_error = models.CharField(max_length=500, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return f"gateway {self.name}"

    def clean(self) -> None:
        """Refuse what nobody could dial, and a foreign make for a gateway that runs our agent."""
        super().clean()
        if self.is_managed and self.profile != profiles.GENERIC:
            message = "A gateway we run has no make of its own: this is for extranet gateways."
            raise ValidationError({"profile": message}, code="managed")
        if self.agent_host and not _is_host(self.agent_host):
            message = f"{self.agent_host!r} is neither an address nor a host name; the port has a field of its own."
            raise ValidationError({"agent_host": message}, code="host")

    @property
    def is_managed(self) -> bool:
        """Whether our agent runs there."""
        return self.kind == GatewayKind.MANAGED

    @property
    def peer(self) -> profiles.Profile:
        """What is known of its make."""
        return profiles.get(self.profile)

    @property
    def is_enrolled(self) -> bool:
        """Whether its agent holds a certificate of ours."""
        return self.enrolled_at is not None


class GatewayAddress(models.Model):
    """An outer address tunnels may end on, and the IKE identity shown from it; none means the address itself."""

    gateway = models.ForeignKey(Gateway, on_delete=models.CASCADE, related_name="addresses")
    address = models.GenericIPAddressField(unpack_ipv4=True)
    identity_type = models.CharField(max_length=16, choices=IdentityTypeChoice.choices, blank=True)
    identity_value = models.CharField(max_length=256, blank=True)
    label = models.CharField(max_length=100, blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["gateway", "address"], name="gateway_address_once")]

    def __str__(self) -> str:
        return self.address

    def clean(self) -> None:
        """Refuse what no tunnel can end on."""
        super().clean()
        try:
            address = ipaddress.ip_address(self.address)
        except ValueError:
            return  # the field says so already
        if address.version == 6 and address.is_link_local:
            message = f"{address} means something else on every link: use a global or unique local address."
            raise ValidationError({"address": message}, code="link_local")
        if address.is_unspecified or address.is_multicast:
            raise ValidationError({"address": f"{address} is not the address of one machine."}, code="unicast")
        if self.identity_value:
            try:
                Identity(type=IdentityType(self.identity_type), value=self.identity_value)
            except FieldError as error:
                raise ValidationError({"identity_value": f"This identity {error.problem}."}, code="identity") from None


class ProtectedNetwork(models.Model):
    """A network behind a gateway: what tunnel forms offer as selectors."""

    gateway = models.ForeignKey(Gateway, on_delete=models.CASCADE, related_name="protected_networks")
    prefix = PrefixField()

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["gateway", "prefix"], name="gateway_network_once")]

    def __str__(self) -> str:
        return self.prefix


class GatewayContext(models.Model):
    """A routing context of a gateway beside its main table: a VRF where the kernel has them, else a table by rules."""

    gateway = models.ForeignKey(Gateway, on_delete=models.CASCADE, related_name="contexts")
    name = models.CharField(max_length=63, validators=[SLUG_VALIDATOR])
    table = models.PositiveBigIntegerField()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["gateway", "name"], name="gateway_context_once"),
            models.UniqueConstraint(fields=["gateway", "table"], name="gateway_context_table_once"),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Refuse what the contract refuses: the main table's name, the kernel's own tables."""
        super().clean()
        if not self.name or self.table is None:
            return  # the fields say so already
        try:
            Context(name=self.name, table=self.table)
        except FieldError as error:
            subject = "The name" if error.field == "name" else "The table"
            raise ValidationError({error.field: f"{subject}: {error.problem}."}, code="context") from None


class EnrolmentToken(models.Model):
    """A one-time token by which a gateway's agent gets its certificate; the id is public, the secret is not."""

    id = models.CharField(primary_key=True, max_length=16)
    gateway = models.ForeignKey(Gateway, on_delete=models.CASCADE, related_name="enrolment_tokens")
    secret = SealedField()
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)
    used_from = models.CharField(max_length=64, blank=True)
    invalidated_at = models.DateTimeField(null=True, blank=True)
    refusals = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"enrolment token {self.id}"


class FleetCA(models.Model):
    """The authority of the fleet (one row) and the console's own client certificate under it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    singleton = models.BooleanField(default=True, unique=True, editable=False)
    key = SealedField()
    certificate_pem = models.TextField()
    console_key = SealedField()
    console_certificate_pem = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(singleton=True), name="fleet_ca_is_one_row")]

    def __str__(self) -> str:
        return "fleet CA"
