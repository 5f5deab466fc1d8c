"""The conformance suite of all drivers on the kernel's: what ``tests/dataplane/conformance`` runs on the others."""

from __future__ import annotations

from tests.dataplane.conformance.checks import REAL_CHECKS, STATE_CHECKS, TRAFFIC_CHECKS
from tests.kernel.guest.harness import Pair

CHECKS = (*STATE_CHECKS, *REAL_CHECKS, *TRAFFIC_CHECKS)


async def run(pair: Pair, name: str) -> None:
    """Run one check with both drivers open."""
    async with pair.opened():
        if name in TRAFFIC_CHECKS:
            await TRAFFIC_CHECKS[name](pair)
        else:
            await {**STATE_CHECKS, **REAL_CHECKS}[name](pair.left)
