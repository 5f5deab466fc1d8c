"""Children asked for pair by pair, where the peer does not take all their selectors in one SA (RFC 7296 section 2.9).

That is so after SINGLE_PAIR_REQUIRED, and after an answer that was narrowed with ADDITIONAL_TS_POSSIBLE.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agents.contract.config import Child
from agents.ike import selectors
from agents.ike.v2.child import ChildSa
from agents.ike.v2.negotiation import Ranges
from agents.ike.v2.slots import MOST_SLOTS

if TYPE_CHECKING:
    from collections.abc import Collection

Piece = tuple[Ranges, Ranges]


class Pieces:
    """The pairs of local and remote selectors, by child, of those children that are asked for in pieces."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[Piece]] = {}

    def split(self, config: Child) -> bool:
        """Ask for this child in pieces from now on; False where it is but one pair, or too many."""
        local, remote = selectors.to_ranges(config.local_ts), selectors.to_ranges(config.remote_ts)
        pairs = [((ours,), (theirs,)) for ours in local for theirs in remote if ours.ts_type == theirs.ts_type]
        if config.name in self._pieces or not 1 < len(pairs) <= MOST_SLOTS:
            return False
        self._pieces[config.name] = list(pairs)
        return True

    def forget(self, names: Collection[str] | None = None) -> None:
        """Ask for these children, or all, as a whole again."""
        for name in tuple(self._pieces) if names is None else names:
            self._pieces.pop(name, None)

    def missing(self, name: str, live: Iterable[ChildSa]) -> Piece | None:
        """Return the first piece that no live child serves."""
        served = [(child.agreement.local_ts, child.agreement.remote_ts) for child in live]
        for piece in self._pieces.get(name, ()):
            if not any(
                selectors.within(local, piece[0]) and selectors.within(remote, piece[1]) for local, remote in served
            ):
                return piece
        return None

    def is_split(self, name: str) -> bool:
        """Return whether this child is asked for in pieces."""
        return name in self._pieces

    def refused(self, name: str, piece: Piece | None) -> None:
        """Try the others before this piece."""
        pieces = self._pieces.get(name, [])
        if piece in pieces:
            pieces.remove(piece)
            pieces.append(piece)
