"""Two ``espd`` processes in namespaces joined by a veth pair, and their drivers: what tests and benchmarks build on.

Outer addresses are 192.0.2.1/2 and 2001:db8::1/2, inner ones 10.1.0.1 and fd01::1 on the left, 10.2.0.1 and fd02::1 on
the right, on the tunnel's link itself.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.contract.algorithms import ENCRYPTION, INTEGRITY
from agents.contract.secret import Secret
from agents.dataplane.base import Direction, PolicySpec, SaSpec, Selector, TunnelLink, UdpEncapsulation
from agents.espd.__main__ import WORKER_LOST
from agents.iked.userspace_driver import UserspaceDriver
from agents.runtime.rpc import Client, RpcUnavailable
from deploy.lab.netns import Namespace, connect
from tests.harness import echo
from tests.kernel.guest.harness import inside

REPOSITORY = Path(__file__).parents[2]
TUNNEL = "6d4ff92c-5b2f-4a52-9c30-2f8f3a1f7a11"
LINK = "vpn6d4ff92c"
REQID = 0x56430001
OUTER_4 = ("192.0.2.1", "192.0.2.2")
OUTER_6 = ("2001:db8::1", "2001:db8::2")
INNER_4 = ("10.1.0.1", "10.2.0.1")
INNER_6 = ("fd01::1", "fd02::1")
NAT = UdpEncapsulation(source_port=4500, destination_port=4500)
START_S = 30.0


@dataclass(frozen=True, slots=True)
class End:
    """One gateway."""

    namespace: Namespace
    process: subprocess.Popen[bytes]
    run: Path
    driver: UserspaceDriver

    @property
    def log(self) -> str:
        """What its ``espd`` has said."""
        return (self.run.parent / f"{self.namespace.role}.log").read_text()


async def _client_ready(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until ``espd`` serves its socket."""
    async with asyncio.timeout(START_S):
        while True:
            try:
                await (await Client.connect(path)).close()
                return
            except RpcUnavailable:
                if process.poll() is not None:
                    raise RuntimeError(f"espd ended with {process.returncode}") from None
                # A process of its own: there is no event to wait for but its socket's appearance.
                await asyncio.sleep(0.02)


@asynccontextmanager
async def espd_pair(*, mtu: int = 1500, prefix: str | None = None, workers: int = 1) -> AsyncIterator[tuple[End, End]]:
    """Yield both ends, drivers open, links and inner addresses there, nothing keyed yet."""
    prefix = prefix or f"vc{os.getpid()}"
    spaces = (Namespace(prefix, "left"), Namespace(prefix, "right"))
    directory = Path(tempfile.mkdtemp(prefix="vc-espd-"))
    ends: list[End] = []
    try:
        for space in spaces:
            space.create()
        left, right = ([f"{four}/24", f"{six}/64"] for four, six in zip(OUTER_4, OUTER_6, strict=True))
        connect(spaces[0], "wan", left, spaces[1], "wan", right)
        for index, space in enumerate(spaces):
            space.ip("link", "set", "wan", "mtu", str(mtu))
            ends.append(await start(space, directory, index, workers))
        yield ends[0], ends[1]
    finally:
        for end in ends:
            await end.driver.close()
            stop(end)
        for space in spaces:
            space.remove()
        shutil.rmtree(directory)


def stop(end: End) -> None:
    """End an ``espd``; one that a test has killed, or a worker of it, is let be."""
    end.process.send_signal(signal.SIGTERM)
    status = end.process.wait(10)
    assert status in (0, -signal.SIGKILL, WORKER_LOST), end.log


async def start(space: Namespace, directory: Path, index: int, workers: int = 1) -> End:
    """Start an ``espd`` and open its driver; its log and socket are in ``directory``."""
    run = directory / space.role
    with (directory / f"{space.role}.log").open("wb") as log:
        command = [sys.executable, "-m", "agents.espd", "--run", str(run), "--workers", str(workers)]
        process = space.start(*command, log=log, cwd=REPOSITORY)
    await _client_ready(run / "espd.sock", process)
    end = End(space, process, run, UserspaceDriver(run / "espd.sock"))
    await end.driver.open()
    await prepare(end, index)
    return end


async def prepare(end: End, index: int) -> None:
    """Let an open driver hold UDP 4500, and make the tunnel's link with its addresses and routes if it is not there."""
    await end.driver.bind([OUTER_4[index], OUTER_6[index]])
    await end.driver.open_link(TunnelLink(tunnel_id=TUNNEL, name=LINK, mtu=1400))
    end.namespace.ip("address", "replace", f"{INNER_4[index]}/32", "dev", LINK)
    end.namespace.ip("address", "replace", f"{INNER_6[index]}/128", "dev", LINK, "nodad")
    end.namespace.ip("route", "replace", "10.0.0.0/8", "dev", LINK, "src", INNER_4[index])
    end.namespace.ip("route", "replace", "fd00::/8", "dev", LINK, "src", INNER_6[index])


