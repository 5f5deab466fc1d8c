"""The path with real sockets: messages too big for it, ICMP errors, addresses that go, a NAT that forgets."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path as FilePath

import pytest

from agents.contract.config import (
    ConnectionType,
    DpdAction,
    Endpoint,
    Identity,
    IdentityType,
    PresharedKey,
    Retransmission,
    Tunnel,
)
from agents.contract.secret import Secret
from agents.contract.status import TunnelStatus
from agents.ike.outputs import Path
from agents.iked import addresses
from agents.iked.sockets import IkeSockets
from deploy.lab.netns import Namespace, connect
from tests.interop.rig import OUR_HOST, OUR_NET, OURS, THEIR_HOST, THEIR_NET, THEIRS, OurGateway, ping, ping_through
from tests.kernel.guest.harness import inside

from .cast import by_address, document, psk, tunnel, uid
from .rig import loopback

ROAD, ROAD_THERE = "198.51.100.1", "198.51.100.2"
INITIATOR, RESPONDER = ConnectionType.INITIATOR_ONLY, ConnectionType.RESPONDER_ONLY


@contextmanager
def spaces(name: str, *roles: str) -> Iterator[list[Namespace]]:
    made = [Namespace(f"vc{os.getpid()}-{name}", role) for role in roles]
    try:
        for each in made:
            each.create()
        yield made
    finally:
        for each in made:
            each.remove()


class End:
    """The sockets of one address, and what they heard."""

    def __init__(self, address: str) -> None:
        self.came: asyncio.Queue[bytes] = asyncio.Queue()
        self.too_big: asyncio.Queue[tuple[Path, int]] = asyncio.Queue()
        self.sockets = IkeSockets(
            lambda datagram, _: self.came.put_nowait(datagram), lambda *limit: self.too_big.put_nowait(limit)
        )
        assert self.sockets.bind([address], port_4500=True, kernel_esp=False) == []


@contextmanager
def ends(left: tuple[Namespace, str], right: tuple[Namespace, str]) -> Iterator[tuple[End, End, Path]]:
    """Yield sockets in two namespaces and the path between them on port 4500."""
    made = []
    try:
        for namespace, address in (left, right):
            with inside(namespace):
                made.append(End(address))
        yield made[0], made[1], Path(local_address=left[1], local_port=4500, remote_address=right[1], remote_port=4500)
    finally:
        for end in made:
            end.sockets.close()


async def soon(queue: asyncio.Queue[bytes] | asyncio.Queue[tuple[Path, int]]) -> object:
    return await asyncio.wait_for(queue.get(), 60)


@pytest.mark.lab
class TestPathMtu:
    @pytest.mark.parametrize(("version", "mtu"), [(4, 600), (6, 1_280)])
    async def test_our_own_link_is_narrow(self, version: int, mtu: int) -> None:
        """The kernel refuses at once: that is told, and the message goes in IP fragments all the same."""
        here, there = (OURS, THEIRS) if version == 4 else ("2001:db8::1", "2001:db8::2")
        with spaces("mtu", "left", "right") as (left, right):
            connect(left, "wan", [f"{here}/64" if version == 6 else f"{here}/24"], right, "wan",
                    [f"{there}/64" if version == 6 else f"{there}/24"])  # fmt: skip
            for each in (left, right):
                each.ip("link", "set", "wan", "mtu", str(mtu))
            with ends((left, here), (right, there)) as (one, other, path):
                assert one.sockets.send(path, b"x" * 1_400)
                assert await soon(one.too_big) == (path, mtu)
                assert await soon(other.came) == b"x" * 1_400
                assert one.sockets.send_failures == 0

    async def test_a_router_says_so(self) -> None:
        """The first message is lost, the router's ICMP error is told; the second goes in IP fragments."""
        with spaces("mtu", "left", "router", "right") as (left, router, right):
            connect(left, "wan", ["192.0.2.1/24"], router, "lan", ["192.0.2.254/24"])
            connect(router, "wan", ["203.0.113.254/24"], right, "wan", ["203.0.113.2/24"])
            router.forward()
            router.ip("link", "set", "wan", "mtu", "900")
            right.ip("link", "set", "wan", "mtu", "900")
            left.ip("route", "add", "default", "via", "192.0.2.254")
            right.ip("route", "add", "default", "via", "203.0.113.254")
            with ends((left, "192.0.2.1"), (right, "203.0.113.2")) as (one, other, path):
                assert one.sockets.send(path, b"x" * 1_200)
                assert await soon(one.too_big) == (path, 900)
                assert one.sockets.send(path, b"y" * 1_200)
                assert await soon(other.came) == b"y" * 1_200
                assert other.came.empty()


