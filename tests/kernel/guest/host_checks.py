"""What ``agentd`` keeps on a kernel that has VRFs."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agents.agentd.host import LinuxHost
from agents.agentd.parts import contexts
from agents.agentd.parts.contexts import ALIAS, Vrf
from agents.contract.carriage import Carriage, Context
from agents.contract.codec import encode
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


CHECKS: dict[str, Callable[[Pair], Awaitable[Any]]] = {check.__name__: check for check in (a_context_is_a_vrf,)}


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
