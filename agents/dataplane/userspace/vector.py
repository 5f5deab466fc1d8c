"""The offloads' arithmetic for many segments at once, by NumPy: all headers and checksums of a run in a few steps.

A checksum costs an interpreter far more than the cipher does, so this is where most of a packet's time would go. Words
are summed as the machine has them and turned round at the end: the one's complement sum does not depend on the order
of octets in a word (RFC 1071 section 2). Runs of fewer than :data:`WORTH` segments are quicker one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WORTH = 6
_MODULUS = 0xFFFF
_SAME_4 = np.array([0, 2, 3, *range(6, 10), *range(12, 24)])
_SAME_6 = np.array([0, 4, 5, 6, *range(8, 44)])

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
    """Return the segments of a run; its payload must have an even number of octets."""
    size, count, header, start = run.size, run.count, run.header, run.start
    length = header + size
    rows = np.empty((count, length), np.uint8)
    rows[:, :header] = np.frombuffer(run.head, np.uint8)
    rows[:, header:] = np.frombuffer(packet, np.uint8, count * size, header).reshape(count, size)
    numbers = np.arange(count, dtype=np.int64)
    sequences = (run.sequence + size * numbers) & 0xFFFFFFFF
    rows[:, start + 4 : start + 8] = _octets(sequences, ">u4")
    if run.once:
        rows[1:, start + 13] ^= run.once
    constant = np.full(count, run.constant - run.once, np.int64)
    constant[0] += run.once
    checksums = -(constant + sequences + _sums(packet, header, size, count)) % _MODULUS
    rows[:, start + 16 : start + 18] = _octets(checksums, ">u2")
    if run.ip_sum is not None:
        identifications = (run.identification + numbers) & 0xFFFF
        rows[:, 4:6] = _octets(identifications, ">u2")
        rows[:, 10:12] = _octets(-(run.ip_sum + identifications) % _MODULUS, ">u2")
    octets = rows.tobytes()
    return [octets[at : at + length] for at in range(0, count * length, length)]


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


def numbered(packets: Sequence[bytes | memoryview], spi: int, first: int) -> bool:
    """Return whether all are ESP packets of this SPI, numbered in a row from ``first`` on."""
    words = np.frombuffer(b"".join([packet[:8] for packet in packets]), ">u4").reshape(-1, 2)
    in_a_row = words[:, 1] == np.arange(first, first + len(packets), dtype=np.int64)
    return bool(in_a_row.all() and (words[:, 0] == spi).all())


def alike(plains: Sequence[bytes], length: int) -> list[bytes] | None:
    """Return the first ``length`` octets of plaintexts of one length, None where they are not packets of one flow.

    Those have the same length, fragmentation, TTL, protocol, addresses and ports, and the same octets behind them.
    """
    first = plains[0]
    size = len(first)
    octets = b"".join(plains)
    table = np.frombuffer(octets, np.uint8).reshape(-1, size)
    same = _SAME_4 if first[0] == 0x45 else _SAME_6
    if not (table[:, same] == table[0, same]).all() or not (table[:, length:] == table[0, length:]).all():
        return None
    return [octets[at : at + length] for at in range(0, len(octets), size)]


def _sums(packet: bytes, at: int, size: int, count: int) -> _Numbers:
    """Return the payload sum of each segment modulo 65535."""
    word = "<u4" if size % 4 == 0 else "<u2"
    width = 4 if size % 4 == 0 else 2
    table = np.frombuffer(packet, word, count * size // width, at).reshape(count, size // width)
    sums: _Numbers = table.sum(axis=1, dtype=np.uint64).astype(np.int64) % _MODULUS
    turned: _Numbers = (sums & 0xFF) << 8 | sums >> 8
    return turned


def _turned(value: int) -> int:
    return (value & 0xFF) << 8 | value >> 8


def _octets(numbers: _Numbers, kind: str) -> npt.NDArray[np.uint8]:
    """Return numbers as rows of octets in network order."""
    return numbers.astype(kind).view(np.uint8).reshape(len(numbers), -1)
