"""Part of ``make soak``: 100 tunnels over userspace ESP with traffic in them, rekeyed every 20 s, for 15 minutes.

Two gateways, ``iked`` and ``espd`` each as shipped, in two namespaces; half of the tunnels have ESP in UDP. UDP packets
of mixed sizes, fragments among them, go through every tunnel both ways. One more tunnel has manual keys, and one of its
ends protects less than the other sends: what is outside must be dropped and counted, never delivered. Checked are:

* loss: every packet sent has come, once, with its octets, whatever rekeys went on;
* selectors: nothing outside them was delivered (:mod:`tests.bench.watch`), each such packet was counted;
* keys: none was installed twice (:mod:`tests.bench.recorded`), and no IV used twice under one;
* memory of all four processes is flat from the second minute on; no tunnel ended or was seen down.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from agents.contract.config import GatewayDocument
from agents.contract.status import TunnelState
from agents.iked.links import link_name
from agents.runtime.rpc import Client
from deploy.lab.netns import Namespace, connect
from tests.bench import recorded
from tests.bench.handshakes import cpu_s, rss_octets
from tests.bench.soak import ENDS, MOST_GROWTH, documents, networks
from tests.iked.cast import CBC_SHA1, manual, manual_child
from tests.interop.rig import ROOT, OurGateway

THERE = "198.18.0.1"
LIAR = "liar"
LIAR_NEAR, LIAR_FAR = "172.31.0.0/25", "172.30.0.0/25"
_OUTSIDE_NEAR, _OUTSIDE_FAR = "172.31.0.200", "172.30.0.200"
_LEAD = 0.73
"""Of a lifetime that has passed, on average, when a child is rekeyed (:func:`agents.ike.timers.rekey_after_s`)."""
_QUIET_S = 60.0
_ENDS = frozenset(ENDS) - {"child.deleted"}
"""Of two rekeys that cross, one pair is deleted: no end of a tunnel, and what is lost is counted here."""


def here_of(number: int) -> str:
    """Return the outer address of the initiator's end of a tunnel."""
    return f"198.18.{1 + number // 250}.{number % 250 + 1}"


def first(network: str) -> str:
    """Return the host address that stands for a network."""
    return str(ipaddress.ip_network(network)[1])


@dataclass
class Side:
    """One gateway and what looks at it."""

    name: str
    namespace: Namespace
    gateway: Recorded
    directory: Path
    traffic: subprocess.Popen[bytes] | None = None
    watch: subprocess.Popen[bytes] | None = None
    ends: list[str] = field(default_factory=list)
    """What was reported and must not be: tunnels that end, and bugs."""
    _last_event: int = 0
    _boot_id: str | None = None

    async def note_ends(self) -> None:
        """Look through the events since the last time."""
        while True:
            page = await self.gateway.client.call("events", {"after": self._last_event, "boot_id": self._boot_id})
            self._boot_id = page["boot_id"]
            if not page["events"]:
                return
            self._last_event = page["events"][-1]["sequence"]
            for event in page["events"]:
                if event["code"] in _ENDS:
                    when = time.strftime("%H:%M:%S", time.localtime(event["time"]))
                    self.ends.append(f"{when} {event['code']}: {event['message']}")

    def pids(self) -> dict[str, int]:
        """Return the daemons' processes by name."""
        return {f"{self.name} {name}": process.pid for name, process in self.gateway.processes.items()}

    def read(self, name: str) -> dict[str, Any]:
        """Return a report of one of the processes beside the gateway."""
        found: dict[str, Any] = json.loads((self.directory / name).read_text())
        return found


class Recorded(OurGateway):
    """As shipped, but quiet, and with the keys' fingerprints written down."""

    @property
    def keys(self) -> Path:
        """The file of fingerprints."""
        return self._directory / "keys"

    def start(self, name: str) -> None:
        """Start one of the two processes."""
        if name == "espd":
            arguments = ["-m", "agents.espd", "--run", str(self.run), "--log-level", "error"]
        else:
            arguments = ["-m", "tests.bench.recorded", "--run", str(self.run), "--state", str(self.state)]
            arguments += ["--keys", str(self.keys)]
        self.processes[name] = self.namespace.start(
            sys.executable, *arguments, log=self._log, environment=os.environ, cwd=ROOT
        )


