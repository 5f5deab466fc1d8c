"""Four queues of a tunnel with an interface of its own: what goes first, what is counted, what a rate does."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.contract.carriage import Attachment
from agents.contract.status import QueueStatus
from agents.dataplane.base import DataplaneError
from deploy.lab.qemu.machine import KERNEL
from deploy.lab.uml import RESULT_VARIABLE
from tests.kernel.guest.harness import Check, End, Pair, inside, readable
from tests.kernel.guest.link_checks import FIRST, NAMES, SECOND, key, link, open_links, routed, shown

_CLASSES = {0xC0: 0, 0xE0: 0, 0xB8: 1, 0x80: 1, 0x48: 2, 0x60: 2, 0x20: 3, 0x00: 3, 0x03: 3}
"""Type of service octets: CS6, CS7, EF, CS4, AF21, CS3, CS1, CS0, and CE without a class."""


async def four_queues_by_class(pair: Pair) -> dict[int, int]:
    left, right = pair.left, pair.right
    await open_links(pair, queues=4)
    await key(pair)
    sent = dict.fromkeys(range(4), 0)
    async with routed(pair):
        for family, source, target in (
            (socket.AF_INET, left.inner, right.inner), (socket.AF_INET6, left.inner6, right.inner6)
        ):  # fmt: skip
            for tos, queue in _CLASSES.items():
                _send(left, family, source, target, tos, b"x" * 100)
                sent[queue] += 1
    counted = {each.queue: each for each in (await left.driver.queues())[FIRST]}
    assert {queue: each.packets for queue, each in counted.items()} == sent
    assert counted[0].bytes == 2 * (128 + 148), counted[0]
    assert all((each.dropped_packets, each.depth_packets) == (0, 0) for each in counted.values())
    # They stay while the tunnel keeps them, whatever else changes, and go when it has one again.
    await left.driver.open_link(link(FIRST, left, right, queues=4, mtu=1280))
    assert {each.queue: each for each in (await left.driver.queues())[FIRST]} == counted
    await left.driver.open_link(link(FIRST, left, right))
    assert await left.driver.queues() == {}
    return sent


def _sender(end: End, family: int, source: str, tos: int) -> socket.socket:
    with inside(end.namespace):
        udp = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET:
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    else:
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
    udp.bind((source, 0))
    return udp


def _send(end: End, family: int, source: str, target: str, tos: int, octets: bytes, port: int = 9) -> None:
    with _sender(end, family, source, tos) as udp:
        udp.sendto(octets, (target, port))


async def a_queue_that_is_held_up(pair: Pair) -> dict[str, Any]:
    """What waits and what is dropped is told queue by queue, and a higher queue does not wait for it."""
    left, right = pair.left, pair.right
    await open_links(pair, queues=4)
    await key(pair)
    with inside(right.namespace):
        heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    heard.bind((right.inner, 4000))
    heard.setblocking(False)
    left.namespace.run(
        "tc", "qdisc", "add", "dev", NAMES[FIRST], "parent", "5643:4", "tbf", "rate", "1kbit", "burst", "1600",
        "limit", "10000",
    )  # fmt: skip
    try:
        async with routed(pair):
            for number in range(40):
                _send(left, socket.AF_INET, left.inner, right.inner, 0, b"%04d" % number + b"." * 1000, 4000)
            _send(left, socket.AF_INET, left.inner, right.inner, 0xC0, b"urgent", 4000)
            counted = (await left.driver.queues())[FIRST]
            arrived = []
            async with asyncio.timeout(60):
                while b"urgent" not in arrived:
                    await readable(heard)
                    arrived.append(heard.recv(2000)[:6])
    finally:
        heard.close()
    low = counted[3]
    assert (counted[0].packets, counted[0].dropped_packets, counted[0].depth_packets) == (1, 0, 0)
    assert low.dropped_packets > 20
    assert 5 <= low.depth_packets <= 9
    assert low.packets + low.depth_packets + low.dropped_packets == 40
    assert len(arrived) <= 4, arrived
    return {"dropped": low.dropped_packets, "depth": low.depth_packets, "before the urgent one": len(arrived) - 1}


_FLOOD = 60


_FLOOD = 60
_SLOW = ("tbf", "rate", "1mbit", "burst", "2kb", "limit", "200kb")
_CS6, _CS4, _CS0 = 0xC0, 0x80, 0


async def a_slow_path_and_where_packets_wait(pair: Pair) -> dict[str, Any]:
    """Behind a modem of 1 Mbit/s the queues alone hold nothing back; with a rate below that, CS6 does not wait."""
    left, right = pair.left, pair.right
    await open_links(pair, queues=4)
    await key(pair)
    left.namespace.run("tc", "qdisc", "add", "dev", "wire", "root", *_SLOW)
    try:
        async with routed(pair):
            alone = await _under_load(pair)
            assert (alone["CS6 after"], alone["CS0 arrived"]) == (_FLOOD + 1, _FLOOD), alone
            before = await _queues(left)
            assert [each.dropped_packets + each.depth_packets for each in before.values()] == [0] * 4
            await left.driver.open_link(link(FIRST, left, right, queues=4, rate_kbps=800))
            limited = await _under_load(pair)
            after = await _queues(left)
    finally:
        left.namespace.run("tc", "qdisc", "delete", "dev", "wire", "root")
    assert limited["CS6 after"] < _FLOOD / 6, limited
    assert limited["CS4 after"] < _FLOOD / 6, limited
    low, dropped = after[3].packets - before[3].packets, after[3].dropped_packets
    assert low == limited["CS0 arrived"] + 1  # with the one that says that all have come
    assert low + dropped == _FLOOD + 1
    assert dropped > _FLOOD / 3
    assert [after[queue].packets - before[queue].packets for queue in range(3)] == [1, 1, 0]
    assert [after[queue].dropped_packets for queue in range(3)] == [0] * 3
    rejected = (await right.sa(0x1001)).rejected
    assert (rejected.late, rejected.replayed) == (0, 0), "they waited before they were sealed"
    return {"alone": alone, "800 kbit/s": {**limited, "CS0 dropped": dropped}}


async def _queues(end: End) -> dict[int, QueueStatus]:
    return {each.queue: each for each in (await end.driver.queues())[FIRST]}


@asynccontextmanager
async def _heard(end: End) -> AsyncIterator[socket.socket]:
    with inside(end.namespace):
        heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with heard:
        heard.bind((end.inner, 4000))
        heard.setblocking(False)
        yield heard


async def _under_load(pair: Pair) -> dict[str, int]:
    """Send a burst of CS0, then CS4 and CS6, a packet each; return what came before those, and when in ms."""
    left, right = pair.left, pair.right
    low, middle, high = (_sender(left, socket.AF_INET, left.inner, tos) for tos in (_CS0, _CS4, _CS6))
    found: dict[str, int] = {}
    arrived: Counter[bytes] = Counter()
    with low, middle, high:
        async with _heard(right) as heard, asyncio.timeout(60):
            for _ in range(_FLOOD):
                low.sendto(b"CS0" + b"." * 997, (right.inner, 4000))
            sent = time.monotonic()
            middle.sendto(b"CS4", (right.inner, 4000))
            high.sendto(b"CS6", (right.inner, 4000))
            ending = False
            while not arrived[b"END"]:
                if not ending and len(found) == 4 and not any(q.depth_packets for q in (await _queues(left)).values()):
                    low.sendto(b"END", (right.inner, 4000))  # the last: what comes before it is all that comes
                    ending = True
                await readable(heard)
                name = heard.recv(2000)[:3]
                if name in (b"CS4", b"CS6"):
                    found[f"{name.decode()} after"] = arrived.total()
                    found[f"{name.decode()} after ms"] = round(1000 * (time.monotonic() - sent))
                arrived[name] += 1
    return {**found, "CS0 arrived": arrived[b"CS0"]}


async def a_rate_may_change(pair: Pair) -> list[str]:
    """The link stays up and its queues count on whatever becomes of the rate; what waited then was dropped."""
    left, right = pair.left, pair.right
    await open_links(pair, queues=4)
    await key(pair)
    before = shown(left, NAMES[FIRST])
    assert before is not None
    sent, seen = 0, []
    async with routed(pair):
        for changes in (
            {}, {"rate_kbps": 64}, {"rate_kbps": 100_000}, {"rate_kbps": 100_000, "mtu": 1280}, {}, {"rate_kbps": 800}
        ):  # fmt: skip
            await left.driver.open_link(link(FIRST, left, right, queues=4, **changes))
            after = shown(left, NAMES[FIRST])
            assert after is not None
            assert (after["ifindex"], "UP" in after["flags"]) == (before["ifindex"], True)
            assert await left.ping(right.inner, left.inner) == 3
            sent += 3
            assert [each.packets for each in (await _queues(left)).values()] == [0, 0, 0, sent], changes
            seen.append(_qdiscs(left))
        await left.driver.open_link(link(FIRST, left, right, queues=4, rate_kbps=64))
        for _ in range(20):
            _send(left, socket.AF_INET, left.inner, right.inner, _CS0, b"." * 1000)
        await left.driver.open_link(link(FIRST, left, right, queues=4))
        low = (await _queues(left))[3]
        assert (low.packets + low.dropped_packets, low.depth_packets) == (sent + 20, 0)
        assert low.dropped_packets >= 15
        await left.driver.open_link(link(FIRST, left, right))
        assert await left.driver.queues() == {}
    leaves = [", ".join(f"bfifo 5643:{n} {octets}" for n in range(1, 5)) for octets in (5600, 2_500_000, 20_000)]
    assert seen == [
        "prio root",
        f"{leaves[0]}, prio 5642:1, tbf root 8000",
        f"{leaves[1]}, prio 5642:1, tbf root 12500000",
        f"{leaves[1]}, prio 5642:1, tbf root 12500000",
        "prio root",
        f"{leaves[2]}, prio 5642:1, tbf root 100000",
    ]
    return seen


def _qdiscs(end: End) -> str:
    """Return what queues packets on the first tunnel's interface: kind, place, octets a second or octets."""
    rows = json.loads(end.namespace.run("tc", "-j", "qdisc", "show", "dev", NAMES[FIRST]))
    words = []
    for row in rows:
        place = "root" if row.get("root") else row["parent"]
        options = row["options"]
        more = [str(options[name]) for name in ("rate", "limit") if name in options and row["kind"] != "prio"]
        words.append(" ".join([row["kind"], place, *more[:1]]))
    return ", ".join(sorted(words))


