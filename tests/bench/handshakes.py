"""Full IKEv2 handshakes per second of one responder process on one core, and its memory per established tunnel.

The responder is ``iked`` as shipped, with sockets, timers, events and effects, but a data plane in memory; AES-128-GCM,
PSK, one child per tunnel, X25519 or MODP-2048. The initiators are protocol engines, one per tunnel, each with an
address and UDP sockets of its own on the loopback of a network namespace, on the other core. strongSwan's charon gets
the same initiators in the same run. Since a fast responder waits for them, the two are compared by the handshakes that
one second of their processor makes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.contract.codec import to_plain
from agents.contract.config import ConnectionType, GatewayDocument, IkeProposal
from agents.contract.secret import Secret
from agents.contract.status import TunnelState
from agents.ike import outputs
from agents.ike.engine import Engine
from agents.iked.entropy import OsEntropy
from agents.runtime.rpc import Client, RpcUnavailable
from tests.bench import charon
from tests.iked.cast import document, psk, tunnel

RESPONDER = "127.1.0.1"
TARGET_PER_S = 300
GROUPS = {"X25519": "group-31", "MODP-2048": "group-14"}
TARGET_RATIOS = {"X25519": 0.3, "MODP-2048": 1.0}
"""Of charon's handshakes for the same processor time."""
_MARKER = bytes(4)
ROUNDS = 3
_ROOT = Path(__file__).resolve().parents[2]
_PSK = b"a secret for the benchmark"


def address(number: int) -> str:
    """Return the loopback address of the initiator with this number."""
    return f"127.2.{number // 250}.{number % 250 + 1}"


def _proposals(group: str) -> tuple[IkeProposal, ...]:
    return (IkeProposal(encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group=group),)


def responder_document(count: int, group: str) -> GatewayDocument:
    """Return the responder's document: one tunnel and one PSK per initiator."""
    tunnels, keys = [], []
    for number in range(count):
        remote = address(number)
        tunnels.append(
            tunnel(
                f"t{number}", RESPONDER, remote, connection_type=ConnectionType.RESPONDER_ONLY,
                local_ts="10.1.0.0/24", remote_ts=f"10.{100 + number // 250}.{number % 250}.0/24",
                proposals=_proposals(group),
            )
        )  # fmt: skip
        keys.append(psk(RESPONDER, remote, _PSK, f"k{number}"))
    return document("responder", tunnels, keys)


def initiator_document(number: int, group: str) -> GatewayDocument:
    """Return the document of one initiator."""
    mine = tunnel(
        f"t{number}", address(number), RESPONDER, connection_type=ConnectionType.INITIATOR_ONLY,
        local_ts=f"10.{100 + number // 250}.{number % 250}.0/24", remote_ts="10.1.0.0/24",
        proposals=_proposals(group),
    )  # fmt: skip
    return document(f"i{number}", [mine], [])


class Initiator:
    """One engine with one tunnel and a socket for either port; established when its child has been installed.

    The sockets have the ports plus ``shift``: where a responder holds a port on every address, a NAT is pretended.
    """

    def __init__(self, number: int, config: GatewayDocument, selector: selectors.BaseSelector, shift: int) -> None:
        self.engine = Engine(OsEntropy())
        self.established = False
        self._selector = selector
        self._sockets = {}
        for port in (500, 4500):
            self._sockets[port] = made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            made.bind((address(number), port + shift))
            selector.register(made, selectors.EVENT_READ, (self, port))
        self.engine.configure(config, time.monotonic())
        self.drain()

    def readable(self, local_port: int) -> None:
        """Take one datagram."""
        octets, (remote, port) = self._sockets[local_port].recvfrom(65_535)
        if local_port == 4500:
            octets = octets.removeprefix(_MARKER)
        local = self._sockets[local_port].getsockname()
        path = outputs.Path(local_address=local[0], local_port=local_port, remote_address=remote, remote_port=port)
        self.engine.receive(octets, path, time.monotonic())
        self.drain()

    def tick(self) -> None:
        """Send again what is due."""
        deadline = self.engine.next_deadline()
        if deadline is not None and deadline <= time.monotonic():
            self.engine.handle_timer(time.monotonic())
            self.drain()

    def drain(self) -> None:
        """Perform the outputs; installing is instant."""
        now = time.monotonic()
        while found := self.engine.take_outputs():
            for output in found:
                if isinstance(output, outputs.Transmit):
                    path = output.path
                    octets = output.datagram if path.local_port == 500 else _MARKER + output.datagram
                    self._sockets[path.local_port].sendto(octets, (path.remote_address, path.remote_port))
                elif isinstance(output, outputs.FindPsk):
                    self.engine.psk_found(output.request_id, Secret(_PSK), now)
                elif isinstance(output, outputs.InstallChild):
                    self.engine.child_installed(output.install_id, now)
                    self.established = True

    def close(self) -> None:
        """Give the socket back; the responder keeps its SA."""
        for each in self._sockets.values():
            self._selector.unregister(each)
            each.close()


