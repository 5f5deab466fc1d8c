"""A reader that must end empty: lengths are checked at the octet where they are wrong."""

from __future__ import annotations

from agents.ike.errors import WireError


def malformed(
    detail: str, code: str = "drop.malformed", *, received: object = None, expected: object = None
) -> WireError:
    """Return the error of octets that are no message; codes are those of :mod:`agents.ike.wire.families`."""
    return WireError(code, detail, received=received, expected=expected)


class Reader:
    """Takes octets from the front of a buffer. Every take raises WireError ``code`` when there are too few."""

    __slots__ = ("_code", "_end", "_octets", "_offset", "_what")

    def __init__(self, octets: bytes, what: str, code: str) -> None:
        self._octets = octets
        self._offset = 0
        self._end = len(octets)
        self._what = what
        self._code = code

    def take(self, count: int) -> bytes:
        """Return the next ``count`` octets."""
        start = self._offset
        stop = start + count
        if stop > self._end:
            raise malformed(
                f"{self._what} ends {stop - self._end} octets too early",
                self._code,
                received=f"{self._end} octets",
                expected=f"at least {stop} octets",
            )
        self._offset = stop
        return self._octets[start:stop]

    def number(self, octets: int) -> int:
        """Return the next ``octets`` octets as an unsigned number."""
        return int.from_bytes(self.take(octets), "big")

    def rest(self) -> bytes:
        """Return all that is left."""
        start, self._offset = self._offset, self._end
        return self._octets[start:]

    @property
    def left(self) -> int:
        """Octets not yet taken."""
        return self._end - self._offset

    def end(self) -> None:
        """Raise WireError unless everything was taken."""
        if self._offset != self._end:
            raise malformed(
                f"{self._what} has {self._end - self._offset} octets too many",
                self._code,
                received=f"{self._end} octets",
                expected=f"{self._offset} octets",
            )
