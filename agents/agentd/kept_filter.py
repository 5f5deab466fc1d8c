"""The packet filter as it was applied last, on the disk: in force again after a start before ``iked`` says anything.

It is one transaction for ``nft``: counters, networks, addresses and interfaces, no secrets. Interfaces are in it by
name, never by index, so it can be loaded before any of them exists and holds for those that come.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path

from agents.agentd import identity
from agents.agentd.errors import HostError, NotEnrolledError
from agents.agentd.host import Host
from agents.agentd.ledger import Ledger
from agents.agentd.nft import Command
from agents.agentd.parts import filter as parts_filter
from agents.agentd.parts.filter import FilterPlan
from agents.runtime.paths import Paths, sync_directory, write_private


class KeptFilter:
    """One file (0600), there exactly while a filter of ours is to be in force."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: FilterPlan | None = None

    @property
    def there(self) -> bool:
        """Whether a filter is kept."""
        return self._path.exists()

    def keep(self, plan: FilterPlan) -> None:
        """Keep this one from now on; raises :class:`HostError` where the disk does not take it."""
        if plan == self._kept and self.there:
            return
        text = json.dumps({"nftables": parts_filter.transaction(plan, ())})
        try:
            write_private(self._path, text.encode())
        except OSError as error:
            raise _host_error("keep", error) from None
        self._kept = plan

    def forget(self) -> bool:
        """Keep none; returns whether one was kept. Raises :class:`HostError`."""
        self._kept = None
        try:
            self._path.unlink()
            sync_directory(self._path.parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _host_error("remove", error) from None
        return True

    async def load(self, host: Host) -> bool:
        """Put it in force where no table of ours is; returns whether it did.

        Raises :class:`HostError`; nothing is changed then.
        """
        if not self.there or await _table_is_there(host):
            return False
        await host.filter(self._commands())
        return True

    def _commands(self) -> Sequence[Command]:
        """Read it; what is not about our table alone is not ours, however it came to be there."""
        try:
            plain = json.loads(self._path.read_bytes())
        except OSError as error:
            raise _host_error("read", error) from None
        except (ValueError, RecursionError):
            plain = None
        commands = plain.get("nftables") if isinstance(plain, dict) else None
        if not isinstance(commands, list) or not parts_filter.is_ours(commands):
            raise HostError("read", self._path.name, errno.EINVAL, "it is damaged")
        return commands


def wanted(paths: Paths) -> bool:
    """Return whether the document in force on this machine has the filter on."""
    try:
        gateway = identity.load(paths.identity)
    except NotEnrolledError:
        return False
    accepted = Ledger(paths.document, gateway.gateway_id).current
    return accepted is not None and accepted.document.packet_filter


async def _table_is_there(host: Host) -> bool:
    try:
        await host.filter(parts_filter.counters())
    except HostError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def _host_error(operation: str, error: OSError) -> HostError:
    number = error.errno or 0
    return HostError(operation, "the packet filter for the next start", number, os.strerror(number))
