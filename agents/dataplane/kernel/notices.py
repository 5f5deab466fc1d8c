"""What the kernel says by itself, as the seam's notices.

:class:`Ear` listens to acquires, expiries, mapping changes and changes of states. A deletion that we did not ask for
and a flush by someone else are told like a hard expiry and a loss, so that ``iked`` negotiates anew. A policy that
someone removed is its :class:`Owner`'s to put back. After an overflow of the socket the tables are compared with what
should be there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from agents.dataplane.base import Acquired, DataplaneError, Expired, Lost, Mapped, Notice, SaId
from agents.dataplane.kernel import messages, rows
from agents.dataplane.kernel.channel import Listener, OverflowedError
from agents.dataplane.kernel.policies import RowKey
from agents.dataplane.kernel.rows import StateId
from agents.dataplane.kernel.suites import Attributes

_DELETION_NOTICE_S = 2.0
"""The kernel queues the notice before it acknowledges; only an overflow can make it miss."""
_EVERY_PROTOCOL = (0, 255)
"""How a flush of all SAs is told: no protocol in particular."""


class Deletion:
    """A deletion of ours whose notice somebody waits for."""

    def __init__(self, state: StateId) -> None:
        self._state = state
        self.attributes: asyncio.Future[Attributes] = asyncio.get_running_loop().create_future()

    async def wait(self) -> Attributes:
        """Return where the deleted state ended, as attributes of its successor; raises :class:`DataplaneError`."""
        try:
            return await asyncio.wait_for(self.attributes, _DELETION_NOTICE_S)
        except TimeoutError:
            reason = "the kernel did not say where the old SA ended"
            raise DataplaneError("update_mapping", str(self._state), errno.EIO, reason) from None


class Owner(Protocol):
    """Who put rows into the kernel, and hears that they are gone."""

    def vanished(self, state: StateId) -> tuple[SaId, ...]:
        """A state is gone: forget the SAs that it was part of and return them."""
        ...

    def flushed(self, protocol: int | None) -> tuple[tuple[SaId, ...], bool]:
        """The states of a protocol, with None all, are gone: return the SAs forgotten, and whether any are left."""
        ...

    async def missing(self) -> tuple[SaId, ...]:
        """Forget the SAs that the kernel should have whole and has not, and return them."""
        ...

    def policy_gone(self, key: RowKey | None) -> None:
        """A policy of this name was removed, with None any of them may have been."""
        ...


class Ear:
    """Read the kernel's notices and put those about our rows into ``queue``; :class:`Owner` knows which are ours."""

    def __init__(
        self,
        queue: asyncio.Queue[Notice | None],
        owner: Owner,
    ) -> None:
        self._queue = queue
        self._owner = owner
        self._expected: dict[StateId, Deletion] = {}
        self._listener = Listener(
            messages.GROUP_ACQUIRE
            | messages.GROUP_EXPIRE
            | messages.GROUP_SA
            | messages.GROUP_POLICY
            | messages.GROUP_MAPPING
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen; what was said since the ear was made is heard too."""
        self._task = asyncio.create_task(self._listen(), name="xfrm notices")
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """End listening."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await self._task
        self._listener.close()

    @contextlib.contextmanager
    def expect_deletion(self, state: StateId) -> Iterator[Deletion]:
        """Take the notice of this deletion for the caller instead of telling it."""
        deletion = Deletion(state)
        self._expected[state] = deletion
        try:
            yield deletion
        finally:
            del self._expected[state]

    async def _listen(self) -> None:
        while True:
            try:
                async for message in self._listener.messages():
                    self._hear(message)
            except OverflowedError:
                self._gone(await self._owner.missing())
                self._owner.policy_gone(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._queue.put_nowait(Lost(reason=f"the kernel's notices cannot be read any more: {error}"))

    def _hear(self, message: Any) -> None:
        match message["header"]["type"]:
            case messages.ACQUIRE:
                reqid = rows.read_template_reqid(message)
                if rows.is_ours(reqid):
                    self._queue.put_nowait(Acquired(reqid=reqid, selector=rows.read_selector(message, "acq")))
            case messages.EXPIRE:
                row = rows.read_state(message)
                if row is not None and rows.is_ours(row.reqid):
                    self._expired(row.id, hard=bool(message["hard"]))
            case messages.MAPPING:
                sa = rows.read_state_id(message).sa
                if sa is not None and rows.is_ours(message["reqid"]):
                    address = rows.read_address(message["new_saddr"], message["family"])
                    self._queue.put_nowait(Mapped(id=sa, address=address, port=message["new_sport"]))
            case messages.DELSA:
                self._deleted(message)
            case messages.FLUSHSA:
                self._flushed(message["proto"])
            case messages.DELPOLICY:
                policy = messages.policy_of(message.get_attr("XFRMA_POLICY"))
                steering = rows.read_steering(message)
                self._owner.policy_gone((policy["dir"], rows.read_selector(policy, "sel"), steering))
            case messages.FLUSHPOLICY:
                self._owner.policy_gone(None)

    def _deleted(self, message: Any) -> None:
        state = rows.read_state_id(message)
        deletion = self._expected.get(state)
        if deletion is None:
            self._gone(self._owner.vanished(state))
        elif not deletion.attributes.done():
            deletion.attributes.set_result(_last_values(message))

    def _flushed(self, protocol: int) -> None:
        gone, any_left = self._owner.flushed(None if protocol in _EVERY_PROTOCOL else protocol)
        if any_left:
            self._gone(gone)
        elif gone:
            self._queue.put_nowait(Lost(reason="somebody flushed the kernel's SAs"))

    def _gone(self, sas: Iterable[SaId]) -> None:
        for sa in sas:
            self._queue.put_nowait(Expired(id=sa, hard=True))

    def _expired(self, state: StateId, *, hard: bool) -> None:
        if hard:
            self._gone(self._owner.vanished(state))
        elif state.sa is not None:
            self._queue.put_nowait(Expired(id=state.sa, hard=False))


def _last_values(message: Any) -> Attributes:
    """Return counts, times, sequence numbers and window of a deleted state."""
    found: Attributes = [("XFRMA_LTIME_VAL", rows.current_values(message.get_attr("XFRMA_SA")))]
    for name in ("XFRMA_REPLAY_VAL", "XFRMA_REPLAY_ESN_VAL"):
        value = message.get_attr(name)
        if value is not None:
            found.append((name, value))
    return found
