"""``make soak``: 200 tunnels with lifetimes of 30 s through 5 % loss, between two ``iked`` processes, for ten minutes.

Both are as shipped, with sockets and timers in real time, and data planes in memory. Lost are datagrams of UDP 500 and
4500 in a network namespace of its own, by nftables. Printed each minute: rekeys per second, processor, resident memory,
SAs and policies in each data plane. It fails when a tunnel ends or is seen down, an SA is left over, or memory grows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agents.contract.codec import to_plain
from agents.contract.config import ConnectionType, GatewayDocument, Retransmission
from agents.contract.status import TunnelState
from agents.dataplane.fake import FakeDriver
from agents.iked.daemon import serve, settle_memory
from agents.iked.planes import Planes
from agents.runtime import logs
from agents.runtime.paths import Paths
from tests.bench.handshakes import call, cpu_s, rss_octets
from tests.iked.cast import document, psk, tunnel

RESPONDER = "127.1.0.1"
_ROOT = Path(__file__).resolve().parents[2]
ENDS = ("ike.dpd-failed", "ike.sa-deleted", "ike.sa-failed", "child.deleted", "child.install-failed", "ike.bug")
"""What must not be reported: tunnels that end, and bugs."""


def address(number: int) -> str:
    """Return the loopback address of the initiator with this number."""
    return f"127.2.{number // 250}.{number % 250 + 1}"


_RETRANSMISSION = Retransmission(initial_ms=200, factor=1.5, tries=10)
"""Quick enough to get through between the rekey and the end of a lifetime of 30 s."""

MOST_GROWTH = 0.10
"""Of resident memory, from the second minute to the last."""


class _Forgetful(list[tuple[str, str]]):
    """A record of calls that keeps none."""

    def append(self, item: tuple[str, str], /) -> None:
        return None


def peer(directory: Path) -> None:
    """Be one ``iked`` until SIGTERM; every second the sizes of its data plane go to ``plane.json``."""
    logs.set_up("iked", "error")
    settle_memory()
    driver = FakeDriver(name="userspace")
    driver.calls = _Forgetful()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(_tell_sizes(driver, directory / "plane.json"))
            await serve(Paths(state=directory / "state", run=directory / "run"), Planes(lambda: driver, lambda: driver))
            telling.cancel()

    asyncio.run(main())


async def _tell_sizes(driver: FakeDriver, file: Path) -> None:
    """Say each second what is there, and how late the latest of these seconds was: how long the process stood still."""
    late_s, due = 0.0, time.monotonic()
    while True:
        late_s = max(late_s, time.monotonic() - due)
        due = time.monotonic() + 1
        sizes = {"sas": len(driver.sas), "policies": len(driver.policies), "late_ms": round(1_000 * late_s)}
        text = json.dumps(sizes)
        fresh = file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(file)
        await asyncio.sleep(1)


@dataclass(kw_only=True)
class Gateway:
    """One process and what was seen of it."""

    name: str
    pid: int
    directory: Path
    cpu_before_s: float = 0.0
    most_sas: int = 0
    down_seen: int = 0
    last_event: int = 0
    boot_id: str = ""
    ends: list[str] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)

    def plane(self) -> dict[str, int]:
        sizes: dict[str, int] = json.loads((self.directory / "plane.json").read_text())
        return sizes

    def note_ends(self) -> None:
        """Keep the first words of every event that must not be."""
        page = asyncio.run(call(self.directory / "run", "events", {"after": self.last_event, "boot_id": self.boot_id}))
        self.boot_id, self.last_event = page["boot_id"], page["last"]
        for event in page["events"]:
            if event["code"] in ENDS and len(self.ends) < 20:
                self.ends.append(f"{time.strftime('%H:%M:%S', time.localtime(event['time']))} {event['message']}")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = asyncio.run(call(self.directory / "run", "status"))
        return found


def networks(number: int) -> tuple[str, str]:
    """Return the initiator's and the responder's network of the tunnel with this number."""
    return f"10.{100 + number // 250}.{number % 250}.0/24", f"172.16.{number}.0/24"


def documents(
    count: int, lifetime_s: int, *, here_of: Callable[[int], str] = address, there: str = RESPONDER
) -> tuple[GatewayDocument, GatewayDocument]:
    """Return both ends' documents: as many tunnels, each between an address of its own and the one responder."""
    ours, theirs, our_keys, their_keys = [], [], [], []
    for number in range(count):
        here, (near, far) = here_of(number), networks(number)
        roles = (ConnectionType.INITIATOR_ONLY, ConnectionType.RESPONDER_ONLY)
        pair = (
            tunnel(f"t{number}", here, there, connection_type=roles[0], local_ts=near, remote_ts=far),
            tunnel(f"t{number}", there, here, connection_type=roles[1], local_ts=far, remote_ts=near),
        )
        short = [
            replace(
                each,
                ike=replace(each.ike, lifetime_s=lifetime_s, dpd_interval_s=15),
                children=tuple(replace(child, lifetime_s=lifetime_s) for child in each.children),
            )
            for each in pair
        ]
        ours.append(short[0])
        theirs.append(short[1])
        our_keys.append(psk(here, there, name=f"a{number}"))
        their_keys.append(psk(there, here, name=f"b{number}"))
    return (
        replace(document("soak-a", ours, our_keys), retransmission=_RETRANSMISSION),
        replace(document("soak-b", theirs, their_keys), retransmission=_RETRANSMISSION),
    )


