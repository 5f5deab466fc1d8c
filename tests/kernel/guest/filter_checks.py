"""The packet filter on a kernel with ESP and nftables: its look at decrypted packets, and at those of a VRF."""

from __future__ import annotations

from functools import partial
from typing import Any

from agents.agentd.host import LinuxHost
from agents.agentd.parts import filter as parts_filter
from agents.agentd.parts.carried import carried
from agents.contract.status import FilterCounters
from agents.dataplane.base import Direction
from tests.agentd.fakes import TUNNEL_ID, document, tunnel, up_status
from tests.kernel.guest import host_checks
from tests.kernel.guest.harness import Check, Pair, inside, report

MODULES = ("nf_tables", "nft_objref", "vrf")
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


async def _counts(host: LinuxHost) -> FilterCounters:
    found = parts_filter.counters_of(TUNNEL_ID, parts_filter.packets(await host.filter(parts_filter.listing())))
    assert found is not None
    return found


CHECKS: dict[str, Check] = {
    "decrypted_passes_and_clear_text_does_not": decrypted_passes_and_clear_text_does_not,
    "what_comes_out_of_a_tunnel_in_a_vrf_passes": partial(host_checks.a_context_is_a_vrf, filtered=True),
}


async def _run(pair: Pair, name: str) -> Any:
    async with pair.opened():
        return await CHECKS[name](pair)


if __name__ == "__main__":
    both = Pair()
    both.build()
    host_checks.load(MODULES)
    report({name: partial(_run, both, name) for name in CHECKS}, timeout_s=PATIENCE_S)