def establish(count: int, at_once: int, group: str, shift: int) -> float:
    """Run ``count`` handshakes with ``at_once`` under way at any time; returns the seconds it took."""
    configs = [initiator_document(number, group) for number in range(count)]
    gc.freeze()
    with selectors.DefaultSelector() as selector:
        under_way: set[Initiator] = set()
        started = done = 0
        began = time.perf_counter()
        deadline = began + 120
        while done < count:
            while started < count and len(under_way) < at_once:
                under_way.add(Initiator(started, configs[started], selector, shift))
                started += 1
            ready = selector.select(0.2)
            for key, _ in ready:
                initiator, port = key.data
                if initiator not in under_way:
                    continue  # closed by what its other socket brought
                initiator.readable(port)
                if initiator.established:
                    initiator.close()
                    under_way.discard(initiator)
                    done += 1
            if not ready:
                for initiator in under_way:
                    initiator.tick()
            if time.perf_counter() > deadline:
                raise RuntimeError(f"only {done} of {count} handshakes were completed in 120 s")
        return time.perf_counter() - began


@contextlib.contextmanager
def responder(cpu: int) -> Iterator[tuple[int, Path]]:
    """Run the responder process; yields its pid and run directory."""
    with tempfile.TemporaryDirectory(prefix="vpn-bench-") as name:
        directory = Path(name)
        process = subprocess.Popen([sys.executable, "-m", "tests.bench.responder", name, str(cpu)], cwd=_ROOT)
        try:
            yield process.pid, directory / "run"
        finally:
            process.terminate()
            process.wait(30)


