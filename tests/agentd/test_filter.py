"""The packet filter: what is planned, how it is kept, and what it does with real packets."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.agentd.daemon import handlers
from agents.agentd.errors import HostError
from agents.agentd.host import HostView, LinuxHost, Route
from agents.agentd.parts import filter as parts_filter
from agents.agentd.parts.carried import carried
from agents.agentd.parts.filter import FilterPlan
from agents.contract.carriage import Context
from agents.contract.codec import encode
from agents.contract.config import Child, TrafficSelector, Tunnel
from agents.contract.status import FilterCounters
from agents.runtime.rpc import Client, Server
from tests.agentd.bench import Bench, eventually
from tests.agentd.fakes import OTHER_TUNNEL_ID, TUNNEL_ID, FakeHost, FakeIked, document, tunnel, up_status
from tests.agentd.filter_site import (
    HERE,
    INNER,
    PEER,
    REMOTE,
    STRANGER,
    TUN,
    Site,
    apply,
    built,
    filtered,
    hearing,
    lab_document,
    send,
    send_raw,
    until_counted,
)
from tests.agentd.gateways import eventually as eventually_sync
from tests.agentd.inside import run_inside
from tests.agentd.test_routes import called, on_demand

VIEW = FakeHost().view


def planned(*tunnels: Tunnel, view: HostView = VIEW, driver: str = "userspace") -> FilterPlan:
    statuses = {each.id: up_status(each) for each in tunnels}
    seen = carried(document(1, *tunnels), statuses, driver)
    return parts_filter.plan(seen, view, kernel=driver == "kernel", vrfs=False)


def elements(plan: FilterPlan, name: str) -> list[Any]:
    for each in plan.sets:
        for value in each.values():
            if value["name"] == name:
                found: list[Any] = value.get("elem", [])
                return found
    raise LookupError(name)


def rules(plan: FilterPlan, chain: str) -> list[str]:
    return [str(each["rule"]["expr"]) for each in plan.rules if each["rule"]["chain"] == chain]


def with_selectors(local: TrafficSelector, remote: TrafficSelector) -> Tunnel:
    base = tunnel()
    child: Child = dataclasses.replace(base.children[0], local_ts=(local,), remote_ts=(remote,))
    return dataclasses.replace(base, children=(child,))


def test_peers_are_pairs_of_addresses_and_each_has_one_counter() -> None:
    plan = planned(tunnel(), tunnel(id=OTHER_TUNNEL_ID, name="second-of-the-pair"))
    assert elements(plan, "ike4") == [[{"concat": ["192.0.2.9", "127.0.0.1"]}, f"t-{TUNNEL_ID}-ike"]]
    assert elements(plan, "ipsec4") == [[{"concat": ["192.0.2.9", "127.0.0.1"]}, f"t-{TUNNEL_ID}-ipsec"]]
    assert elements(plan, "any-ike4") == elements(plan, "ike6") == []
    assert elements(plan, "own") == ["lo", TUN, "vpnbbbbbbbb"]


def test_on_demand_admits_from_anywhere_and_protects_what_its_sas_do() -> None:
    which = on_demand()
    given = document(1, which)
    quiet = parts_filter.plan(carried(given, {which.id: called(which)}, "userspace"), VIEW, kernel=False, vrfs=False)
    assert elements(quiet, "any-ike4") == [["127.0.0.1", f"t-{TUNNEL_ID}-ike"]]
    assert rules(quiet, "clear4") == []
    status = called(which, ("203.0.113.7:4500", "10.20.1.0/24"))
    busy = parts_filter.plan(carried(given, {which.id: status}, "userspace"), VIEW, kernel=False, vrfs=False)
    assert elements(busy, "remote4") == [{"prefix": {"addr": "10.20.1.0", "len": 24}}]
    assert len(rules(busy, "clear4")) == 1


def test_protocol_and_ports_narrow_what_is_dropped() -> None:
    web = with_selectors(
        TrafficSelector(network="10.1.0.0/24", protocol=6, start_port=443, end_port=443),
        TrafficSelector(network="10.2.0.0/24"),
    )
    (rule,) = rules(planned(web), "clear4")
    assert "'l4proto'}}, 'right': 6" in rule
    assert "'field': 'dport'}}, 'right': {'range': [443, 443]}" in rule
    ports_only = with_selectors(
        TrafficSelector(network="10.1.0.0/24"), TrafficSelector(network="10.2.0.0/24", start_port=53, end_port=53)
    )
    (rule,) = rules(planned(ports_only), "clear4")
    assert "'set': [6, 17, 33, 132, 136]" in rule
    assert "'field': 'sport'}}, 'right': {'range': [53, 53]}" in rule
    apart = with_selectors(
        TrafficSelector(network="10.1.0.0/24", protocol=6), TrafficSelector(network="10.2.0.0/24", protocol=17)
    )
    assert rules(planned(apart), "clear4") == []


def test_networks_with_a_way_of_their_own_on_the_inside_are_none_of_the_tunnels() -> None:
    view = dataclasses.replace(
        VIEW,
        routes=(
            *VIEW.routes,
            Route(network="10.1.0.0/24", interface="lan", protocol=2),
            Route(network="198.51.100.64/26", interface="wan", protocol=2),
            Route(network="10.44.0.0/16", interface=TUN),
            Route(network="10.45.0.0/16", interface="lan", protocol=2, table=100),
        ),
    )
    shown = rules(planned(tunnel(remote_ts=("0.0.0.0/0",)), view=view), "clear")
    inside = [each for each in shown if "'iifname'" in each and "@own" not in each]
    assert len(inside) == 1
    assert "'right': 'lan'" in inside[0]
    assert "'addr': '10.1.0.0', 'len': 24" in inside[0]
    assert not [each for each in rules(planned(view=view), "clear") if "'lan'" in each]


def test_only_the_kernel_data_plane_is_asked_whether_a_packet_was_decrypted() -> None:
    assert [each for each in rules(planned(tunnel(), driver="kernel"), "clear") if "'ipsec'" in each]
    assert not [each for each in rules(planned(tunnel()), "clear") if "'ipsec'" in each]
    assert elements(planned(tunnel(), driver="kernel"), "own") == ["lo"]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench[FakeHost]]:
    made = Bench.make(tmp_path, FakeHost())
    await made.start()
    yield made
    await made.stop()


async def test_the_table_comes_with_the_document_stays_the_same_and_goes(bench: Bench[FakeHost]) -> None:
    nft = bench.host.nft
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(filtered(1)))
        await iked.configured.wait()
        assert nft.there
        await eventually(lambda: bench.agent.reconciler.status.applied_generation == 1)
        nft.counters[f"t-{TUNNEL_ID}-ike"] = 7
        nft.counters[f"t-{TUNNEL_ID}-clear"] = 2
        shown = (await bench.agent.status()).tunnels[0].filter
        assert shown == FilterCounters(admitted_ike=7, dropped_clear=2)
        before = len(nft.transactions), nft.listings
        for _ in range(3):
            await bench.agent.reconciler.reconcile()
        assert (len(nft.transactions), nft.listings) == before
        nft.generation += 1  # somebody changed another table
        await bench.agent.reconciler.reconcile()
        assert (len(nft.transactions), nft.listings) == (before[0], before[1] + 1)
        other = tunnel(id=OTHER_TUNNEL_ID, name="other", remote="192.0.2.10", remote_ts=("10.3.0.0/24",))
        await bench.agent.offer(encode(filtered(2, tunnel(), other)))
        await eventually(lambda: bench.agent.reconciler.status.applied_generation == 2)
        assert nft.counters[f"t-{TUNNEL_ID}-ike"] == 7
        assert nft.counters[f"t-{OTHER_TUNNEL_ID}-ike"] == 0
        await bench.agent.offer(encode(filtered(3, other)))
        await eventually(lambda: f"t-{TUNNEL_ID}-ike" not in nft.counters)
        await bench.agent.offer(encode(filtered(4, on=False)))
        await eventually(lambda: not nft.there)
        assert (await bench.agent.status()).tunnels[0].filter is None
        assert [code for code in bench.codes() if "filter" in code] == ["agent.filter-on", "agent.filter-off"]


async def test_a_table_changed_by_others_is_put_right_and_a_restart_remembers_it(bench: Bench[FakeHost]) -> None:
    nft = bench.host.nft
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(filtered(1)))
        await iked.configured.wait()
        await eventually(lambda: bench.agent.reconciler.status.applied_generation == 1)
        right = list(nft.rest)
        nft.meddle()
        await bench.agent.reconciler.reconcile()
        assert nft.rest == right
        assert bench.codes().count("agent.repaired") == 1
        await bench.stop()
        again = Bench.make(bench.paths.state.parent, bench.host)
        try:
            assert (await again.agent.status()).tunnels[0].filter == FilterCounters()
            await again.agent.offer(encode(filtered(2, on=False)))
            await again.start()
            await eventually(lambda: not nft.there)
        finally:
            await again.stop()
        bench.database = Bench.make(bench.paths.state.parent, bench.host).database


async def test_a_filter_that_cannot_be_had_is_a_problem(bench: Bench[FakeHost]) -> None:
    async with FakeIked(bench.paths.iked_socket) as iked:
        bench.host.refuse = "Operation not permitted"
        await bench.agent.offer(encode(filtered(1)))
        await iked.configured.wait()
        problem = "the packet filter is not as it should be: change the packet filter: Operation not permitted"
        await eventually(lambda: problem in bench.agent.reconciler.status.problems)
        assert bench.codes().count("agent.repair-failed") == 1
        bench.host.refuse = None
        assert (await bench.agent.reconciler.reconcile()).problems == ()


async def test_the_local_socket_tells_of_filter_and_contexts(bench: Bench[FakeHost]) -> None:
    blue = dataclasses.replace(filtered(1), contexts=(Context(name="blue", table=100),))
    async with (
        Server(bench.paths.agentd_socket, handlers(bench.agent)),
        await Client.connect(bench.paths.agentd_socket) as client,
        FakeIked(bench.paths.iked_socket) as iked,
    ):
        assert await client.call("filter") == {"on": False, "strangers": {"ike": None, "ipsec": None}}
        assert await client.call("contexts") == {"contexts": []}
        await bench.agent.offer(encode(blue))
        await iked.configured.wait()
        await eventually(lambda: bench.agent.reconciler.status.applied_generation == 1)
        bench.host.nft.counters["strangers-ike"] = 4
        assert await client.call("filter") == {"on": True, "strangers": {"ike": 4, "ipsec": 0}}
        shown = {"name": "blue", "table": 100, "vrf": None, "rules": [], "tunnels": [], "endpoints": []}
        assert await client.call("contexts") == {"contexts": [shown]}


FOREIGN = """
table inet other {
  counter seen { }
  chain input { type filter hook input priority 0; policy accept; udp dport 9999 counter name "seen" drop; }
}
table ip vpnconsole {
  chain input { type filter hook input priority 0; policy accept; }
}
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with built("f") as made:
        yield made


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_ike_and_ipsec_are_admitted_from_peers_only(site: Site) -> None:
    apply(site, lab_document())
    with hearing(site.here, HERE, 500, 4500) as (ike, nat_t):
        for source in (STRANGER, PEER):
            send(site.peer, source, HERE, 500)
            assert (source == STRANGER) or ike.recvfrom(100)[1][0] == PEER
        for data in (bytes(4) + b"ike", b"\xc0\0\0\1\0\0\0\1esp", b"\xff"):
            for source in (STRANGER, PEER):
                send(site.peer, source, HERE, 4500, data)
            heard, (address, _) = nat_t.recvfrom(100)
            assert (heard, address) == (data, PEER)
    for protocol in (50, 51):
        for source in (STRANGER, PEER):
            send_raw(site.peer, source, protocol)
    until_counted(site, lambda seen: seen == FilterCounters(admitted_ike=3, admitted_ipsec=3))
    eventually_sync(
        lambda: "packets 2 " in site.here.run("nft", "list", "counter", "inet", "vpnconsole", "strangers-ipsec")
    )
    shown = site.here.run("nft", "list", "counters", "table", "inet", "vpnconsole")
    assert "strangers-ike {\n\t\tpackets 4 " in shown
    assert "strangers-ipsec {\n\t\tpackets 2 " in shown


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_on_demand_is_open_to_all(site: Site) -> None:
    which = dataclasses.replace(on_demand(), local=tunnel(local=HERE).local)
    apply(site, filtered(1, which))
    with hearing(site.here, HERE, 500) as (ike,):
        send(site.peer, STRANGER, HERE, 500)
        assert ike.recvfrom(100)[1][0] == STRANGER
    until_counted(site, lambda seen: seen == FilterCounters(admitted_ike=1))


