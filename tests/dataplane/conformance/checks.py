"""What every driver must do, as plain coroutines: raise nothing, or an AssertionError that says what is wrong.

``STATE_CHECKS`` take one :class:`~tests.dataplane.conformance.sites.Site` and need no packets; ``REAL_CHECKS`` do
neither, but are beyond a driver that keeps everything in memory; ``TRAFFIC_CHECKS`` take a pair and send pings.
Each starts with drivers just opened. pytest runs them through ``test_conformance.py``, User Mode Linux in its guest.
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Awaitable, Callable, Mapping

from agents.contract import algorithms
from agents.contract.config import Mode
from agents.contract.secret import Secret
from agents.contract.status import Counters
from agents.dataplane.base import (
    Acquired,
    AuthenticationHeader,
    Direction,
    Expired,
    Limits,
    Rejected,
    SaId,
    SaProtocol,
    Selector,
    UdpEncapsulation,
)
from tests.dataplane.conformance import hosts, kinds
from tests.dataplane.conformance.parts import (
    ECHO6_OCTETS,
    ECHO_OCTETS,
    GCM,
    MUST_CARRY,
    REQID,
    by_spi,
    counted,
    key,
    peer_of,
    policies,
    policy,
    refused,
    sa,
    suites,
)
from tests.dataplane.conformance.sites import TUNNEL, Site, SitePair

# State


async def features_are_said(site: Site) -> None:
    features = await site.driver.features()
    assert features.driver
    assert features.reason
    assert features.available
    assert features.encryptions <= set(algorithms.ENCRYPTION)
    assert features.integrities <= set(algorithms.INTEGRITY)
    assert set(MUST_CARRY) <= {
        (encryption, integrity) for encryption in features.encryptions for integrity in (*features.integrities, None)
    }


async def an_open_driver_is_empty(site: Site) -> None:
    assert await site.driver.list_sas() == ()
    assert await site.driver.list_policies() == ()


async def sas_are_listed_as_added(site: Site) -> None:
    here, there = peer_of(site)
    into = sa(0x5001, there, here, direction=Direction.IN)
    out = sa(0x5002, here, there)
    await site.driver.add_sa(into)
    await site.driver.add_sa(out)
    states = by_spi(await site.driver.list_sas())
    assert set(states) == {0x5001, 0x5002}
    for spec in (into, out):
        state = states[spec.spi]
        assert state.id == spec.id
        assert state.tunnel_id == TUNNEL
        assert state.direction is spec.direction
        assert state.reqid == REQID
        assert state.counters == Counters()
        assert (state.rejected.integrity, state.rejected.replayed, state.rejected.late) == (0, 0, 0)


async def an_id_is_taken_once(site: Site) -> None:
    here, there = peer_of(site)
    await site.driver.add_sa(sa(0x5001, there, here, direction=Direction.IN))
    error = await refused(site.driver.add_sa(sa(0x5001, there, here, direction=Direction.IN, key=2)))
    assert (error.operation, error.errno) == ("add_sa", errno.EEXIST)
    assert len(await site.driver.list_sas()) == 1


async def removing_is_idempotent(site: Site) -> None:
    here, there = peer_of(site)
    spec = sa(0x5001, here, there)
    await site.driver.remove_sa(spec.id)
    await site.driver.add_sa(spec)
    await site.driver.remove_sa(spec.id)
    await site.driver.remove_sa(spec.id)
    assert await site.driver.list_sas() == ()
    await site.driver.remove_policy(policy(Direction.OUT, "10.66.0.0/24", "10.77.0.0/24", peer_of(site)))
    await site.driver.close_link("11111111-2222-4333-8444-555555555555")


async def policies_are_listed_as_added(site: Site) -> None:
    outer = peer_of(site)
    specs = {policy(direction, "10.66.0.0/24", "10.77.0.0/24", outer) for direction in Direction}
    specs |= {policy(direction, "fd66::/64", "fd77::/64", outer) for direction in Direction}
    ports = Selector(source="10.66.0.0/24", destination="10.77.0.0/24", protocol=6, destination_ports=(443, 443))
    specs.add(dataclasses.replace(policy(Direction.OUT, "10.66.0.0/24", "10.77.0.0/24", outer), selector=ports))
    for spec in specs:
        await site.driver.add_policy(spec)
    assert set(await site.driver.list_policies()) == specs
    for spec in specs:
        await site.driver.remove_policy(spec)
        await site.driver.remove_policy(spec)
    assert await site.driver.list_policies() == ()


async def a_policy_is_replaced_by_direction_and_selector(site: Site) -> None:
    outer = peer_of(site)
    first = policy(Direction.OUT, "10.66.0.0/24", "10.77.0.0/24", outer)
    second = policy(Direction.OUT, "10.66.0.0/24", "10.77.0.0/24", outer, reqid=REQID + 1, priority=900)
    await site.driver.add_policy(first)
    await site.driver.add_policy(second)
    assert await site.driver.list_policies() == (second,)


async def a_policy_taken_over_stays_when_its_former_owner_goes(site: Site) -> None:
    outer = peer_of(site)
    first = policy(Direction.OUT, "10.66.0.0/24", "10.77.0.0/24", outer)
    second = policy(Direction.OUT, "10.66.0.0/24", "10.77.0.0/24", outer, reqid=REQID + 1)
    await site.driver.add_policy(first)
    await site.driver.add_policy(second)
    await site.driver.remove_policy(first)
    assert await site.driver.list_policies() == (second,)


async def a_mapping_moves_an_sa(site: Site) -> None:
    here, there = peer_of(site)
    nat = UdpEncapsulation(source_port=4500, destination_port=4500)
    out = dataclasses.replace(sa(0x5002, here, there), encapsulation=nat)
    into = dataclasses.replace(sa(0x5001, there, here, direction=Direction.IN), encapsulation=nat)
    await site.driver.add_sa(into)
    await site.driver.add_sa(out)
    await site.driver.update_mapping(
        out.id, here, "192.0.2.78", UdpEncapsulation(source_port=4500, destination_port=40001)
    )
    await site.driver.update_mapping(
        into.id, "192.0.2.78", here, UdpEncapsulation(source_port=40001, destination_port=4500)
    )
    ids = {state.id for state in await site.driver.list_sas()}
    assert ids == {SaId(spi=0x5002, destination="192.0.2.78"), into.id}


async def a_move_takes_an_sa_into_udp_and_out_again(site: Site) -> None:
    here, there = peer_of(site)
    nat = UdpEncapsulation(source_port=4500, destination_port=4500)
    plain = sa(0x5002, here, there)
    await site.driver.add_sa(plain)
    await site.driver.update_mapping(plain.id, here, there, nat)
    await site.driver.update_mapping(plain.id, here, "192.0.2.78", None)
    await site.driver.update_mapping(SaId(spi=0x5002, destination="192.0.2.78"), here, there, None)
    assert [state.id for state in await site.driver.list_sas()] == [plain.id]


async def moving_what_is_not_there_is_refused(site: Site) -> None:
    nat = UdpEncapsulation(source_port=4500, destination_port=4500)
    here, there = peer_of(site)
    error = await refused(site.driver.update_mapping(SaId(spi=0x5009, destination=there), here, there, nat))
    assert (error.operation, error.errno) == ("update_mapping", errno.ESRCH)


async def every_suite_is_taken(site: Site) -> None:
    here, there = peer_of(site)
    said = suites(await site.driver.features())
    for number, suite in enumerate(said):
        await site.driver.add_sa(sa(0x5100 + number, here, there, suite))
        await site.driver.add_sa(sa(0x5200 + number, there, here, suite, direction=Direction.IN))
    assert len(await site.driver.list_sas()) == 2 * len(said)


async def what_features_leave_out_is_refused(site: Site) -> None:
    """In a sentence, and nothing is left: so that a child fails with the reason and not with silence."""
    here, there = peer_of(site)
    features = await site.driver.features()
    plain = sa(0x5001, here, there)
    header = AuthenticationHeader(spi=0x5002, integrity="hmac-sha2-256-128", key=Secret(bytes(32)))
    for said, spec in (
        (Mode.TRANSPORT in features.modes, dataclasses.replace(plain, mode=Mode.TRANSPORT)),
        (SaProtocol.AH in features.protocols, dataclasses.replace(plain, ah=header)),
        (features.compression, dataclasses.replace(plain, compression_cpi=0x1234)),
        (features.extended_sequence_numbers, dataclasses.replace(plain, extended_sequence_numbers=True)),
    ):
        if not said:
            error = await refused(site.driver.add_sa(spec))
            assert (error.operation, bool(error.reason)) == ("add_sa", True)
    assert await site.driver.list_sas() == ()


async def opening_again_starts_empty(site: Site) -> None:
    here, there = peer_of(site)
    await site.driver.add_sa(sa(0x5001, here, there))
    await site.driver.add_policy(policy(Direction.OUT, "10.66.0.0/24", "10.77.0.0/24", (here, there)))
    await site.open()
    await an_open_driver_is_empty(site)
    await site.driver.add_sa(sa(0x5001, here, there))


async def a_closed_driver_refuses_and_can_be_opened_again(site: Site) -> None:
    here, there = peer_of(site)
    await site.driver.add_sa(sa(0x5001, here, there))
    await site.close()
    error = await refused(site.driver.add_sa(sa(0x5002, here, there)))
    assert error.errno == errno.ENOTCONN
    await site.open()
    await an_open_driver_is_empty(site)


async def a_tunnel_with_one_queue_has_none_to_show(site: Site) -> None:
    assert not (await site.driver.queues()).get(TUNNEL)


async def counts_have_a_name_each_and_only_grow(site: Site) -> None:
    before = {row.name: row.count for row in await site.driver.counts()}
    rows = await site.driver.counts()
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.count >= before.get(row.name, 0) for row in rows)


# State, where something real is behind it


async def an_impossible_key_is_refused_and_leaves_nothing(site: Site) -> None:
    here, there = peer_of(site)
    error = await refused(site.driver.add_sa(dataclasses.replace(sa(1, here, there), encryption_key=Secret(b"short"))))
    assert error.operation == "add_sa"
    assert error.reason
    assert await site.driver.list_sas() == ()


async def a_time_limit_is_told_twice_and_ends_the_sa(site: Site) -> None:
    here, there = peer_of(site)
    spec = sa(0x5001, here, there, limits=Limits(soft_s=1, hard_s=3))
    await site.driver.add_sa(spec)
    await site.hears(Expired, lambda notice: notice == Expired(id=spec.id, hard=False))
    assert len(await site.driver.list_sas()) == 1
    await site.hears(Expired, lambda notice: notice == Expired(id=spec.id, hard=True))
    assert await site.driver.list_sas() == ()


# Traffic


async def pings_cross_and_are_counted(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    await key(pair)
    await policies(pair)
    assert await left.ping(right.inner, left.inner) == 3
    assert await right.ping(left.inner6, right.inner6) == 3
    for spi in (0x6001, 0x6002):
        await counted(pair, spi, 6, 3 * ECHO_OCTETS + 3 * ECHO6_OCTETS)
    for state in await left.driver.list_sas():
        assert state.last_used is not None
        assert state.last_used > 1_600_000_000


async def ipv6_outside(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    await key(pair, six=True)
    await policies(pair, six=True)
    assert await left.ping(right.inner6, left.inner6) == 3
    assert await left.ping(right.inner, left.inner) == 3
    await counted(pair, 0x6001, 6, 3 * ECHO_OCTETS + 3 * ECHO6_OCTETS)


async def every_suite_carries_traffic(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    await policies(pair)
    for number, suite in enumerate(suites(await left.driver.features())):
        spi = 0x6100 + 2 * number
        await key(pair, suite, spi=spi)
        assert await left.ping(right.inner, left.inner, 2) == 2, suite
        await counted(pair, spi, 2, 2 * ECHO_OCTETS)
        await counted(pair, spi + 1, 2, 2 * ECHO_OCTETS)
        for site in (left, right):
            for state in await site.driver.list_sas():
                await site.driver.remove_sa(state.id)


async def extended_sequence_numbers_carry_traffic(pair: SitePair) -> None:
    """With an AEAD and with a MAC; one end alone with them gets nothing through."""
    left, right = pair.left, pair.right
    if not (await left.driver.features()).extended_sequence_numbers:
        return
    await policies(pair)
    for spi, suite in ((0x6001, GCM), (0x6011, ("aes-128-cbc", "hmac-sha2-256-128"))):
        await key(pair, suite, spi=spi, extended=True)
        assert await left.ping(right.inner, left.inner) == 3, suite
        await counted(pair, spi, 3, 3 * ECHO_OCTETS)
    spec = sa(0x6021, left.outer, right.outer)
    await right.driver.add_sa(dataclasses.replace(spec, direction=Direction.IN))
    await left.driver.add_sa(dataclasses.replace(spec, extended_sequence_numbers=True))
    assert await left.ping(right.inner, left.inner, 2) == 0
    assert by_spi(await right.driver.list_sas())[0x6021].rejected.integrity == 2


async def packets_of_many_lengths_cross(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    await policies(pair)
    await key(pair, ("aes-256-cbc", "hmac-sha2-512-256"))
    for payload in (0, 1, 2, 3, 15, 16, 17, 1300):
        assert await left.ping(right.inner, left.inner, 1, payload) == 1, payload


async def the_newest_sa_is_used(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    await key(pair)
    await policies(pair)
    assert await left.ping(right.inner, left.inner) == 3
    await key(pair, spi=0x6011)
    assert await left.ping(right.inner, left.inner) == 3
    for spi in (0x6001, 0x6002, 0x6011, 0x6012):
        await counted(pair, spi, 3, 3 * ECHO_OCTETS)
    for site in (left, right):
        for state in await site.driver.list_sas():
            if state.id.spi < 0x6010:
                await site.driver.remove_sa(state.id)
    assert await left.ping(right.inner, left.inner) == 3
    await counted(pair, 0x6011, 6, 6 * ECHO_OCTETS)


async def no_sa_asks_for_one_and_nothing_leaves(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    await policies(pair)
    assert await left.ping(right.inner, left.inner, 1) == 0
    acquired = await left.hears(Acquired)
    assert acquired.reqid == REQID
    await key(pair)
    assert await left.ping(right.inner, left.inner) == 3


async def a_packet_limit_is_told_twice_and_ends_the_sa(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    await key(pair, limits=Limits(soft_packets=2, hard_packets=5))
    await policies(pair)
    await left.say(right.inner, left.inner, 3)
    sa_out = SaId(spi=0x6001, destination=right.outer)
    await left.hears(Expired, lambda notice: notice == Expired(id=sa_out, hard=False))
    assert sa_out in {state.id for state in await left.driver.list_sas()}
    await left.say(right.inner, left.inner, 5)
    await left.hears(Expired, lambda notice: notice == Expired(id=sa_out, hard=True))
    assert sa_out not in {state.id for state in await left.driver.list_sas()}


async def another_key_is_told_as_failed_integrity(pair: SitePair) -> None:
    left, right = pair.left, pair.right
    await left.driver.add_sa(sa(0x6001, left.outer, right.outer))
    wrong = sa(0x6001, left.outer, right.outer, direction=Direction.IN, key=2)
    await right.driver.add_sa(wrong)
    await policies(pair)
    assert await left.ping(right.inner, left.inner, 2) == 0
    (state,) = await right.driver.list_sas()
    assert state.rejected.integrity == 2
    assert state.counters == Counters()
    heard = await right.hears(Rejected)
    assert (heard.code, heard.id) == ("esp.integrity", wrong.id)


async def traffic_outside_the_selectors_stays_out(pair: SitePair) -> None:
    """The sender's policy is wider than the receiver's: what comes out of the SA is dropped all the same."""
    left, right = pair.left, pair.right
    await key(pair)
    await policies(pair)
    assert await left.ping(right.inner, left.inner, 1) == 1
    into = policy(Direction.IN, f"{right.inner}/32", f"{left.inner}/32", (right.outer, left.outer))
    await right.driver.remove_policy(into)
    assert await left.ping(right.inner, left.inner, 2) == 0
    await right.driver.add_policy(into)
    assert await left.ping(right.inner, left.inner, 2) == 2


async def types_of_icmp_are_those_of_who_sends(pair: SitePair) -> None:
    """Requests go one way and answers the other (RFC 4301 section 4.4.1.3); a request the other way is in no SA."""
    left, right = pair.left, pair.right
    await key(pair)
    for protocol, ours, theirs, (request, reply) in (
        (1, f"{left.inner}/32", f"{right.inner}/32", (8, 0)),
        (58, f"{left.inner6}/128", f"{right.inner6}/128", (128, 129)),
    ):
        for site, here, there, outer, types in (
            (left, ours, theirs, (left.outer, right.outer), (request, reply)),
            (right, theirs, ours, (right.outer, left.outer), (reply, request)),
        ):
            for direction, kind in zip((Direction.OUT, Direction.IN), types, strict=True):
                plain = policy(direction, here, there, outer)
                ports = (kind << 8, kind << 8 | 255)
                selector = dataclasses.replace(plain.selector, protocol=protocol, source_ports=ports)
                await site.driver.add_policy(dataclasses.replace(plain, selector=selector))
    assert await left.ping(right.inner, left.inner, 1) == 1
    assert await left.ping(right.inner6, left.inner6, 1) == 1
    await right.ping(left.inner, right.inner, 1)
    for spi in (0x6001, 0x6002):
        await counted(pair, spi, 2, ECHO_OCTETS + ECHO6_OCTETS)


StateCheck = Callable[[Site], Awaitable[None]]
TrafficCheck = Callable[[SitePair], Awaitable[None]]

STATE_CHECKS: Mapping[str, StateCheck] = {
    check.__name__: check
    for check in (
        features_are_said, an_open_driver_is_empty, sas_are_listed_as_added, an_id_is_taken_once,
        removing_is_idempotent, policies_are_listed_as_added, a_policy_is_replaced_by_direction_and_selector,
        a_policy_taken_over_stays_when_its_former_owner_goes, a_mapping_moves_an_sa,
        a_move_takes_an_sa_into_udp_and_out_again,
        moving_what_is_not_there_is_refused, every_suite_is_taken, what_features_leave_out_is_refused,
        opening_again_starts_empty, a_closed_driver_refuses_and_can_be_opened_again,
        a_tunnel_with_one_queue_has_none_to_show, counts_have_a_name_each_and_only_grow, *kinds.STATE,
    )
}  # fmt: skip
REAL_CHECKS: Mapping[str, StateCheck] = {
    check.__name__: check
    for check in (
        an_impossible_key_is_refused_and_leaves_nothing, a_time_limit_is_told_twice_and_ends_the_sa, *kinds.REAL,
    )
}  # fmt: skip
TRAFFIC_CHECKS: Mapping[str, TrafficCheck] = {
    check.__name__: check
    for check in (
        pings_cross_and_are_counted, ipv6_outside, every_suite_carries_traffic,
        extended_sequence_numbers_carry_traffic, packets_of_many_lengths_cross,
        the_newest_sa_is_used, no_sa_asks_for_one_and_nothing_leaves, a_packet_limit_is_told_twice_and_ends_the_sa,
        another_key_is_told_as_failed_integrity, traffic_outside_the_selectors_stays_out,
        types_of_icmp_are_those_of_who_sends, *kinds.TRAFFIC, *hosts.TRAFFIC,
    )
}  # fmt: skip
