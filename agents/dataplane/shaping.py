"""How fast the packets of a tunnel with a rate may go, and how many wait for their turn: what both data planes keep to.

Octets are those of the inner packets. What waits is bounded in time: a queue that holds more than the rate takes in a
fifth of a second only makes what is in it late.
"""

from __future__ import annotations

_OCTETS_PER_KBIT = 125
_BURST_MS = 10
"""What may go at once after a pause, so that timers that come late cost no rate; two packets in any case."""
_WAIT_MS = 200
_LEAST_WAITING_PACKETS = 4
_MOST_WAITING_OCTETS = 4 << 20
"""In the kernel's memory small packets take many times their length."""


def octets_per_second(rate_kbps: int) -> int:
    """Return what a rate lets go in a second."""
    return rate_kbps * _OCTETS_PER_KBIT


def burst_octets(rate_kbps: int, mtu: int) -> int:
    """Return what may go at once."""
    return max(2 * mtu, octets_per_second(rate_kbps) * _BURST_MS // 1000)


def waiting_octets(rate_kbps: int, mtu: int) -> int:
    """Return what may wait in one queue."""
    in_time = min(octets_per_second(rate_kbps) * _WAIT_MS // 1000, _MOST_WAITING_OCTETS)
    return max(in_time, _LEAST_WAITING_PACKETS * mtu)


class TokenBucket:
    """Says how many packets may go. The last of them may take more than there is, and those behind it wait for that."""

    def __init__(self, rate_kbps: int, mtu: int) -> None:
        self._per_second = octets_per_second(rate_kbps)
        self._most = self._octets = float(burst_octets(rate_kbps, mtu))
        self._mtu = mtu
        self._filled_at = 0.0

    def packets(self, now: float) -> int:
        """Return how many packets of the MTU's size may go; 0 where the next has to wait."""
        self._octets = min(self._most, self._octets + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        return max(1, int(self._octets / self._mtu)) if self._octets > 0 else 0

    def spend(self, octets: int) -> None:
        """Let so much go."""
        self._octets -= octets

    @property
    def wait_s(self) -> float:
        """After how many seconds from the last :meth:`packets` on a packet may go, where none may now."""
        return max(0.0, (1 - self._octets) / self._per_second)
