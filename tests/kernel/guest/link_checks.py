"""Tunnels with an interface of their own on the kernel driver: an xfrm interface where the kernel has them, else a VTI.

The same checks run on both. Policies select everything; routes into the interface say what goes through the tunnel.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agents.contract.carriage import Attachment, DfBit
from agents.dataplane.base import DataplaneError, Direction, Expired, Repaired, SaId, SaSpec, TunnelLink
from agents.dataplane.outer import OUTER_MARK, WHOLE_MARK
from tests.kernel.guest.harness import (
    REQID,
    Check,
    End,
    Pair,
    Wire,
    inbound,
    policy,
    protocols_of,
    sa,
)

FIRST, SECOND = "first", "second"
NAMES = {FIRST: "vpn0000aaaa", SECOND: "vpn0000bbbb"}
ECHO_OCTETS, ECHO6_OCTETS = 84, 104
MTU = 1400


def link(tunnel: str, end: End, there: End, **more: Any) -> TunnelLink:
    """Return the link of a tunnel between two ends, with an interface of its own."""
    values = {"mtu": MTU, "attachment": Attachment.INTERFACE, "local": end.outer, "remote": there.outer, **more}
    return TunnelLink(tunnel_id=tunnel, name=NAMES[tunnel], **values)


def shown(end: End, name: str) -> dict[str, Any] | None:
    """Return what ``ip`` shows of an interface, None where there is none."""
    found = end.namespace.run("ip", "-j", "-d", "-s", "link", "show", name, check=False)
    return json.loads(found)[0] if found.startswith("[") else None


def interface_kind(end: End, name: str) -> str:
    """Return what kind of interface the kernel has made."""
    found = shown(end, name)
    assert found is not None, name
    return str(found["linkinfo"]["info_kind"])


async def open_links(pair: Pair, tunnel: str = FIRST, **more: Any) -> None:
    """Make the interfaces of a tunnel at both ends."""
    for here, there in ((pair.left, pair.right), (pair.right, pair.left)):
        await here.driver.open_link(link(tunnel, here, there, **more))


async def key(pair: Pair, tunnel: str = FIRST, spi: int = 0x1001, reqid: int = REQID, **more: Any) -> None:
    """Install SAs and policies for everything, of both IP versions."""
    for number, source, target in ((spi, pair.left, pair.right), (spi + 1, pair.right, pair.left)):
        spec = dataclasses.replace(sa(number, source.outer, target.outer, **more), tunnel_id=tunnel, reqid=reqid)
        await target.driver.add_sa(inbound(spec))
        await source.driver.add_sa(spec)
    for here, there in ((pair.left, pair.right), (pair.right, pair.left)):
        for everything in ("0.0.0.0/0", "::/0"):
            for direction, outer in (
                (Direction.OUT, (here.outer, there.outer)), (Direction.IN, (there.outer, here.outer))
            ):  # fmt: skip
                each = policy(direction, everything, everything, *outer)
                await here.driver.add_policy(dataclasses.replace(each, tunnel_id=tunnel, reqid=reqid))


@asynccontextmanager
async def routed(pair: Pair, tunnel: str = FIRST) -> AsyncIterator[None]:
    """Lead the inner addresses of the other end into the tunnel's interface."""
    ends = ((pair.left, pair.right), (pair.right, pair.left))
    for here, there in ends:
        here.namespace.ip("route", "replace", f"{there.inner}/32", "dev", NAMES[tunnel])
        here.namespace.ip("-6", "route", "replace", f"{there.inner6}/128", "dev", NAMES[tunnel])
    try:
        yield
    finally:
        for here, there in ends:
            here.namespace.ip("route", "replace", f"{there.inner}/32", "via", there.outer)
            here.namespace.ip("-6", "route", "replace", f"{there.inner6}/128", "via", there.outer6)


