"""What two hosts say to each other: a datagram there and back, and a stream with an answer, from sockets of theirs."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass

from deploy.lab.netns import Namespace
from tests.kernel.guest.harness import inside

STREAM_OCTETS = 300_000
_WAIT_S = 30.0

Changes = Callable[[socket.socket], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Talker:
    """A host: where its sockets are, its own address, and the one by which the other knows it (None: the same)."""

    namespace: Namespace
    address: str
    seen: str | None = None

    @property
    def known(self) -> str:
        """The address by which the other knows it."""
        return self.seen or self.address

    def socket(self, kind: socket.SocketKind, port: int | None = None) -> socket.socket:
        """Return a socket of it, at its address where it has a port."""
        six = ipaddress.ip_address(self.address).version == 6
        with inside(self.namespace):
            opened = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind)
        opened.setblocking(False)
        if port is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((self.address, port))
        return opened


async def datagram(
    here: Talker, there: Talker, port: int, octets: int, *, here_socket: Changes | None = None,
    there_socket: Changes | None = None,
) -> None:  # fmt: skip
    """Send a datagram there and the same back; what is done to the sockets before is the caller's."""
    loop, data = asyncio.get_running_loop(), bytes(range(250)) * (octets // 250)
    with there.socket(socket.SOCK_DGRAM, port) as answering, here.socket(socket.SOCK_DGRAM) as asking:
        if here_socket is not None:
            here_socket(asking)
        if there_socket is not None:
            there_socket(answering)
        async with asyncio.timeout(_WAIT_S):
            await loop.sock_connect(asking, (there.known, port))
            await loop.sock_sendall(asking, data)
            received, sender = await loop.sock_recvfrom(answering, 65_536)
            assert received == data
            assert sender[0] == here.known
            await loop.sock_sendto(answering, received, sender)
            assert await loop.sock_recv(asking, 65_536) == data


async def stream(here: Talker, there: Talker, port: int, octets: int = STREAM_OCTETS) -> None:
    """Send a stream there and a word back."""
    loop = asyncio.get_running_loop()
    with there.socket(socket.SOCK_STREAM, port) as listening, here.socket(socket.SOCK_STREAM) as asking:
        listening.listen()
        async with asyncio.timeout(_WAIT_S):
            await loop.sock_connect(asking, (there.known, port))
            connection, _sender = await loop.sock_accept(listening)
            with connection:
                connection.setblocking(False)
                sending = asyncio.create_task(loop.sock_sendall(asking, bytes(octets)))
                left = octets
                while left:
                    data = await loop.sock_recv(connection, 65_536)
                    assert data
                    left -= len(data)
                await sending
                await loop.sock_sendall(connection, b"whole")
                assert await loop.sock_recv(asking, 10) == b"whole"
