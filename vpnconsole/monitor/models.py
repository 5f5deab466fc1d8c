"""What gateways reported, with the time it was read. Polls write here and nowhere else; nothing here changes intent.

Counter totals are monotonic: the poll adds what came since the last reading, so an agent that counts from its start (or
lost what it had counted) does not take traffic back.
"""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models

from agents.contract.events import KINDS
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor.choices import JobState
from vpnconsole.vpn.models import Tunnel


class GatewayObservation(models.Model):
    """The last status of one gateway and how its polls fare; ``status`` is the plain form of a GatewayStatus."""

    gateway = models.OneToOneField(Gateway, primary_key=True, on_delete=models.CASCADE, related_name="observation")
    status = models.JSONField(null=True, blank=True)
    #: When the last status was read; None while the agent was never reached.
    read_at = models.DateTimeField(null=True, blank=True)
    reachable = models.BooleanField(default=False)
    #: Since when ``reachable`` has its value.
    reachable_since = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)
    failures = models.PositiveIntegerField(default=0)
    next_poll_at = models.DateTimeField(null=True, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    boot_id = models.CharField(max_length=64, blank=True)
    #: Counts the agent's journals: a reinstalled agent starts again at sequence 1.
    event_epoch = models.PositiveIntegerField(default=0)
    last_event = models.BigIntegerField(default=0)
    #: Events the agent dropped before they were fetched.
    events_missed = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"observation of {self.gateway}"


class TunnelObservation(models.Model):
    """One tunnel as one of its gateways last reported it; ``data`` is the plain form of a TunnelStatus."""

    tunnel = models.ForeignKey(Tunnel, on_delete=models.CASCADE, related_name="observations")
    gateway = models.ForeignKey(Gateway, on_delete=models.CASCADE, related_name="tunnel_observations")
    #: False when the gateway's last status did not list the tunnel.
    present = models.BooleanField(default=True)
    state = models.CharField(max_length=20)
    since = models.DateTimeField()
    step = models.CharField(max_length=200, blank=True)
    reason = models.JSONField(null=True, blank=True)
    data = models.JSONField(default=dict)
    read_at = models.DateTimeField()
    boot_id = models.CharField(max_length=64, blank=True)
    raw_bytes_in = models.BigIntegerField(default=0)
    raw_bytes_out = models.BigIntegerField(default=0)
    raw_packets_in = models.BigIntegerField(default=0)
    raw_packets_out = models.BigIntegerField(default=0)
    bytes_in = models.BigIntegerField(default=0)
    bytes_out = models.BigIntegerField(default=0)
    packets_in = models.BigIntegerField(default=0)
    packets_out = models.BigIntegerField(default=0)
    #: Bits per second between the last two readings; None before the second one.
    rate_in_bps = models.FloatField(null=True, blank=True)
    rate_out_bps = models.FloatField(null=True, blank=True)
    #: When the last counter sample was kept.
    sampled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tunnel", "gateway"], name="tunnel_observation_once")]

    def __str__(self) -> str:
        return f"{self.tunnel} on {self.gateway}: {self.state}"


class CounterSample(models.Model):
    """Cumulative totals of one tunnel on one gateway at one time; kept every 10 s for 48 h."""

    tunnel = models.ForeignKey(Tunnel, on_delete=models.CASCADE, related_name="+")
    gateway = models.ForeignKey(Gateway, on_delete=models.CASCADE, related_name="+")
    at = models.DateTimeField(db_index=True)
    bytes_in = models.BigIntegerField()
    bytes_out = models.BigIntegerField()
    packets_in = models.BigIntegerField()
    packets_out = models.BigIntegerField()
    #: Packets the gateway refused, for whatever reason, as it counts them.
    rejected = models.BigIntegerField(default=0)

    class Meta:
        indexes = [models.Index(fields=["tunnel", "gateway", "at"])]

    def __str__(self) -> str:
        return f"sample at {self.at}"


class EventRecord(models.Model):
    """One journal entry of one agent, stored once. ``id`` orders events across gateways as the console learnt them."""

    gateway = models.ForeignKey(Gateway, on_delete=models.CASCADE, related_name="events")
    epoch = models.PositiveIntegerField(default=0)
    sequence = models.BigIntegerField()
    at = models.DateTimeField(db_index=True)
    code = models.CharField(max_length=64, db_index=True)
    severity = models.CharField(max_length=10, db_index=True)
    message = models.TextField()
    tunnel = models.ForeignKey(Tunnel, null=True, blank=True, on_delete=models.SET_NULL, related_name="events")
    received = models.TextField(null=True, blank=True)  # noqa: DJ001 -- None and "" differ in an event
    configured = models.TextField(null=True, blank=True)  # noqa: DJ001
    field = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001
    attributes = models.JSONField(default=dict)
    stored_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["gateway", "epoch", "sequence"], name="event_stored_once")]

    def __str__(self) -> str:
        return f"{self.code} on {self.gateway}"

    @property
    def summary(self) -> str:
        """What the event's code means, in a few words."""
        return KINDS[self.code].summary if self.code in KINDS else self.code

    @property
    def action(self) -> str:
        """What an operator can do about it, or nothing."""
        return KINDS[self.code].action if self.code in KINDS else ""


