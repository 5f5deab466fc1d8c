"""What a tunnel of the kernel cannot tell of congestion: our table drops it (RFC 6040 section 4.2).

Whether the kernel's decrypted packets still have the mark is for ``tests/kernel/guest/congestion_checks.py``.
"""

from __future__ import annotations

import dataclasses
import logging
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agents.agentd import nft
from agents.agentd.host import LinuxHost
from agents.agentd.nft import NoNftError
from agents.agentd.parts import congestion
from agents.agentd.parts import filter as parts_filter
from agents.agentd.parts.carried import carried
from agents.agentd.parts.congestion import Congestion
from agents.agentd.parts.filter import Beside
from agents.contract.carriage import Attachment, Carriage
from agents.contract.codec import encode
from agents.contract.config import Tunnel
from agents.contract.ipsecstat import statistics
from agents.contract.status import NamedCount
from agents.dataplane.outer import CONGESTED_MARK
from deploy.lab.netns import Namespace
from tests.agentd.bench import Bench, eventually
from tests.agentd.fakes import FakeHost, FakeIked, document, tunnel
from tests.agentd.filter_site import HERE, INNER, PEER, REMOTE, TUN, Site, built, hearing
from tests.agentd.inside import run_inside

HERE6, PEER6, LAN_HERE = "2001:db8::1", "2001:db8::2", "10.1.0.1"
NOT_ECT, ECT_0, CE = 0, 2, 3
CHAINS = ["ecn-in", "ecn-out", "ecn-to-us", "ecn-outside", "ecn-inside"]
WAIT_S = 20.0


def wanted(*tunnels: Tunnel, driver: str = "kernel") -> Congestion | None:
    return congestion.wanted(carried(document(1, *tunnels), {}, driver), kernel=driver == "kernel")


def test_it_is_looked_for_at_the_outer_addresses_of_the_kernels_tunnels() -> None:
    shared = tunnel(local=HERE)
    own = dataclasses.replace(
        tunnel(local=HERE6, remote=PEER6, carriage=Carriage(attachment=Attachment.INTERFACE)),
        id="bbbbbbbb-2222-4333-8444-555555555555", name="own",
    )  # fmt: skip
    assert wanted(shared) == Congestion(addresses=(HERE,))
    assert wanted(shared, own) == Congestion(addresses=(HERE, HERE6), interfaces=("vpnbbbbbbbb",))
    assert wanted(shared, driver="userspace") is None
    assert wanted(dataclasses.replace(shared, enabled=False)) is None


async def test_the_table_is_there_as_long_as_the_kernel_has_tunnels(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path, FakeHost())
    await bench.start()
    table = bench.host.nft

    def chains() -> list[str]:
        return [each["chain"]["name"] for each in table.rest if "chain" in each]

    async with FakeIked(bench.paths.iked_socket, driver="kernel") as iked:
        await bench.agent.offer(encode(document(1)))
        await iked.configured.wait()
        await eventually(lambda: bench.agent.reconciler.status.applied_generation == 1)
        assert (chains(), table.counters) == (CHAINS, {"congestion": 0})
        before = statistics(await bench.agent.status())
        table.counters["congestion"] = 7
        status = await bench.agent.status()
        assert NamedCount(name="in.congestion", count=7) in status.data_plane_counts
        now = statistics(status)
        assert now["Total incoming packets"] == before["Total incoming packets"], "their SAs have counted them"
        assert (before["Total incoming packets dropped"], now["Total incoming packets dropped"]) == (0, 7)
        await bench.agent.offer(encode(document(2, packet_filter=True)))
        await eventually(lambda: "strangers-ike" in table.counters)
        assert set(CHAINS) < set(chains())
        await bench.agent.offer(encode(document(3)))
        await eventually(lambda: chains() == CHAINS)
        assert table.counters == {"congestion": 7}, "it goes on whatever else comes and goes"
        await bench.agent.offer(encode(document(4, dataclasses.replace(tunnel(), enabled=False))))
        await eventually(lambda: not table.there)
        assert "in.congestion" not in {each.name for each in (await bench.agent.status()).data_plane_counts}
        await bench.stop()


class WithoutNft(FakeHost):
    async def filter(self, commands: Sequence[nft.Command]) -> tuple[nft.Command, ...]:
        raise NoNftError("run", "nft", 0, "the program is not there: install the package nftables")


async def test_a_machine_without_nftables_goes_on_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench.make(tmp_path, WithoutNft())
    await bench.start()
    async with FakeIked(bench.paths.iked_socket, driver="kernel") as iked:
        with caplog.at_level(logging.WARNING, logger="agents.agentd.filtering"):
            await bench.agent.offer(encode(document(1)))
            await iked.configured.wait()
            await eventually(lambda: bench.agent.reconciler.status.applied_generation == 1)
            await bench.agent.reconciler.reconcile()
        assert bench.agent.reconciler.status.problems == ()
        (said,) = [each.getMessage() for each in caplog.records if each.name == "agents.agentd.filtering"]
        assert said.endswith("install the package nftables")
        await bench.agent.offer(encode(document(2, packet_filter=True)))
        await eventually(lambda: len(bench.agent.reconciler.status.problems) == 1)
        await bench.stop()


