"""Rules know what is outside the kernel driver's tunnels, and lead it another way than the main table does."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agents.agentd.host import LinuxHost
from agents.agentd.parts import endpoints
from agents.agentd.parts.carried import Carried, Protected
from agents.contract.carriage import Carriage
from agents.contract.config import Mode
from deploy.lab.netns import connect
from tests.kernel.guest.harness import Check, Pair, Wire, clear, inside
from tests.kernel.guest.link_checks import FIRST, NAMES, interface_kind, key, link, open_links, routed

TABLE, OTHER_LINK = 1_101, "wire2"
_KINDS: dict[str, dict[str, Any]] = {
    "ESP": {},
    "AH around ESP": {"ah": "hmac-sha2-256-128"},
    "ESP around IPComp": {"compression_cpi": 0x4001},
}


def _carried(pair: Pair, mode: Mode) -> Carried:
    return Carried(
        id=FIRST,
        name=FIRST,
        local=(pair.left.outer,),
        peers=(pair.right.outer,),
        anywhere=False,
        selector_routes=False,
        carriage=Carriage(endpoint_context="uplink-a"),
        protected=(Protected(child="net", local=(), remote=(), mode=mode),),
        endpoint_table=TABLE,
    )


@asynccontextmanager
async def another_way(pair: Pair, mode: Mode = Mode.TUNNEL) -> AsyncIterator[None]:
    """Give left a second link to right, and the rules of an endpoint that lead there what is outside."""
    left, right = pair.left, pair.right
    connect(left.namespace, OTHER_LINK, ["203.0.113.1/24"], right.namespace, OTHER_LINK, ["203.0.113.2/24"])
    left.namespace.ip("route", "add", "default", "via", "203.0.113.2", "table", str(TABLE))
    rules = endpoints.rules([_carried(pair, mode)])
    with inside(left.namespace):
        async with LinuxHost() as host:
            for rule in rules:
                await host.add_rule(rule)
            try:
                yield
            finally:
                for rule in rules:
                    await host.remove_rule(rule)
                left.namespace.ip("link", "delete", OTHER_LINK)


def _protocols(wire: Wire) -> list[int]:
    return [frame[23] for frame in wire.frames()]


async def what_is_outside_goes_where_its_rule_says(pair: Pair) -> None:
    """Nothing of it by the main table, also where its own table leads nowhere; what is no tunnel's goes as before."""
    left, right = pair.left, pair.right
    async with another_way(pair):
        wires = {name: Wire(left.namespace, name) for name in ("wire", OTHER_LINK)}
        try:
            for name, more in _KINDS.items():
                await pair.tunnel(**more)
                outermost = socket.IPPROTO_AH if "ah" in more else socket.IPPROTO_ESP
                assert await left.ping(right.inner, left.inner, payload=1000) == 3, name
                assert _protocols(wires[OTHER_LINK]) == [outermost] * 3, name
                assert _protocols(wires["wire"]) == [], name
                assert await left.ping(right.outer, left.outer) == 3, name
                assert _protocols(wires["wire"]) == [socket.IPPROTO_ICMP] * 3, name
                await clear(pair)
            await pair.tunnel()
            left.namespace.ip("route", "delete", "default", "table", str(TABLE))
            assert await left.ping(right.inner, left.inner, 2) == 0
            assert _protocols(wires["wire"]) + _protocols(wires[OTHER_LINK]) == []
        finally:
            for wire in wires.values():
                wire.close()


async def what_two_hosts_say_goes_where_their_rule_says(pair: Pair) -> None:
    """Transport mode is routed before it is encrypted, and has no mark then."""
    left, right = pair.left, pair.right
    async with another_way(pair, Mode.TRANSPORT):
        wire, other = Wire(left.namespace), Wire(left.namespace, OTHER_LINK)
        try:
            await pair.tunnel(mode=Mode.TRANSPORT)
            assert await left.ping(right.outer, left.outer) == 3
            assert (_protocols(wire), _protocols(other)) == ([], [socket.IPPROTO_ESP] * 3)
        finally:
            wire.close()
            other.close()


async def what_an_interface_sends_goes_where_its_rule_says(pair: Pair) -> None:
    """The same for a tunnel with an interface of its own."""
    left, right = pair.left, pair.right
    await open_links(pair)
    await key(pair)
    async with another_way(pair), routed(pair):
        wire, other = Wire(left.namespace), Wire(left.namespace, OTHER_LINK)
        try:
            assert await left.ping(right.inner, left.inner) == 3
            assert (_protocols(wire), _protocols(other)) == ([], [socket.IPPROTO_ESP] * 3)
        finally:
            wire.close()
            other.close()


async def what_comes_out_of_a_vrf_goes_where_its_rule_says(pair: Pair) -> None:
    """The tunnel's interface is in a VRF, whose table ends nowhere; the endpoint's has the way to the peer.

    Of a VTI, other than of an xfrm interface, the kernel asks the VRF's table first (``xfrm4_dst_lookup``).
    """
    left, right = pair.left, pair.right
    left.namespace.ip("link", "add", "blue", "type", "vrf", "table", "1001")
    left.namespace.ip("link", "set", "blue", "up")
    left.namespace.ip("address", "add", "10.9.0.1/32", "dev", "blue")
    try:
        await left.driver.open_link(link(FIRST, left, right, table=1001))
        await right.driver.open_link(link(FIRST, right, left))
        await key(pair)
        left.namespace.ip("route", "add", f"{right.inner}/32", "dev", NAMES[FIRST], "table", "1001")
        left.namespace.ip("route", "add", "unreachable", "default", "metric", "4278198272", "table", "1001")
        if interface_kind(left, NAMES[FIRST]) == "vti":
            assert await _ping_from_the_vrf(pair) == 0
            left.namespace.ip("route", "delete", "unreachable", "default", "table", "1001")
        right.namespace.ip("route", "add", "10.9.0.1/32", "dev", NAMES[FIRST])
        async with another_way(pair):
            wire, other = Wire(left.namespace), Wire(left.namespace, OTHER_LINK)
            try:
                assert await _ping_from_the_vrf(pair) == 3
                assert (_protocols(wire), _protocols(other)) == ([], [socket.IPPROTO_ESP] * 3)
            finally:
                wire.close()
                other.close()
    finally:
        left.namespace.ip("link", "delete", "blue")


async def _ping_from_the_vrf(pair: Pair) -> int:
    return await pair.left.ping(pair.right.inner, "blue")


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        what_is_outside_goes_where_its_rule_says, what_two_hosts_say_goes_where_their_rule_says,
        what_an_interface_sends_goes_where_its_rule_says, what_comes_out_of_a_vrf_goes_where_its_rule_says,
    )
}  # fmt: skip


async def run(pair: Pair, name: str) -> Any:
    """Run one check with both drivers open."""
    async with pair.opened():
        return await CHECKS[name](pair)
