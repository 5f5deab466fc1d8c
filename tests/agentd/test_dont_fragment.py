"""Don't Fragment set in the outer headers of the kernel's tunnels with an interface of their own."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.agentd.host import LinuxHost
from agents.agentd.parts import dont_fragment
from agents.agentd.parts import filter as parts_filter
from agents.agentd.parts.carried import carried
from agents.agentd.parts.filter import Beside
from agents.contract.carriage import Attachment, Carriage, DfBit
from agents.contract.codec import encode
from agents.dataplane.outer import OUTER_MARK, WHOLE_MARK
from tests.agentd.bench import Bench, eventually
from tests.agentd.fakes import TUNNEL_ID, FakeHost, FakeIked, document, tunnel
from tests.agentd.filter_site import HERE, PEER, TUN, Site, built
from tests.agentd.inside import run_inside
from tests.agentd.test_congestion import WithoutNft
from tests.agentd.test_routes import MANUAL_ID, manual

SET = Carriage(attachment=Attachment.INTERFACE, df_bit=DfBit.SET)
REMOTE = "192.0.2.9"
_SO_MARK = 36
_DF = 0x4000


def test_only_tunnels_with_an_interface_in_the_kernel_ask_for_the_rule() -> None:
    def asked(carriage: Carriage, driver: str = "kernel") -> bool:
        tunnels = carried(document(1, tunnel(carriage=carriage)), {}, driver)
        return bool(dont_fragment.wanted(tunnels, kernel=driver == "kernel"))

    assert asked(SET)
    assert not asked(dataclasses.replace(SET, df_bit=DfBit.CLEAR))
    assert not asked(dataclasses.replace(SET, attachment=Attachment.SHARED))
    assert not asked(SET, "userspace")


def test_there_is_as_much_room_as_the_path_leaves() -> None:
    by_hand = manual(attachment=Attachment.INTERFACE, df_bit=DfBit.SET)
    given = dataclasses.replace(document(1, tunnel(carriage=SET)), manual_tunnels=(by_hand,))
    tunnels = carried(given, {}, "kernel")
    found = dont_fragment.room(given, tunnels, lambda local, remote: 1_400 if remote == REMOTE else 1_300)
    # Less IP (20), UDP (8), ESP (8), IV (8), ICV (16), in steps of 4, less the trailer (2); by hand as in ``test_mss``.
    assert found[TUNNEL_ID] == 1_340 - 2
    assert found[MANUAL_ID] < 1_400
    nobody = tuple(dataclasses.replace(each, peers=()) for each in tunnels)
    assert dont_fragment.room(given, nobody, lambda *_: 1_400) == {}


async def test_the_rule_is_there_and_the_interface_follows_the_path(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path, FakeHost())
    await bench.start()
    host = bench.host

    def mtu() -> int:
        link = host.view.link(TUN)
        assert link is not None
        return link.mtu

    async with FakeIked(bench.paths.iked_socket, driver="kernel") as iked:
        host.path_mtus[REMOTE] = 1_300
        await bench.agent.offer(encode(document(1, tunnel(carriage=SET, mtu=1_390))))
        await iked.configured.wait()
        await iked.set_up(TUNNEL_ID)
        await eventually(lambda: mtu() == 1_240 - 2)
        assert "df-out" in {each["chain"]["name"] for each in host.nft.rest if "chain" in each}
        host.path_mtus[REMOTE] = 1_500
        await bench.agent.reconciler.reconcile()
        assert mtu() == 1_390, "never more than is configured"
        assert "agent.repaired" not in bench.codes()
        await bench.agent.offer(encode(document(2, tunnel(carriage=Carriage(attachment=Attachment.INTERFACE)))))
        await eventually(lambda: "df-out" not in {each["chain"]["name"] for each in host.nft.rest if "chain" in each})
        await bench.stop()


async def test_without_nftables_it_cannot_be_set_and_that_is_a_problem(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path, WithoutNft())
    await bench.start()
    async with FakeIked(bench.paths.iked_socket, driver="kernel") as iked:
        await bench.agent.offer(encode(document(1, tunnel(carriage=SET))))
        await iked.configured.wait()
        await eventually(lambda: "nftables" in "".join(bench.agent.reconciler.status.problems))
        await bench.stop()


@pytest.fixture
def site() -> Iterator[Site]:
    with built("d") as made:
        yield made


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_what_has_both_bits_of_the_mark_leaves_with_dont_fragment(site: Site) -> None:
    async def put() -> None:
        async with LinuxHost() as host:
            await host.filter(parts_filter.transaction(Beside(dont_fragment=True).plan(), ()))

    run_inside(site.here, put)
    marks = (OUTER_MARK | WHOLE_MARK, OUTER_MARK, WHOLE_MARK, OUTER_MARK | WHOLE_MARK | 1)
    assert [_sent_with(site, mark) for mark in marks] == [True, False, False, True]


def _sent_with(site: Site, mark: int) -> bool:
    """Send a datagram with a mark to the peer; returns whether it arrives with DF."""

    async def hear() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
        made.bind((PEER, 0))
        made.settimeout(60)
        return made

    async def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            sending.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
            sending.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: IP_PMTUDISC_DONT
            sending.bind((HERE, 0))
            sending.sendto(b"whole", (PEER, 9))

    with run_inside(site.peer, hear) as heard:
        run_inside(site.here, send)
        packet = heard.recv(100)
    assert packet[-5:] == b"whole"
    return bool(int.from_bytes(packet[6:8], "big") & _DF)
