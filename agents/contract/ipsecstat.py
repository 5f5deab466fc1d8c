"""The lines of the report ``ipsecstat`` (FEATURES A26) out of a status: what command line and console both show.

An incoming packet is one that came in ESP or AH, refused ones included. A line is None where nobody can count it:
source routed packets are the IP stack's and counted there by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

from agents.contract.status import GatewayStatus, Rejections


def statistics(status: GatewayStatus) -> dict[str, int | None]:
    """Return the report's numbers in its order; None is not available."""
    counts = {each.name: each.count for each in status.ipsec_counts}
    if status.data_plane.driver is None and not counts:
        return dict.fromkeys(_LINES)
    filtered = [tunnel.filter for tunnel in status.tunnels if tunnel.filter is not None]
    clear, leaving = sum(each.dropped_clear for each in filtered), sum(each.dropped_leaving for each in filtered)
    plane = {each.name: each.count for each in status.data_plane_counts}
    # In the kernel it is our table that drops for congestion, after the SA counted; "dropped.in" has the other's.
    congested = plane.pop("in.congestion", 0) if status.data_plane.driver == "kernel" else 0
    # Without its own counters (a kernel built without them) a data plane drops outbound packets that nobody sees.
    sees_all = status.data_plane.driver == "userspace" or bool(plane) or "dropped.out" in counts

    def of(*names: str) -> int:
        return sum(counts.get(name, 0) for name in names)

    dropped_in = max(of("dropped.in"), of(*_refused("")) + of("no-sa")) + clear
    dropped_out = of("dropped.out") + leaving if sees_all else None
    numbers = (
        of("packets.in") + dropped_in,
        of("ah.in", *_refused("ah.")),
        of("esp.in", *_refused("esp.")),
        None,
        of("packets.out") + dropped_out if dropped_out is not None else None,
        of("ah.out"),
        of("esp.out"),
        dropped_in + congested,
        of("rejected.selectors") + clear,
        of("ah.rejected.integrity", "ah.rejected.malformed"),
        of("esp.rejected.integrity", "esp.rejected.malformed"),
        of("ah.rejected.replayed", "ah.rejected.late"),
        of("esp.rejected.replayed", "esp.rejected.late"),
        dropped_out,
        of("out.no-policy") + leaving if sees_all else None,
        of("sa.added"),
        of("sa.expired"),
        of("sa.deleted"),
    )
    return dict(zip(_LINES, numbers, strict=True))


def rejections(status: GatewayStatus) -> Rejections:
    """Return the packets of all tunnels that there ever were which SAs refused, by why."""
    counts: Mapping[str, int] = {each.name: each.count for each in status.ipsec_counts}
    return Rejections(**{name.removeprefix("rejected."): counts.get(name, 0) for name in _refused("")})


def _refused(protocol: str) -> tuple[str, ...]:
    return tuple(f"{protocol}rejected.{name}" for name in Rejections.__dataclass_fields__)


_LINES = (
    "Total incoming packets",
    "Incoming AH packets",
    "Incoming ESP packets",
    "Srcrte packets allowed",
    "Total outgoing packets",
    "Outgoing AH packets",
    "Outgoing ESP packets",
    "Total incoming packets dropped",
    "Filter denies on input",
    "AH did not compute",
    "ESP did not compute",
    "AH replay violation",
    "ESP replay violation",
    "Total outgoing packets dropped",
    "Filter denies on output",
    "Tunnel cache entries added",
    "Tunnel cache entries expired",
    "Tunnel cache entries deleted",
)
