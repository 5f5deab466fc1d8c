"""Coverage guidance: which way an input takes through the code, by an edge recorder of our own.

An edge is two lines of one function that ran one after the other. Only functions of the files given are followed; all
others run untraced. What an input has to be to count as new depends on nothing but the inputs before it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any

from tests.arch.imports import ROOT
from tests.fuzz.mutations import mutate

_Edge = tuple[CodeType, int, int]
MOST_KEPT = 2_000


class Edges:
    """The edges seen so far in functions below ``folders`` (paths relative to the repository)."""

    def __init__(self, *folders: str) -> None:
        self._prefixes = tuple(str(ROOT / folder) for folder in folders)
        self._followed: dict[CodeType, bool] = {}
        self.seen: set[_Edge] = set()
        self._fresh = 0

    def watch(self, step: Callable[[], None]) -> bool:
        """Run ``step``; return whether it went where none before did. Exceptions go through."""
        self._fresh = 0
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            step()
        finally:
            sys.settrace(before)
        return self._fresh > 0

    def _enter(self, frame: FrameType, event: str, _argument: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        followed = self._followed.get(code)
        if followed is None:
            followed = self._followed[code] = code.co_filename.startswith(self._prefixes)
        if not followed:
            return None
        last = frame.f_lineno

        def line(inner: FrameType, event: str, _argument: Any) -> Callable[..., Any]:
            nonlocal last
            if event == "line":
                edge = (code, last, inner.f_lineno)
                last = inner.f_lineno
                if edge not in self.seen:
                    self.seen.add(edge)
                    self._fresh += 1
            return line

        return line


class Corpus:
    """Inputs to start from: the seeds, and every input that took a new way."""

    def __init__(self, seeds: Sequence[bytes], edges: Edges) -> None:
        self._seeds = tuple(seeds)
        self._kept: list[bytes] = []
        self.edges = edges

    def __len__(self) -> int:
        return len(self._seeds) + len(self._kept)

    def draw(self, chance: random.Random) -> bytes:
        """Return an input to start from; what was found lately comes more often."""
        if self._kept and chance.random() < 0.5:
            recent = self._kept[-64:] if chance.random() < 0.5 else self._kept
            return chance.choice(recent)
        return chance.choice(self._seeds)

    def mutated(self, chance: random.Random) -> bytes:
        """Return a changed input."""
        return mutate(self.draw(chance), self._seeds, chance)

    def watch(self, octets: bytes, step: Callable[[], None]) -> None:
        """Run ``step``, which takes ``octets``, and keep them when they took a new way."""
        if self.edges.watch(step) and len(self._kept) < MOST_KEPT:
            self._kept.append(octets)
