"""Full handshakes of both IKE versions as responder: ``iked`` beside strongSwan's charon, driven by one initiator.

Our responder is ``iked`` as shipped, with sockets, timers, events, effects and credentials, but a data plane in memory;
one tunnel per initiator. charon has one connection for all, its fastest ciphers first, logging off; its kernel-libipsec
keeps SAs in memory likewise, and as all initiators ask for the same networks, it makes one route only. Both are pinned
to one core, the initiators (:mod:`tests.bench.load`) to another, each in a network namespace. The initiators are slower
than charon, so what is compared is the processor time that a handshake costs the responder (``/proc/PID/stat``);
handshakes by the clock are printed beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.contract.codec import to_plain
from agents.contract.config import IkeVersion
from agents.contract.status import TunnelState
from agents.pki.keys import KeyFolder
from agents.runtime.rpc import Client, RpcUnavailable
from deploy.lab.netns import Namespace, connect
from deploy.lab.strongswan import FastStrongSwan
from tests.bench import suites
from tests.bench.suites import INITIATORS, PSK, RESPONDER, SUITES, Proofs, Suite
from tests.needs import BY_MARKER, why_not
from tests.pki import der, key_pem, pem

MEMORY_TARGET_OCTETS = 30_000
ROUNDS = 3
COUNT = 400
_AT_ONCE = 16
_ROOT = Path(__file__).resolve().parents[2]
_CHARON = {
    "half_open_timeout": "60",
    "ikesa_table_size": "1024",
    "ikesa_table_segments": "4",
    "cookie_threshold": "0",
    "block_threshold": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One round of one responder; memory is per established tunnel, beyond its configuration."""

    per_s: float
    per_cpu_s: float
    memory_octets: float


