from __future__ import annotations

import asyncio
import socket

import pytest

from agents.ike.outputs import Path
from agents.iked.sockets import IkeSockets

from .rig import loopback

pytestmark = pytest.mark.needs("port 500")

HERE, THERE = loopback(201), loopback(202)

Came = list[tuple[bytes, Path]]


class Inbox:
    """What a set of sockets received."""

    def __init__(self) -> None:
        self.came: Came = []
        self.more = asyncio.Event()
        self.sockets = IkeSockets(self._take)

    def _take(self, datagram: bytes, path: Path) -> None:
        self.came.append((datagram, path))
        self.more.set()

    async def one(self) -> tuple[bytes, Path]:
        async with asyncio.timeout(60):
            while not self.came:
                self.more.clear()
                await self.more.wait()
        return self.came.pop(0)


def path(port: int) -> Path:
    return Path(local_address=HERE, local_port=port, remote_address=THERE, remote_port=port)


@pytest.fixture
async def ends() -> object:
    here, there = Inbox(), Inbox()
    assert here.sockets.bind([HERE], port_4500=True, kernel_esp=False) == []
    assert there.sockets.bind([THERE], port_4500=True, kernel_esp=False) == []
    yield here, there
    here.sockets.close()
    there.sockets.close()


async def test_a_message_arrives_with_the_path_it_took_and_without_marker(ends: tuple[Inbox, Inbox]) -> None:
    here, there = ends
    for port in (500, 4500):
        assert here.sockets.send(path(port), b"an IKE message")
        expected = Path(local_address=THERE, local_port=port, remote_address=HERE, remote_port=port)
        assert await there.one() == (b"an IKE message", expected)


async def test_on_4500_only_marked_messages_are_ikes(ends: tuple[Inbox, Inbox]) -> None:
    _, there = ends
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for datagram in (b"", b"\xff", bytes(3), bytes(4), b"\0\0\1\0esp packet", bytes(4) + b"ike"):
            udp.sendto(datagram, (THERE, 4500))
    assert (await there.one())[0] == b"ike"
    assert there.came == []


async def test_a_path_without_a_socket_is_told(ends: tuple[Inbox, Inbox]) -> None:
    here, _ = ends
    elsewhere = Path(local_address="127.9.9.9", local_port=500, remote_address=THERE, remote_port=500)
    assert not here.sockets.send(elsewhere, b"x")


async def test_addresses_come_and_go_without_touching_the_others(ends: tuple[Inbox, Inbox]) -> None:
    here, there = ends
    more = loopback(203)
    held = here.sockets._sockets[HERE, 500]
    assert here.sockets.bind([HERE, more], port_4500=True, kernel_esp=False) == []
    assert here.sockets._sockets[HERE, 500] is held
    assert here.sockets.bind([more], port_4500=False, kernel_esp=False) == []
    assert set(here.sockets._sockets) == {(more, 500)}
    assert held.fileno() == -1
    assert there.sockets.send(
        Path(local_address=THERE, local_port=500, remote_address=more, remote_port=500), b"to the new one"
    )
    assert (await here.one())[0] == b"to the new one"


async def test_a_port_in_use_is_a_sentence_not_a_failure(ends: tuple[Inbox, Inbox]) -> None:
    second = Inbox()
    problems = second.sockets.bind([HERE], port_4500=False, kernel_esp=False)
    assert len(problems) == 1
    assert f"UDP port 500 of {HERE}" in problems[0]


async def test_an_address_that_is_not_on_the_machine_yet_is_bound() -> None:
    inbox = Inbox()
    assert inbox.sockets.bind(["192.0.2.77", "2001:db8::77"], port_4500=True, kernel_esp=False) == []
    inbox.sockets.close()


async def test_a_datagram_the_kernel_refuses_is_only_lost() -> None:
    inbox = Inbox()
    inbox.sockets.bind(["192.0.2.77"], port_4500=False, kernel_esp=False)
    gone = Path(local_address="192.0.2.77", local_port=500, remote_address="240.0.0.1", remote_port=500)
    assert inbox.sockets.send(gone, b"x" * 70_000)
    assert inbox.sockets.send_failures == 1
    inbox.sockets.close()
