"""TCP through two userspace data planes: two of our ``espd``, and two strongSwan daemons with kernel-libipsec.

Same machine, one after the other in one run, same topology: two namespaces joined by a veth pair (MTU 1500), inner
addresses routed into a TUN of MTU 1400 at each end, AES-128-GCM in UDP, one iperf3 stream of TCP. Both tunnels stand
for the whole run and take turns, several short ones each, at raised priority, all processes of both alike. The ratio is
taken turn by turn, since a machine's speed drifts, and the median of the turns is what counts.

strongSwan gets every advantage it has on Debian: AES-NI or OpenSSL for GCM, logging off.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from deploy.lab.netns import Namespace, connect
from deploy.lab.strongswan import FastStrongSwan, StrongSwan
from tests.espd import pair
from tests.needs import BY_MARKER, why_not

ROUNDS = 5
SECONDS = 3
TARGET_RATIO = 2.0
_NICENESS = -15

_OUTER = pair.OUTER_4
_INNER = pair.INNER_4

_SWANCTL = """\
connections {{
  bench {{
    version = 2
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = aes128gcm16-prfsha256-x25519
    encap = yes
    local {{ auth = psk
      id = {local} }}
    remote {{ auth = psk
      id = {remote} }}
    children {{
      bench {{
        local_ts = {local_ts}
        remote_ts = {remote_ts}
        esp_proposals = aes128gcm16
        start_action = none
        rekey_time = 0
      }}
    }}
  }}
}}
secrets {{
  ike-bench {{ secret = "only-for-the-benchmark" }}
}}
"""


Ends = tuple[Namespace, Namespace, Callable[[], float]]
"""Where the client and the server of iperf3 run, and how many seconds of CPU the daemons have used so far."""


@asynccontextmanager
async def our_tunnel() -> AsyncIterator[Ends]:
    """Two ``espd`` keyed by hand: no IKE is needed to move packets."""
    async with pair.espd_pair(prefix=f"vcb{os.getpid()}") as ends:
        await pair.key(ends, pair.sa_specs(spi=0xC0DE0001))
        pids = [end.process.pid for end in ends]
        for pid in pids:
            _prefer_session(pid, _NICENESS)
        yield ends[0].namespace, ends[1].namespace, lambda: sum(map(_cpu_s, pids))


@asynccontextmanager
async def strongswan_tunnel() -> AsyncIterator[Ends]:
    """Two strongSwan daemons that have negotiated one child SA."""
    spaces = (Namespace(f"vcs{os.getpid()}", "left"), Namespace(f"vcs{os.getpid()}", "right"))
    directory = Path(tempfile.mkdtemp(prefix="vc-bench-"))
    daemons: list[StrongSwan] = []
    try:
        for space in spaces:
            space.create()
        connect(spaces[0], "wan", [f"{_OUTER[0]}/24"], spaces[1], "wan", [f"{_OUTER[1]}/24"])
        for index, space in enumerate(spaces):
            space.ip("address", "add", f"{_INNER[index]}/32", "dev", "lo")
            space.ip("route", "add", f"{_INNER[1 - index]}/32", "dev", "wan")
            text = _SWANCTL.format(
                local=_OUTER[index],
                remote=_OUTER[1 - index],
                local_ts=f"{_INNER[index]}/32",
                remote_ts=f"{_INNER[1 - index]}/32",
            )
            daemon: StrongSwan = FastStrongSwan(space, directory / space.role, text, log_level=0)
            daemon.start()
            daemons.append(daemon)
        for daemon in daemons:
            daemon.wait_ready()
        await asyncio.to_thread(daemons[0].swanctl, "--initiate", "--child", "bench")
        pids = [daemon.pid for daemon in daemons if daemon.pid is not None]
        for pid in pids:
            _prefer_session(pid, _NICENESS)
        yield spaces[0], spaces[1], lambda: sum(map(_cpu_s, pids))
    finally:
        for daemon in daemons:
            daemon.stop()
        for space in spaces:
            space.remove()
        shutil.rmtree(directory, ignore_errors=True)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def iperf(ends: Ends, seconds: int) -> dict[str, float]:
    """Send TCP from the first to the second end; returns Mbit/s received, and CPU seconds of the daemons per Gbit."""
    client, server, cpu = ends
    listening = await asyncio.create_subprocess_exec(
        *server.command(["iperf3", "-s", "-1", "-B", _INNER[1], "--forceflush"]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert listening.stdout is not None
    try:
        async with asyncio.timeout(seconds + 30):
            while b"listening" not in await listening.stdout.readline():
                pass
            before = cpu()
            command = client.command(["iperf3", "-c", _INNER[1], "-B", _INNER[0], "-t", str(seconds), "-J"])
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            output, _none = await process.communicate()
            spent = cpu() - before
            await listening.communicate()
    except (TimeoutError, asyncio.CancelledError):
        listening.kill()
        raise
    result: dict[str, Any] = json.loads(output)
    if "error" in result:
        raise RuntimeError(f"iperf3: {result['error']}")
    bits = result["end"]["sum_received"]["bits_per_second"]
    return {"mbit_s": bits / 1e6, "cpu_s_per_gbit": spent / (bits * seconds / 1e9)}


async def _turns(rounds: int, seconds: int) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    ours, theirs = [], []
    async with strongswan_tunnel() as their_ends, our_tunnel() as our_ends:
        for turn in range(1, rounds + 1):
            theirs.append(await iperf(their_ends, seconds))
            ours.append(await iperf(our_ends, seconds))
            figures = f"espd {ours[-1]['mbit_s']:.0f} Mbit/s, strongSwan {theirs[-1]['mbit_s']:.0f} Mbit/s"
            print(f"  turn {turn}: {figures}", flush=True)
    return ours, theirs


@contextmanager
def _raised_priority() -> Iterator[None]:
    """Let everything started inside go before the machine's other work."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    _prefer_session(os.getpid(), _NICENESS)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
        _prefer_session(os.getpid(), before)