def rss_octets(pid: int) -> int:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """Return the processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def call(run: Path, method: str, params: dict[str, Any] | None = None) -> Any:
    """Ask our responder, which may still be starting."""
    async with asyncio.timeout(60):
        while True:
            try:
                client = await Client.connect(run / "iked.sock")
            except RpcUnavailable:
                await asyncio.sleep(0.02)  # a Unix socket's appearance is no event without inotify
                continue
            async with client:
                return await client.call(method, params, timeout_s=60)


@contextmanager
def _ours(suite: Suite, count: int, proofs: Proofs, namespace: Namespace, directory: Path, cpu: int) -> Iterator[int]:
    """Run our responder; yields its pid. Checks at the end that every tunnel is up."""
    KeyFolder(directory / "state" / "keys").add(proofs.gateway.key)
    command = [sys.executable, "-m", "tests.bench.responder", str(directory), str(cpu)]
    process = namespace.start(*command, log=sys.stderr, environment=os.environ, cwd=_ROOT)
    try:
        document = suites.responder_document(suite, count, proofs)
        asyncio.run(call(directory / "run", "status"))
        asyncio.run(call(directory / "run", "configure", {"document": to_plain(document)}))
        yield process.pid
        tunnels = asyncio.run(call(directory / "run", "status"))["tunnels"]
        up = sum(1 for each in tunnels if each["state"] == TunnelState.UP)
        if up != count:
            raise RuntimeError(f"{up} of {count} tunnels are up at the responder")
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _charon(suite: Suite, count: int, proofs: Proofs, namespace: Namespace, directory: Path, cpu: int) -> Iterator[int]:
    """Run strongSwan as the responder; yields its pid. Checks at the end that every SA is up."""
    with (
        FastStrongSwan(namespace, directory / "charon", log_level=-1, settings=_CHARON) as daemon,
        daemon.vici() as vici,
    ):
        pid = daemon.pid
        assert pid is not None
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {cpu})
        vici.request("load-shared", {"id": "psk", "type": "IKE", "data": PSK, "owners": []})
        vici.request("load-cert", {"type": "X509", "flag": "CA", "data": der(proofs.authority.certificate)})
        vici.request("load-key", {"type": "any", "data": key_pem(proofs.gateway.key)})
        vici.request("load-conn", {"bench": suites.charon_connection(suite, proofs)})
        yield pid
        up = int(vici.request("stats")["ikesas"]["total"])
        if up != count:
            raise RuntimeError(f"strongSwan has {up} of {count} SAs")


_RESPONDERS = {"iked": _ours, "charon": _charon}


def measure(who: str, number: int, count: int, proofs: Proofs) -> Measured:
    """Measure one responder with one suite, in fresh namespaces."""
    cpus = sorted(os.sched_getaffinity(0))
    clients, gateway = (Namespace(f"vcb{os.getpid()}", role) for role in ("clients", "gateway"))
    try:
        for namespace in (clients, gateway):
            namespace.create()
        connect(clients, "wan", ["192.0.2.2/24"], gateway, "wan", [f"{RESPONDER}/24"])
        gateway.ip("route", "add", INITIATORS, "via", "192.0.2.2")
        gateway.ip("address", "add", "10.1.0.1/24", "dev", "lo")
        clients.ip("route", "add", "local", INITIATORS, "dev", "lo")
        with (
            tempfile.TemporaryDirectory(prefix="vpn-bench-") as name,
            _RESPONDERS[who](SUITES[number], count, proofs, gateway, Path(name), cpus[-1]) as pid,
        ):
            memory, spent = rss_octets(pid), cpu_s(pid)
            elapsed_s = _load(clients, number, count, proofs, cpus[0])
            spent, memory = cpu_s(pid) - spent, rss_octets(pid) - memory
    finally:
        clients.remove()
        gateway.remove()
    return Measured(per_s=count / elapsed_s, per_cpu_s=count / spent, memory_octets=memory / count)


def _load(namespace: Namespace, number: int, count: int, proofs: Proofs, cpu: int) -> float:
    given = {
        "ca": pem(proofs.authority.certificate).decode(),
        "client": pem(proofs.client.certificate).decode(),
        "gateway": pem(proofs.gateway.certificate).decode(),
        "key": key_pem(proofs.client.key).decode(),
    }
    command = [
        "taskset",
        "-c",
        str(cpu),
        sys.executable,
        "-m",
        "tests.bench.load",
        str(number),
        str(count),
        str(_AT_ONCE),
    ]
    done = subprocess.run(
        namespace.command(command), cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True, input=json.dumps(given)
    )
    return float(json.loads(done.stdout)["elapsed_s"])


def missing() -> str | None:
    """Return why the measurement cannot be made here, None when it can."""
    return why_not([*BY_MARKER["lab"], "strongswan"])


def run(count: int = COUNT, rounds: int = ROUNDS, version: IkeVersion | None = None) -> bool:
    """Measure every suite, the two responders in turn; print plain lines; returns whether every target is met."""
    proofs, met = suites.new_proofs(), True
    print(f"IKE handshakes as responder on one core, {count} tunnels, medians of {rounds} rounds:", flush=True)
    for number, suite in enumerate(SUITES):
        if version is not None and suite.version is not version:
            continue
        ours: list[Measured] = []
        theirs: list[Measured] = []
        for _ in range(rounds):
            theirs.append(measure("charon", number, count, proofs))
            ours.append(measure("iked", number, count, proofs))
        met = _tell(suite, ours, theirs) and met
    return met


def _tell(suite: Suite, ours: list[Measured], theirs: list[Measured]) -> bool:
    """Print one suite's lines; returns whether its targets are met."""
    ratios = [mine.per_cpu_s / other.per_cpu_s for mine, other in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    print(f"  IKE{suite.version}, {suite.name}:")
    for name, measured in (("iked", ours), ("charon", theirs)):
        per_cpu_s = statistics.median(each.per_cpu_s for each in measured)
        per_s = statistics.median(each.per_s for each in measured)
        print(f"    {name:6} {per_cpu_s:6.0f} per second of its processor time, {per_s:5.0f} per second by the clock")
    met = suite.target is None or ratio >= suite.target
    if statistics.median(each.per_cpu_s for each in ours) < suite.least_per_s:
        print(f"    MISSED: at least {suite.least_per_s} per second asked for")
        met = False
    verdict = (
        "" if suite.target is None else f" (at least {suite.target:.1f} asked for: {'reached' if met else 'MISSED'})"
    )
    print(f"    ratio by processor time: {ratio:.2f}{verdict}; rounds: {', '.join(f'{each:.2f}' for each in ratios)}")
    if suite.certificates:
        return met
    memory = statistics.median(each.memory_octets for each in ours)
    small = memory <= MEMORY_TARGET_OCTETS
    print(f"    memory of iked per IKE SA with its child: {memory / 1000:.1f} kB", end="")
    print(f" (at most {MEMORY_TARGET_OCTETS // 1000} asked for: {'reached' if small else 'MISSED'})", flush=True)
    return met and small


def main() -> int:
    """Run alone; exits with 1 when a target is missed, with 77 when it cannot be measured here."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.handshakes", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help=f"tunnels (default: {COUNT})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--version", type=IkeVersion, choices=(IkeVersion.V1, IkeVersion.V2), help="default: both")
    arguments = parser.parse_args()
    reason = missing()
    if reason is not None:
        print(f"handshakes: not measured: {reason}")
        return 77
    return 0 if run(arguments.count, arguments.rounds, arguments.version) else 1


if __name__ == "__main__":
    sys.exit(main())
