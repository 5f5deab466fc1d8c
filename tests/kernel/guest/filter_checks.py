"""Our nftables table on a kernel with ESP: what it makes of packets decrypted, to encrypt, congested, and of a VRF."""

from __future__ import annotations

import asyncio
import socket
import sys
from functools import partial
from typing import Any

from agents.agentd.host import LinuxHost
from agents.agentd.parts import filter as parts_filter
from agents.agentd.parts import mss
from agents.agentd.parts.carried import carried
from agents.contract.carriage import Carriage
from agents.contract.status import FilterCounters
from agents.dataplane.base import Direction
from deploy.lab.netns import Namespace, connect
from tests.agentd.fakes import TUNNEL_ID, document, tunnel, up_status
from tests.kernel.guest import congestion_checks, host_checks, whole_checks
from tests.kernel.guest.harness import Check, End, Pair, inside, policy, report

MODULES = ("nf_tables", "nft_objref", "vrf", "ip_vti")
PATIENCE_S = 120


async def decrypted_passes_and_clear_text_does_not(pair: Pair) -> list[int]:
    """ESP comes in, and the packet inside it a second time; in clear it comes once, and no further."""
    left, right = pair.left, pair.right
    which = tunnel(
        local=right.outer, remote=left.outer, local_ts=(f"{right.inner}/32",), remote_ts=(f"{left.inner}/32",)
    )
    seen = carried(document(1, which), {TUNNEL_ID: up_status(which)}, "kernel")
    with inside(right.namespace):
        async with LinuxHost() as host:
            await pair.tunnel()
            plan = parts_filter.plan(seen, await host.look(), kernel=True, vrfs=False)
            await host.filter(parts_filter.transaction(plan, ()))
            assert await left.ping(right.inner, left.inner, 3) == 3
            assert await _counts(host) == FilterCounters(admitted_ipsec=3)
            for each in await left.driver.list_policies():
                if each.direction is Direction.OUT:
                    await left.driver.remove_policy(each)
            assert await left.ping(right.inner, left.inner, 2) == 0
            counted = await _counts(host)
            assert counted == FilterCounters(admitted_ipsec=3, dropped_clear=2)
            await host.filter(parts_filter.removal())
    return [counted.admitted_ipsec, counted.dropped_clear]


async def what_will_be_encrypted_leaves_and_clear_text_does_not(pair: Pair) -> list[int]:
    """With the policies there all leaves, in ESP; without them nothing does, and what is not protected passes."""
    left, right = pair.left, pair.right
    which = tunnel(
        local=left.outer, remote=right.outer, local_ts=(f"{left.inner}/32",), remote_ts=(f"{right.inner}/32",)
    )
    seen = carried(document(1, which), {TUNNEL_ID: up_status(which, up=False)}, "kernel")
    with inside(left.namespace):
        async with LinuxHost() as host:
            assert await left.ping(right.inner, left.inner, 2) == 2
            plan = parts_filter.plan(seen, await host.look(), kernel=True, vrfs=False)
            await host.filter(parts_filter.transaction(plan, ()))
            assert await left.ping(right.inner, left.inner, 2) == 0
            assert (await _counts(host)).dropped_leaving == 2
            assert await left.ping(right.outer, left.outer, 2) == 2
            await pair.tunnel()
            assert await left.ping(right.inner, left.inner, 3) == 3
            assert left.counts(0x1001)[1] == 3
            for each in await left.driver.list_policies():
                await left.driver.remove_policy(each)
            assert await left.ping(right.inner, left.inner, 2) == 0
            counted = await _counts(host)
            await host.filter(parts_filter.removal())
    assert left.counts(0x1001)[1] == 3
    return [counted.admitted_ipsec, counted.dropped_leaving]


