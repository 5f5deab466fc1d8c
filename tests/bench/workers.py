"""What several workers of one data plane carry, beside one: packets sealed and sent through one tunnel's link.

Datagrams of many flows enter one TUN as fast as it takes them; what leaves is dropped by the other end's packet filter,
so that the processors are the sealing end's. One worker is limited by its core: two do what a second one gives, less
what the traffic itself costs to make, which has no core of its own on a machine with two.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from agents.dataplane.base import Direction
from tests.bench import ends as bench
from tests.bench.handshakes import cpu_s
from tests.espd import pair

OCTETS, TOGETHER = 1_350, 45
FLOWS, GENERATORS = 32, 2
ROUNDS, SECONDS = 5, 3.0
TARGET_RATIO = 1.4
_DROP = "table inet bench { chain in { type filter hook prerouting priority raw; udp dport 4500 drop; }; }"


class Site:
    """Two ends of which the left one has so many workers."""

    def __init__(self, workers: int, left: pair.End, right: pair.End) -> None:
        self.workers = workers
        self._left = left
        self._right = right

    async def ready(self) -> None:
        """Key the tunnel, let nothing that is sent cost more, and the workers go before what makes the traffic."""
        bench.prefer((self._left.process.pid,))
        await pair.key((self._left, self._right), pair.sa_specs())
        await pair.run_inside(self._right, "nft", _DROP)

    async def _sealed(self) -> int:
        states = await self._left.driver.list_sas()
        return sum(state.counters.packets_out for state in states if state.direction is Direction.OUT)

    def _spent_s(self) -> float:
        children = (self._left.process.pid, *_children(self._left.process.pid))
        return sum(map(cpu_s, children))

    async def measure(self, seconds: float) -> tuple[float, float]:
        """Return packets sealed a second, and microseconds of the data plane's processor time for each."""
        command = [sys.executable, "-m", "tests.bench.generator", pair.INNER_4[1], str(seconds), str(FLOWS)]
        before, spent = await self._sealed(), self._spent_s()
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(*(pair.run_inside(self._left, *command) for _ in range(GENERATORS)))
        sealed, passed = await self._sealed() - before, loop.time() - start
        return sealed / passed, 1e6 * (self._spent_s() - spent) / max(1, sealed)


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


async def _measure(counts: tuple[int, ...], rounds: int, seconds: float) -> dict[int, list[tuple[float, float]]]:
    turns: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    async with AsyncExitStack() as stack:
        sites = []
        for count in counts:
            both = await stack.enter_async_context(pair.espd_pair(prefix=f"vcw{count}x{os.getpid()}", workers=count))
            sites.append(Site(count, *both))
            await sites[-1].ready()
        for _ in range(rounds):
            for site in sites:
                turns[site.workers].append(await site.measure(seconds))
    return turns


def run(rounds: int = ROUNDS, seconds: float = SECONDS) -> bool:
    """Print what one worker and one for each core carry; returns whether that is as much more as is asked for."""
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        print("Workers: one core, nothing to scale with")
        return True
    turns = asyncio.run(_measure((1, cores), rounds, seconds))
    print(f"Workers of one data plane, one tunnel, {cores} cores, medians of {rounds} turns of {seconds:g} s each:")
    for count, rows in turns.items():
        rate, cost = (statistics.median(each) for each in zip(*rows, strict=True))
        print(f"  {count}: {rate:,.0f} packets/s sealed and sent, {cost:.1f} us of CPU a packet")
    ratios = [many[0] / one[0] for one, many in zip(turns[1], turns[cores], strict=True)]
    ratio = statistics.median(ratios)
    verdict = "reached" if ratio >= TARGET_RATIO else "MISSED"
    print(
        f"  ratio {cores} to 1: {ratio:.2f} (at least {TARGET_RATIO} asked for: {verdict}; turn by turn "
        f"{', '.join(f'{each:.2f}' for each in ratios)})",
        flush=True,
    )
    return ratio >= TARGET_RATIO


if __name__ == "__main__":
    sys.exit(0 if run() else 1)
