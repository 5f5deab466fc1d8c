"""Dynamic routing over tunnels with an interface of their own: FRR's OSPF at both ends of two such tunnels."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.lab.frr import Frr
from tests.kernel.guest import link_checks
from tests.kernel.guest.harness import REQID, Check, Pair, Wire
from tests.kernel.guest.link_checks import FIRST, NAMES, SECOND

_WAIT_S = 40.0
_OSPF = 89
_ADDRESSES = {FIRST: "10.99.1", SECOND: "10.99.2"}


async def ospf_over_two_tunnels(pair: Pair) -> dict[str, float]:
    """Both adjacencies come up, OSPF lays the routes, and when one tunnel goes the traffic takes the other."""
    left, right = pair.left, pair.right
    for here, there in ((left, right), (right, left)):
        here.namespace.ip("route", "delete", f"{there.inner}/32")
    routers = [
        Frr(end.namespace, Path(os.environ["TMPDIR"]) / end.namespace.role, end.inner, list(NAMES.values()))
        for end in (left, right)
    ]
    try:
        async with link_checks.second_addresses(pair) as second:
            await link_checks.open_links(pair)
            await link_checks.open_links(second, SECOND)
            await link_checks.key(pair)
            await link_checks.key(second, SECOND, 0x2001, REQID + 1)
            for number, end in ((1, left), (2, right)):
                for tunnel, network in _ADDRESSES.items():
                    end.namespace.ip("address", "add", f"{network}.{number}/30", "dev", NAMES[tunnel])
            return await _routed_by(pair, routers)
    finally:
        for router in routers:
            router.stop()
        for here, there in ((left, right), (right, left)):
            here.namespace.ip("route", "replace", f"{there.inner}/32", "via", there.outer)


async def _routed_by(pair: Pair, routers: list[Frr]) -> dict[str, float]:
    left, right = pair.left, pair.right
    wire = Wire(left.namespace)
    started = time.monotonic()
    try:
        for router in routers:
            router.start()
        names = set(NAMES.values())
        for router in routers:
            await _until(lambda router=router: _full(router) == names, router)  # type: ignore[misc]
        both = time.monotonic() - started
        await _until(lambda: _lead_through(pair, names), routers[0])
        assert await left.ping(right.inner, left.inner) == 3
        protocols = {frame[23] for frame in wire.frames()}
        assert protocols <= {socket.IPPROTO_ESP, socket.IPPROTO_ICMP}, protocols  # ICMP: an unreachable of the start
        assert _OSPF not in protocols
        await left.driver.close_link(FIRST)
        gone = time.monotonic()
        await _until(lambda: _lead_through(pair, {NAMES[SECOND]}), routers[0])
        assert await left.ping(right.inner, left.inner) == 3
        return {"adjacent after": round(both, 1), "rerouted after": round(time.monotonic() - gone, 1)}
    finally:
        wire.close()


def _full(router: Frr) -> set[str]:
    return {name for name, state in router.neighbours().items() if state.startswith("Full")}


def _lead_through(pair: Pair, names: set[str]) -> bool:
    """Whether OSPF's routes to the other's inner address lead through these interfaces, at both ends."""
    for here, there in ((pair.left, pair.right), (pair.right, pair.left)):
        shown = here.namespace.ip("route", "show", there.inner, "proto", "ospf")
        if {name for name in NAMES.values() if f"dev {name} " in shown} != names:
            return False
    return True


async def _until(reached: Callable[[], bool], router: Frr) -> None:
    limit = time.monotonic() + _WAIT_S
    while not await asyncio.to_thread(reached):
        assert time.monotonic() < limit, f"{router.neighbours()}\n{router.log()[-3000:]}"
        await asyncio.sleep(0.2)  # another program's state: asked again


CHECKS: dict[str, Check] = {check.__name__: check for check in (ospf_over_two_tunnels,)}


async def run(pair: Pair, name: str) -> Any:
    """Run one check with both drivers open."""
    async with pair.opened():
        return await CHECKS[name](pair)