def both_documents(count: int, rekey_s: int) -> tuple[GatewayDocument, GatewayDocument]:
    """Return both ends' documents: tunnels 0, 2, 4 ... have plain ESP, the others ESP in UDP."""
    lifetime_s = round(rekey_s / _LEAD)
    found = []
    wide = manual_child("wide", "0.0.0.0/0", "0.0.0.0/0")
    narrow = manual_child("narrow", LIAR_FAR, LIAR_NEAR)
    ends = ((here_of(0), THERE, wide), (THERE, here_of(0), narrow))
    for plain, (here, there, child) in zip(
        documents(count, lifetime_s, here_of=here_of, there=THERE), ends, strict=True
    ):
        tunnels = tuple(
            replace(each, force_udp_encapsulation=bool(number % 2), ike=replace(each.ike, lifetime_s=3 * lifetime_s))
            for number, each in enumerate(plain.tunnels)
        )
        liar = manual(LIAR, here, there, children=[child])
        found.append(replace(plain, tunnels=tunnels, manual_tunnels=(liar,)))
    return found[0], found[1]


@contextlib.contextmanager
def two_gateways(count: int) -> Iterator[tuple[Side, Side]]:
    """Make both namespaces: a link between them, on which no packet is handed over in segments, and inner addresses."""
    prefix = f"vcsoak{os.getpid()}"
    spaces = Namespace(prefix, "left"), Namespace(prefix, "right")
    with tempfile.TemporaryDirectory(prefix="vpn-soak-") as name:
        try:
            for space in spaces:
                space.create()
            outer = [f"{here_of(number)}/16" for number in range(count)]
            connect(spaces[0], "wan", outer, spaces[1], "wan", [f"{THERE}/16"])
            sides = []
            for index, space in enumerate(spaces):
                space.ip("link", "set", "wan", "gso_max_segs", "1")
                inner = [first(networks(number)[index]) for number in range(count)]
                inner += [first((LIAR_NEAR, LIAR_FAR)[index]), (_OUTSIDE_NEAR, _OUTSIDE_FAR)[index]]
                for address in inner:
                    space.ip("address", "add", f"{address}/32", "dev", "lo")
                directory = Path(name) / space.role
                directory.mkdir()
                sides.append(Side(space.role, space, Recorded(space, directory), directory))
            yield sides[0], sides[1]
        finally:
            for space in spaces:
                space.remove()