async def an_interface_carries_what_is_routed_into_it(pair: Pair) -> str:
    left, right = pair.left, pair.right
    await open_links(pair)
    kind = interface_kind(left, NAMES[FIRST])
    await key(pair)
    wire = Wire(left.namespace)
    try:
        async with routed(pair):
            assert await left.ping(right.inner, left.inner) == 3
            assert await right.ping(left.inner6, right.inner6) == 3
        protocols = [frame[23] for frame in wire.frames()]
        assert protocols == [socket.IPPROTO_ESP] * 6, protocols
        await pair.agree(0x1001, 6, 3 * ECHO_OCTETS + 3 * ECHO6_OCTETS)
        for end in (left, right):
            found = shown(end, NAMES[FIRST])
            assert found is not None
            assert (found["stats64"]["rx"]["packets"], found["stats64"]["tx"]["packets"]) == (6, 6)
            assert (found["mtu"], found["ifalias"]) == (MTU, f"VPN Console, tunnel {FIRST}")
        # The policies select everything, and yet what no route leads into the interface is none of theirs.
        assert await left.ping(right.outer, left.outer) == 3
        assert [frame[23] for frame in wire.frames()] == [socket.IPPROTO_ICMP] * 3
    finally:
        wire.close()
    listed = await left.driver.list_policies()
    assert len(listed) == 4
    assert {each.tunnel_id for each in listed} == {FIRST}
    await left.driver.close_link(FIRST)
    assert shown(left, NAMES[FIRST]) is None
    return kind


async def two_tunnels_may_select_the_same(pair: Pair) -> None:
    """Which is used is the routes' to say; one interface goes, the other works on."""
    left, right = pair.left, pair.right
    async with second_addresses(pair) as second:
        await open_links(pair)
        await open_links(second, SECOND)
        await key(pair)
        await key(second, SECOND, 0x2001, REQID + 1)
        for tunnel, spi in ((FIRST, 0x1001), (SECOND, 0x2001), (FIRST, 0x1001)):
            before = left.counts(spi)[1]
            async with routed(pair, tunnel):
                assert await left.ping(right.inner, left.inner, 2) == 2, tunnel
            assert left.counts(spi)[1] == before + 2
        assert len(await left.driver.list_policies()) == 8
        for end in (left, right):
            for each in await end.driver.list_policies():
                if each.tunnel_id == FIRST:
                    await end.driver.remove_policy(each)
            await end.driver.close_link(FIRST)
            assert {each.tunnel_id for each in await end.driver.list_policies()} == {SECOND}
        async with routed(pair, SECOND):
            assert await left.ping(right.inner, left.inner) == 3


@asynccontextmanager
async def second_addresses(pair: Pair) -> AsyncIterator[Pair]:
    """Give both ends another outer address each; yields them as a pair under those: a VTI is one per pair."""
    second = _Elsewhere(pair)
    for end in (second.left, second.right):
        end.namespace.ip("address", "add", f"{end.outer}/24", "dev", "wire")
    try:
        yield second
    finally:
        for end in (second.left, second.right):
            end.namespace.ip("address", "delete", f"{end.outer}/24", "dev", "wire")


class _Elsewhere(Pair):
    """The same two ends under their second outer addresses."""

    def __init__(self, pair: Pair) -> None:
        self.left, self.right = _Alias(pair.left, "192.0.2.11"), _Alias(pair.right, "192.0.2.12")


class _Alias(End):
    def __init__(self, end: End, outer: str) -> None:
        self.__dict__.update(end.__dict__)
        self.outer = outer


async def a_tunnel_changes_its_attachment(pair: Pair) -> None:
    """SAs and policies that stand go over to the interface and back, counting on."""
    left, right = pair.left, pair.right
    spec = await _narrow(pair)
    assert await left.ping(right.inner, left.inner) == 3
    await open_links(pair)
    async with routed(pair):
        assert await left.ping(right.inner, left.inner) == 3
        assert await right.ping(left.inner, right.inner) == 3
    await pair.agree(0x1001, 9, 9 * ECHO_OCTETS)
    listing = left.namespace.run("ip", "xfrm", "policy")
    assert (listing.count("if_id") or listing.count("mark")) == 3, listing
    assert len(await left.driver.list_policies()) == 2
    await open_links(pair, attachment=Attachment.SHARED)
    assert shown(left, NAMES[FIRST]) is None
    assert await left.ping(right.inner, left.inner) == 3
    await pair.agree(0x1001, 12, 12 * ECHO_OCTETS)
    listing = left.namespace.run("ip", "xfrm", "policy") + left.namespace.run("ip", "xfrm", "state")
    assert "if_id" not in listing
    assert "\tmark" not in listing
    await left.driver.remove_sa(spec.id)
    assert 0x1001 not in {state.id.spi for state in await left.driver.list_sas()}


