"""What ``agentd`` keeps on a kernel that has VRFs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agents.agentd.host import LinuxHost
from agents.agentd.parts import contexts, endpoints
from agents.agentd.parts.carried import carried
from agents.agentd.parts.contexts import ALIAS, Vrf
from agents.contract.carriage import Carriage, Context
from agents.contract.codec import encode
from agents.dataplane.outer import OUTER_MARK
from agents.iked.sockets import open_socket
from deploy.lab.netns import Namespace, connect
from deploy.lab.uml import RESULT_VARIABLE
from tests.agentd.bench import Bench
from tests.agentd.fakes import TUNNEL_ID, FakeIked, document, tunnel
from tests.kernel.guest.harness import Pair, inside, report

ROOT = Path(__file__).resolve().parents[3]
MODULES = ("vrf",)
TUN = "vpnaaaaaaaa"


async def a_context_is_a_vrf(pair: Pair, *, filtered: bool = False) -> str:
    """The tunnel's interface is in the VRF, what comes by it is looked up there, and all of it goes again."""
    here, there = pair.left.namespace, pair.right.namespace
    connect(here, TUN, [], there, "tunnel", ["10.2.0.5/24"])
    there.ip("route", "add", "10.1.0.0/24", "dev", "tunnel")
    here.ip("route", "add", "default", "via", pair.right.outer)
    here.ip("link", "add", "theirs", "type", "vrf", "table", "99")
    before = _kept(here)
    blue = tunnel(local=pair.left.outer, remote=pair.right.outer, carriage=Carriage(context="blue"))
    with inside(here):
        async with LinuxHost() as host:
            assert await host.has_vrfs()
            bench = Bench.make(Path(os.environ["TMPDIR"]) / "vrf", host)
            await bench.start()
            async with FakeIked(bench.paths.iked_socket) as iked:
                with_vrf = document(1, blue, contexts=(Context(name="blue", table=100),), packet_filter=filtered)
                await bench.agent.offer(encode(with_vrf))
                await iked.configured.wait()
                await iked.set_up(TUNNEL_ID)
                await _until(
                    lambda: "10.2.0.0/24 dev vpnaaaaaaaa" in here.ip("route", "show", "table", "100", check=False)
                )
                view = await host.look()
                assert contexts.ours(view) == {"vrf-blue": Vrf(name="vrf-blue", table=100, context="blue")}
                link, vrf = view.link(TUN), view.link("vrf-blue")
                assert link is not None
                assert vrf is not None
                assert (link.master, vrf.alias) == (vrf.index, ALIAS + "blue")
                here.ip("address", "add", "10.1.0.1/32", "dev", "vrf-blue")
                answers = await asyncio.to_thread(there.run, "ping", "-c", "3", "-i", "0.2", "-W", "2", "10.1.0.1")
                assert "3 received" in answers
                assert TUN in here.ip("route", "get", "10.2.0.9", "vrf", "vrf-blue")
                nowhere = here.ip("route", "get", "10.77.0.1", "vrf", "vrf-blue", check=False)
                assert nowhere == "", "what the VRF has no route to must not reach the main table's default route"
                await bench.agent.offer(encode(document(2, tunnel(local=pair.left.outer, remote=pair.right.outer))))
                await _until(lambda: "vrf-blue" not in here.ip("link"))
                await iked.set_up()
                await _until(lambda: _kept(here) == before)
            await bench.stop()
            return ",".join(code for code in bench_codes(bench) if "context" in code)