def _prefer_session(pid: int, niceness: int) -> None:
    """Give the session of a process its share, where the kernel shares between sessions first (sched(7), autogroup)."""
    path = Path(f"/proc/{pid}/autogroup")
    if path.exists():
        path.write_text(str(niceness))


def missing() -> str | None:
    """Return why the measurement cannot be made here, None when it can."""
    return why_not([*BY_MARKER["lab"], "strongswan", "iperf3"])


def measure(rounds: int = ROUNDS, seconds: int = SECONDS) -> dict[str, float]:
    """Print both figures and their ratio, and return them: Mbit/s received, CPU seconds of both daemons per Gbit."""
    with _raised_priority():
        ours, theirs = asyncio.run(_turns(rounds, seconds))
    result: dict[str, float] = {}
    for name, turns in (("espd", ours), ("strongswan", theirs)):
        result |= {f"{name}_{figure}": statistics.median(turn[figure] for turn in turns) for figure in turns[0]}
    ratios = [one["mbit_s"] / other["mbit_s"] for one, other in zip(ours, theirs, strict=True)]
    result["ratio"] = statistics.median(ratios)
    for name, label in (("espd", "espd"), ("strongswan", "strongSwan kernel-libipsec")):
        rate, cost = result[f"{name}_mbit_s"], result[f"{name}_cpu_s_per_gbit"]
        print(f"TCP through two {label}: {rate:.0f} Mbit/s ({cost:.2f} s of CPU per Gbit, both ends)")
    verdict = "reached" if result["ratio"] >= TARGET_RATIO else "MISSED"
    print(f"medians of {rounds} turns; ratio turn by turn: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"ratio: {result['ratio']:.2f} (at least {TARGET_RATIO:.1f} asked for: {verdict})")
    return result


def main() -> int:
    """Measure; exit status 1 when the ratio is not reached, 77 when it cannot be measured here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    arguments = parser.parse_args()
    reason = missing()
    if reason is not None:
        print(f"throughput: not measured: {reason}")
        return 77
    return 0 if measure(arguments.rounds, arguments.seconds)["ratio"] >= TARGET_RATIO else 1


if __name__ == "__main__":
    raise SystemExit(main())
