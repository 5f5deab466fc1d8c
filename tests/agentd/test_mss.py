"""TCP's segment size on its way into a tunnel and out of it, clamped where the tunnel is to have that."""

from __future__ import annotations

import dataclasses
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.agentd.host import HostView, Link, LinuxHost
from agents.agentd.parts import filter as parts_filter
from agents.agentd.parts import mss
from agents.agentd.parts.carried import carried
from agents.agentd.parts.mss import Clamp
from agents.contract.carriage import Carriage
from agents.contract.codec import encode
from agents.contract.config import GatewayDocument, Tunnel
from agents.contract.traffic import TrafficSelector
from deploy.lab.netns import Namespace
from tests.agentd.bench import Bench, eventually
from tests.agentd.fakes import TUNNEL_ID, FakeHost, FakeIked, document, tunnel, up_status
from tests.agentd.filter_site import HERE, INNER, PEER, REMOTE, TUN, Site, built, listed
from tests.agentd.inside import run_inside
from tests.agentd.test_routes import MANUAL_ID, manual

CLAMPED = Carriage(clamp_tcp_mss=True)
INNER6, REMOTE6 = "fd01::9", "fd02::5"
PORT = 7
MTU = 1_300
_SYN, _ACK = 0x02, 0x10
_FRAME_HEADER_OCTETS = 14
_MAXIMUM_SEGMENT_SIZE = 2


def clamps(given: GatewayDocument, driver: str = "userspace", view: HostView | None = None) -> tuple[Clamp, ...]:
    statuses = {each.id: up_status(each) for each in given.tunnels}
    return mss.wanted(given, carried(given, statuses, driver), view or FakeHost().view)


def test_a_tunnel_with_an_interface_is_held_to_its_mtu() -> None:
    assert clamps(document(1, tunnel())) == ()
    assert clamps(document(1, tunnel(carriage=CLAMPED))) == (Clamp(mtu=1_400, interface=TUN),)
    assert clamps(document(1, tunnel(carriage=CLAMPED, mtu=1_300))) == (Clamp(mtu=1_300, interface=TUN),)
    assert clamps(document(1, tunnel(carriage=CLAMPED)), view=HostView()) == (), "its interface is not there yet"


def test_one_that_shares_is_held_to_what_fits_the_way_to_its_peer() -> None:
    given = document(1, tunnel(carriage=CLAMPED))
    (clamp,) = clamps(given, "kernel")
    # 1,500 less IP (20), UDP (8), ESP (8), IV (8), ICV (16), in steps of 4, less the trailer (2)
    assert (clamp.mtu, clamp.interface) == (1_440 - 2, None)
    assert [(pair.local.network, pair.remote.network) for pair in clamp.pairs] == [("10.1.0.0/24", "10.2.0.0/24")]
    view = FakeHost().view
    narrow = dataclasses.replace(view, links=(Link(index=2, name="wan", mtu=1_400, up=True),))
    assert clamps(given, "kernel", narrow)[0].mtu == 1_340 - 2
    assert clamps(document(1, tunnel(carriage=CLAMPED, mtu=1_000)), "kernel")[0].mtu == 1_000
    assert clamps(given, "kernel", dataclasses.replace(view, routes=())) == ()


def test_manual_tunnels_are_clamped_too() -> None:
    by_hand = dataclasses.replace(document(1), tunnels=(), manual_tunnels=(manual(clamp_tcp_mss=True),))
    (clamp,) = clamps(by_hand, "kernel")
    # 1,500 less IP (20), ESP (8), IV (16), ICV (16), in steps of 16, less the trailer (2)
    assert (clamp.mtu, clamp.pairs[0].tunnel_id) == (1_440 - 2, MANUAL_ID)


