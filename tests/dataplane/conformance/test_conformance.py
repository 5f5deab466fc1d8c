"""The checks of every driver: here the fake and the userspace one; the kernel's run where the kernel has ESP."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.dataplane.conformance.checks import REAL_CHECKS, STATE_CHECKS, TRAFFIC_CHECKS
from tests.dataplane.conformance.sites import EspdPair, EspdSite, FakeSite
from tests.espd import pair as espd

lab = pytest.mark.lab


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[1, 3], ids=["one worker", "three workers"])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[tuple[espd.End, espd.End]]:
    """Two ``espd`` for all checks of this file; each check opens anew."""
    async with espd.espd_pair(prefix=f"vcc{os.getpid()}", workers=request.param) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module")
async def pair(ends: tuple[espd.End, espd.End]) -> AsyncIterator[EspdPair]:
    sites = EspdPair(EspdSite(ends[0], 0), EspdSite(ends[1], 1))
    await sites.left.open()
    await sites.right.open()
    yield sites
    await sites.left.finish()
    await sites.right.finish()


@pytest.mark.parametrize("name", STATE_CHECKS)
async def test_fake(name: str) -> None:
    site = FakeSite()
    await site.open()
    await STATE_CHECKS[name](site)
    await site.close()


@lab
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", [*STATE_CHECKS, *REAL_CHECKS])
async def test_userspace(name: str, pair: EspdPair) -> None:
    await {**STATE_CHECKS, **REAL_CHECKS}[name](pair.left)


@lab
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", TRAFFIC_CHECKS)
async def test_userspace_traffic(name: str, pair: EspdPair) -> None:
    await TRAFFIC_CHECKS[name](pair)
