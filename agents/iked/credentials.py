"""Which pre-shared key belongs to a pair of ends.

A row of the document matches when each of its four fields is absent or equal to what is asked for. Of the rows that
match, the one with the most fields present wins; among equals, one that names the remote identity, then the local
identity, then the remote address, then the local address; then the first in the document.
"""

from __future__ import annotations

from collections.abc import Iterable

from agents.contract.config import PresharedKey
from agents.contract.secret import Secret
from agents.ike.outputs import FindPsk


def find_psk(rows: Iterable[PresharedKey], request: FindPsk) -> Secret | None:
    """Return the key of the most specific matching row, None when no row matches."""
    best: tuple[int, tuple[bool, ...]] | None = None
    secret: Secret | None = None
    for row in rows:
        rank = _rank(row, request)
        if rank is not None and (best is None or rank > best):
            best, secret = rank, row.secret
    return secret


def _rank(row: PresharedKey, request: FindPsk) -> tuple[int, tuple[bool, ...]] | None:
    pairs: tuple[tuple[object, object], ...] = (
        (row.remote_identity, request.remote_identity),
        (row.local_identity, request.local_identity),
        (row.remote_address, request.remote_address),
        (row.local_address, request.local_address),
    )
    if any(configured is not None and configured != asked for configured, asked in pairs):
        return None
    present = tuple(configured is not None for configured, _ in pairs)
    return sum(present), present
