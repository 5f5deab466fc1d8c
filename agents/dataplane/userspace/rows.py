"""Memory for many packets of one length: a table for NumPy to fill and look at, and pieces for the cipher to work on.

What is the same for every packet of a run is done for all in one step, and a packet becomes an object of its own only
where something is different about it. Both views of a length are made once and used for as long as packets have it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

TOGETHER = 4
"""Super-packets, or datagrams that hold as much, that are worked on at once: a step of NumPy takes longer to begin with
than for what it does to one of them."""
MOST = 64 * TOGETHER
"""Packets in one run."""
SEALED_AT_ONCE, OPENED_AT_ONCE = 24, 40
"""From so many packets on that takes less time than one by one, where all is as usual; and no more where it is not."""
RECEIVED_OCTETS = (TOGETHER + 1) * 65_536
"""Of ESP packets in one run: those of super-packets, which have fewer headers, and once more for what comes behind."""
_KEPT = 32
"""Views of so many lengths."""

Octets = npt.NDArray[np.uint8]
Datagram = bytes | memoryview
"""A packet that is an object of its own, or lies in memory with others."""


class Rows:
    """Memory for rows one behind the other, of any length, so many octets together."""

    def __init__(self, octets: int) -> None:
        self.memory = memoryview(bytearray(octets))
        self._array = np.frombuffer(self.memory, np.uint8)
        self._tables: dict[int, Octets] = {}
        self._pieces: dict[tuple[int, int, int], list[memoryview]] = {}

    def fit(self, length: int, count: int) -> bool:
        """Whether there is room for so many rows of so many octets."""
        return 0 < count <= MOST and length > 0 and length * count <= len(self.memory)

    def table(self, length: int, count: int) -> Octets:
        """Return the first rows as an array of ``count`` by ``length`` octets."""
        table = self._tables.get(length)
        if table is None:
            if len(self._tables) >= _KEPT:
                self._tables.clear()
            rows = self._rows(length)
            table = self._tables[length] = self._array[: rows * length].reshape(rows, length)
        return table[:count]

    def pieces(self, length: int, begin: int, end: int, count: int) -> list[memoryview]:
        """Return octets ``begin`` to ``end`` of each of the first rows of ``length`` octets."""
        key = (length, begin, end)
        pieces = self._pieces.get(key)
        if pieces is None:
            if len(self._pieces) >= 4 * _KEPT:
                self._pieces.clear()
            ends = range(0, self._rows(length) * length, length)
            pieces = self._pieces[key] = [self.memory[at + begin : at + end] for at in ends]
        return pieces[:count]

    def _rows(self, length: int) -> int:
        return min(MOST, len(self.memory) // length)


@dataclass(frozen=True, slots=True)
class Run:
    """The first ``count`` rows, of ``octets`` each: packets."""

    rows: Rows
    octets: int
    count: int

    def table(self) -> Octets:
        """Return the packets as an array of octets, a row each."""
        return self.rows.table(self.octets, self.count)

    def pieces(self, begin: int, end: int) -> list[memoryview]:
        """Return octets ``begin`` to ``end`` of each packet."""
        return self.rows.pieces(self.octets, begin, end, self.count)

    def first(self) -> bytes:
        """Return the first packet."""
        return bytes(self.rows.memory[: self.octets])

    def has_room(self, count: int, octets: int) -> bool:
        """Whether so many more packets, of so many octets together, would find room behind these."""
        return self.count + count <= MOST and self.octets * self.count + octets <= len(self.rows.memory)

    def copies(self) -> list[bytes]:
        """Return the packets as objects of their own."""
        return split(self.rows.memory[: self.octets * self.count], self.octets, self.count)


def split(octets: bytes | memoryview, length: int, count: int) -> list[bytes]:
    """Return ``count`` pieces of ``length`` octets each, that make up the whole."""
    return list(_cutter(length, count).unpack(octets))


@lru_cache(maxsize=256)
def _cutter(length: int, count: int) -> struct.Struct:
    return struct.Struct(f"{length}s" * count)