@pytest.mark.needs("port 500")
class TestSockets:
    async def test_a_keepalive_is_one_octet_without_marker(self) -> None:
        here, there = loopback(211), loopback(212)
        end = End(here)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind((there, 4500))
            udp.settimeout(60)
            path = Path(local_address=here, local_port=4500, remote_address=there, remote_port=4500)
            assert end.sockets.keep_alive(path)
            assert udp.recv(10) == b"\xff"
        assert not end.sockets.keep_alive(dataclasses.replace(path, local_address="192.0.2.99"))
        end.sockets.close()

    async def test_an_error_of_one_peer_costs_no_message_to_another(self) -> None:
        """Nobody listens at the first: its ICMP error waits in the socket when the second is written to."""
        here, closed, there = loopback(213), loopback(214), loopback(215)
        one, other = End(here), End(there)
        path = Path(local_address=here, local_port=500, remote_address=closed, remote_port=500)
        for _ in range(20):
            assert one.sockets.send(path, b"to nobody")
            assert one.sockets.send(dataclasses.replace(path, remote_address=there), b"to somebody")
            assert await soon(other.came) == b"to somebody"
        assert one.too_big.empty()
        for end in (one, other):
            end.sockets.close()


@pytest.mark.lab
async def test_addresses_are_heard_of_as_they_come_and_go() -> None:
    told: asyncio.Queue[frozenset[str]] = asyncio.Queue()

    async def next_with(condition: set[str], without: set[str]) -> None:
        async with asyncio.timeout(60):
            while True:
                there = await told.get()
                if condition <= there and not there & without:
                    return

    with spaces("watch", "left", "right") as (left, right):
        connect(left, "wan", ["192.0.2.1/24"], right, "wan", ["192.0.2.2/24"])
        with inside(left):
            task = asyncio.create_task(addresses.watch(told.put_nowait))
            await next_with({"192.0.2.1", "127.0.0.1"}, set())  # the netlink socket is made inside
        left.ip("address", "add", "2001:db8::1/64", "dev", "wan", "nodad")
        await next_with({"192.0.2.1", "2001:db8::1"}, set())
        left.ip("address", "del", "192.0.2.1/24", "dev", "wan")
        await next_with({"2001:db8::1"}, {"192.0.2.1"})
        left.ip("address", "add", "192.0.2.1/24", "dev", "wan")
        await next_with({"192.0.2.1"}, set())
        right.ip("link", "set", "wan", "down")  # the carrier goes
        await next_with(set(), {"192.0.2.1"})
        right.ip("link", "set", "wan", "up")
        await next_with({"192.0.2.1"}, set())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def gateways(left: Namespace, right: Namespace, directory: FilePath) -> AsyncIterator[list[OurGateway]]:
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(OurGateway(left, directory / "ours"))
        theirs = await stack.enter_async_context(OurGateway(right, directory / "theirs", THEIR_HOST))
        yield [ours, theirs]


def two_homes() -> tuple[Tunnel, Tunnel, PresharedKey, PresharedKey]:
    """Ours may speak from OURS and ROAD; DPD is off, so only the kernel's word moves anything."""
    ours = tunnel("there", OURS, THEIRS, local_ts=OUR_NET, remote_ts=THEIR_NET, connection_type=INITIATOR,
                  dpd_interval_s=0)  # fmt: skip
    theirs = tunnel("here", THEIRS, OURS, local_ts=THEIR_NET, remote_ts=OUR_NET, connection_type=RESPONDER,
                    dpd_interval_s=0)  # fmt: skip
    home = Endpoint(address=OURS, identity=by_address(OURS).identity, more_addresses=(ROAD,))
    return (
        dataclasses.replace(ours, local=home),
        dataclasses.replace(theirs, remote=home),
        psk(OURS, THEIRS),
        psk(THEIRS, OURS),
    )


def speaks_from(address: str) -> Callable[[TunnelStatus], bool]:
    def check(status: TunnelStatus) -> bool:
        return [sa.local for sa in status.ike_sas] == [f"{address}:4500"]

    return check


