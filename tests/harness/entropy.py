"""Entropy that repeats: a seeded stream of octets."""

from __future__ import annotations

import random


class SeededEntropy:
    """An :class:`agents.ike.outputs.Entropy` for tests."""

    def __init__(self, seed: object) -> None:
        self._random = random.Random(repr(seed))

    def octets(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def uniform(self) -> float:
        return self._random.random()
