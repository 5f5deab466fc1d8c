"""What the interop tests share: a tunnel with strongSwan whose ends a test may end and start again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.lab.strongswan import StrongSwan
from tests.interop.peer import SUITES, Pair, swanctl_conf
from tests.interop.rig import OurGateway, two_namespaces


@pytest.fixture
async def pair(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """Both ends running, ours without configuration; parametrise indirectly with a name of :data:`SUITES`."""
    suite = SUITES[getattr(request, "param", "aes-gcm, group 31")]
    with two_namespaces("pair") as spaces:
        theirs = StrongSwan(spaces[1], tmp_path / "charon", swanctl_conf(suite))
        theirs.start()
        try:
            await asyncio.to_thread(theirs.wait_ready)
            with theirs.vici() as vici:
                async with OurGateway(spaces[0], tmp_path / "agent") as ours:
                    yield Pair(ours, theirs, vici, spaces, suite)
        finally:
            theirs.stop()