def heard_at(address: str) -> Callable[[TunnelStatus], bool]:
    def check(status: TunnelStatus) -> bool:
        return [sa.remote for sa in status.ike_sas] == [f"{address}:4500"]

    return check


@pytest.mark.lab
@pytest.mark.timeout(300)
async def test_an_address_that_goes_takes_the_tunnel_to_another_and_back(tmp_path: FilePath) -> None:
    """Two links; userspace ESP. The same IKE SA and child carry on, by address first, by carrier then."""
    with spaces("roam", "ours", "theirs") as (left, right):
        left.ip("address", "add", f"{OUR_HOST}/24", "dev", "lo")
        right.ip("address", "add", f"{THEIR_HOST}/24", "dev", "lo")
        connect(left, "wan", [f"{OURS}/24"], right, "wan", [f"{THEIRS}/24"])
        connect(left, "road", [f"{ROAD}/24"], right, "road", [f"{ROAD_THERE}/24"])
        left.ip("route", "add", "192.0.2.0/24", "via", ROAD_THERE, "dev", "road", "metric", "500")
        async with gateways(left, right, tmp_path) as (ours, theirs):
            one, other, key, their_key = two_homes()
            await theirs.configure(document("theirs", [other], [their_key]))
            await ours.configure(document("ours", [one], [key]))
            before = await ours.until_up()
            assert before.ike_sas[0].mobike
            await asyncio.to_thread(ping, left, OUR_HOST, THEIR_HOST)

            left.ip("address", "del", f"{OURS}/24", "dev", "wan")
            after = await ours.until(speaks_from(ROAD), "moved to the road")
            await theirs.until(heard_at(ROAD), "seen on the road")
            await asyncio.to_thread(ping_through, left, OUR_HOST, THEIR_HOST)
            await asyncio.to_thread(ping, left, OUR_HOST, THEIR_HOST)
            await asyncio.to_thread(ping, right, THEIR_HOST, OUR_HOST)
            assert after.ike_sas[0].spi_i == before.ike_sas[0].spi_i
            assert after.children[0].sas[0].spi_in == before.children[0].sas[0].spi_in
            assert [each for each in await ours.events() if each.startswith("ike.mobike-moved")] == [
                f"ike.mobike-moved: The tunnel moved from {OURS}:4500 = {THEIRS}:4500 to {ROAD}:4500 = {THEIRS}:4500"
            ]

            left.ip("address", "add", f"{OURS}/24", "dev", "wan")
            right.ip("link", "set", "road", "down")
            await ours.until(speaks_from(OURS), "back home")
            await theirs.until(heard_at(OURS), "seen at home")
            await asyncio.to_thread(ping_through, left, OUR_HOST, THEIR_HOST)
            await asyncio.to_thread(ping, left, OUR_HOST, THEIR_HOST)
            (last,) = await ours.tunnels()
            assert last.children[0].sas[0].spi_in == before.children[0].sas[0].spi_in


def _keepalives(router: Namespace) -> int:
    """Return how many datagrams of one octet the router has seen on their way out."""
    found = re.search(r"counter packets (\d+)", router.run("nft", "list", "chain", "ip", "seen", "out"))
    assert found is not None
    return int(found[1])