def plans(count: int, per_s: float) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield what is sent and what is looked for, for the left and the right gateway."""
    nets = [networks(number) for number in range(count)] + [(LIAR_NEAR, LIAR_FAR)]
    near_strays = [(_OUTSIDE_NEAR, first(LIAR_FAR)), (first(LIAR_NEAR), _OUTSIDE_FAR)]
    far_strays = [(first(nets[0][1]), first(nets[1][0]))]  # through a tunnel that protects another network here
    for index, strays in enumerate((near_strays, far_strays)):
        names = [link_name(each.id) for each in both_documents(count, 20)[index].tunnels] + [link_name(manual_id())]
        traffic = {
            "pairs": [(first(pair[index]), first(pair[1 - index])) for pair in nets],
            "strays": strays,
            "addresses": [(_OUTSIDE_NEAR, _OUTSIDE_FAR)[index]],
            "per_s": per_s,
            "port": 5_000,
            "seed": index,
        }
        links = {name: (pair[index], pair[1 - index]) for name, pair in zip(names, nets, strict=True)}
        # The liar's left end takes everything: what its right end sends is inside whatever it is.
        links[names[-1]] = (("0.0.0.0/0", "0.0.0.0/0"), (LIAR_FAR, LIAR_NEAR))[index]
        yield traffic, {"wan": "wan", "links": links, "skip": [CBC_SHA1.esp_spi]}


def manual_id() -> str:
    """Return the id of the tunnel with manual keys."""
    return manual(LIAR, here_of(0), THERE).id


async def soak(minutes: float, count: int, rekey_s: int, per_s: float) -> list[str]:
    """Run; returns what went wrong."""
    with two_gateways(count) as sides:
        async with sides[1].gateway, sides[0].gateway:
            for side, document in zip(sides[::-1], both_documents(count, rekey_s)[::-1], strict=True):
                await side.gateway.load(document)
            await _until_up(sides)
            _routes(sides, count)
            print(
                f"{count} tunnels and one with manual keys, {2 * per_s:.0f} packets/s, for {minutes:g} min", flush=True
            )
            with _beside(sides, count, per_s):
                seen = await _watch_over(sides, minutes)
                _end_traffic(sides)
            return [*seen, *await _verdict(sides, count, minutes, rekey_s)]


async def _until_up(sides: tuple[Side, Side]) -> None:
    async with asyncio.timeout(120):
        for side in sides:
            while await _down(side):
                await side.gateway.changed()


async def _down(side: Side) -> int:
    return sum(each.state is not TunnelState.UP for each in await side.gateway.tunnels())


def _routes(sides: tuple[Side, Side], count: int) -> None:
    for index, side in enumerate(sides):
        document = both_documents(count, 20)[index]
        for number, each in enumerate(document.tunnels):
            pair = networks(number)
            side.gateway.route_into(each.id, pair[1 - index], first(pair[index]))
        far, near = (LIAR_FAR, LIAR_NEAR) if index == 0 else (LIAR_NEAR, LIAR_FAR)
        whole = f"{ipaddress.ip_network(far)[0]}/24"
        side.gateway.route_into(manual_id(), whole, first(near))


@contextlib.contextmanager
def _beside(sides: tuple[Side, Side], count: int, per_s: float) -> Iterator[None]:
    """Run what sends and what looks, in both namespaces."""
    with contextlib.ExitStack() as stack:
        for side, (traffic, watch) in zip(sides, plans(count, per_s), strict=True):
            for name, plan in (("traffic", traffic), ("watch", watch)):
                (side.directory / f"{name}.plan").write_text(json.dumps(plan))
        for side in sides:
            side.watch = _start(stack, side, "tests.bench.watch", "watch")
        for side in sides:
            _wait_for(side, "watch.json")
        for side in sides:
            side.traffic = _start(stack, side, "tests.bench.inner_traffic", "traffic")
        for side in sides:
            _wait_for(side, "traffic.json")
        for side in sides:
            assert side.traffic is not None
            assert side.traffic.stdin is not None
            side.traffic.stdin.write(b"go\n")
            side.traffic.stdin.flush()
        yield


def _wait_for(side: Side, name: str) -> None:
    """Wait until a process beside the gateway has written its first report: then it listens."""
    deadline = time.monotonic() + 30
    while not (side.directory / name).exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{side.name}: no {name}: {(side.directory / name).with_suffix('.log').read_text()}")
        time.sleep(0.05)  # a file's appearance is no event without inotify


def _start(stack: contextlib.ExitStack, side: Side, module: str, name: str) -> subprocess.Popen[bytes]:
    log: IO[bytes] = stack.enter_context((side.directory / f"{name}.log").open("wb"))
    command = [sys.executable, "-m", module, str(side.directory / f"{name}.plan"), str(side.directory / f"{name}.json")]
    process = subprocess.Popen(side.namespace.command(command), stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=ROOT)
    stack.callback(process.wait, 30)
    stack.callback(process.terminate)
    return process


def _end_traffic(sides: tuple[Side, Side]) -> None:
    """Let both stop sending, and wait for what is under way."""
    for side in sides:
        assert side.traffic is not None
        assert side.traffic.stdin is not None
        side.traffic.stdin.close()
    for side in sides:
        assert side.traffic is not None
        if side.traffic.wait(_QUIET_S):
            raise RuntimeError((side.directory / "traffic.log").read_text())


async def _watch_over(sides: tuple[Side, Side], minutes: float) -> list[str]:
    """Look at both gateways until the time is over; print each minute what there is."""
    began, down = time.monotonic(), 0
    resident: dict[str, list[int]] = {}
    used: dict[str, float] = {}
    minute = 0
    while time.monotonic() < began + 60 * minutes:
        await asyncio.sleep(5)
        for side in sides:
            down += await _down(side)
            await side.note_ends()
        if time.monotonic() >= began + 60 * (minute + 1):
            minute += 1
            await _print_minute(sides, minute, resident, used)
    problems = [f"a tunnel was seen down {down} times"] if down else []
    for name, sizes in resident.items():
        if len(sizes) > 2 and sizes[-1] > sizes[1] * (1 + MOST_GROWTH):
            problems.append(f"{name}: memory grew from {sizes[1] / 2**20:.1f} to {sizes[-1] / 2**20:.1f} MiB")
    return problems


async def _print_minute(
    sides: tuple[Side, Side], minute: int, resident: dict[str, list[int]], used: dict[str, float]
) -> None:
    words = []
    for side in sides:
        for name, pid in side.pids().items():
            resident.setdefault(name, []).append(rss_octets(pid))
            spent = cpu_s(pid)
            share = (spent - used.get(name, 0.0)) / 60
            used[name] = spent
            words.append(f"{name} {resident[name][-1] / 2**20:.1f} MiB {100 * share:.0f} %")
    rekeys = [(await side.gateway.status())["counters"].get("child.rekeyed", 0) for side in sides]
    reports = [side.read("traffic.json") for side in sides]
    sent, came = (sum(sum(each[what]) for each in reports) for what in ("sent", "received"))
    print(f"minute {minute:2}: {sum(rekeys)} rekeys, {sent:,} sent, {came:,} came; {', '.join(words)}", flush=True)


async def _verdict(sides: tuple[Side, Side], count: int, minutes: float, rekey_s: int) -> list[str]:
    problems: list[str] = []
    left, right = (side.read("traffic.json") for side in sides)
    for source, target, way in ((left, right, "left to right"), (right, left, "right to left")):
        sent, came = source["sent"], target["received"]
        lost = {number: a - b for number, (a, b) in enumerate(zip(sent, came, strict=True)) if a != b}
        print(
            f"{way}: {sum(sent):,} sent, {sum(came):,} came, {sum(lost.values())} lost, {target['late']} out of order"
        )
        problems += [f"{way}: lost by tunnel {lost}"] if lost else []
        problems += [f"{way}: {what} {number}" for what, number in target["faults"].items()] + target["examples"]
    rekeys = 0
    for side in sides:
        problems += await _of_side(side)
        rekeys += (await side.gateway.status())["counters"].get("child.rekeyed", 0)
    # Each rekey is told by both ends.
    wanted = 2 * count * (60 * minutes / rekey_s - 1) * 0.8
    print(f"{rekeys // 2} rekeys of children")
    if rekeys < wanted:
        problems.append(f"only {rekeys // 2} rekeys")
    problems += await _strays(sides, left["strays_sent"], right["strays_sent"])
    return problems


async def _of_side(side: Side) -> list[str]:
    problems = [
        f"{side.name}: a key was installed twice: {line}" for line in recorded.installed_twice(side.gateway.keys)
    ]
    watch = side.read("watch.json")
    counts = watch["counts"]
    print(
        f"{side.name}: {counts['esp']:,} ESP packets of {counts['sas']:,} SAs looked at, {counts['delivered']:,} inner "
        f"packets; {counts['missed']} not seen; {len(side.gateway.keys.read_text().splitlines()):,} keys"
    )
    problems += [f"{side.name}: {example}" for example in watch["examples"]]
    if counts["missed"] > counts["esp"] / 100:
        problems.append(f"{side.name}: {counts['missed']} packets were not looked at")
    await side.note_ends()
    return problems + [f"{side.name}: {event}" for event in side.ends]


async def _strays(sides: tuple[Side, Side], near: int, far: int) -> list[str]:
    """Compare how many packets outside the selectors were dropped with how many were sent."""
    health = []
    for side in sides:
        async with await Client.connect(side.gateway.run / "espd.sock") as client:
            health.append((await client.call("health"))["counters"])
    refused, kept = health[1].get("esp.policy", 0), health[1].get("out.no-policy", 0)
    print(
        f"strays: {near} through a tunnel that carries them, {refused} dropped on arrival; {far} without, {kept} kept"
    )
    print(f"drops: left {health[0]}, right {health[1]}")
    problems = [] if refused == near else [f"{near} packets outside the selectors were sent, {refused} dropped"]
    if kept < far:
        problems.append(f"{far} packets had no policy, {kept} were kept")
    return problems


def main() -> int:
    """Run; exits with 1 when something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak_data", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--tunnels", type=int, default=100)
    parser.add_argument("--rekey", type=int, default=20, help="seconds between rekeys of a child, on average")
    parser.add_argument("--per-s", type=float, default=500, help="packets a second, each way")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # namespaces and processes go also then
    problems = asyncio.run(soak(options.minutes, options.tunnels, options.rekey, options.per_s))
    print("\n".join(problems) or "nothing lost, nothing outside its selectors, no key or IV twice, memory flat")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
