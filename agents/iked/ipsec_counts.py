"""What the gateway counts as a whole, whichever tunnel it was for: the numbers of ``ipsecstat`` (FEATURES A26).

They are sums of differences, so they outlive SAs, tunnels and restarts of ``espd``; ``agentd`` adds up the runs of
``iked``. A name is absent until it was counted once. Where AH goes around ESP, a packet is one of each; one that fails
authentication failed that of AH, which is looked at first (RFC 4302 section 3.4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from agents.contract.status import Counters, NamedCount
from agents.dataplane.base import Direction, SaSpec

_INWARD = ("esp.", "in.", "XfrmIn")
_OUTWARD = ("out.", "XfrmOut", "XfrmFwd")
_NO_SA = ("esp.no-sa", "XfrmInNoStates")
_NO_POLICY = ("out.no-policy", "XfrmOutPolBlock", "XfrmOutPolDead")
"""Names of the data planes' own counters (``espd``; Linux's include/uapi/linux/snmp.h)."""


class IpsecCounts:
    """Counts by name, see :data:`agents.contract.status.IPSEC_COUNTS`."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._plane: dict[str, int] | None = None

    def sa_added(self, spec: SaSpec) -> None:
        """A pair of SAs was put in place; told for each SA, counted with the inbound one."""
        if spec.direction is Direction.IN:
            self._counts["sa.added"] += 1

    def sa_gone(self, spec: SaSpec, *, expired: bool) -> None:
        """The same of one that is gone."""
        if spec.direction is Direction.IN:
            self._counts["sa.expired" if expired else "sa.deleted"] += 1

    def passed(self, spec: SaSpec, before: Counters, now: Counters) -> None:
        """Packets went through an SA."""
        for way in ("in", "out"):
            packets = getattr(now, f"packets_{way}") - getattr(before, f"packets_{way}")
            octets = getattr(now, f"bytes_{way}") - getattr(before, f"bytes_{way}")
            self._counts[f"packets.{way}"] += packets
            self._counts[f"bytes.{way}"] += octets
            for protocol in _protocols(spec):
                self._counts[f"{protocol}.{way}"] += packets

    def refused(self, spec: SaSpec, field: str, count: int) -> None:
        """An SA refused packets; ``field`` is one of Rejections."""
        self._counts[f"rejected.{field}"] += count
        self._counts[f"{_protocols(spec)[0]}.rejected.{field}"] += count

    def plane(self, counts: Iterable[NamedCount]) -> None:
        """Take the data plane's own counters. What it counted before this process first looked is not of this run."""
        now = {each.name: each.count for each in counts}
        before = self._plane
        self._plane = now
        if before is None:
            return
        for name, count in now.items():
            earlier = before.get(name, 0)
            more = count - earlier if count >= earlier else count  # it began anew
            if not more:
                continue
            if name.startswith(_INWARD):
                self._counts["dropped.in"] += more
            elif name.startswith(_OUTWARD):
                self._counts["dropped.out"] += more
            if name in _NO_SA:
                self._counts["no-sa"] += more
            elif name in _NO_POLICY:
                self._counts["out.no-policy"] += more

    def plane_changed(self) -> None:
        """Another data plane is used, whose counters began whenever they did."""
        self._plane = None

    def named(self) -> tuple[NamedCount, ...]:
        """Return every count."""
        return tuple(NamedCount(name=name, count=count) for name, count in sorted(self._counts.items()))


def _protocols(spec: SaSpec) -> tuple[str, ...]:
    """Return the protocols of an SA, the outer one first."""
    if spec.ah is None:
        return ("esp",)
    return ("ah",) if spec.encryption is None else ("ah", "esp")
