"""The anti-replay window (RFC 4303 section 3.4.3, appendix A) as one integer bitmap.

Bit ``n`` stands for sequence number ``top - n``. Numbers are plain integers, so the same window serves 64-bit ones,
once :func:`extend` has said which number a packet's 32 bits mean. ``check`` comes before the ICV is verified and
changes nothing; ``accept`` comes after.
"""

from __future__ import annotations

from agents.dataplane.userspace import drops

MAX_SIZE = 4096
_BEHIND = 1 << 20


def extend(low: int, top: int) -> int:
    """Return the extended sequence number whose low 32 bits a packet has (RFC 4303 section A2.2).

    ``top`` is the highest number authenticated so far. What is at most 2^20 below it counts as late or in the window,
    which is more than any window here, so that a late packet is called late; everything else is ahead. A wrong guess
    fails the integrity check.
    """
    number = (top & ~0xFFFFFFFF) | low
    floor = top - _BEHIND
    if number < floor:
        return number + (1 << 32) & 0xFFFFFFFFFFFFFFFF
    # Below 2^32 there is nothing older.
    return number - (1 << 32) if number - (1 << 32) >= max(floor, 0) else number


class ReplayWindow:
    """``size`` 0 turns the service off; otherwise numbers more than ``size - 1`` below the highest are late."""

    __slots__ = ("_bitmap", "_mask", "size", "top")

    def __init__(self, size: int) -> None:
        if not 0 <= size <= MAX_SIZE:
            raise ValueError(f"a replay window of {size}")
        self.size = size
        self.top = 0
        self._bitmap = 0
        self._mask = (1 << size) - 1

    def check(self, sequence: int) -> str | None:
        """Return None when ``sequence`` may be new, else the drop code. Zero is never sent (section 3.3.3)."""
        if sequence > self.top or self.size == 0:
            return None
        age = self.top - sequence
        if sequence == 0 or (age < self.size and self._bitmap >> age & 1):
            return drops.REPLAY
        return drops.LATE if age >= self.size else None

    def accept(self, sequence: int) -> bool:
        """Record an authenticated number that ``check`` passed; return whether it is the highest so far."""
        ahead = sequence - self.top
        if ahead > 0:
            self.top = sequence
            if self.size:
                self._bitmap = ((self._bitmap << ahead) | 1) & self._mask if ahead < self.size else 1
            return True
        if self.size:
            self._bitmap |= 1 << -ahead
        return False

    def advance(self, top: int) -> None:
        """Record every number up to ``top`` that is above the highest so far: a run received in order."""
        count = top - self.top
        if count > 0:
            self.top = top
            self._bitmap = ((self._bitmap << count) | ((1 << count) - 1)) & self._mask
