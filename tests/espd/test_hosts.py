"""Transport mode where the path between two hosts is narrower than their links."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.dataplane.conformance import hosts
from tests.dataplane.conformance.sites import EspdPair, EspdSite
from tests.espd.pair import LINK, End, counters, espd_pair, router_between, run_inside

pytestmark = pytest.mark.lab

NARROW = 1_300


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[tuple[End, End]]:
    async with espd_pair(prefix=f"vch{os.getpid()}") as both:
        yield both


async def test_datagrams_and_streams_find_their_way_through_a_narrow_path(ends: tuple[End, End]) -> None:
    """TCP hears what fits and sends no more than that; a datagram's ESP is cut, by this host or a router."""
    pair = EspdPair(EspdSite(ends[0], 0), EspdSite(ends[1], 1))
    async with router_between(ends, NARROW), hosts.between(pair, hosts.HOSTS, 0x6001):
        await hosts.datagrams(pair.left, pair.right)
        await hosts.stream(pair.left, pair.right)
        said = await run_inside(ends[0], "ip", "route", "get", pair.right.outer, "ipproto", "tcp", "dport", "7000")
        assert 1_200 < int(said.partition(" mtu ")[2].split()[0]) < NARROW
        await hosts.datagrams(pair.left, pair.right)
        await hosts.datagrams(pair.right, pair.left)
        assert await pair.left.ping(pair.right.outer, pair.left.outer, 2, 3_000) == 2
        shown = await run_inside(ends[0], "ip", "route", "get", pair.right.outer, "from", pair.left.outer)
        assert "mtu lock 65520" in shown
        assert set(await counters(ends[0])) <= {"out.unsent"}, "what was refused came again, smaller"


async def test_a_stream_goes_on_where_what_fits_is_not_heard(ends: tuple[End, End]) -> None:
    """ICMP is not among the selectors, so the answer's way back is another: reverse path filtering takes it."""
    pair = EspdPair(EspdSite(ends[0], 0), EspdSite(ends[1], 1))
    for end in ends:
        end.namespace.sysctl("net.ipv4.conf.all.rp_filter", 2)
        end.namespace.ip("address", "flush", "dev", LINK)  # of a link with addresses the kernel asks less
    async with router_between(ends, NARROW), hosts.between(pair, hosts.HOSTS, 0x6001, protocol=6):
        await hosts.stream(pair.left, pair.right)
        await hosts.stream(pair.left, pair.right)
        said = await run_inside(ends[0], "ip", "route", "get", pair.right.outer, "ipproto", "tcp", "dport", "7000")
        assert " mtu " not in said


async def test_an_application_that_forbids_fragments_hears_what_fits(ends: tuple[End, End]) -> None:
    pair = EspdPair(EspdSite(ends[0], 0), EspdSite(ends[1], 1))
    async with hosts.between(pair, hosts.HOSTS, 0x6001):
        target = (pair.right.outer, "-I", pair.left.outer)
        whole = await run_inside(ends[0], "ping", "-n", "-c", "1", "-M", "do", "-s", "1400", "-W", "10", *target)
        assert "1 received" in whole
        command = "ping -n -c 1 -M do -s 1472 -W 2 " + " ".join(target)
        refused = await run_inside(ends[0], "sh", "-c", f"{command} || true")
        assert "0 received" in refused
        assert "mtu" in refused.lower()
