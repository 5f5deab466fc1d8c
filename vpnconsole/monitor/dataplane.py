"""What the gateways of one tunnel count and keep for it: refused packets, queues, routes, filter, captures.

All of it is out of the last status of each managed end; an agent of an older version leaves it out, and then nothing is
shown of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

from django.utils import timezone

from agents.contract.codec import from_plain
from agents.contract.errors import DocumentError
from agents.contract.status import CaptureStatus, FilterCounters, QueueStatus, Rejections, RouteRecord, TunnelStatus
from vpnconsole.monitor.models import CaptureJob, CounterSample, GatewayObservation
from vpnconsole.vpn.models import Tunnel

T = TypeVar("T")

MOST_PAST_ROUTES = 10


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

    @property
    def state(self) -> str:
        """``running``, ``done``, ``deleted``, or where the order is: ``queued``, ``sent``, ``refused``, ``failed``."""
        if self.status is not None:
            return "running" if self.status.running else "done"
        assert self.job is not None
        return "deleted" if self.job.state == "accepted" else self.job.state


@dataclass(frozen=True, slots=True, kw_only=True)
class EndPlane:
    """What one managed end counts and keeps for the tunnel."""

    gateway_id: UUID
    gateway_name: str
    read_at: datetime | None
    captures_possible: bool
    rejected: Rejections | None
    queues: tuple[QueueStatus, ...]
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
    def filters(self) -> bool:
        """Whether any end tells what its packet filter counted."""
        return any(end.filter is not None for end in self.ends)

    @property
    def routes(self) -> bool:
        """Whether any end tells of routes."""
        return any(end.routes or end.past_routes or end.networks for end in self.ends)

    @property
    def may_capture(self) -> tuple[EndPlane, ...]:
        """The ends whose agents can capture."""
        return tuple(end for end in self.ends if end.captures_possible)


def tunnel_plane(tunnel: Tunnel, statuses: Mapping[UUID, TunnelStatus | None]) -> TunnelPlane:
    """Return what the managed ends tell of a tunnel; ``statuses`` has what each gateway last said of it."""
    managed = [end.gateway for end in sorted(tunnel.ends.all(), key=lambda end: end.side) if end.gateway.is_managed]
    seen = {row.pk: row for row in GatewayObservation.objects.filter(pk__in=[gateway.pk for gateway in managed])}
    ends = tuple(
        _end(str(tunnel.pk), gateway.pk, gateway.name, seen.get(gateway.pk), statuses.get(gateway.pk))
        for gateway in managed
    )
    return TunnelPlane(
        ends=ends,
        refused=_refused(ends),
        refused_lately=_refused_lately(tunnel),
        captures=_captures(tunnel, ends),
    )


def _end(
    key: str, gateway_id: UUID, name: str, seen: GatewayObservation | None, status: TunnelStatus | None
) -> EndPlane:
    whole: dict[str, Any] = (seen.status if seen else None) or {}
    tells = int(whole.get("schema", 0)) >= 4
    routes = [record for record in _listed(RouteRecord, whole.get("route_ledger", ())) if record.tunnel_id == key]
    standing = tuple(sorted((each for each in routes if each.until is None), key=lambda each: each.network))
    past = sorted((each for each in routes if each.until is not None), key=lambda each: -(each.until or 0.0))
    return EndPlane(
        gateway_id=gateway_id,
        gateway_name=name,
        read_at=seen.read_at if seen else None,
        captures_possible=tells,
        rejected=status.rejected if status is not None and tells else None,
        queues=status.queues if status is not None else (),
        filter=status.filter if status is not None else None,
        routes=standing,
        past_routes=tuple(past[:MOST_PAST_ROUTES]),
        networks=status.routes if status is not None and not standing else (),
        captures=tuple(each for each in _listed(CaptureStatus, whole.get("captures", ())) if each.tunnel_id == key),
    )


def _listed(kind: type[T], plain: Any) -> list[T]:
    """Return what can be read; rows stored by another version of the console are replaced by the next poll."""
    found = []
    for each in plain:
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