async def a_forwarded_packet_is_known_by_its_policy(pair: Pair) -> list[int]:
    """The host behind the gateway has its packets forwarded: in ESP with the policies, and otherwise not at all."""
    left, right = pair.left, pair.right
    behind = Namespace("vck", "behind")
    behind.create()
    connect(left.namespace, "lan", ["10.1.9.1/24"], behind, "lan", ["10.1.9.2/24"])
    behind.ip("route", "add", "default", "via", "10.1.9.1")
    left.namespace.forward()
    right.namespace.ip("route", "add", "10.1.9.0/24", "via", left.outer)
    which = tunnel(local=left.outer, remote=right.outer, local_ts=("10.1.9.0/24",), remote_ts=(f"{right.inner}/32",))
    seen = carried(document(1, which), {TUNNEL_ID: up_status(which, up=False)}, "kernel")

    async def heard() -> str:
        return await asyncio.to_thread(
            behind.run, "ping", "-n", "-c", "2", "-i", "0.05", "-W", "2", right.inner, check=False
        )

    with inside(left.namespace):
        async with LinuxHost() as host:
            assert "2 received" in await heard()
            plan = parts_filter.plan(seen, await host.look(), kernel=True, vrfs=False)
            await host.filter(parts_filter.transaction(plan, ()))
            assert "0 received" in await heard()
            counted = await _counts(host)
            assert counted == FilterCounters(dropped_leaving=2)
            await pair.tunnel()
            for here, there in ((left, right), (right, left)):
                ours, theirs = (
                    ("10.1.9.0/24", f"{right.inner}/32") if here is left else (f"{right.inner}/32", "10.1.9.0/24")
                )
                await here.driver.add_policy(policy(Direction.OUT, ours, theirs, here.outer, there.outer))
                await here.driver.add_policy(policy(Direction.IN, theirs, ours, there.outer, here.outer))
            assert "2 received" in await heard()
            counted = await _counts(host)
            await host.filter(parts_filter.removal())
    behind.remove()
    assert counted == FilterCounters(admitted_ipsec=2, dropped_leaving=2)
    return [counted.admitted_ipsec, counted.dropped_leaving]


async def segments_of_a_shared_tunnel_are_clamped(pair: Pair) -> list[int]:
    """The end that clamps holds both ends to its size: the peer by the SYN, itself by the answer."""
    left, right = pair.left, pair.right
    which = tunnel(
        local=left.outer, remote=right.outer, local_ts=(f"{left.inner}/32",), remote_ts=(f"{right.inner}/32",),
        carriage=Carriage(clamp_tcp_mss=True), mtu=1_000,
    )  # fmt: skip
    given = document(1, which)
    seen = carried(given, {TUNNEL_ID: up_status(which)}, "kernel")
    await pair.tunnel()
    with inside(right.namespace):
        listening = socket.create_server((right.inner, 7))
    with listening, inside(left.namespace):
        async with LinuxHost() as host:
            before = _segments(left, right, listening)
            plan = parts_filter.Beside(clamps=mss.wanted(given, seen, await host.look())).plan()
            await host.filter(parts_filter.transaction(plan, ()))
            after = _segments(left, right, listening)
            await host.filter(parts_filter.removal())
    timestamps = 12
    assert min(before) > 1_000, before
    assert after == [1_000 - 40 - timestamps] * 2, after
    return after


def _segments(left: End, right: End, listening: socket.socket) -> list[int]:
    """Open a connection from the namespace entered; returns the largest segment that each end sends."""
    with socket.create_connection((right.inner, 7), timeout=20, source_address=(left.inner, 0)) as client:
        server, _ = listening.accept()
        with server:
            return [each.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) for each in (client, server)]


async def _counts(host: LinuxHost) -> FilterCounters:
    found = parts_filter.counters_of(TUNNEL_ID, parts_filter.packets(await host.filter(parts_filter.listing())))
    assert found is not None
    return found


CHECKS: dict[str, Check] = {
    "decrypted_passes_and_clear_text_does_not": decrypted_passes_and_clear_text_does_not,
    "what_will_be_encrypted_leaves_and_clear_text_does_not": what_will_be_encrypted_leaves_and_clear_text_does_not,
    "a_forwarded_packet_is_known_by_its_policy": a_forwarded_packet_is_known_by_its_policy,
    "segments_of_a_shared_tunnel_are_clamped": segments_of_a_shared_tunnel_are_clamped,
    **congestion_checks.CHECKS,
    **whole_checks.CHECKS,
    "what_comes_out_of_a_tunnel_in_a_vrf_passes": partial(host_checks.a_context_is_a_vrf, filtered=True),
}


async def _run(pair: Pair, name: str) -> Any:
    async with pair.opened():
        return await CHECKS[name](pair)


if __name__ == "__main__":
    both = Pair()
    both.build()
    host_checks.load(MODULES)
    chosen = sys.argv[1:] or CHECKS
    report({name: partial(_run, both, name) for name in chosen}, timeout_s=PATIENCE_S)