async def an_uplink_is_a_table_also_where_there_are_vrfs(pair: Pair) -> None:
    """No VRF is made for a context that only an endpoint is in; what is outside looks into its table and no other."""
    here, there = pair.left.namespace, pair.right.namespace
    connect(here, "uplink", ["198.51.100.1/24"], there, "uplink", ["198.51.100.254/24"])
    here.ip("route", "add", "default", "via", "198.51.100.254", "table", "100")
    before = _kept(here)
    carriage = Carriage(endpoint_context="uplink-a")
    away = tunnel(local=pair.left.outer, remote="203.0.113.9", carriage=carriage)
    with inside(here):
        async with LinuxHost() as host:
            assert await host.has_vrfs()
            bench = Bench.make(Path(os.environ["TMPDIR"]) / "uplink", host)
            await bench.start()
            async with FakeIked(bench.paths.iked_socket) as iked:
                await bench.agent.offer(encode(document(1, away, contexts=(Context(name="uplink-a", table=100),))))
                await iked.configured.wait()
                marked = ("203.0.113.9", "from", pair.left.outer, "mark", hex(OUTER_MARK))
                assert "dev uplink" in here.ip("route", "get", *marked)
                here.ip("route", "delete", "default", "table", "100")
                assert here.ip("route", "get", *marked, check=False) == ""
                here.ip("route", "add", "default", "via", "198.51.100.254", "table", "100")
                assert not contexts.ours(await host.look())
                await bench.agent.offer(encode(document(2, tunnel(local=pair.left.outer, remote=pair.right.outer))))
                await _until(lambda: _kept(here) == before)
            await bench.stop()
    here.ip("route", "delete", "default", "table", "100")
    here.ip("link", "delete", "uplink")


async def an_address_inside_a_vrf_is_deaf_to_ike(pair: Pair) -> None:
    """That is why the agent says so: a socket that is not the VRF's own hears nothing there unless all are let."""
    here, there = pair.left.namespace, pair.right.namespace
    here.ip("link", "add", "tenant", "type", "vrf", "table", "98")
    here.ip("link", "set", "tenant", "up")
    connect(here, "inside", ["198.51.100.1/24"], there, "inside", ["198.51.100.254/24"])
    here.ip("link", "set", "inside", "master", "tenant")
    which = tunnel(local="198.51.100.1", remote="198.51.100.254")
    with inside(here):
        async with LinuxHost() as host:
            tunnels, view = carried(document(1, which), {}, "userspace"), await host.look()
            (said,) = endpoints.problems(tunnels, view, host.setting)
            assert "198.51.100.1 is on inside in VRF tenant" in said
            with (
                contextlib.closing(open_socket("198.51.100.1", 500)) as udp,
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as theirs,
            ):
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"tenant")
                theirs.bind(("198.51.100.1", 501))
                assert await _heard(there, theirs) == b"501"
                with pytest.raises(BlockingIOError):
                    udp.recv(100)
                here.run("sysctl", "-q", "-w", "net.ipv4.udp_l3mdev_accept=1")
                assert await _heard(there, udp) == b"500"
            assert endpoints.problems(tunnels, view, host.setting) == []
    here.run("sysctl", "-q", "-w", "net.ipv4.udp_l3mdev_accept=0")
    here.ip("link", "delete", "inside")
    here.ip("link", "delete", "tenant")


async def _heard(there: Namespace, here: socket.socket) -> bytes:
    """Send to ports 500 and 501, in this order; returns what a socket hears."""
    with inside(there):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for port in (500, 501):
            sender.sendto(str(port).encode(), ("198.51.100.1", port))
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(here, 100), 10)


def bench_codes(bench: Bench[LinuxHost]) -> list[str]:
    """Return the events of an agent that has stopped."""
    return Bench.make(bench.paths.state.parent, bench.host).codes()


def _kept(namespace: Namespace) -> tuple[str, ...]:
    """Return what must be as before afterwards; rules with the one that the kernel adds for its first VRF."""
    tables = (namespace.ip("route", "show", "table", number, check=False) for number in ("main", "99", "100"))
    return (*tables, namespace.ip("rule"), namespace.ip("-d", "link", "show", "type", "vrf"))


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


CHECKS: dict[str, Callable[[Pair], Awaitable[Any]]] = {
    check.__name__: check
    for check in (
        a_context_is_a_vrf, an_uplink_is_a_table_also_where_there_are_vrfs, an_address_inside_a_vrf_is_deaf_to_ike,
    )
}  # fmt: skip


def load(modules: Sequence[str]) -> None:
    """Load kernel modules by hand, since the machines do not load any by themselves once they run."""
    share = Path(os.environ[RESULT_VARIABLE]).parent
    tree = next(each for each in (share, ROOT / ".cache/kernel") if (each / "lib/modules").is_dir())
    subprocess.run(["modprobe", "-d", str(tree), "-a", *modules], check=True)


async def _run(pair: Pair, name: str) -> Any:
    async with pair.opened():
        return await CHECKS[name](pair)


if __name__ == "__main__":
    both = Pair()
    both.build()
    load(MODULES)
    report({name: partial(_run, both, name) for name in CHECKS})