async def a_kernel_without_a_shaper_says_so(pair: Pair) -> str:
    """The tunnel keeps the queues it has, one that had none works without, and other tunnels are as they were."""
    left, right = pair.left, pair.right
    await open_links(pair, queues=4)
    await key(pair)
    async with routed(pair), _without(left, "sch_tbf"):
        with pytest.raises(DataplaneError) as caught:
            await left.driver.open_link(link(FIRST, left, right, queues=4, rate_kbps=800))
        assert caught.value.operation == "open_link"
        await left.driver.open_link(dataclasses.replace(link(SECOND, left, right, queues=4), remote="192.0.2.99"))
        assert await left.ping(right.inner, left.inner) == 3
        assert (await _queues(left))[3].packets == 3
        await left.driver.open_link(link(FIRST, left, right, attachment=Attachment.SHARED))
        with pytest.raises(DataplaneError):
            await left.driver.open_link(link(FIRST, left, right, queues=4, rate_kbps=800))
        assert list(await left.driver.queues()) == [SECOND]
        left.namespace.ip("route", "replace", f"{right.inner}/32", "dev", NAMES[FIRST])
        assert await left.ping(right.inner, left.inner) == 3
    await left.driver.open_link(link(FIRST, left, right, queues=4, rate_kbps=800))
    assert set(await left.driver.queues()) == {FIRST, SECOND}
    return caught.value.reason


