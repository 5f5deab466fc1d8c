"""The offloads' arithmetic for many segments at once, by NumPy: all headers and checksums of a run in a few steps.

A checksum costs an interpreter far more than the cipher does, so this is where most of a packet's time would go. Words
are summed with their first octet as the low one, which saves turning each: the one's complement sum does not depend on
the order of octets in a word (RFC 1071 section 2). Runs of fewer than :data:`WORTH` segments are quicker one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.dataplane.userspace.rows import Datagram, Octets, split

WORTH = 6
_MODULUS = 0xFFFF

_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cut:
    """How ``count`` TCP segments of ``size`` octets of payload are cut out of ``packet`` from ``header`` on.

    ``head`` is the header they have in common: sequence number and TCP checksum 0, IP lengths set for a full segment.
    ``constant`` is what the TCP checksum covers beside sequence number and payload. ``ip_sum`` is the sum of an IPv4
    header without identification where that counts up from ``identification``, else None. ``once`` are flags that only
    the first segment has, in ``head`` already; ``at_last`` are those that only the last has.
    """

    packet: Datagram
    head: bytes
    start: int
    header: int
    size: int
    count: int
    sequence: int
    constant: int
    ip_sum: int | None
    identification: int
    once: int
    at_last: int


def cut(how: Cut) -> list[bytes]:
    """Return the segments as objects of their own; their payload must have an even number of octets."""
    length = how.header + how.size
    table = np.empty((how.count, length), np.uint8)
    fill(table, (how,))
    return split(table.data.cast("B"), length, how.count)


def fill(table: Octets, cuts: Sequence[Cut]) -> None:
    """Write the segments of super-packets, alike in start, header and size, into the rows of a table.

    Their payload must have an even number of octets. What was summed in network order is turned round first.
    """
    start, header, size = cuts[0].start, cuts[0].header, cuts[0].size
    sequences, constants = np.empty(len(table), ">u4"), np.empty(len(table), np.int64)
    at = 0
    for how in cuts:
        rows = slice(at, at + how.count)
        _write(table[rows], constants[rows], how)
        # What does not fit 32 bits any more falls away.
        sequences[rows] = _steps(how.count, size) + how.sequence
        at += how.count
    table[:, start + 4 : start + 8] = _octets(sequences)
    sums = sums_of(table[:, header : header + size])
    sums += sequences.view("<u4")
    sums += constants
    table[:, start + 16 : start + 18] = _complement(sums)


def _write(rows: Octets, constants: _Numbers, how: Cut) -> None:
    """Write what does not depend on the payload's sum, and what its checksum covers beside it."""
    size, count, header, flags = how.size, how.count, how.header, how.start + 13
    rows[:, :header] = np.frombuffer(how.head, np.uint8)
    payload = np.frombuffer(how.packet, np.uint8, count * size, header)
    rows[:, header : header + size] = payload.reshape(count, size)
    constants[:] = _turned(how.constant % _MODULUS)
    if how.once:
        rows[1:, flags] ^= how.once
        constants[1:] -= _turned(how.once)
    if how.at_last:
        rows[-1, flags] |= how.at_last
        constants[-1] += _turned(how.at_last)
    if how.ip_sum is not None:
        identifications = (_steps(count, 1) + how.identification).astype(">u2")
        rows[:, 4:6] = _octets(identifications)
        rows[:, 10:12] = _complement(identifications.view("<u2").astype(np.int64) + _turned(how.ip_sum % _MODULUS))


def _octets(numbers: npt.NDArray[Any]) -> Octets:
    """Return the octets of numbers, a row each."""
    return numbers.view(np.uint8).reshape(len(numbers), -1)


@lru_cache(maxsize=256)
def _steps(count: int, size: int) -> _Numbers:
    return np.arange(count, dtype=np.int64) * size


def _complement(sums: _Numbers) -> npt.NDArray[np.uint8]:
    """Return checksums of what has these sums, a row of two octets each."""
    np.negative(sums, out=sums)
    sums %= _MODULUS
    return sums.astype("<u2").view(np.uint8).reshape(len(sums), 2)


def total(packets: Sequence[bytes]) -> int:
    """Return the one's complement sum of packets, all but the last with an even number of octets, as one number."""
    octets = b"".join(packets)
    if len(octets) & 1:
        octets += b"\0"
    rest = len(octets) & 3
    words = np.frombuffer(octets, "<u4", len(octets) >> 2)
    value = _turned(int(words.sum(dtype=np.uint64)) % _MODULUS)
    return value + int.from_bytes(octets[-2:], "big") if rest else value


def sums_of(columns: Octets) -> _Numbers:
    """Return the sum of words of each row, the first octet the low one. They must be even in number."""
    # In 32 bits nothing overflows: a packet has fewer than 2^15 words.
    sums: _Numbers = columns.view("<u2").sum(axis=1, dtype=np.uint32).astype(np.int64)
    return sums


def are(sums: _Numbers, value: int) -> bool:
    """Whether sums, as :func:`sums_of` returns them, are all congruent to ``value``, which is in network order."""
    return not ((sums - _turned(value % _MODULUS)) % _MODULUS).any()


def numbered(first: int, count: int) -> Octets:
    """Return numbers from ``first`` on as 64 bits in network order, a row each."""
    return _octets((_from_zero(count) + np.uint64(first)).astype(">u8"))


def rise(columns: Octets, step: int) -> npt.NDArray[np.bool_]:
    """Return for every row but the first whether the number that four columns hold is ``step`` above the one before."""
    numbers = np.ascontiguousarray(columns).view(">u4").ravel().astype(np.uint32)
    return np.asarray(numbers[1:] - numbers[:-1] == np.uint32(step))


def alike(columns: Octets, mask: Octets) -> npt.NDArray[np.bool_]:
    """Return for every row but the first whether it has the octets of the one before, as far as ``mask`` has bits."""
    return ~np.asarray(((columns[1:] ^ columns[:-1]) & mask).any(axis=1))


def prefixed(prefix: bytes, columns: Octets) -> list[bytes]:
    """Return each row behind the same octets."""
    count, width = columns.shape
    table = np.empty((count, len(prefix) + width), np.uint8)
    table[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
    table[:, len(prefix) :] = columns
    return split(table.data.cast("B"), len(prefix) + width, count)


@lru_cache(maxsize=256)
def _from_zero(count: int) -> npt.NDArray[np.uint64]:
    return np.arange(count, dtype=np.uint64)


def _turned(value: int) -> int:
    return (value & 0xFF) << 8 | value >> 8