def test_only_pairs_that_may_carry_tcp_get_rules_and_ports_go_with_the_direction() -> None:
    def rules(which: Tunnel) -> list[str]:
        return [str(each["rule"]["expr"]) for each in mss.rules(clamps(document(1, which), "kernel"))]

    def of(protocol: int, port: int) -> Tunnel:
        base = tunnel(carriage=CLAMPED)
        remote = TrafficSelector(network="10.2.0.0/24", protocol=protocol, start_port=port, end_port=port)
        child = dataclasses.replace(
            base.children[0], local_ts=(TrafficSelector(network="10.1.0.0/24"),), remote_ts=(remote,)
        )
        return dataclasses.replace(base, children=(child,))

    assert rules(of(17, 53)) == []
    out, back = rules(of(6, 443))
    assert "'field': 'dport'}}, 'right': {'range': [443, 443]}" in out
    assert "{'rt': {'key': 'ipsec'}}" in out
    assert "'field': 'sport'}}, 'right': {'range': [443, 443]}" in back
    assert "{'meta': {'key': 'ipsec'}}" in back


async def test_the_table_is_there_for_clamping_alone_and_goes_with_it(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path, FakeHost())
    await bench.start()
    nft = bench.host.nft
    clamped = tunnel(carriage=CLAMPED)
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1, clamped)))
        await iked.configured.wait()
        await eventually(lambda: bench.agent.reconciler.status.applied_generation == 1)
        names = [each["chain"]["name"] for each in nft.rest if "chain" in each]
        assert (names, nft.counters) == (["mss-in", "mss-out"], {})
        assert not bench.agent.reconciler.filter.on
        assert (await bench.agent.status()).tunnels[0].filter is None
        before = len(nft.transactions)
        await bench.agent.reconciler.reconcile()
        assert len(nft.transactions) == before
        await bench.agent.offer(encode(document(2, clamped, packet_filter=True)))
        await eventually(lambda: f"t-{TUNNEL_ID}-ike" in nft.counters)
        assert {"mss-in", "mss-out", "forward"} <= {each["chain"]["name"] for each in nft.rest if "chain" in each}
        await bench.agent.offer(encode(document(3, clamped)))
        await eventually(lambda: nft.counters == {})
        assert [each["chain"]["name"] for each in nft.rest if "chain" in each] == ["mss-in", "mss-out"]
        await bench.stop()
        again = Bench.make(bench.paths.state.parent, bench.host)
        await again.agent.offer(encode(document(4)))
        await again.start()
        await eventually(lambda: not nft.there)
        assert [code for code in again.codes() if "filter" in code] == ["agent.filter-on", "agent.filter-off"]
        await again.stop()


@pytest.fixture
def site() -> Iterator[Site]:
    with built("m") as made:
        made.peer.forward()
        made.here.ip("link", "set", TUN, "mtu", str(MTU))
        made.here.ip("route", "replace", "10.2.0.0/24", "dev", TUN)
        made.peer.ip("route", "delete", "10.1.0.0/24", "via", HERE)
        made.peer.sysctl("net.ipv4.conf.tunnel.proxy_arp", 1)
        for namespace, link, address in ((made.lan, "lan", INNER6), (made.here, "lan", "fd01::1")):
            namespace.ip("address", "add", f"{address}/64", "dev", link, "nodad")
        made.here.ip("address", "add", "fd02::1/64", "dev", TUN, "nodad")
        made.peer.ip("address", "add", f"{REMOTE6}/64", "dev", "tunnel", "nodad")
        made.lan.ip("route", "add", "default", "via", "fd01::1")
        made.peer.ip("route", "add", "fd01::/64", "via", "fd02::1")
        yield made


def clamp(site: Site, carriage: Carriage = CLAMPED) -> str:
    """Put the table for a document without the filter; returns it as ``nft`` lists it."""

    async def work() -> None:
        async with LinuxHost() as host:
            which = tunnel(local=HERE, remote=PEER, carriage=carriage)
            plan = parts_filter.Beside(clamps=clamps(document(1, which), view=await host.look())).plan()
            await host.filter(parts_filter.transaction(plan, await listed(host)))

    run_inside(site.here, work)
    return site.here.run("nft", "list", "table", "inet", "vpnconsole")


