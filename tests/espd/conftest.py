"""One ``espd`` for tests that leave it as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.espd.pair import End, espd_pair


@pytest.fixture
async def one() -> AsyncIterator[End]:
    """The left end of a pair."""
    async with espd_pair() as (left, _right):
        yield left
