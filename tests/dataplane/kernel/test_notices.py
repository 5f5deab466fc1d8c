"""What the ear makes of the kernel's messages, a full buffer and a broken socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agents.dataplane.base import DataplaneError, Expired, Lost, Notice, SaId
from agents.dataplane.kernel import notices
from agents.dataplane.kernel.channel import OverflowedError
from agents.dataplane.kernel.policies import RowKey
from agents.dataplane.kernel.rows import StateId

SA = SaId(spi=0x1001, destination="192.0.2.2")


class BrokenListener:
    """Speaks once as the test says, then never again."""

    failure: OSError | OverflowedError = OverflowedError()

    def __init__(self, groups: int) -> None:
        self.said = False

    def close(self) -> None:
        return

    async def messages(self) -> AsyncIterator[Any]:
        if not self.said:
            self.said = True
            raise self.failure
        await asyncio.Event().wait()
        yield None


class Owner:
    """Knows some SAs that the kernel no longer has."""

    def __init__(self, known: set[SaId]) -> None:
        self.known = known

    def vanished(self, state: StateId) -> tuple[SaId, ...]:
        sa = state.sa
        if sa is None or sa not in self.known:
            return ()
        self.known.discard(sa)
        return (sa,)

    def flushed(self, protocol: int | None) -> tuple[tuple[SaId, ...], bool]:
        gone = tuple(sa for sa in self.known if protocol in (None, StateId.of(sa).protocol))
        self.known -= set(gone)
        return gone, bool(self.known)

    async def missing(self) -> tuple[SaId, ...]:
        gone, self.known = tuple(self.known), set()
        return gone

    def policy_gone(self, key: RowKey | None) -> None:
        return


def ear(
    monkeypatch: pytest.MonkeyPatch, failure: OSError | OverflowedError, known: set[SaId]
) -> tuple[notices.Ear, asyncio.Queue[Notice | None]]:
    monkeypatch.setattr(BrokenListener, "failure", failure)
    monkeypatch.setattr(notices, "Listener", BrokenListener)
    queue: asyncio.Queue[Notice | None] = asyncio.Queue()
    return notices.Ear(queue, Owner(known)), queue


async def test_after_an_overflow_the_table_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    listening, queue = ear(monkeypatch, OverflowedError(), {SA})
    listening.start()
    assert await asyncio.wait_for(queue.get(), 1) == Expired(id=SA, hard=True)
    await listening.stop()
    assert queue.empty()


async def test_an_ear_that_broke_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    listening, queue = ear(monkeypatch, OSError(5, "Input/output error"), set())
    listening.start()
    notice = await asyncio.wait_for(queue.get(), 1)
    assert isinstance(notice, Lost)
    assert "Input/output error" in notice.reason
    await listening.stop()


async def test_a_deletion_nobody_reports_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_DELETION_NOTICE_S", 0.01)
    listening, _queue = ear(monkeypatch, OverflowedError(), set())
    listening.start()
    with (
        listening.expect_deletion(StateId.of(SA)) as deletion,
        pytest.raises(DataplaneError, match="where the old SA ended"),
    ):
        await deletion.wait()
    await listening.stop()