async def _narrow(pair: Pair) -> SaSpec:
    """Install SAs and policies between the inner addresses; returns the SA from left to right."""
    for number, source, target in ((0x1001, pair.left, pair.right), (0x1002, pair.right, pair.left)):
        spec = dataclasses.replace(sa(number, source.outer, target.outer), tunnel_id=FIRST)
        await pair.both(spec)
    for here, there in ((pair.left, pair.right), (pair.right, pair.left)):
        for each in (
            policy(Direction.OUT, f"{here.inner}/32", f"{there.inner}/32", here.outer, there.outer),
            policy(Direction.IN, f"{there.inner}/32", f"{here.inner}/32", there.outer, here.outer),
        ):
            await here.driver.add_policy(dataclasses.replace(each, tunnel_id=FIRST))
    return dataclasses.replace(sa(0x1001, pair.left.outer, pair.right.outer), tunnel_id=FIRST)


async def a_repeat_changes_an_interface(pair: Pair) -> None:
    left = pair.left
    await left.driver.open_link(link(FIRST, left, pair.right))
    before = shown(left, NAMES[FIRST])
    await left.driver.open_link(link(FIRST, left, pair.right, mtu=1300))
    after = shown(left, NAMES[FIRST])
    assert before is not None
    assert after is not None
    assert (before["mtu"], after["mtu"], after["ifindex"] == before["ifindex"]) == (1400, 1300, True)
    assert "UP" in after["flags"]
    await left.driver.open_link(dataclasses.replace(link(FIRST, left, pair.right), name="vpn0000cccc"))
    assert shown(left, NAMES[FIRST]) is None
    assert interface_kind(left, "vpn0000cccc") == before["linkinfo"]["info_kind"]
    assert "qdisc prio" not in left.namespace.run("tc", "qdisc", "show", "dev", "vpn0000cccc")


async def an_interface_follows_moved_addresses(pair: Pair) -> None:
    left, right = pair.left, pair.right
    elsewhere = "192.0.2.79"
    right.namespace.ip("address", "add", f"{elsewhere}/24", "dev", "wire")
    try:
        await open_links(pair)
        await key(pair)
        async with routed(pair):
            assert await left.ping(right.inner, left.inner) == 3
            for end in (left, right):
                await end.driver.update_mapping(SaId(spi=0x1001, destination=right.outer), left.outer, elsewhere, None)
                await end.driver.update_mapping(SaId(spi=0x1002, destination=left.outer), elsewhere, left.outer, None)
            assert await left.ping(right.inner, left.inner) == 3
            assert await right.ping(left.inner, right.inner) == 3
        await pair.agree(0x1001, 9, 9 * ECHO_OCTETS)
    finally:
        right.namespace.ip("address", "delete", f"{elsewhere}/24", "dev", "wire")


async def a_bundle_goes_through_an_xfrm_interface(pair: Pair) -> str:
    """AH around ESP around IPComp, with extended numbers: each state is tied to the interface. A VTI has it refused."""
    left, right = pair.left, pair.right
    await open_links(pair)
    more: dict[str, Any] = {"ah": "hmac-sha2-256-128", "compression_cpi": 0x4001, "extended_sequence_numbers": True}
    towards = dataclasses.replace(sa(0x1001, left.outer, right.outer, **more), tunnel_id=FIRST)
    if interface_kind(left, NAMES[FIRST]) == "vti":
        with pytest.raises(DataplaneError) as caught:
            await left.driver.add_sa(towards)
        assert await left.driver.list_sas() == ()
        await _ends_with_its_attachment(pair, towards)
        return caught.value.reason
    await pair.both(towards)
    await pair.both(dataclasses.replace(sa(0x1002, right.outer, left.outer, **more), tunnel_id=FIRST))
    for here, there in ((left, right), (right, left)):
        for each in (
            policy(Direction.OUT, "0.0.0.0/0", "0.0.0.0/0", here.outer, there.outer),
            policy(Direction.IN, "0.0.0.0/0", "0.0.0.0/0", there.outer, here.outer),
        ):
            await here.driver.add_policy(
                dataclasses.replace(each, tunnel_id=FIRST, protocols=protocols_of(towards), compressed=True)
            )
    async with routed(pair):
        assert await left.ping(right.inner, left.inner, payload=1000) == 3
        assert await right.ping(left.inner, right.inner) == 3
    assert (await left.sa(0x1001)).counters.packets_out == (await right.sa(0x1001)).counters.packets_in == 6
    return ""


