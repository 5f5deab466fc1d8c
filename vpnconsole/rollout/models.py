"""What was decided for each gateway (revisions), who ordered it (deployments) and how far it came (deliveries).

A revision never changes. Its document is sealed, because it holds pre-shared keys; ``content_digest`` and the digests
in ``tunnels`` are keyed (HMAC), so the database is no oracle for a weak key.
"""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models

from vpnconsole.gateways.models import Gateway
from vpnconsole.lib.sealed import SealedField
from vpnconsole.rollout.choices import FAULTY, UNFINISHED, DeliveryState


class Deployment(models.Model):
    """One press of Deploy: it has one delivery per gateway it concerns."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    note = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"deployment {self.created_at:%Y-%m-%d %H:%M:%S}"


class Revision(models.Model):
    """One compiled document of one gateway; the ledger of what the console ever meant it to be."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    gateway = models.ForeignKey(Gateway, on_delete=models.CASCADE, related_name="revisions")
    generation = models.BigIntegerField()
    document = SealedField()
    digest = models.CharField(max_length=64)
    content_digest = models.CharField(max_length=64)
    #: Tunnel id -> keyed digest of the tunnel's part: tells which tunnels a revision has and which it changed.
    tunnels = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    deployment = models.ForeignKey(
        Deployment, null=True, blank=True, on_delete=models.SET_NULL, related_name="revisions"
    )

    class Meta:
        ordering = ["-generation"]
        constraints = [models.UniqueConstraint(fields=["gateway", "generation"], name="revision_generation_once")]

    def __str__(self) -> str:
        return f"{self.gateway} generation {self.generation}"


class Delivery(models.Model):
    """One gateway's part of a deployment. Tasks move ``state`` by compare-and-set only."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="deliveries")
    gateway = models.ForeignKey(Gateway, on_delete=models.CASCADE, related_name="deliveries")
    revision = models.ForeignKey(Revision, null=True, blank=True, on_delete=models.SET_NULL, related_name="deliveries")
    state = models.CharField(max_length=20, choices=DeliveryState.choices, default=DeliveryState.WAITING, db_index=True)
    step = models.CharField(max_length=200, default="Waiting for a worker")
    percent = models.PositiveSmallIntegerField(default=0)
    attempts = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True)
    refused_path = models.CharField(max_length=200, blank=True)
    refused_message = models.TextField(blank=True)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    #: Waits for the gateway to answer at all: the first successful poll sends it on its way again.
    awaits_contact = models.BooleanField(default=False)
    claimed_by = models.CharField(max_length=64, blank=True)
    claimed_until = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["gateway__name"]
        verbose_name_plural = "deliveries"
        constraints = [models.UniqueConstraint(fields=["deployment", "gateway"], name="delivery_once_per_gateway")]

    def __str__(self) -> str:
        return f"delivery to {self.gateway}: {self.get_state_display()}"

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state not in UNFINISHED

    @property
    def faulty(self) -> bool:
        """Whether a person has to do something."""
        return self.state in FAULTY


class GatewayRollout(models.Model):
    """What a gateway last said it holds and has in force; written from its status, never from intent."""

    gateway = models.OneToOneField(Gateway, primary_key=True, on_delete=models.CASCADE, related_name="rollout")
    accepted_generation = models.BigIntegerField(default=0)
    accepted_digest = models.CharField(max_length=64, blank=True)
    applied_generation = models.BigIntegerField(default=0)
    refused_generation = models.BigIntegerField(default=0)
    refused_path = models.CharField(max_length=200, blank=True)
    refused_message = models.TextField(blank=True)
    read_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.gateway} holds generation {self.accepted_generation}"
