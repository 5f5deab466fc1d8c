"""The offloads' arithmetic for many segments at once, by NumPy: all headers and checksums of a run in a few steps.

A checksum costs an interpreter far more than the cipher does, so this is where most of a packet's time would go. Words
are summed with their first octet as the low one, which saves turning each: the one's complement sum does not depend on
the order of octets in a word (RFC 1071 section 2). Runs of fewer than :data:`WORTH` segments are quicker one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

WORTH = 6
_MODULUS = 0xFFFF

_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Run:
    """TCP segments of ``size`` octets of payload to be cut out of a super-packet from ``header`` on, ``count`` of them.

    ``head`` is the header they have in common: sequence number and TCP checksum 0, IP lengths set for a full segment.
    ``constant`` is what the TCP checksum covers beside sequence number and payload. ``ip_sum`` is the sum of an IPv4
    header without identification where that counts up from ``identification``, else None. ``once`` are flags that only
    the first segment has, in ``head`` already.
    """

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


def cut(packet: bytes, run: Run) -> list[bytes]:
    """Return the segments of a run; its payload must have an even number of octets.

    What the caller has summed in network order is turned round first.
    """
    size, count, header, start = run.size, run.count, run.header, run.start
    length = header + size
    rows = np.empty((count, length), np.uint8)
    rows[:, :header] = np.frombuffer(run.head, np.uint8)
    rows[:, header:] = np.frombuffer(packet, np.uint8, count * size, header).reshape(count, size)
    # What does not fit 32 bits any more falls away.
    sequences = (_steps(count, size) + run.sequence).astype(">u4")
    rows[:, start + 4 : start + 8] = sequences.view(np.uint8).reshape(count, 4)
    sums = _sums(packet, header, size, count)
    sums += sequences.view("<u4")
    sums += _turned(run.constant % _MODULUS)
    if run.once:
        rows[1:, start + 13] ^= run.once
        sums[1:] -= _turned(run.once)
    rows[:, start + 16 : start + 18] = _complement(sums)
    if run.ip_sum is not None:
        identifications = ((np.arange(count) + run.identification) & 0xFFFF).astype(">u2")
        rows[:, 4:6] = identifications.view(np.uint8).reshape(count, 2)
        rows[:, 10:12] = _complement(identifications.view("<u2").astype(np.int64) + _turned(run.ip_sum % _MODULUS))
    return list(_cutter(length, count).unpack(rows.tobytes()))


@lru_cache(maxsize=256)
def _cutter(octets: int, count: int) -> struct.Struct:
    return struct.Struct(f"{octets}s" * count)


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
    value = int(words.sum(dtype=np.uint64)) % _MODULUS
    if rest:
        value += int.from_bytes(octets[-2:], "little")
    return _turned(value % _MODULUS)


def _sums(packet: bytes, at: int, size: int, count: int) -> _Numbers:
    """Return the payload sum of each segment."""
    word, width = ("<u4", 4) if size % 4 == 0 else ("<u2", 2)
    table = np.frombuffer(packet, word, count * size // width, at).reshape(count, size // width)
    # In 64 bits nothing overflows: there are fewer than 2^15 words of 32.
    sums: _Numbers = table.sum(axis=1, dtype=np.uint64).view(np.int64)
    return sums


def _turned(value: int) -> int:
    return (value & 0xFF) << 8 | value >> 8
