"""Checks of transport mode: what two hosts say to each other, with the addresses that ESP itself has outside."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from agents.contract.config import Mode
from agents.dataplane.base import Direction
from tests.dataplane.conformance import parts
from tests.dataplane.conformance.parts import Kind, by_spi, key
from tests.dataplane.conformance.sites import Site, SitePair
from tests.harness import talk
from tests.harness.talk import Talker

HOSTS = Kind("ESP, transport", mode=Mode.TRANSPORT)
IN_UDP = dataclasses.replace(HOSTS, name="ESP, transport in UDP", in_udp=True)
_LARGE_OCTETS = 3_000
"""Of a datagram that no path takes in one piece."""
_PORT = 7_000
_TCP = 6


async def every_kind_carries_what_two_hosts_say(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    for number, kind in enumerate(parts.kinds_between_hosts(await left.driver.features())):
        for six in (False, True):
            spi = 0x6001 + 8 * (2 * number + six)
            here, there = _outer(pair, six=six)
            async with between(pair, kind, spi, six=six):
                assert await left.ping(there, here, 2) == 2, (kind.name, six)
                assert await right.ping(here, there, 2, _LARGE_OCTETS) == 2, (kind.name, six)
                assert await packets(pair, spi) == [8, 8], (kind.name, six)


async def hosts_say_large_datagrams_and_streams(pair: SitePair) -> None:
    """From sockets that chose no address of their own, as programs do."""
    if Mode.TRANSPORT not in (await pair.left.driver.features()).modes:
        return
    for number, (kind, six) in enumerate(((HOSTS, False), (HOSTS, True), (IN_UDP, False), (IN_UDP, True))):
        spi = 0x6001 + 8 * number
        async with between(pair, kind, spi, six=six):
            await datagrams(pair.left, pair.right, six=six)
            await datagrams(pair.right, pair.left, six=six)
            assert await packets(pair, spi) == [4, 4], (kind.name, six)
            await stream(pair.left, pair.right, six=six)
            await stream(pair.right, pair.left, six=six)
            assert min(await packets(pair, spi)) > 4, (kind.name, six)


async def what_no_selector_takes_stays_in_the_clear(pair: SitePair) -> None:
    if Mode.TRANSPORT not in (await pair.left.driver.features()).modes:
        return
    left, right = pair.left, pair.right
    async with between(pair, HOSTS, 0x6001, protocol=_TCP, port=_PORT):
        assert await left.ping(right.outer, left.outer, 2, _LARGE_OCTETS) == 2
        await datagrams(left, right)
        await stream(left, right, port=_PORT + 1)
        assert await packets(pair, 0x6001) == [0, 0]
        await stream(left, right)
        assert min(await packets(pair, 0x6001)) > 0


async def ike_is_not_what_hosts_say(pair: SitePair) -> None:
    """What the sockets of ``iked`` send goes outside, though it is from one host to the other like all else."""
    if Mode.TRANSPORT not in (await pair.left.driver.features()).modes:
        return
    for six in (False, True):
        async with between(pair, HOSTS, 0x6001 + 8 * six, six=six):
            await datagrams(pair.left, pair.right, six=six, outside=True)
            assert await packets(pair, 0x6001 + 8 * six) == [0, 0], six


@contextlib.asynccontextmanager
async def between(
    pair: SitePair, kind: Kind, spi: int, *, six: bool = False, protocol: int = 0, port: int | None = None
) -> AsyncIterator[None]:
    """Two SAs with SPIs from ``spi`` on, and what leads to them; ``port`` is one of the right end."""
    left, right = pair.left, pair.right
    for site, other in ((left, right), (right, left)):
        outer = (site.outer6, other.outer6) if six else (site.outer, other.outer)
        for direction in Direction:
            spec = kind.of_policy(parts.policy(direction, "0.0.0.0/0", "0.0.0.0/0", outer))
            ends: dict[str, Any] = {"protocol": protocol}
            if port is not None:
                theirs = (site is left) is (direction is Direction.OUT)
                ends["destination_ports" if theirs else "source_ports"] = (port, port)
            await site.driver.add_policy(dataclasses.replace(spec, selector=dataclasses.replace(spec.selector, **ends)))
    await key(pair, spi=spi, six=six, kind=kind)
    here, there = _outer(pair, six=six)
    with contextlib.ExitStack() as sockets:
        for site in (left, right) if kind.in_udp else ():
            sockets.enter_context(site.takes_udp(six=six))
        async with left.led(here, there, protocol, None, port), right.led(there, here, protocol, port, None):
            yield
    for site in (left, right):
        for state in await site.driver.list_sas():
            await site.driver.remove_sa(state.id)
        for listed in await site.driver.list_policies():
            await site.driver.remove_policy(listed)


def _outer(pair: SitePair, *, six: bool) -> tuple[str, str]:
    return (pair.left.outer6, pair.right.outer6) if six else (pair.left.outer, pair.right.outer)


async def packets(pair: SitePair, spi: int) -> list[int]:
    """Return what left over both SAs, and what came in: whole datagrams, however many packets were outside."""
    states = [by_spi(await site.driver.list_sas()) for site in (pair.left, pair.right)]
    counters = [[of[number].counters for of in states] for number in (spi, spi + 1)]
    return [
        sum(each.packets_out for ends in counters for each in ends),
        sum(each.packets_in for ends in counters for each in ends),
    ]


def _talker(site: Site, *, six: bool) -> Talker:
    return Talker(namespace=site.namespace, address=site.outer6 if six else site.outer)


async def datagrams(here: Site, there: Site, *, six: bool = False, outside: bool = False) -> None:
    """Send a datagram there and the same back."""
    changes = (here.let_outside, there.let_outside) if outside else (None, None)
    ends = (_talker(here, six=six), _talker(there, six=six))
    await talk.datagram(*ends, _PORT, _LARGE_OCTETS, here_socket=changes[0], there_socket=changes[1])


async def stream(here: Site, there: Site, *, six: bool = False, port: int = _PORT) -> None:
    """Send a stream there and a word back."""
    await talk.stream(_talker(here, six=six), _talker(there, six=six), port)


TRAFFIC = (
    every_kind_carries_what_two_hosts_say, hosts_say_large_datagrams_and_streams,
    what_no_selector_takes_stays_in_the_clear, ike_is_not_what_hosts_say,
)  # fmt: skip
