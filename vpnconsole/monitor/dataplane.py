"""What the gateways of one tunnel count and keep for it: refused packets, queues, routes, filter, captures.

All of it is out of the last status of each managed end; an agent of an older version leaves it out, and then nothing is
shown of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

from django.utils import timezone

from agents.contract.captures import MOST_SECONDS
from agents.contract.codec import from_plain
from agents.contract.errors import DocumentError
from agents.contract.status import CaptureStatus, FilterCounters, QueueStatus, Rejections, RouteRecord, TunnelStatus
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import stops
from vpnconsole.monitor.models import CaptureJob, CounterSample, GatewayObservation
from vpnconsole.monitor.stops import Stop
from vpnconsole.vpn.models import Tunnel

T = TypeVar("T")

MOST_PAST_ROUTES = 10
TELLS_SINCE_SCHEMA = 4
"""The schema of a status from which on an agent tells all of this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """A reason to refuse packets, in plain words, and what helps."""

    word: str
    hint: str


REASONS: Mapping[str, Why] = MappingProxyType(
    {
        "integrity": Why(
            word="Failed authentication",
            hint="The ends have different keys, or the packets were changed on the way. Clear the IPsec SA; if it goes "
            "on, compare the IPsec policies of both ends.",
        ),
        "replayed": Why(
            word="Came a second time",
            hint="A few are normal where the path doubles packets. Many mean a loop, or that somebody sends recorded "
            "packets.",
        ),
        "late": Why(
            word="Too late",
            hint="The path puts packets in another order by more than the replay window. A larger window lets them in.",
        ),
        "malformed": Why(
            word="Unreadable inside",
            hint="Authentic, but no IP packet after decryption. The peer's software is at fault.",
        ),
        "selectors": Why(
            word="Outside the networks",
            hint="The peer sends traffic that this tunnel is not for. Mirror the protected networks on both ends.",
        ),
        "mode": Why(
            word="In the other mode",
            hint="One end uses tunnel mode, the other transport mode. Set the same on both ends.",
        ),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRow:
    """How many packets each managed end refused for one reason; None where its agent does not say."""

    name: str
    why: Why
    counts: tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRow:
    """A capture that the gateway has, or that was asked for; ``status`` is None until the gateway tells of it."""

    id: UUID
    gateway_id: UUID
    gateway_name: str
    view: str
    status: CaptureStatus | None
    job: CaptureJob | None
    #: When its time is over at the latest, by the console's clock.
    ends_at: datetime | None = None
    #: The last order to end it.
    asked_to_stop: Stop | None = None
    #: When its gateway was last heard, where it does not answer any more.
    old_since: datetime | None = None

    @property
    def overdue(self) -> bool:
        """Whether it ran when the gateway was last heard, and its time has passed since."""
        running = self.status is not None and self.status.running
        return running and self.ends_at is not None and self.ends_at <= timezone.now()

    @property
    def stop(self) -> Stop | None:
        """How the order to end it stands, for as long as it may be running still."""
        return self.asked_to_stop if self.state == "running" else None

    @property
    def state(self) -> str:
        """``running``, ``overdue``, ``done``, ``deleted``, or where the order is: ``queued``, ``sent``, ``refused``,
        ``failed``.
        """
        if self.status is not None:
            return "overdue" if self.overdue else "running" if self.status.running else "done"
        assert self.job is not None
        return "deleted" if self.job.state == "accepted" else self.job.state


@dataclass(frozen=True, slots=True, kw_only=True)
class EndPlane:
    """What one managed end counts and keeps for the tunnel."""

    gateway_id: UUID
    gateway_name: str
    read_at: datetime | None
    #: The time of that reading by the gateway's own clock.
    observed_at: float | None
    reachable: bool
    captures_possible: bool
    #: Whether the tunnel has an interface there on which what it carries is to be seen alone.
    own_interface: bool
    rejected: Rejections | None
    queues: tuple[QueueStatus, ...]
    #: What the queues send at most; None without a limit, and where the agent does not tell.
    rate_kbps: int | None
    filter: FilterCounters | None
    routes: tuple[RouteRecord, ...]
    past_routes: tuple[RouteRecord, ...]
    networks: tuple[str, ...]
    captures: tuple[CaptureStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelPlane:
    """Both ends' data planes of one tunnel. ``refused_lately`` are packets refused within the last hour, both ends."""

    ends: tuple[EndPlane, ...]
    refused: tuple[RefusedRow, ...]
    refused_lately: int
    captures: tuple[CaptureRow, ...]

    @property
    def queues(self) -> bool:
        """Whether any end has priority queues."""
        return any(end.queues for end in self.ends)

    @property
    def limited(self) -> bool:
        """Whether any end keeps to a rate."""
        return any(end.rate_kbps for end in self.ends)

    @property
    def filters(self) -> bool:
        """Whether any end tells what its packet filter counted."""
        return any(end.filter is not None for end in self.ends)

    @property
    def routes(self) -> bool:
        """Whether any end tells of routes."""
        return any(end.routes or end.past_routes or end.networks for end in self.ends)

    @property
    def sharing(self) -> tuple[str, ...]:
        """The gateways where inner packets are told apart by the tunnel's networks only."""
        return tuple(end.gateway_name for end in self.may_capture if not end.own_interface)

    @property
    def may_capture(self) -> tuple[EndPlane, ...]:
        """The ends whose agents can capture."""
        return tuple(end for end in self.ends if end.captures_possible)


def tunnel_plane(
    tunnel: Tunnel, statuses: Mapping[UUID, TunnelStatus | None], reachable: Collection[UUID]
) -> TunnelPlane:
    """Return what the managed ends tell of a tunnel; ``statuses`` has what each gateway last said of it."""
    managed = [end.gateway for end in sorted(tunnel.ends.all(), key=lambda end: end.side) if end.gateway.is_managed]
    # Only these parts: the status of a gateway with very many tunnels is long.
    parts = ("pk", "read_at", "status__observed_at", "status__schema", "status__route_ledger", "status__captures")
    rows = GatewayObservation.objects.filter(pk__in=[gateway.pk for gateway in managed]).values(*parts)
    seen = {row["pk"]: row for row in rows}
    ends = tuple(
        _end(str(tunnel.pk), gateway, seen.get(gateway.pk, {}), statuses.get(gateway.pk), gateway.pk in reachable)
        for gateway in managed
    )
    return TunnelPlane(
        ends=ends,
        refused=_refused(ends),
        refused_lately=_refused_lately(tunnel),
        captures=_captures(tunnel, ends),
    )


def _end(key: str, gateway: Gateway, seen: Mapping[str, Any], status: TunnelStatus | None, reachable: bool) -> EndPlane:
    tells = (seen.get("status__schema") or 0) >= TELLS_SINCE_SCHEMA
    routes = _listed(RouteRecord, seen.get("status__route_ledger"), key)
    standing = tuple(sorted((each for each in routes if each.until is None), key=lambda each: each.network))
    past = sorted((each for each in routes if each.until is not None), key=lambda each: -(each.until or 0.0))
    return EndPlane(
        gateway_id=gateway.pk,
        gateway_name=gateway.name,
        read_at=seen.get("read_at"),
        observed_at=seen.get("status__observed_at"),
        reachable=reachable,
        captures_possible=tells,
        own_interface=status is not None and status.interface is not None,
        rejected=status.rejected if status is not None and tells else None,
        queues=status.queues if status is not None else (),
        rate_kbps=status.rate_kbps if status is not None else None,
        filter=status.filter if status is not None else None,
        routes=standing,
        past_routes=tuple(past[:MOST_PAST_ROUTES]),
        networks=status.routes if status is not None and not standing else (),
        captures=tuple(_listed(CaptureStatus, seen.get("status__captures"), key)),
    )


def _listed(kind: type[T], plain: Any, tunnel_id: str) -> list[T]:
    """Return what is of the tunnel and can be read; what another version stored is replaced by the next poll."""
    found = []
    for each in plain or ():
        if each.get("tunnel_id") != tunnel_id:
            continue
        try:
            found.append(from_plain(kind, each))
        except DocumentError:
            continue
    return found


def _refused(ends: tuple[EndPlane, ...]) -> tuple[RefusedRow, ...]:
    rows = []
    for field in fields(Rejections):
        counts = tuple(getattr(end.rejected, field.name) if end.rejected is not None else None for end in ends)
        if any(counts):
            rows.append(RefusedRow(name=field.name, why=REASONS[field.name], counts=counts))
    return tuple(rows)


def _refused_lately(tunnel: Tunnel) -> int:
    """Return the packets refused in the last hour, as far as samples were kept."""
    since = timezone.now() - timedelta(hours=1)
    samples = CounterSample.objects.filter(tunnel=tunnel, at__gte=since).order_by("at")
    moved, last = 0, dict[UUID, int]()
    for gateway_id, count in samples.values_list("gateway_id", "rejected"):
        moved += max(0, count - last.get(gateway_id, count))
        last[gateway_id] = count
    return moved


def _captures(tunnel: Tunnel, ends: tuple[EndPlane, ...]) -> tuple[CaptureRow, ...]:
    """Return what the gateways have and what was asked for lately, the newest first."""
    jobs = {str(job.pk): job for job in tunnel.captures.select_related("gateway", "requested_by")[:20]}
    asked_to_stop = stops.last(UUID(each.id) for end in ends for each in end.captures if each.running)
    rows = []
    for end in ends:
        for status in end.captures:
            job = jobs.pop(status.id, None)
            rows.append(
                CaptureRow(
                    id=UUID(status.id),
                    gateway_id=end.gateway_id,
                    gateway_name=end.gateway_name,
                    view=status.view,
                    status=status,
                    job=job,
                    ends_at=_ends_at(end, status, job.seconds if job else MOST_SECONDS),
                    asked_to_stop=asked_to_stop.get(UUID(status.id)),
                    old_since=None if end.reachable else end.read_at,
                )
            )
    rows.sort(key=lambda row: -(row.status.started_at if row.status else 0.0))
    asked = [
        CaptureRow(
            id=job.pk, gateway_id=job.gateway_id, gateway_name=job.gateway.name, view=job.view, status=None, job=job
        )
        for job in jobs.values()
    ]
    waiting = [row for row in asked if row.job is not None and row.job.state in ("queued", "sent")]
    over = [row for row in asked if row not in waiting]
    return (*waiting, *rows, *over[:5])


def _ends_at(end: EndPlane, status: CaptureStatus, seconds: int) -> datetime | None:
    """Return when a capture is over at the latest, by how long it had to go: the gateway's clock may be wrong."""
    if end.read_at is None or end.observed_at is None:
        return None
    left = min(max(status.started_at + seconds - end.observed_at, -MOST_SECONDS), MOST_SECONDS)
    return end.read_at + timedelta(seconds=left)