@asynccontextmanager
async def _without(end: End, module: str) -> AsyncIterator[None]:
    """Take a module out of the kernel and keep it from loading it."""
    loader = Path("/proc/sys/kernel/modprobe")
    before = loader.read_text()
    loader.write_text("\n")
    end.namespace.run("rmmod", module)
    try:
        yield
    finally:
        loader.write_text(before)
        share = Path(os.environ[RESULT_VARIABLE]).parent  # in which User Mode Linux has its modules
        end.namespace.run("modprobe", "-d", str(share if (share / "lib").is_dir() else KERNEL), module)


async def queues_need_an_interface(pair: Pair) -> str:
    with pytest.raises(DataplaneError) as caught:
        await pair.left.driver.open_link(link(FIRST, pair.left, pair.right, attachment=Attachment.SHARED, queues=4))
    assert caught.value.errno == errno.EINVAL
    assert await pair.left.driver.queues() == {}
    none: tuple[QueueStatus, ...] = ()
    assert (await pair.left.driver.queues()).get(FIRST, none) == none
    return caught.value.reason


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        four_queues_by_class, a_queue_that_is_held_up, a_slow_path_and_where_packets_wait, a_rate_may_change,
        a_kernel_without_a_shaper_says_so, queues_need_an_interface,
    )
}  # fmt: skip


async def run(pair: Pair, name: str) -> Any:
    """Run one check with both drivers open."""
    async with pair.opened():
        return await CHECKS[name](pair)
