"""What a fuzz target is."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzz.guidance import Edges


@dataclass
class Target:
    """A name and what to do once; ``run`` returns how many inputs that was, ``edges`` counts the ways found."""

    name: str
    run: Callable[[random.Random], int]
    edges: Edges | None = None