def sa_specs(
    suite: tuple[str, str | None] = ("aes-128-gcm-16", None),
    outer: tuple[str, str] = OUTER_4,
    encapsulation: UdpEncapsulation | None = NAT,
    *,
    spi: int = 0x1001,
    reqid: int = REQID,
    replay_window: int = 64,
    **changes: Any,
) -> tuple[SaSpec, SaSpec]:
    """Return the SAs left to right and right to left as their senders have them, fresh keys; ``changes`` are both's."""
    encryption, integrity = suite

    def spec(source: str, destination: str, number: int) -> SaSpec:
        return SaSpec(
            tunnel_id=TUNNEL,
            direction=Direction.OUT,
            spi=number,
            source=source,
            destination=destination,
            reqid=reqid,
            encryption=encryption,
            encryption_key=Secret(os.urandom(ENCRYPTION[encryption].keymat_octets)),
            integrity=integrity,
            integrity_key=Secret(os.urandom(INTEGRITY[integrity].key_octets)) if integrity else None,
            encapsulation=encapsulation,
            replay_window=replay_window,
            **changes,
        )

    return spec(outer[0], outer[1], spi), spec(outer[1], outer[0], spi + 1)


async def key(ends: Sequence[End], specs: tuple[SaSpec, SaSpec], **inbound_changes: Any) -> None:
    """Install a pair of SAs on both ends, inbound first, and policies for the inner networks."""
    for index, end in enumerate(ends):
        outbound, inbound = specs[index], specs[1 - index]
        await end.driver.add_sa(replace(inbound, direction=Direction.IN, **inbound_changes))
        await end.driver.add_sa(outbound)
        for networks in (("10.1.0.0/16", "10.2.0.0/16"), ("fd01::/64", "fd02::/64")):
            ours, theirs = networks if index == 0 else networks[::-1]
            for direction, source, destination in ((Direction.OUT, ours, theirs), (Direction.IN, theirs, ours)):
                outer = (outbound.source, outbound.destination)
                await end.driver.add_policy(
                    PolicySpec(
                        tunnel_id=TUNNEL,
                        direction=direction,
                        selector=Selector(source=source, destination=destination),
                        source=outer[0] if direction is Direction.OUT else outer[1],
                        destination=outer[1] if direction is Direction.OUT else outer[0],
                        reqid=outbound.reqid,
                    )
                )


@asynccontextmanager
async def router_between(ends: Sequence[End], mtu: int) -> AsyncIterator[Namespace]:
    """Put a router in the place of the link between both ends; its link to the right takes packets of ``mtu``."""
    middle = Namespace(f"{ends[0].namespace.prefix}m", "middle")
    middle.create()
    try:
        ends[0].namespace.ip("link", "delete", "wan")
        for end, role, here, there in (
            (ends[0], "left", *OUTER_4),
            (ends[1], "right", *OUTER_4[::-1]),
        ):
            via = f"192.0.2.2{here[-1]}"
            connect(end.namespace, "uplink", [f"{here}/32"], middle, role, [f"{via}/32"])
            middle.ip("route", "add", f"{here}/32", "dev", role)
            end.namespace.ip("route", "add", f"{via}/32", "dev", "uplink")
            end.namespace.ip("route", "add", f"{there}/32", "via", via, "dev", "uplink")
        middle.ip("link", "set", "right", "mtu", str(mtu))
        ends[1].namespace.ip("link", "set", "uplink", "mtu", str(mtu))
        middle.forward()
        yield middle
    finally:
        middle.remove()


@contextmanager
def udp_at(end: End, address: str, port: int) -> Iterator[socket.socket]:
    """Yield a UDP socket of this process in an end's namespace."""
    with inside(end.namespace):
        opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    with opened:
        opened.bind((address, port))
        opened.setblocking(False)
        yield opened


async def counters(end: End) -> dict[str, int]:
    """Return what the end has dropped, by code; packets the kernel itself puts on the link are left out."""
    async with await Client.connect(end.run / "espd.sock") as client:
        answer = await client.call("health")
    return {code: count for code, count in answer["counters"].items() if code != "out.no-policy"}


async def ping(
    end: End, target: str, source: str, count: int = 3, payload: int = 56, *, rest_s: float = echo.PATIENCE_S
) -> int:
    """Send echo requests quickly one after the other; return how many answers came."""
    with echo.opened(end.namespace, target, source) as raw:
        return await asyncio.to_thread(echo.answers, raw, target, count, payload, rest_s=rest_s)


async def run_inside(end: End, *arguments: str) -> str:
    """Run a command in the end's namespace; raises AssertionError with its output when it fails."""
    process = await asyncio.create_subprocess_exec(
        *end.namespace.command(arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _none = await process.communicate()
    assert process.returncode == 0, f"{arguments}: {output.decode()}\nespd: {end.log}"
    return output.decode()
