"""Entropy that repeats, and entropy that says what it is told."""

from __future__ import annotations

import hashlib


class SeededEntropy:
    """A SHA-256 counter stream."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._counter = 0

    def octets(self, count: int) -> bytes:
        out = b""
        while len(out) < count:
            out += hashlib.sha256(b"%d/%d" % (self._seed, self._counter)).digest()
            self._counter += 1
        return out[:count]

    def uniform(self) -> float:
        return int.from_bytes(self.octets(6), "big") / 2**48


class FixedEntropy:
    """Hands out one value, padded on the left to the length asked for."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def octets(self, count: int) -> bytes:
        assert count >= len(self._value)
        return self._value.rjust(count, b"\0")

    def uniform(self) -> float:
        return 0.5
