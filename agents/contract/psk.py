"""Which pre-shared key belongs to a pair of ends.

A row of the document matches when each of its four fields is absent or equal to what is asked for. Of the rows that
match, the one with the most fields present wins; among equals, one that names the remote identity, then the local
identity, then the remote address, then the local address; then the first in the document. Where the identity expected
of the peer is partial, a row may name the one the peer shows, or else the partial one itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from agents.contract.secret import Secret

if TYPE_CHECKING:
    from agents.contract.config import Endpoint, Identity, PresharedKey, Tunnel

_Key = tuple["Identity | None", "Identity | None", str | None, str | None]

# Which of the four fields are present, the most specific combination first.
_PRECEDENCE = tuple(
    sorted(itertools.product((True, False), repeat=4), key=lambda present: (sum(present), present), reverse=True)
)


class _Question(Protocol):
    """Which pair a key is asked for; ``shown_identity`` is what the peer calls itself where it is known."""

    @property
    def local_address(self) -> str: ...
    @property
    def remote_address(self) -> str: ...
    @property
    def local_identity(self) -> Identity: ...
    @property
    def remote_identity(self) -> Identity: ...
    @property
    def shown_identity(self) -> Identity | None: ...


class PresharedKeys:
    """The keys of one document, found by at most sixteen look-ups however many there are."""

    def __init__(self, rows: Iterable[PresharedKey] = ()) -> None:
        self._rows: dict[_Key, Secret] = {}
        for row in rows:
            key = (row.remote_identity, row.local_identity, row.remote_address, row.local_address)
            self._rows.setdefault(key, row.secret)
        # Combinations that no row has are not asked for.
        shapes = {tuple(field is not None for field in key) for key in self._rows}
        self._shapes = tuple(present for present in _PRECEDENCE if present in shapes)

    def find(self, asked: _Question) -> Secret | None:
        """Return the key of the most specific matching row, None when no row matches."""
        names = (
            (asked.remote_identity,) if asked.shown_identity is None else (asked.shown_identity, asked.remote_identity)
        )
        return self._find(names, asked.local_identity, asked.remote_address, asked.local_address)

    def gives_same(self, old: PresharedKeys, before: Tunnel, after: Tunnel) -> bool:
        """Return whether a tunnel's key is what it was; for a partial identity any changed row counts as a change."""
        if not after.remote.identity.exact and self._rows != old._rows:
            return False
        return old.find_for(before.local, before.remote) == self.find_for(after.local, after.remote)

    def find_for(self, local: Endpoint, remote: Endpoint, shown: Identity | None = None) -> Secret | None:
        """Return the key of this pair of ends, None when no row matches."""
        names = (remote.identity,) if shown is None else (shown, remote.identity)
        return self._find(names, local.identity, remote.address, local.address)

    def _find(
        self, names: tuple[Identity, ...], local_identity: Identity, remote_address: str, local_address: str
    ) -> Secret | None:
        for with_remote_id, with_local_id, with_remote, with_local in self._shapes:
            for name in names if with_remote_id else (None,):
                secret = self._rows.get(
                    (
                        name,
                        local_identity if with_local_id else None,
                        remote_address if with_remote else None,
                        local_address if with_local else None,
                    )
                )
                if secret is not None:
                    return secret
        return None