class Order(models.Model):
    """What a person asked of a gateway; its id is the agent's proof against doing it twice."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    gateway = models.ForeignKey(Gateway, on_delete=models.CASCADE, related_name="+")
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    state = models.CharField(max_length=10, choices=JobState.choices, default=JobState.QUEUED)
    message = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    sent_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True
        ordering = ["-created_at"]

    @property
    def about(self) -> tuple[str, uuid.UUID]:
        """The kind and the id of what pages show it with."""
        return "gateway", self.gateway_id


class ActionJob(Order):
    """One verb a person sent to one end of one tunnel."""

    tunnel = models.ForeignKey(Tunnel, on_delete=models.CASCADE, related_name="actions")
    verb = models.CharField(max_length=20)

    class Meta(Order.Meta):
        pass

    def __str__(self) -> str:
        return f"{self.verb} on {self.gateway}: {self.state}"

    @property
    def about(self) -> tuple[str, uuid.UUID]:
        """Its tunnel."""
        return "tunnel", self.tunnel_id


class CaptureJob(Order):
    """One packet capture a person asked for; its id is the capture's on the gateway, which alone has the packets."""

    tunnel = models.ForeignKey(Tunnel, on_delete=models.CASCADE, related_name="captures")
    view = models.CharField(max_length=10)
    seconds = models.PositiveIntegerField()
    octets = models.PositiveIntegerField()

    class Meta(Order.Meta):
        permissions = [("capture_traffic", "Can capture the traffic of tunnels, trace gateways and download both")]

    def __str__(self) -> str:
        return f"capture of {self.view} packets on {self.gateway}: {self.state}"

    @property
    def about(self) -> tuple[str, uuid.UUID]:
        """Its tunnel."""
        return "tunnel", self.tunnel_id


class TraceJob(Order):
    """One trace of a gateway a person asked for; its id is the trace's on the gateway, which alone has the records."""

    #: Slugs of :class:`agents.contract.traces.Category`.
    categories = models.JSONField(default=list)
    seconds = models.PositiveIntegerField()
    octets = models.PositiveIntegerField()
    #: 4 or 6: packets of one IP version only.
    version = models.PositiveSmallIntegerField(null=True, blank=True)

    class Meta(Order.Meta):
        pass

    def __str__(self) -> str:
        return f"trace on {self.gateway}: {self.state}"


class StopJob(Order):
    """The end of a capture or trace that a person asked for; ``target`` is its id on the gateway, whoever began it.

    A capture has a tunnel, a trace has none.
    """

    tunnel = models.ForeignKey(Tunnel, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    target = models.UUIDField(db_index=True)

    class Meta(Order.Meta):
        pass

    def __str__(self) -> str:
        return f"end of {'trace' if self.tunnel_id is None else 'capture'} on {self.gateway}: {self.state}"

    @property
    def about(self) -> tuple[str, uuid.UUID]:
        """Its tunnel, or the gateway."""
        return ("gateway", self.gateway_id) if self.tunnel_id is None else ("tunnel", self.tunnel_id)