def rss_octets(pid: int) -> int:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """Return the processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def call(run: Path, method: str, params: dict[str, Any] | None = None) -> Any:
    """Ask the responder, which may still be starting."""
    async with asyncio.timeout(60):
        while True:
            try:
                client = await Client.connect(run / "iked.sock")
            except RpcUnavailable:
                await asyncio.sleep(0.02)
                continue
            async with client:
                return await client.call(method, params, timeout_s=60)


def measure(count: int, at_once: int, group: str) -> dict[str, float]:
    """Run the benchmark in the present network namespace; see :func:`run`."""
    cpus = sorted(os.sched_getaffinity(0))
    with responder(cpus[-1]) as (pid, run):
        asyncio.run(call(run, "status"))
        empty = rss_octets(pid)
        asyncio.run(call(run, "configure", {"document": to_plain(responder_document(count, group))}))
        configured, cpu_before = rss_octets(pid), cpu_s(pid)
        elapsed = _driven(cpus, count, at_once, group)
        cpu_after = cpu_s(pid)
        tunnels = asyncio.run(call(run, "status"))["tunnels"]
        up = sum(1 for each in tunnels if each["state"] == TunnelState.UP)
        if up != count:
            raise RuntimeError(f"{up} of {count} tunnels are up at the responder")
        established = rss_octets(pid)
    return {
        "handshakes": count,
        "handshakes_per_s": count / elapsed,
        "responder_cpu_ms_per_handshake": 1_000 * (cpu_after - cpu_before) / count,
        "memory_per_tunnel_octets": (established - empty) / count,
        "memory_per_tunnel_beyond_its_configuration_octets": (established - configured) / count,
    }


def measure_charon(count: int, at_once: int, group: str) -> dict[str, float]:
    """Run the same initiators against charon in the present network namespace."""
    cpus = sorted(os.sched_getaffinity(0))
    with charon.responder(RESPONDER, _PSK, cpus[-1]) as pid:
        cpu_before = cpu_s(pid)
        # Its ESP in its own process is always in UDP, so that it pretends a NAT anyway.
        elapsed = _driven(cpus, count, at_once, group, shift=20_000)
        cpu_after = cpu_s(pid)
    return {
        "handshakes": count,
        "handshakes_per_s": count / elapsed,
        "responder_cpu_ms_per_handshake": 1_000 * (cpu_after - cpu_before) / count,
    }


def _driven(cpus: list[int], count: int, at_once: int, group: str, shift: int = 0) -> float:
    """Establish on the cores that the responder has not; returns the seconds it took."""
    if len(cpus) > 1:
        os.sched_setaffinity(0, set(cpus[:-1]))
    try:
        return establish(count, at_once, group, shift)
    finally:
        os.sched_setaffinity(0, set(cpus))


def run(count: int = 1_000, rounds: int = ROUNDS) -> bool:
    """Measure several times, each in a network namespace and with a responder of its own; print plain lines.

    Returns whether every target is met. The figures are those of the median round; the rate of every round is printed.
    """
    met = [_run_group(name, count, rounds) for name in GROUPS]
    return all(met)


def _run_group(name: str, count: int, rounds: int) -> bool:
    figures, rates = _median(name, "iked", count, rounds)
    rate = figures["handshakes_per_s"]
    print(f"IKEv2 handshakes ({name}, AES-128-GCM, PSK), one responder process on one core, {count} tunnels:")
    verdict = f" (target {TARGET_PER_S}: {_verdict(rate >= TARGET_PER_S)})" if name == "X25519" else ""
    print(f"  {rate:.0f} per second{verdict}, {_cpu_ms(figures):.2f} ms of processor each; rounds: {rates}")
    print(f"  memory in iked per established tunnel: {figures['memory_per_tunnel_octets'] / 1024:.1f} KiB", end=" ")
    print(f"({figures['memory_per_tunnel_beyond_its_configuration_octets'] / 1024:.1f} KiB of it for its SAs)")
    met = name != "X25519" or rate >= TARGET_PER_S
    reason = charon.missing()
    if reason is not None:
        print(f"  charon not measured: {reason}")
        return met
    theirs, their_rates = _median(name, "charon", count, rounds)
    ratio = _cpu_ms(theirs) / _cpu_ms(figures)
    target = TARGET_RATIOS[name]
    print(f"  charon: {theirs['handshakes_per_s']:.0f} per second,", end=" ")
    print(f"{_cpu_ms(theirs):.2f} ms of processor each; rounds: {their_rates}")
    print(f"  iked makes {ratio:.2f} of charon's handshakes with the same processor", end=" ")
    print(f"(target {target}: {_verdict(ratio >= target)})")
    return met and ratio >= target


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _cpu_ms(figures: dict[str, float]) -> float:
    return figures["responder_cpu_ms_per_handshake"]


def _median(name: str, daemon: str, count: int, rounds: int) -> tuple[dict[str, float], str]:
    """Return the figures of the median round, and the rates of all rounds as text."""
    measured = [_round(name, daemon, count) for _ in range(rounds)]
    figures = sorted(measured, key=lambda each: each["handshakes_per_s"])[len(measured) // 2]
    return figures, ", ".join(f"{each['handshakes_per_s']:.0f}" for each in measured)


def _round(name: str, daemon: str, count: int) -> dict[str, float]:
    measuring = [sys.executable, "-m", "tests.bench.handshakes", "--inside", daemon, name, "--count", str(count)]
    # A network namespace without a name goes with its last process, however this one ends.
    command = ["unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *measuring]
    done = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> int:
    """Run alone; exits with 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.handshakes", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000, help="tunnels (default: 1000)")
    parser.add_argument("--at-once", type=int, default=16, help="handshakes under way at any time (default: 16)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--inside", nargs=2, metavar=("DAEMON", "NAME"), help="measure here and print JSON")
    arguments = parser.parse_args()
    if arguments.inside:
        daemon, name = arguments.inside
        measuring = measure if daemon == "iked" else measure_charon
        print(json.dumps(measuring(arguments.count, arguments.at_once, GROUPS[name])))
        return 0
    return 0 if run(arguments.count, arguments.rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
