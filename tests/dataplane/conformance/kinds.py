"""Checks of what an SA can be beside ESP in tunnel mode, of its window and limits, and of a link's queues."""

from __future__ import annotations

import dataclasses

from agents.contract import algorithms
from agents.contract.carriage import Attachment
from agents.contract.status import Counters
from agents.dataplane.base import Direction, Expired, Limits, SaId, SaProtocol, TunnelLink
from tests.dataplane.conformance import parts
from tests.dataplane.conformance.parts import ECHO_OCTETS, GCM, Kind, Suite, by_spi, key, peer_of, policies, refused, sa
from tests.dataplane.conformance.sites import LINK, TUNNEL, Site, SitePair

_LARGE_OCTETS = 1_000
"""Of data that repeats itself, which DEFLATE makes smaller; more than IPComp passes over."""


async def every_kind_is_taken(site: Site) -> None:
    here, there = peer_of(site)
    said = parts.every_kind(await site.driver.features())
    added = []
    for number, kind in enumerate(said):
        for direction, outer in ((Direction.OUT, (here, there)), (Direction.IN, (there, here))):
            spec = kind.of(sa(0x5100 + 2 * number + (direction is Direction.IN), *outer, direction=direction))
            await site.driver.add_sa(spec)
            added.append(spec)
    states = await site.driver.list_sas()
    assert {state.id for state in states} == {spec.id for spec in added}
    for spec in added:
        assert spec.id.protocol is (SaProtocol.AH if spec.encryption is None else SaProtocol.ESP)
        await site.driver.remove_sa(spec.id)
    assert await site.driver.list_sas() == ()


async def policies_of_every_kind_are_listed(site: Site) -> None:
    outer = peer_of(site)
    plain = parts.policy(Direction.OUT, "10.66.0.0/24", "10.77.0.0/24", outer)
    for kind in parts.every_kind(await site.driver.features()):
        spec = kind.of_policy(plain)
        await site.driver.add_policy(spec)
        assert await site.driver.list_policies() == (spec,), kind.name
        await site.driver.remove_policy(dataclasses.replace(plain, selector=spec.selector))
        assert await site.driver.list_policies() == (spec,), (
            "one for other protocols or in the other mode has taken its place"
        )
        await site.driver.remove_policy(spec)
        assert await site.driver.list_policies() == ()


async def a_link_with_four_queues_shows_them(site: Site) -> None:
    here, there = peer_of(site)
    link = TunnelLink(
        tunnel_id=TUNNEL, name=LINK, mtu=1400, attachment=Attachment.INTERFACE, queues=4, local=here, remote=there
    )
    await site.driver.open_link(link)
    rows = (await site.driver.queues())[TUNNEL]
    assert [row.queue for row in rows] == [0, 1, 2, 3]
    assert {row.depth_packets for row in rows} == {0}
    for rate_kbps in (64, 10_000_000, None):
        await site.driver.open_link(dataclasses.replace(link, rate_kbps=rate_kbps))
        assert (await site.driver.queues())[TUNNEL] == rows
    await site.driver.open_link(dataclasses.replace(link, queues=1))
    assert not (await site.driver.queues()).get(TUNNEL)
    await site.driver.close_link(TUNNEL)
    assert not (await site.driver.queues()).get(TUNNEL)


async def ah_in_udp_is_refused(site: Site) -> None:
    """AH covers the outer addresses, and RFC 3948 has no place for it."""
    here, there = peer_of(site)
    for kind in parts.kinds(await site.driver.features()):
        if kind.ah is not None:
            spec = dataclasses.replace(kind.of(sa(0x5001, here, there)), encapsulation=parts.NAT)
            assert (await refused(site.driver.add_sa(spec))).reason
    assert await site.driver.list_sas() == ()


# Traffic


async def every_kind_carries_traffic(pair: SitePair) -> None:
    """Over IPv4 and IPv6, with small packets and with ones that get smaller.

    Inner packets are of the outer header's version: Linux has no other ones under AH around ESP, nor under IPComp where
    they did not get smaller.
    """
    left, right = pair.left, pair.right
    for number, kind in enumerate(parts.kinds(await left.driver.features())):
        for six in (False, True):
            spi = 0x6001 + 8 * (2 * number + six)
            carried = await policies(pair, six=six, kind=kind)
            await key(pair, spi=spi, six=six, kind=kind)
            for version in carried:
                here, there = (left.inner, right.inner) if version == 4 else (left.inner6, right.inner6)
                assert await left.ping(there, here, 2) == 2, (kind.name, six, version)
                assert await right.ping(here, there, 2, _LARGE_OCTETS) == 2, (kind.name, six, version)
            await _packets(pair, spi, 4 * len(carried))
            await _clear(pair)