class Tap:
    """The segment sizes that SYNs announce which an interface receives."""

    def __init__(self, namespace: Namespace, link: str) -> None:
        async def work() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
            made.bind((link, 0x0003))
            made.settimeout(60)
            return made

        self.socket = run_inside(namespace, work)

    def size(self, flags: int) -> int:
        """Wait for the next SYN with exactly these flags and return its size."""
        while True:
            frame, (_, _, kind, *_rest) = self.socket.recvfrom(65_535)
            segment = _segment(frame[_FRAME_HEADER_OCTETS:])
            if kind != socket.PACKET_OUTGOING and segment and segment[13] & (_SYN | _ACK) == flags:
                return _announced(segment)


def _segment(packet: bytes) -> bytes | None:
    """Return the TCP segment of an IP packet without extension headers."""
    if packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_TCP:
        return packet[(packet[0] & 15) * 4 :]
    if packet[0] >> 4 == 6 and packet[6] == socket.IPPROTO_TCP:
        return packet[40:]
    return None


def _announced(segment: bytes) -> int:
    options = segment[20 : (segment[12] >> 4) * 4]
    while options[0] != _MAXIMUM_SEGMENT_SIZE:
        options = options[1 if options[0] == 1 else options[1] :]
    (size,) = struct.unpack(">H", options[2:4])
    return int(size)


def connect(client: Namespace, source: str, server: Namespace, address: str) -> None:
    """Open a connection and close it again."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    async def listen() -> socket.socket:
        made = socket.socket(family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, PORT))
        made.listen()
        return made

    async def work() -> None:
        with socket.socket(family) as made:
            made.settimeout(60)
            made.bind((source, 0))
            made.connect((address, PORT))

    with run_inside(server, listen):
        run_inside(client, work)


@dataclasses.dataclass
class End:
    """One end of connections: where it is, and the interface it is reached by."""

    namespace: Namespace
    link: str
    address: str


def announced(client: End, server: End) -> tuple[int, int]:
    """Open a connection; returns the size in the SYN that the server gets and in the answer that the client gets."""
    far, near = Tap(server.namespace, server.link), Tap(client.namespace, client.link)
    with far.socket, near.socket:
        connect(client.namespace, client.address, server.namespace, server.address)
        return far.size(_SYN), near.size(_SYN | _ACK)


@pytest.mark.lab
@pytest.mark.needs("nft")
@pytest.mark.parametrize(("inner", "remote", "headers"), [(INNER, REMOTE, 40), (INNER6, REMOTE6, 60)])
def test_syns_into_the_tunnel_and_out_of_it_announce_what_fits(
    site: Site, inner: str, remote: str, headers: int
) -> None:
    outwards = End(site.lan, "lan", inner), End(site.peer, "tunnel", remote)
    assert announced(*outwards) == (1_500 - headers, 1_500 - headers)
    shown = clamp(site)
    assert "chain forward" not in shown
    assert "drop" not in shown
    assert announced(*outwards) == (MTU - headers, MTU - headers)
    assert announced(*reversed(outwards)) == (MTU - headers, MTU - headers)


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_the_gateways_own_connections_are_clamped_and_those_beside_the_tunnel_are_not(site: Site) -> None:
    clamp(site)
    tunnelled, outside = Tap(site.peer, "tunnel"), Tap(site.peer, "wan")
    with tunnelled.socket, outside.socket:
        connect(site.here, "10.1.0.1", site.peer, REMOTE)
        assert tunnelled.size(_SYN) == MTU - 40
        connect(site.here, HERE, site.peer, PEER)
        assert outside.size(_SYN) == 1_460


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_a_smaller_size_stays_as_it_is(site: Site) -> None:
    site.lan.ip("route", "replace", "default", "via", "10.1.0.1", "advmss", "900")
    clamp(site)
    far = Tap(site.peer, "tunnel")
    with far.socket:
        connect(site.lan, INNER, site.peer, REMOTE)
        assert far.size(_SYN) == 900