async def _ends_with_its_attachment(pair: Pair, bundle: SaSpec) -> None:
    """An SA that cannot go over to a VTI is told as ended; what else the tunnel has goes over."""
    left, right = pair.left, pair.right
    await left.driver.open_link(link(FIRST, left, right, attachment=Attachment.SHARED))
    plain = dataclasses.replace(sa(0x1005, left.outer, right.outer), tunnel_id=FIRST)
    await left.driver.add_sa(bundle)
    await left.driver.add_sa(plain)
    await left.driver.open_link(link(FIRST, left, right))
    await left.hears(Expired, lambda notice: notice == Expired(id=bundle.id, hard=True))
    assert [state.id for state in await left.driver.list_sas()] == [plain.id]
    assert left.namespace.run("ip", "xfrm", "state", "list", "spi", "0x1005").count("\tmark") == 1


async def interfaces_of_others_stay(pair: Pair) -> str:
    """One that has the name is not replaced, and then the tunnel's SAs are refused too: it would have no routes."""
    left, right = pair.left, pair.right
    kind = await _kind_here(pair)
    number = ("if_id", "77") if kind == "xfrm" else ("key", "77", "local", left.outer, "remote", "192.0.2.99")
    left.namespace.ip("link", "add", "stranger", "type", kind, *number)
    left.namespace.ip("link", "add", NAMES[FIRST], "type", "dummy" if kind == "xfrm" else "veth")
    try:
        with pytest.raises(DataplaneError) as caught:
            await left.driver.open_link(link(FIRST, left, right))
        assert (caught.value.operation, caught.value.errno) == ("open_link", errno.EEXIST)
        spec = dataclasses.replace(sa(0x1001, left.outer, right.outer), tunnel_id=FIRST)
        with pytest.raises(DataplaneError) as refused:
            await left.driver.add_sa(spec)
        assert refused.value.reason == caught.value.reason
        await left.driver.add_sa(dataclasses.replace(sa(0x1003, left.outer, right.outer), tunnel_id=SECOND))
        await left.driver.open_link(link(SECOND, left, right))
        await left.close()
        assert shown(left, NAMES[SECOND]) is None
        assert shown(left, "stranger") is not None
        assert shown(left, NAMES[FIRST]) is not None
        # What a killed predecessor left goes by its number, whatever its name.
        ours = ("if_id", str(REQID)) if kind == "xfrm" else ("key", str(REQID), *number[2:-1], "192.0.2.98")
        left.namespace.ip("link", "add", "left-over", "type", kind, *ours)
        await left.open()
        assert shown(left, "left-over") is None
        assert shown(left, "stranger") is not None
    finally:
        left.namespace.ip("link", "delete", "stranger")
        left.namespace.ip("link", "delete", NAMES[FIRST])
    await left.driver.open_link(link(FIRST, left, right))
    await left.driver.add_sa(dataclasses.replace(sa(0x1001, left.outer, right.outer), tunnel_id=FIRST))
    return caught.value.reason


async def _kind_here(pair: Pair) -> str:
    await pair.left.driver.open_link(link(SECOND, pair.left, pair.right))
    kind = interface_kind(pair.left, NAMES[SECOND])
    await pair.left.driver.close_link(SECOND)
    return kind