async def every_integrity_algorithm_of_ah_carries_traffic(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    features = await left.driver.features()
    if SaProtocol.AH not in features.protocols:
        return
    slugs = [slug for slug in algorithms.INTEGRITY if slug in features.integrities]
    for number, slug in enumerate(slugs):
        kind = Kind(slug, esp=False, ah=slug)
        await policies(pair, kind=kind)
        await key(pair, spi=0x6101 + 2 * number, kind=kind)
        assert await left.ping(right.inner, left.inner, 2) == 2, slug
        await parts.counted(pair, 0x6101 + 2 * number, 2, 2 * ECHO_OCTETS)
        await _clear(pair)


async def kinds_carry_traffic_with_extended_sequence_numbers(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    features = await left.driver.features()
    if not features.extended_sequence_numbers:
        return
    for number, kind in enumerate(parts.kinds(features)):
        await policies(pair, kind=kind)
        await key(pair, spi=0x6001 + 8 * number, kind=kind, extended=True)
        assert await left.ping(right.inner, left.inner, 2) == 2, kind.name
        await _clear(pair)


async def windows_of_every_size_let_traffic_pass(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    await policies(pair)
    for number, size in enumerate((0, 1, 32, 64, 128, 1024, 4096)):
        spi = 0x6001 + 8 * number
        await key(pair, spi=spi, replay_window=size)
        assert await left.ping(right.inner, left.inner) == 3, size
        for site in (left, right):
            for state in await site.driver.list_sas():
                assert (state.rejected.replayed, state.rejected.late) == (0, 0), size
                await site.driver.remove_sa(state.id)


async def esp_without_the_ah_agreed_on_stays_out(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    if SaProtocol.AH not in (await left.driver.features()).protocols:
        return
    both = Kind("AH around ESP", ah=parts.SHA2)
    await policies(pair, kind=both)
    await key(pair, kind=both)
    assert await left.ping(right.inner, left.inner, 1) == 1
    for direction in Direction:
        here = parts.policy(direction, f"{left.inner}/32", f"{right.inner}/32", (left.outer, right.outer))
        await left.driver.remove_policy(both.of_policy(here))
        await left.driver.add_policy(here)
    (old,) = [state.id for state in await left.driver.list_sas() if state.direction is Direction.OUT]
    await left.driver.remove_sa(old)
    await left.driver.add_sa(sa(0x6001, left.outer, right.outer))
    assert await left.ping(right.inner, left.inner, 2) == 0


async def a_byte_limit_is_told_twice_and_ends_the_sa(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    for number, suite in enumerate((GCM, ("aes-128-cbc", "hmac-sha2-256-128"))):
        await _byte_limit(pair, suite, 0x6001 + 8 * number)
        for site in (left, right):
            for state in await site.driver.list_sas():
                await site.driver.remove_sa(state.id)


async def _byte_limit(pair: SitePair, suite: Suite, spi: int) -> None:
    left, right = pair.left, pair.right
    await key(pair, suite, spi=spi, limits=Limits(soft_bytes=2 * ECHO_OCTETS, hard_bytes=5 * ECHO_OCTETS))
    await policies(pair)
    await left.say(right.inner, left.inner, 3)
    sa_out = SaId(spi=spi, destination=right.outer)
    await left.hears(Expired, lambda notice: notice == Expired(id=sa_out, hard=False))
    assert sa_out in {state.id for state in await left.driver.list_sas()}
    await left.say(right.inner, left.inner, 5)
    await left.hears(Expired, lambda notice: notice == Expired(id=sa_out, hard=True))
    assert sa_out not in {state.id for state in await left.driver.list_sas()}


async def packets_of_64_kb_cross_in_fragments(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    await policies(pair)
    await key(pair)
    for payload in (1_473, 9_000, 65_000):
        assert await left.ping(right.inner, left.inner, 1, payload) == 1, payload
        assert await left.ping(right.inner6, left.inner6, 1, payload) == 1, payload


async def _packets(pair: SitePair, spi: int, packets: int) -> None:
    """Assert how many packets both ends counted, and that something was in them: IPComp may count what it left."""
    for site in (pair.left, pair.right):
        counters = by_spi(await site.driver.list_sas())[spi].counters
        assert counters != Counters()
        assert counters.packets_in + counters.packets_out == packets, spi


async def _clear(pair: SitePair) -> None:
    for site in (pair.left, pair.right):
        for state in await site.driver.list_sas():
            await site.driver.remove_sa(state.id)
        for spec in await site.driver.list_policies():
            await site.driver.remove_policy(spec)


STATE = (every_kind_is_taken, policies_of_every_kind_are_listed, a_link_with_four_queues_shows_them)
REAL = (ah_in_udp_is_refused,)
TRAFFIC = (
    every_kind_carries_traffic, every_integrity_algorithm_of_ah_carries_traffic,
    kinds_carry_traffic_with_extended_sequence_numbers, windows_of_every_size_let_traffic_pass,
    esp_without_the_ah_agreed_on_stays_out, a_byte_limit_is_told_twice_and_ends_the_sa,
    packets_of_64_kb_cross_in_fragments,
)  # fmt: skip
