"""The message IDs that an ISAKMP SA has used, by either end.

IKEv1 has no counter: what keeps an old message from counting again is that its ID is known (RFC 2408 section 3.1). So
none is ever forgotten, at four octets each; an SA that has used many is renewed, and one that has used all it may ends.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator

RENEW_AT = 12_288
"""From here on a new phase 1 is due: three days of liveness checks every 30 seconds."""
MOST = 16_384


class UsedIds:
    """A set of numbers of 32 bits that costs as little as it can."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers = array("I")

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __contains__(self, number: int) -> bool:
        place = bisect.bisect_left(self._numbers, number)
        return place < len(self._numbers) and self._numbers[place] == number

    def add(self, number: int) -> None:
        """Note that this one is used."""
        place = bisect.bisect_left(self._numbers, number)
        if place == len(self._numbers) or self._numbers[place] != number:
            self._numbers.insert(place, number)