@contextlib.contextmanager
def gateways() -> Iterator[list[Gateway]]:
    """Run both processes, each in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="vpn-soak-") as name, contextlib.ExitStack() as stack:
        found = []
        for role in ("initiator", "responder"):
            directory = Path(name) / role
            directory.mkdir()
            process = subprocess.Popen([sys.executable, "-m", "tests.bench.soak", "--peer", str(directory)], cwd=_ROOT)
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
            found.append(Gateway(name=role, pid=process.pid, directory=directory))
        yield found


def lose(percent: float) -> None:
    """Lose this share of IKE's datagrams in the present network namespace."""
    rule = f"add rule inet soak in udp dport {{ 500, 4500 }} numgen random mod 1000 < {int(percent * 10)} drop"
    chain = "add table inet soak; add chain inet soak in { type filter hook input priority 0; }"
    subprocess.run(["nft", f"{chain}; {rule}"], check=True)


def soak(minutes: float, count: int, lifetime_s: int, loss: float) -> list[str]:
    """Run in the present network namespace; returns what went wrong."""
    with gateways() as both:
        for gateway, config in zip(both, documents(count, lifetime_s), strict=True):
            asyncio.run(call(gateway.directory / "run", "configure", {"document": to_plain(config)}))
        _wait_until_up(both, count)
        before = [gateway.status()["counters"] for gateway in both]
        lose(loss)
        began, last = time.monotonic(), dict.fromkeys((gateway.name for gateway in both), (0, 0.0))
        for gateway, counters in zip(both, before, strict=True):
            gateway.cpu_before_s = cpu_s(gateway.pid)
            last[gateway.name] = (_rekeys(counters), gateway.cpu_before_s)
        print(
            f"{count} tunnels, IKE and child lifetimes {lifetime_s} s, {loss} % loss, {minutes:g} minutes", flush=True
        )
        for minute in range(1, int(minutes) + 1):
            _look(both, until=began + 60 * minute)
            for gateway in both:
                last[gateway.name] = _print_minute(gateway, minute, *last[gateway.name])
        return [
            f"{gateway.name}: {problem}"
            for gateway, counters in zip(both, before, strict=True)
            for problem in _verdict(gateway, counters, count)
        ]


def _wait_until_up(both: list[Gateway], count: int) -> None:
    deadline = time.monotonic() + 60
    while any(_down(gateway.status()) for gateway in both):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{count} tunnels did not come up in 60 s")
        time.sleep(0.5)


def _down(status: dict[str, Any]) -> int:
    return sum(each["state"] != TunnelState.UP for each in status["tunnels"])


def _look(both: list[Gateway], until: float) -> None:
    """Look every few seconds until that time: is every tunnel up, and how many SAs are there."""
    while time.monotonic() < until:
        time.sleep(min(5.0, max(0.1, until - time.monotonic())))
        for gateway in both:
            gateway.down_seen += _down(gateway.status())
            gateway.note_ends()
            gateway.most_sas = max(gateway.most_sas, gateway.plane()["sas"])


def _rekeys(counters: dict[str, int]) -> int:
    return counters.get("ike.sa-rekeyed", 0) + counters.get("child.rekeyed", 0)


def _print_minute(gateway: Gateway, minute: int, rekeys_before: int, cpu_before_s: float) -> tuple[int, float]:
    counters, plane = gateway.status()["counters"], gateway.plane()
    rekeys, used_s, resident = _rekeys(counters), cpu_s(gateway.pid), rss_octets(gateway.pid)
    gateway.rss.append(resident)
    print(
        f"minute {minute:2} {gateway.name}: {(rekeys - rekeys_before) / 60:.1f} rekeys/s, "
        f"{100 * (used_s - cpu_before_s) / 60:.0f} % of a core, {resident / 2**20:.1f} MiB, "
        f"{plane['sas']} SAs, {plane['policies']} policies, {counters.get('ike.retransmit', 0)} sent again, "
        f"stood still {plane['late_ms']} ms at most",
        flush=True,
    )
    return rekeys, used_s


def _verdict(gateway: Gateway, before: dict[str, int], count: int) -> list[str]:
    counters, plane, problems = gateway.status()["counters"], gateway.plane(), []
    for code in ENDS:
        more = counters.get(code, 0) - before.get(code, 0)
        if more:
            problems.append(f"{more} times {code}")
    problems += gateway.ends
    if counters.get("ike.sa-established", 0) != before.get("ike.sa-established", 0):
        problems.append("negotiated anew")
    if gateway.down_seen:
        problems.append(f"a tunnel was seen down {gateway.down_seen} times")
    if plane["policies"] != 2 * count:
        problems.append(f"{plane['policies']} policies of {count} tunnels")
    if gateway.most_sas > 4 * count:
        problems.append(f"{gateway.most_sas} SAs of {count} tunnels")
    resident = gateway.rss
    if len(resident) > 2 and resident[-1] > resident[1] * (1 + MOST_GROWTH):
        problems.append(f"memory grew from {resident[1] / 2**20:.1f} to {resident[-1] / 2**20:.1f} MiB")
    return problems


def main() -> int:
    """Run in a network namespace of our own; exits with 1 when something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--tunnels", type=int, default=200)
    parser.add_argument("--lifetime", type=int, default=30, help="seconds, of IKE and child SAs alike")
    parser.add_argument("--loss", type=float, default=5.0, help="per cent")
    parser.add_argument("--inside", action="store_true", help="use the present network namespace")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer is not None:
        peer(options.peer)
        return 0
    if not options.inside:
        command = ["unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        inside = [sys.executable, "-m", "tests.bench.soak", "--inside", *sys.argv[1:]]
        return subprocess.run([*command, *inside], cwd=_ROOT, check=False).returncode
    problems = soak(options.minutes, options.tunnels, options.lifetime, options.loss)
    print("\n".join(problems) or "no tunnel ended, no SA was left over, memory stayed flat")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