async def an_interface_that_others_remove_is_back(pair: Pair) -> str:
    """With its queues, and the SAs that stood carry on; what we remove ourselves stays away."""
    left, right = pair.left, pair.right
    await open_links(pair, queues=4)
    await key(pair)
    async with routed(pair):
        assert await left.ping(right.inner, left.inner) == 3
        left.namespace.ip("link", "delete", NAMES[FIRST])
        told = await left.hears(Repaired)
        assert (told.reqid, told.detail) == (
            REQID,
            f"The interface {NAMES[FIRST]} was removed by someone else and is back",
        )
    async with routed(pair):  # routes go with their interface; they are another's to put back
        assert await left.ping(right.inner, left.inner) == 3
    await pair.agree(0x1001, 6, 6 * ECHO_OCTETS)
    assert [each.packets for each in (await left.driver.queues())[FIRST]] == [0, 0, 0, 3]
    found = shown(left, NAMES[FIRST])
    assert found is not None
    assert (found["mtu"], found["ifalias"]) == (MTU, f"VPN Console, tunnel {FIRST}")
    await left.driver.close_link(FIRST)
    await left.driver.open_link(link(SECOND, left, right))
    left.namespace.ip("link", "delete", NAMES[SECOND])
    await left.hears(Repaired, lambda notice: NAMES[SECOND] in notice.detail)
    assert shown(left, NAMES[FIRST]) is None
    assert len([notice for notice in left.heard if isinstance(notice, Repaired)]) == 2
    return str(told.detail)


async def a_context_is_a_vrf_where_there_is_one(pair: Pair) -> None:
    """The interface is in the VRF of its table: routes of that table lead into the tunnel, the main one's do not."""
    left, right = pair.left, pair.right
    left.namespace.ip("link", "add", "blue", "type", "vrf", "table", "1001")
    left.namespace.ip("link", "set", "blue", "up")
    left.namespace.ip("address", "add", "10.9.0.1/32", "dev", "blue")
    try:
        await left.driver.open_link(link(FIRST, left, right, table=1001))
        await right.driver.open_link(link(FIRST, right, left, table=1002))  # no VRF has it: rules lead there
        await key(pair)
        left.namespace.ip("route", "add", f"{right.inner}/32", "dev", NAMES[FIRST], "table", "1001")
        right.namespace.ip("route", "add", "10.9.0.1/32", "dev", NAMES[FIRST])
        found = shown(left, NAMES[FIRST])
        assert found is not None
        assert found["master"] == "blue"
        output = await asyncio.to_thread(
            left.namespace.run, "ping", "-n", "-c", "3", "-i", "0.05", "-W", "2", "-I", "blue", right.inner, check=False
        )
        assert " 3 received" in output, output
        await pair.agree(0x1001, 3, 3 * ECHO_OCTETS)
        await left.driver.open_link(link(FIRST, left, right))
        again = shown(left, NAMES[FIRST])
        assert again is not None
        assert "master" not in again
    finally:
        left.namespace.ip("link", "delete", "blue")


async def dont_fragment_may_be_asked_for_always(pair: Pair) -> None:
    """The mark of what leaves says so, which a rule of the agent's goes by; ``whole_checks`` has what comes of it."""
    left, right = pair.left, pair.right
    await open_links(pair)
    await key(pair, df_bit=DfBit.SET)
    async with routed(pair):
        assert await left.ping(right.inner, left.inner) == 3
    shown_states = left.namespace.run("ip", "xfrm", "state")
    assert shown_states.count(f"output-mark {OUTER_MARK | WHOLE_MARK:#x}") == 1, shown_states


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        an_interface_carries_what_is_routed_into_it, two_tunnels_may_select_the_same, a_tunnel_changes_its_attachment,
        a_repeat_changes_an_interface, an_interface_follows_moved_addresses, a_bundle_goes_through_an_xfrm_interface,
        interfaces_of_others_stay, an_interface_that_others_remove_is_back, a_context_is_a_vrf_where_there_is_one,
        dont_fragment_may_be_asked_for_always,
    )
}  # fmt: skip


async def run(pair: Pair, name: str) -> Any:
    """Run one check with both drivers open."""
    async with pair.opened():
        return await CHECKS[name](pair)