@pytest.mark.lab
@pytest.mark.timeout(300)
async def test_keepalives_hold_the_door_of_a_nat_that_forgets_quickly(tmp_path: FilePath) -> None:
    """The NAT forgets after 4 s; ours sends 0xff every second through espd, so theirs can reach it at any time."""
    with spaces("nat", "ours", "router", "theirs") as (left, router, right):
        connect(left, "wan", ["192.168.7.2/24"], router, "lan", ["192.168.7.1/24"])
        connect(router, "wan", ["192.0.2.9/24"], right, "wan", [f"{THEIRS}/24"])
        left.ip("address", "add", f"{OUR_HOST}/24", "dev", "lo")
        right.ip("address", "add", f"{THEIR_HOST}/24", "dev", "lo")
        left.ip("route", "add", "192.0.2.0/24", "via", "192.168.7.1")
        router.forward()
        router.run("nft", "add table ip nat; add chain ip nat out { type nat hook postrouting priority 100; }")
        router.run("nft", 'add rule ip nat out oifname "wan" ip protocol udp masquerade to :20000-29999 random')
        router.run("nft", "add table ip seen; add chain ip seen out { type filter hook forward priority 0; }")
        router.run("nft", "add rule ip seen out udp length 9 @th,64,8 0xff counter")
        for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
            router.sysctl(f"net.netfilter.{name}", 4)
        async with gateways(left, right, tmp_path) as (ours, theirs):
            me = Identity(type=IdentityType.FQDN, value="behind.nat.example")
            one = tunnel("there", "192.168.7.2", THEIRS, local_ts=OUR_NET, remote_ts=THEIR_NET, dpd_interval_s=0)
            one = dataclasses.replace(
                one,
                local=Endpoint(address="192.168.7.2", identity=me),
                connection_type=INITIATOR,
                ike=dataclasses.replace(one.ike, keepalive_s=1),
            )
            other = tunnel("here", THEIRS, "192.0.2.9", local_ts=THEIR_NET, remote_ts=OUR_NET, dpd_interval_s=0)
            other = dataclasses.replace(
                other, remote=Endpoint(address="192.0.2.9", identity=me), connection_type=RESPONDER
            )
            secret = Secret(b"for whoever is called so")
            await theirs.configure(
                document("theirs", [other], [PresharedKey(id=uid("k"), secret=secret, remote_identity=me)])
            )
            await ours.configure(document("ours", [one], [PresharedKey(id=uid("k"), secret=secret, local_identity=me)]))
            await ours.until_up()
            await theirs.until_up()
            async with asyncio.timeout(60):
                while _keepalives(router) < 6:
                    await asyncio.sleep(0.2)  # a packet counter in another namespace tells nobody
            await asyncio.to_thread(ping, right, THEIR_HOST, OUR_HOST, 1)
            codes = {each.split(":")[0] for each in await theirs.events()}
            # Nothing is a keepalive's; a request that was answered slowly is sent twice.
            assert {code for code in codes if code.startswith("drop.")} <= {"drop.duplicate"}


@pytest.mark.lab
@pytest.mark.timeout(300)
async def test_held_policies_ask_for_the_tunnel_when_a_packet_needs_it(tmp_path: FilePath) -> None:
    """``dpd_action`` hold: the peer dies, nothing begins by itself; the first packet towards its network does it."""
    with spaces("hold", "ours", "theirs") as (left, right):
        left.ip("address", "add", f"{OUR_HOST}/24", "dev", "lo")
        right.ip("address", "add", f"{THEIR_HOST}/24", "dev", "lo")
        connect(left, "wan", [f"{OURS}/24"], right, "wan", [f"{THEIRS}/24"])
        async with gateways(left, right, tmp_path) as (ours, theirs):
            one = tunnel("there", OURS, THEIRS, local_ts=OUR_NET, remote_ts=THEIR_NET, connection_type=INITIATOR,
                         dpd_interval_s=1)  # fmt: skip
            one = dataclasses.replace(one, ike=dataclasses.replace(one.ike, dpd_action=DpdAction.HOLD))
            other = tunnel("here", THEIRS, OURS, local_ts=THEIR_NET, remote_ts=OUR_NET, connection_type=RESPONDER)
            their_document = document("theirs", [other], [psk(THEIRS, OURS)])
            await theirs.configure(their_document)
            our_document = document("ours", [one], [psk(OURS, THEIRS)])
            await ours.configure(our_document)
            await ours.until_up()
            # Only a peer that is dead is to be given up so quickly, not one that is slow.
            quick = Retransmission(initial_ms=100, tries=3)
            await ours.configure(dataclasses.replace(our_document, retransmission=quick))
            await theirs.disconnect()
            for name in ("iked", "espd"):
                theirs.stop(name, signal.SIGKILL)
            await ours.until(lambda now: not now.ike_sas, "noticed")
            await ours.configure(our_document)
            theirs.start("espd")
            theirs.start("iked")
            await theirs.connect()
            await theirs.configure(their_document)
            codes = [each.split(":")[0] for each in await ours.events()]
            assert (codes.count("ike.dpd-hold"), codes.count("ike.initiate")) == (1, 1)
            await asyncio.to_thread(left.run, "ping", "-c", "1", "-W", "1", "-I", OUR_HOST, THEIR_HOST, check=False)
            await ours.until_up()
            await theirs.until_up()
            await asyncio.to_thread(ping, left, OUR_HOST, THEIR_HOST)
