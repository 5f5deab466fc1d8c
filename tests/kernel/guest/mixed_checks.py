"""The userspace data plane against Linux's own: one ``espd`` and one kernel driver, and the traffic checks of both.

Every algorithm, AH, AH around ESP, IPComp, extended sequence numbers, windows, limits and large packets, each end made
by other people than the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from deploy.lab.netns import Namespace
from tests.dataplane.conformance import hosts
from tests.dataplane.conformance.checks import TRAFFIC_CHECKS
from tests.dataplane.conformance.sites import EspdSite
from tests.espd import pair as espd
from tests.kernel.guest.harness import End, Pair, report

CHECKS = tuple(TRAFFIC_CHECKS)

QUICK_CHECKS = (
    "pings_cross_and_are_counted", "every_suite_carries_traffic", "every_kind_carries_traffic",
    "kinds_carry_traffic_with_extended_sequence_numbers", "traffic_outside_the_selectors_stays_out",
    *(check.__name__ for check in hosts.TRAFFIC),
)  # fmt: skip
"""One check of each kind of traffic, for the run of all tests."""


async def _ping(namespace: Namespace, target: str, source: str, count: int, payload: int) -> int:
    """Send all requests at once and wait for the answers.

    Otherwise ``ping`` waits twice as long for the last answer as for the slowest so far, and in this machine ``espd``
    may take longer than that to wake up.
    """
    output = await asyncio.to_thread(
        namespace.run, "ping", "-n", "-c", str(count), "-l", str(count), "-W", "5", "-s", str(payload),
        "-p", "76706e", "-I", source, target, check=False,
    )  # fmt: skip
    found = re.search(r"(\d+) received", output)
    assert found is not None, output
    return int(found[1])


class _Kernel(End):
    async def ping(self, target: str, source: str, count: int = 3, payload: int = 56) -> int:
        return await _ping(self.namespace, target, source, count, payload)


class _Espd(EspdSite):
    async def ping(self, target: str, source: str, count: int = 3, payload: int = 56) -> int:
        return await _ping(self._end.namespace, target, source, count, payload)


class MixedPair:
    """The kernel on the left, ``espd`` on the right."""

    left: End
    right: EspdSite

    def __init__(self) -> None:
        self._pair = Pair()
        left = self._pair.left
        self._pair.left = _Kernel("left", left.outer, left.inner, left.outer6, left.inner6)

    def build(self) -> None:
        """Make namespaces, link, addresses and routes."""
        self._pair.build()
        right = self._pair.right.namespace
        right.ip("route", "delete", f"{self._pair.left.inner}/32")
        right.ip("-6", "route", "delete", f"{self._pair.left.inner6}/128")
        right.ip("address", "flush", "dev", "lo", "scope", "global")

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Start ``espd`` and open both drivers for one check."""
        directory = Path(tempfile.mkdtemp(prefix="vc-mixed-"))
        self.left = self._pair.left
        end = await espd.start(self._pair.right.namespace, directory, 1)
        self.right = _Espd(end, 1)
        try:
            await self.left.open()
            await self.right.open()
            yield
        finally:
            await self.left.close()
            await self.right.close()
            espd.stop(end)
            shutil.rmtree(directory)


async def run(pair: MixedPair, name: str) -> None:
    """Run one check with both drivers open."""
    async with pair.opened():
        await TRAFFIC_CHECKS[name](pair)


if __name__ == "__main__":
    mixed = MixedPair()
    mixed.build()
    report({name: partial(run, mixed, name) for name in sys.argv[1:] or CHECKS})
