"""Key bytes that cannot be printed by accident.

``repr``, ``str`` and ``format`` of a :class:`Secret` are empty of content; pickling is refused, so a secret never
travels in a task message. Comparison takes constant time.
"""

from __future__ import annotations

import hmac
from typing import NoReturn, final


@final
class Secret:
    """Immutable key octets whose text forms show nothing."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = bytes(octets)

    def reveal(self) -> bytes:
        """Return the octets; the caller answers for where they go."""
        return self._octets

    def __len__(self) -> int:
        return len(self._octets)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._octets, other._octets)

    def __hash__(self) -> int:
        return hash((Secret, len(self._octets)))

    def __repr__(self) -> str:
        return "Secret()"

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return "Secret()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled: send the id of the row that holds it")