@pytest.fixture
def site() -> Iterator[Site]:
    with built("e") as made:
        put(made)
        yield made


def put(site: Site) -> None:
    """Put our table, and one that counts what is marked behind it."""

    async def work() -> None:
        async with LinuxHost() as host:
            beside = Beside(congestion=Congestion(addresses=(HERE, HERE6), interfaces=(TUN,)))
            await host.filter(parts_filter.transaction(beside.plan(), ()))

    run_inside(site.here, work)
    site.here.run("nft", f"""
        table inet behind {{
            counter came {{ }}
            counter marked {{ }}
            chain here {{
                type filter hook input priority 310;
                ip saddr {PEER} meta l4proto != icmp counter name came
                ip6 saddr {PEER6} meta l4proto != icmpv6 counter name came
                meta mark & {CONGESTED_MARK:#x} != 0 counter name marked
            }}
            chain through {{
                type filter hook forward priority 0;
                meta mark & {CONGESTED_MARK:#x} != 0 counter name marked
            }}
        }}""")  # fmt: skip


def arrive_with_the_bit(site: Site, interface: str) -> None:
    """Let what arrives by an interface, but for what hosts say by themselves, have the bit as somebody else's mark."""
    site.here.run("nft", f"""
        table netdev before {{
            chain {interface} {{
                type filter hook ingress device {interface} priority 0;
                meta l4proto {{ esp, ah, udp }} meta mark set {CONGESTED_MARK:#x}
            }}
        }}""")  # fmt: skip


def packets(site: Site, table: str, counter: str) -> int:
    return int(site.here.run("nft", "list", "counter", "inet", table, counter).split("packets ")[1].split()[0])


def counted(site: Site, table: str, counter: str, count: int) -> bool:
    """Wait until a counter has got that far; returns whether it is there, and no further."""
    until = time.monotonic() + WAIT_S
    while packets(site, table, counter) < count and time.monotonic() < until:
        time.sleep(0.02)
    return packets(site, table, counter) == count


def send(namespace: Namespace, protocol: int, source: str, to: str, ecn: int, port: int = 0, device: str = "") -> None:
    """Send one packet: a datagram to ``port``, or some octets of another protocol."""

    async def work() -> None:
        six = ":" in source
        kind = socket.SOCK_DGRAM if protocol == socket.IPPROTO_UDP else socket.SOCK_RAW
        with socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind, protocol) as sending:
            if six:
                sending.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, ecn)
            else:
                sending.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, ecn)
            if device:
                sending.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            sending.bind((source, 0))
            sending.sendto(bytes([ecn]) + bytes(39), (to, port))

    run_inside(namespace, work)


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_what_comes_to_an_outer_address_under_ce_gets_the_bit(site: Site) -> None:
    marked = [
        (socket.IPPROTO_ESP, PEER, HERE, 0), (socket.IPPROTO_AH, PEER, HERE, 0),
        (socket.IPPROTO_ESP, PEER6, HERE6, 0), (socket.IPPROTO_UDP, PEER, HERE, 4500),
    ]  # fmt: skip
    others = [
        (socket.IPPROTO_ESP, PEER, LAN_HERE, 0), (socket.IPPROTO_UDP, PEER, HERE, 500),
        (socket.IPPROTO_IPIP, PEER, HERE, 0), (socket.IPPROTO_UDP, PEER6, HERE6, 9),
    ]  # fmt: skip
    for protocol, source, to, port in (*marked, *others):
        send(site.peer, protocol, source, to, CE, port)
    assert counted(site, "behind", "came", len(marked) + len(others))
    assert packets(site, "behind", "marked") == len(marked)
    arrive_with_the_bit(site, "wan")
    for protocol, source, to, port in marked:
        send(site.peer, protocol, source, to, ECT_0, port)
    assert counted(site, "behind", "came", len(marked) * 2 + len(others))
    assert packets(site, "behind", "marked") == len(marked), "it was somebody else's, and says nothing of these"


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_only_what_came_out_of_a_tunnel_is_dropped_and_what_passes_has_the_bit_no_more(site: Site) -> None:
    for interface in ("wan", TUN):
        arrive_with_the_bit(site, interface)
    site.here.ip("route", "replace", "10.2.0.0/24", "dev", TUN)
    with hearing(site.lan, INNER, 9) as (heard,):
        send(site.peer, socket.IPPROTO_UDP, REMOTE, INNER, NOT_ECT, 9, device="tunnel")
        assert counted(site, "vpnconsole", "congestion", 1)
        for ecn in (ECT_0, CE):
            send(site.peer, socket.IPPROTO_UDP, REMOTE, INNER, ecn, 9, device="tunnel")
            assert heard.recv(100)[0] == ecn
        assert packets(site, "behind", "marked") == 0
        send(site.peer, socket.IPPROTO_UDP, PEER, INNER, NOT_ECT, 9, device="wan")
        assert heard.recv(100)[0] == NOT_ECT
    assert (packets(site, "vpnconsole", "congestion"), packets(site, "behind", "marked")) == (1, 1)
