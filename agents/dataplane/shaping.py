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
