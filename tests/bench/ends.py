"""Two userspace data planes joined by a veth pair, ours or strongSwan's: what the data plane is measured between.

Same topology for all: two namespaces, a veth pair of MTU 1500, inner addresses routed into a TUN of MTU 1400 at each
end, AES-128-GCM. Nothing negotiates while it is measured. strongSwan gets every advantage it has on Debian: AES-NI or
OpenSSL for GCM, logging off. All processes run at raised priority, those of both alike.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agents.dataplane.base import UdpEncapsulation
from deploy.lab.netns import Namespace, connect
from deploy.lab.strongswan import FastStrongSwan, StrongSwan
from tests.bench.handshakes import cpu_s
from tests.espd import pair
from tests.needs import BY_MARKER, why_not

NICENESS = -15
OUTER = pair.OUTER_4
INNER = pair.INNER_4

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


@dataclass(frozen=True, slots=True)
class Ends:
    """Where client and server run, and the data planes' processes."""

    name: str
    client: Namespace
    server: Namespace
    pids: tuple[int, ...]

    def cpu_s(self) -> float:
        """Return the seconds of processor time that the data planes have used so far, both ends together."""
        return sum(map(cpu_s, self.pids))


@asynccontextmanager
async def ours(
    name: str = "espd", encapsulation: UdpEncapsulation | None = pair.NAT
) -> AsyncIterator[tuple[Ends, tuple[pair.End, pair.End]]]:
    """Two ``espd`` keyed by hand: no IKE is needed to move packets. ``encapsulation`` None is ESP without UDP."""
    kind = "p" if encapsulation is None else "u"
    async with pair.espd_pair(prefix=f"vcb{kind}{os.getpid()}") as both:
        await pair.key(both, pair.sa_specs(encapsulation=encapsulation, spi=0xC0DE0001))
        pids = tuple(end.process.pid for end in both)
        prefer(pids)
        yield Ends(name, both[0].namespace, both[1].namespace, pids), both


@asynccontextmanager
async def strongswan() -> AsyncIterator[Ends]:
    """Two strongSwan daemons with kernel-libipsec that have negotiated one child SA."""
    spaces = (Namespace(f"vcs{os.getpid()}", "left"), Namespace(f"vcs{os.getpid()}", "right"))
    directory = Path(tempfile.mkdtemp(prefix="vc-bench-"))
    daemons: list[StrongSwan] = []
    try:
        for space in spaces:
            space.create()
        connect(spaces[0], "wan", [f"{OUTER[0]}/24"], spaces[1], "wan", [f"{OUTER[1]}/24"])
        for index, space in enumerate(spaces):
            space.ip("address", "add", f"{INNER[index]}/32", "dev", "lo")
            space.ip("route", "add", f"{INNER[1 - index]}/32", "dev", "wan")
            text = _SWANCTL.format(
                local=OUTER[index],
                remote=OUTER[1 - index],
                local_ts=f"{INNER[index]}/32",
                remote_ts=f"{INNER[1 - index]}/32",
            )
            daemon: StrongSwan = FastStrongSwan(space, directory / space.role, text, log_level=0)
            daemon.start()
            daemons.append(daemon)
        for daemon in daemons:
            daemon.wait_ready()
        await asyncio.to_thread(daemons[0].swanctl, "--initiate", "--child", "bench")
        pids = tuple(daemon.pid for daemon in daemons if daemon.pid is not None)
        prefer(pids)
        yield Ends("strongSwan", spaces[0], spaces[1], pids)
    finally:
        for daemon in daemons:
            daemon.stop()
        for space in spaces:
            space.remove()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def raised_priority() -> Iterator[None]:
    """Let everything started inside go before the machine's other work."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    _prefer_session(os.getpid(), NICENESS)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
        _prefer_session(os.getpid(), before)


def prefer(pids: Sequence[int]) -> None:
    """Let these processes and their sessions go before the machine's other work."""
    for pid in pids:
        _prefer_session(pid, NICENESS)


def _prefer_session(pid: int, niceness: int) -> None:
    """Give the session of a process its share, where the kernel shares between sessions first (sched(7), autogroup)."""
    path = Path(f"/proc/{pid}/autogroup")
    if path.exists():
        path.write_text(str(niceness))


def missing() -> str | None:
    """Return why the measurement cannot be made here, None when it can."""
    return why_not([*BY_MARKER["lab"], "strongswan", "iperf3"])