@pytest.mark.lab
@pytest.mark.needs("nft")
@pytest.mark.parametrize("kernel", [False, True])
def test_clear_text_from_outside_is_dropped_and_what_came_out_of_the_tunnel_is_not(site: Site, kernel: bool) -> None:
    apply(site, lab_document(), kernel=kernel)
    with hearing(site.lan, INNER, 7) as (inner,):
        send(site.peer, REMOTE, INNER, 7, b"clear", "wan")
        send(site.peer, REMOTE, INNER, 7, b"out of the tunnel", "tunnel")
        if kernel:  # an interface of this name means nothing there: only decryption counts
            send(site.peer, PEER, INNER, 7, b"not protected")
            assert inner.recv(100) == b"not protected"
            until_counted(site, lambda seen: seen.dropped_clear == 2)
        else:
            assert inner.recv(100) == b"out of the tunnel"
            until_counted(site, lambda seen: seen.dropped_clear == 1)
    with hearing(site.here, "10.1.0.1", 7) as (gateway,):  # to the gateway's own inner address
        send(site.peer, REMOTE, "10.1.0.1", 7, b"clear", "wan")
        send(site.peer, PEER, "10.1.0.1", 7, b"not protected")
        assert gateway.recv(100) == b"not protected"
    until_counted(site, lambda seen: seen.dropped_clear == (3 if kernel else 2))


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_neighbours_on_the_inside_still_talk_when_everything_goes_through_the_tunnel(site: Site) -> None:
    apply(site, lab_document(remote_ts=("0.0.0.0/0",)))
    with hearing(site.here, "10.1.0.1", 7) as (gateway,):
        send(site.peer, PEER, "10.1.0.1", 7, b"from outside")
        send(site.lan, INNER, "10.1.0.1", 7, b"from the lan")
        assert gateway.recv(100) == b"from the lan"
    until_counted(site, lambda seen: seen.dropped_clear == 1)


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_host_to_host_leaves_ike_neighbours_and_ipsec_alone_also_with_ipv6(site: Site) -> None:
    here, peer = "2001:db8::1", "2001:db8::2"
    apply(site, filtered(1, tunnel(local=here, remote=peer, local_ts=(f"{here}/128",), remote_ts=(f"{peer}/128",))))
    site.here.ip("-6", "neigh", "flush", "all")
    site.peer.ip("-6", "neigh", "flush", "all")
    with hearing(site.here, here, 500, 7) as (ike, plain):
        send(site.peer, peer, here, 7, b"clear")
        send(site.peer, peer, here, 500, b"ike")
        assert ike.recv(100) == b"ike"
        plain.settimeout(0.1)
        with pytest.raises(TimeoutError):
            plain.recv(100)
    until_counted(site, lambda seen: seen == FilterCounters(admitted_ike=1, dropped_clear=1))


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_a_replacement_keeps_the_counts_and_nothing_of_others_is_touched(site: Site, tmp_path: Path) -> None:
    rules_file = tmp_path / "foreign"
    rules_file.write_text(FOREIGN)
    site.here.run("nft", "-f", str(rules_file))
    foreign = site.here.run("nft", "list", "ruleset")
    apply(site, lab_document())
    send(site.peer, PEER, HERE, 500)
    until_counted(site, lambda seen: seen.admitted_ike == 1)
    other = tunnel(id=OTHER_TUNNEL_ID, name="other", local=HERE, remote=STRANGER, remote_ts=("10.3.0.0/24",))
    apply(site, filtered(2, tunnel(local=HERE, remote=PEER), other))
    until_counted(site, lambda seen: seen.admitted_ike == 1)
    site.here.run("nft", "add", "set", "inet", "vpnconsole", "stray", "{ type ipv4_addr; }")
    site.here.run("nft", "add", "chain", "inet", "vpnconsole", "stray")
    apply(site, filtered(3, tunnel(local=HERE, remote=PEER)))
    shown = site.here.run("nft", "list", "table", "inet", "vpnconsole")
    assert "stray" not in shown
    assert OTHER_TUNNEL_ID not in shown
    until_counted(site, lambda seen: seen.admitted_ike == 1)
    send(site.peer, PEER, HERE, 9999)
    assert "packets 1 " in site.here.run("nft", "list", "counters", "table", "inet", "other")

    async def remove() -> None:
        async with LinuxHost() as host:
            await host.filter(parts_filter.removal())

    run_inside(site.here, remove)
    after = site.here.run("nft", "list", "ruleset")
    assert after.replace("packets 1 bytes 29", "packets 0 bytes 0") == foreign


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_the_agent_puts_back_what_was_changed_and_takes_over_what_others_made(site: Site, tmp_path: Path) -> None:
    site.here.run("nft", "add", "table", "inet", "vpnconsole")
    site.here.run("nft", "add", "map", "inet", "vpnconsole", "input", "{ type ipv4_addr : verdict; }")

    async def work() -> None:
        async with LinuxHost() as host:
            bench = Bench.make(tmp_path, host)
            await bench.start()
            async with FakeIked(bench.paths.iked_socket) as iked:
                await bench.agent.offer(encode(lab_document()))
                await iked.configured.wait()
                await eventually(lambda: bench.agent.reconciler.status.applied_generation == 1)
                assert bench.agent.reconciler.status.problems == ()
                right = site.here.run("nft", "list", "table", "inet", "vpnconsole")
                site.here.run("nft", "flush", "chain", "inet", "vpnconsole", "clear4")
                await bench.agent.reconciler.reconcile()
                assert site.here.run("nft", "list", "table", "inet", "vpnconsole") == right
                assert "agent.repaired" in bench.codes()
                site.here.run("nft", "delete", "table", "inet", "vpnconsole")
                await bench.agent.reconciler.reconcile()
                assert site.here.run("nft", "list", "table", "inet", "vpnconsole") == right
                await bench.agent.offer(encode(document(2, tunnel(local=HERE, remote=PEER))))
                await eventually(lambda: bench.agent.reconciler.status.applied_generation == 2)
                await eventually(lambda: "agent.filter-off" in bench.codes())
                assert "vpnconsole" not in site.here.run("nft", "list", "tables")
            await bench.stop()

    run_inside(site.here, work)


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_half_a_transaction_is_none(site: Site) -> None:
    apply(site, lab_document())
    before = site.here.run("nft", "list", "ruleset")

    async def work() -> None:
        async with LinuxHost() as host:
            wrong = {"family": "inet", "table": "none", "chain": "x", "expr": []}
            with pytest.raises(HostError):
                await host.filter([*parts_filter.removal(), {"add": {"rule": wrong}}])

    run_inside(site.here, work)
    assert site.here.run("nft", "list", "ruleset") == before
