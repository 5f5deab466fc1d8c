"""The userspace data plane beside strongSwan's kernel-libipsec, in one run: what is asked for, and what it costs.

* TCP, one stream: at least :data:`TARGET_RATIO` times strongSwan; ESP without UDP encapsulation beside it.
* UDP floods of 64 and of 1,400 octets an IP packet: packets a second that arrive, processor time for each.
* Round trips while a TCP stream fills the tunnel, and while nothing does.
* The cost of a packet with 1, 100 and 8,000 SAs: :mod:`tests.bench.many_sas`.

All tunnels stand for the whole run and take turns, several short ones each. A ratio is taken turn by turn, since a
machine's speed drifts, and the median of the turns is what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, fields
from typing import Any

from tests.bench import ends, many_sas
from tests.bench.ends import Ends
from tests.bench.inner import Latency, Tcp, Udp, latency, tcp, udp

ROUNDS = 5
SECONDS = 3
TARGET_RATIO = 4.0
TARGET_PLAIN = 0.5
PARTS = ("tcp", "udp", "latency", "sas")
SIZES = (64, 1_400)

missing = ends.missing


@dataclass
class Turns:
    """The figures of one kind of load: by tunnel, one for each turn."""

    figures: dict[str, list[Any]] = field(default_factory=dict)

    def median(self, name: str) -> Any:
        """Return the median of each figure of a tunnel."""
        rows = self.figures[name]
        kind = type(rows[0])
        return kind(*(statistics.median(getattr(row, each.name) for row in rows) for each in fields(kind)))

    def ratios(self, figure: str, one: str, other: str) -> list[float]:
        """Return one tunnel's figure by another's, turn by turn."""
        rows = zip(self.figures[one], self.figures[other], strict=True)
        return [getattr(mine, figure) / getattr(theirs, figure) for mine, theirs in rows]


async def _take_turns(tunnels: Sequence[Ends], rounds: int, load: Callable[[Ends], Awaitable[Any]]) -> Turns:
    turns = Turns({each.name: [] for each in tunnels})
    for _ in range(rounds):
        for each in tunnels:
            turns.figures[each.name].append(await load(each))
    return turns


@dataclass(frozen=True)
class Report:
    """What a run found: ratios to strongSwan turn by turn, and that of plain ESP to ESP in UDP."""

    tcp: list[float]
    plain: list[float]

    @property
    def reached(self) -> bool:
        """Whether both targets were reached; what was not measured cannot miss one."""
        fast = not self.tcp or statistics.median(self.tcp) >= TARGET_RATIO
        return fast and (not self.plain or statistics.median(self.plain) >= TARGET_PLAIN)


async def _measure(rounds: int, seconds: int, parts: Sequence[str]) -> Report:
    ratios: list[float] = []
    plain: list[float] = []
    async with AsyncExitStack() as stack:
        theirs = await stack.enter_async_context(ends.strongswan())
        ours, _ = await stack.enter_async_context(ends.ours())
        without_udp, _ = await stack.enter_async_context(ends.ours("espd, plain ESP", None))
        tunnels = (theirs, ours, without_udp)
        if "tcp" in parts:
            turns = await _take_turns(tunnels, rounds, lambda each: tcp(each, seconds))
            ratios, plain = _print_tcp(turns, ours.name, theirs.name, without_udp.name)
        if "udp" in parts:
            for octets in SIZES:
                flood = await _take_turns(tunnels, rounds, lambda each, octets=octets: udp(each, octets, seconds))  # type: ignore[misc]
                _print_udp(flood, octets, ours.name, theirs.name)
        if "latency" in parts:
            for loaded in (False, True):
                pings = await _take_turns(
                    tunnels,
                    rounds,
                    lambda each, loaded=loaded: latency(each, seconds, loaded=loaded),  # type: ignore[misc]
                )
                _print_latency(pings, loaded)
    return Report(ratios, plain)


def _print_tcp(turns: Turns, ours: str, theirs: str, without_udp: str) -> tuple[list[float], list[float]]:
    print("TCP, one stream:")
    for name in turns.figures:
        median: Tcp = turns.median(name)
        print(f"  {name}: {median.mbit_s:.0f} Mbit/s, {median.cpu_s_per_gbit:.2f} s of CPU per Gbit, both ends")
    ratios, plain = turns.ratios("mbit_s", ours, theirs), turns.ratios("mbit_s", without_udp, ours)
    _verdict(f"{ours} to {theirs}", ratios, TARGET_RATIO)
    _verdict("plain ESP to ESP in UDP", plain, TARGET_PLAIN)
    return ratios, plain


def _verdict(what: str, ratios: Sequence[float], target: float) -> None:
    median = statistics.median(ratios)
    verdict = "reached" if median >= target else "MISSED"
    turns = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(
        f"  ratio {what}: {median:.2f} (at least {target:.1f} asked for: {verdict}; turn by turn {turns})", flush=True
    )


def _print_udp(turns: Turns, octets: int, ours: str, theirs: str) -> None:
    print(f"UDP, {octets} octets an IP packet, as fast as one sender can:")
    for name in turns.figures:
        median: Udp = turns.median(name)
        print(
            f"  {name}: {median.packets_s:,.0f} packets/s arrived ({100 * median.lost:.0f} % did not), "
            f"{median.cpu_us:.1f} us of CPU a packet, both ends"
        )
    more = statistics.median(turns.ratios("packets_s", ours, theirs))
    less = statistics.median(turns.ratios("cpu_us", ours, theirs))
    print(f"  ratio {ours} to {theirs}: {more:.2f} in packets, {less:.2f} in CPU a packet", flush=True)


def _print_latency(turns: Turns, loaded: bool) -> None:
    print(f"Round trip {'while a TCP stream fills the tunnel' if loaded else 'of an idle tunnel'}:")
    for name in turns.figures:
        median: Latency = turns.median(name)
        print(
            f"  {name}: median {median.median_ms:.2f} ms, 99 % within {median.p99_ms:.2f} ms, "
            f"{100 * median.lost:.1f} % lost",
            flush=True,
        )


def measure(rounds: int = ROUNDS, seconds: int = SECONDS, parts: Sequence[str] = PARTS) -> bool:
    """Print everything; returns whether the targets were reached."""
    print(f"The userspace data plane, medians of {rounds} turns of {seconds} s each:", flush=True)
    with ends.raised_priority():
        report = asyncio.run(_measure(rounds, seconds, parts)) if set(parts) - {"sas"} else Report([], [])
        flat = asyncio.run(many_sas.measure(rounds)) if "sas" in parts else True
    return report.reached and flat


def main() -> int:
    """Measure; exit status 1 when a target is missed, 77 when it cannot be measured here."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.throughput", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    reason = missing()
    if reason is not None:
        print(f"throughput: not measured: {reason}")
        return 77
    return 0 if measure(arguments.rounds, arguments.seconds, arguments.parts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
