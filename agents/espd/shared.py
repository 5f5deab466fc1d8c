"""What the workers of one ``espd`` share of an outbound SA: its next number, its limits, and whose turn it is to send.

Several workers seal packets of one SA at the same time, each packet with a number of its own; what they have sealed
goes out in the order of the numbers, since a packet that is overtaken falls out of the peer's window. So a worker takes
numbers, seals, waits until everything before them is sent, sends, and says so.

The memory is mapped by the process that forks the workers, and it is not kept anywhere.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Lock, Semaphore
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOTS = 32_768
"""Outbound SAs at once."""
LOST_S = 5.0
"""Whoever has a turn for so long has died or hangs."""
_LOCKS = 64

_record = struct.Struct("=4Q")
"""Last number taken, last number sent, octets, packets; then for each worker the number it waits to send, or 0."""
_number = struct.Struct("=Q")


class TableFull(Exception):  # noqa: N818 - a state, not a fault
    """There are more outbound SAs than the table has slots."""


class Table:
    """Slots for outbound SAs. Made before workers are forked, who use it as it is."""

    def __init__(self, workers: int, slots: int = SLOTS) -> None:
        context = get_context("fork")
        self.workers = workers
        self._octets = _record.size + _number.size * workers
        self._memory = mmap.mmap(-1, self._octets * slots)
        self._locks: Sequence[Lock] = [context.Lock() for _ in range(_LOCKS)]
        self._turns: Sequence[Semaphore] = [context.Semaphore(0) for _ in range(workers)]
        self._free = list(range(slots - 1, -1, -1))

    def allocate(self) -> int:
        """Return a fresh slot; for the first worker only. Raises :class:`TableFull`."""
        if not self._free:
            raise TableFull(f"more than {len(self._memory) // self._octets} outbound SAs")
        slot = self._free.pop()
        self._memory[slot * self._octets : (slot + 1) * self._octets] = bytes(self._octets)
        return slot

    def release(self, slot: int) -> None:
        """Let go of a slot that no worker uses any more; for the first worker only."""
        self._free.append(slot)

    @contextmanager
    def _locked(self, slot: int) -> Iterator[int]:
        """Hold a slot and yield where its record is."""
        lock = self._locks[slot % _LOCKS]
        if not lock.acquire(timeout=LOST_S):
            raise _dead("holds an SA")
        try:
            yield slot * self._octets
        finally:
            lock.release()

    def _take(self, slot: int, packets: int, octets: int, last: int) -> tuple[int, int, int] | None:
        with self._locked(slot) as at:
            number, sent, all_octets, all_packets = _record.unpack_from(self._memory, at)
            if number + packets > last:
                return None
            taken = number + 1, all_octets + octets, all_packets + packets
            _record.pack_into(self._memory, at, number + packets, sent, *taken[1:])
        return taken

    def _wait(self, slot: int, worker: int, first: int) -> None:
        with self._locked(slot) as at:
            if self._sent(at) == first - 1:
                return
            _number.pack_into(self._memory, at + _record.size + worker * _number.size, first)
        if not self._turns[worker].acquire(timeout=LOST_S):
            raise _dead("does not send what it has sealed")

    def _done(self, slot: int, last: int) -> None:
        with self._locked(slot) as at:
            _number.pack_into(self._memory, at + _number.size, last)
            next_up = next((each for each in range(self.workers) if self._waits_for(at, each) == last + 1), None)
            if next_up is not None:
                _number.pack_into(self._memory, at + _record.size + next_up * _number.size, 0)
        if next_up is not None:
            self._turns[next_up].release()

    def _sent(self, at: int) -> int:
        number: int = _number.unpack_from(self._memory, at + _number.size)[0]
        return number

    def _waits_for(self, at: int, worker: int) -> int:
        number: int = _number.unpack_from(self._memory, at + _record.size + worker * _number.size)[0]
        return number


def _dead(what: str) -> SystemExit:
    """Nothing can go on in order: this process ends and all of ``espd`` with it, to be started anew."""
    return SystemExit(f"another worker {what}: it has died or hangs")


class SharedNumbers:
    """One outbound SA as one worker sees it: :class:`agents.dataplane.userspace.sharing.Numbers`."""

    __slots__ = ("_slot", "_table", "_worker")

    def __init__(self, table: Table, slot: int, worker: int) -> None:
        self._table = table
        self._slot = slot
        self._worker = worker

    def take(self, packets: int, octets: int, last: int) -> Turn | None:
        """See :class:`~agents.dataplane.userspace.sharing.Numbers`."""
        taken = self._table._take(self._slot, packets, octets, last)
        return None if taken is None else Turn(self._table, self._slot, self._worker, packets, *taken)


class Turn:
    """See :class:`agents.dataplane.userspace.sharing.Turn`."""

    __slots__ = ("_last", "_slot", "_table", "_worker", "first", "octets", "packets")

    def __init__(self, table: Table, slot: int, worker: int, count: int, first: int, octets: int, packets: int) -> None:
        self._table = table
        self._slot = slot
        self._worker = worker
        self._last = first + count - 1
        self.first = first
        self.octets = octets
        self.packets = packets

    def wait(self) -> None:
        """Wait until everything before is sent."""
        self._table._wait(self._slot, self._worker, self.first)

    def done(self) -> None:
        """Let the next go."""
        self._table._done(self._slot, self._last)
