"""What the engine has to say: notices, packets refused by why, and totals."""

from __future__ import annotations

from collections import Counter

from agents.dataplane.base import Notice, Rejected, SaId
from agents.dataplane.userspace import drops
from agents.dataplane.userspace.sadb import Sa


class Reports:
    """``totals`` are dropped packets by code since the engine was made; the rest lasts until it is taken or
    forgotten."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.notices: list[Notice] = []
        self._rejected: Counter[tuple[str, SaId | None]] = Counter()

    def forget(self) -> None:
        """Forget everything but the totals."""
        self.notices.clear()
        self._rejected.clear()

    def reject(self, code: str, sa: Sa | None) -> None:
        """Count an inbound packet refused, on its SA if it has one."""
        self.totals[code] += 1
        if code == drops.CONGESTION:
            return
        if sa is not None:
            sa.rejected[code] += 1
        self._rejected[code, None if sa is None else sa.spec.id] += 1

    def take_notices(self) -> list[Notice]:
        """Return what there is to say since the last call."""
        notices = self.notices[:]
        self.notices.clear()
        return notices

    def take_rejected(self) -> list[Rejected]:
        """Return the packets refused since the last call, summed up by code and SA."""
        rejected = [Rejected(code=code, count=count, id=sa) for (code, sa), count in self._rejected.items()]
        self._rejected.clear()
        return rejected
