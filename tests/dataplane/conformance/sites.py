"""What the checks need of a place where a driver works: addresses, the driver, its notices, and a ping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from agents.dataplane.base import Driver, Notice
from agents.dataplane.fake import FakeDriver
from tests.espd import pair as espd

TUNNEL, LINK = espd.TUNNEL, espd.LINK
WAIT_S = 20.0


class Site(Protocol):
    """One gateway: addresses outside and inside, and a driver that is open."""

    outer: str
    inner: str
    outer6: str
    inner6: str

    @property
    def driver(self) -> Driver:
        """The driver under test."""
        ...

    async def open(self) -> None:
        """Open the driver, as ``iked`` does when it starts: also a second time."""
        ...

    async def close(self) -> None:
        """Close the driver; its notices end."""
        ...

    async def hears(self, kind: type[Notice], matches: Callable[[Any], bool] = ...) -> Any:
        """Wait for a notice and return it."""
        ...

    async def ping(self, target: str, source: str, count: int = 3, payload: int = 56) -> int:
        """Send echo requests; return how many answers came."""
        ...


class SitePair(Protocol):
    """Two gateways that reach each other outside and route each other's inner addresses into the data plane."""

    @property
    def left(self) -> Site:
        """One end."""
        ...

    @property
    def right(self) -> Site:
        """The other."""
        ...


class _Listening:
    """Collects a driver's notices."""

    driver: Driver

    def __init__(self) -> None:
        self._heard: list[Notice] = []
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def _collect(self) -> None:
        async for notice in self.driver.notices():
            async with self._news:
                self._heard.append(notice)
                self._news.notify_all()

    async def open(self) -> None:
        """See :class:`Site`."""
        await self.driver.open()
        await self.finish()
        self._heard.clear()
        self._task = asyncio.create_task(self._collect())

    async def close(self) -> None:
        """See :class:`Site`."""
        await self.driver.close()
        if self._task is not None:
            await asyncio.wait_for(self._task, WAIT_S)
            self._task = None

    async def finish(self) -> None:
        """Stop listening, the driver left as it is."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def hears(self, kind: type[Notice], matches: Callable[[Any], bool] = lambda _: True) -> Any:
        """See :class:`Site`."""

        def found() -> Any:
            return next((notice for notice in self._heard if isinstance(notice, kind) and matches(notice)), None)

        async with self._news:
            return await asyncio.wait_for(self._news.wait_for(found), WAIT_S)


class FakeSite(_Listening):
    """The driver in memory."""

    outer, outer6 = espd.OUTER_4[0], espd.OUTER_6[0]
    inner, inner6 = espd.INNER_4[0], espd.INNER_6[0]

    def __init__(self) -> None:
        super().__init__()
        self.driver: Driver = FakeDriver()

    async def ping(self, target: str, source: str, count: int = 3, payload: int = 56) -> int:
        """There are no packets."""
        raise NotImplementedError


class EspdSite(_Listening):
    """One ``espd`` in its namespace."""

    def __init__(self, end: espd.End, index: int) -> None:
        super().__init__()
        self._end = end
        self._index = index
        self.outer, self.outer6 = espd.OUTER_4[index], espd.OUTER_6[index]
        self.inner, self.inner6 = espd.INNER_4[index], espd.INNER_6[index]
        self.driver: Driver = end.driver

    async def open(self) -> None:
        """See :class:`Site`; the link and UDP 4500 are asked for again, as ``iked`` does."""
        await super().open()
        await espd.prepare(self._end, self._index)

    async def ping(self, target: str, source: str, count: int = 3, payload: int = 56) -> int:
        """See :class:`Site`."""
        return await espd.ping(self._end, target, source, count, payload)


@dataclass(frozen=True, slots=True)
class EspdPair:
    """Two ``espd``."""

    left: EspdSite
    right: EspdSite
