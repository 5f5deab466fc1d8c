"""Traffic over time out of the kept samples; by direction between the ends, as everywhere in this app."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.utils import timezone

from vpnconsole.monitor.models import CounterSample
from vpnconsole.vpn.models import Tunnel, TunnelEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Traffic at one time, in bits per second; None where nothing was read."""

    at: datetime
    a_to_b_bps: float | None
    b_to_a_bps: float | None


def series(tunnel_id: UUID, minutes: int = 60) -> tuple[Point, ...]:
    """Return a tunnel's traffic of the last ``minutes``, one point per kept sample."""
    end = counting_end(Tunnel.objects.prefetch_related("ends__gateway").get(pk=tunnel_id))
    if end is None:
        return ()
    since = timezone.now() - timedelta(minutes=minutes)
    samples = CounterSample.objects.filter(tunnel_id=tunnel_id, gateway_id=end.gateway_id, at__gte=since)
    points = []
    previous: CounterSample | None = None
    for sample in samples.order_by("at"):
        if previous is not None:
            elapsed_s = (sample.at - previous.at).total_seconds()
            # A hole in the readings stays a hole: no line is drawn through what nobody saw.
            known = 0 < elapsed_s <= 60
            out = (sample.bytes_out - previous.bytes_out) * 8 / elapsed_s if known else None
            into = (sample.bytes_in - previous.bytes_in) * 8 / elapsed_s if known else None
            a_to_b, b_to_a = (out, into) if end.side == "a" else (into, out)
            points.append(Point(at=sample.at, a_to_b_bps=a_to_b, b_to_a_bps=b_to_a))
        previous = sample
    return tuple(points)


def total_series(minutes: int = 60, step_s: int = 60) -> tuple[Point, ...]:
    """Return the traffic of all tunnels together in steps of ``step_s``: what the dashboard's sparkline shows."""
    since = timezone.now() - timedelta(minutes=minutes)
    counting = {
        tunnel.pk: end for tunnel in Tunnel.objects.prefetch_related("ends__gateway") if (end := counting_end(tunnel))
    }
    totals: dict[int, list[float]] = {}
    last: dict[UUID, CounterSample] = {}
    for sample in CounterSample.objects.filter(at__gte=since).order_by("at").iterator():
        end = counting.get(sample.tunnel_id)
        if end is None or end.gateway_id != sample.gateway_id:
            continue
        previous = last.get(sample.tunnel_id)
        last[sample.tunnel_id] = sample
        if previous is None:
            continue
        out, into = sample.bytes_out - previous.bytes_out, sample.bytes_in - previous.bytes_in
        slot = totals.setdefault(int(sample.at.timestamp()) // step_s * step_s, [0.0, 0.0])
        slot[0] += (out if end.side == "a" else into) * 8 / step_s
        slot[1] += (into if end.side == "a" else out) * 8 / step_s
    zone = timezone.get_default_timezone()
    return tuple(
        Point(at=datetime.fromtimestamp(at, zone), a_to_b_bps=ab, b_to_a_bps=ba)
        for at, (ab, ba) in sorted(totals.items())
    )


def counting_end(tunnel: Tunnel) -> TunnelEnd | None:
    """Return the end whose gateway's counters stand for the tunnel: A if it is managed, else B."""
    return next((end for end in tunnel.ends.all() if end.gateway.is_managed), None)
