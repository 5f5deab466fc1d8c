"""The conformance suite of all drivers on the kernel's: what ``tests/dataplane/conformance`` runs on the others."""

from __future__ import annotations

import sys
from functools import partial

from tests.dataplane.conformance.checks import REAL_CHECKS, STATE_CHECKS, TRAFFIC_CHECKS
from tests.kernel.guest.harness import Pair, report

CHECKS = (*STATE_CHECKS, *REAL_CHECKS, *TRAFFIC_CHECKS)


async def _on(pair: Pair, name: str) -> None:
    async with pair.opened():
        if name in TRAFFIC_CHECKS:
            await TRAFFIC_CHECKS[name](pair)
        else:
            await {**STATE_CHECKS, **REAL_CHECKS}[name](pair.left)


if __name__ == "__main__":
    both = Pair()
    both.build()
    report({name: partial(_on, both, name) for name in sys.argv[1:] or CHECKS})
