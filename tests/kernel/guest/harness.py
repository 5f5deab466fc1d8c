"""Two gateways in two namespaces, each with a kernel driver, and the report that goes back to the host."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import os
import re
import socket
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agents.contract import algorithms
from agents.contract.config import Mode
from agents.contract.secret import Secret
from agents.dataplane.base import (
    REQID_BASE,
    AuthenticationHeader,
    Direction,
    Limits,
    Notice,
    PolicySpec,
    SaProtocol,
    SaSpec,
    SaState,
    Selector,
    UdpEncapsulation,
)
from agents.dataplane.kernel import KernelDriver
from agents.dataplane.kernel.sockets import accept_encapsulated_esp, bypass_policies
from deploy.lab.netns import Namespace, connect
from deploy.lab.uml import RESULT_VARIABLE

REQID = REQID_BASE + 1
NO_LIMITS = Limits()
WAIT_S = 20.0
_IPV4 = 0x0800
_ALL = 0x0003  # ETH_P_ALL
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)

Check = Callable[["Pair"], Awaitable[Any]]


@contextlib.contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """Let sockets made in this block belong to ``namespace``."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(namespace.path, os.O_RDONLY)
    try:
        _set_namespace(there)
        yield
    finally:
        _set_namespace(home)
        os.close(home)
        os.close(there)


def _set_namespace(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class End:
    """One gateway: its namespace, outer and inner addresses, driver, and what the driver said."""

    def __init__(self, role: str, outer: str, inner: str, outer6: str, inner6: str) -> None:
        self.namespace = Namespace("vck", role)
        self.outer, self.inner, self.outer6, self.inner6 = outer, inner, outer6, inner6
        self.driver = KernelDriver()
        self.heard: list[Notice] = []
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the driver in the namespace and collect its notices."""
        self.heard.clear()
        with inside(self.namespace):
            await self.driver.open()
        self._task = asyncio.create_task(self._collect())

    async def close(self) -> None:
        """Close the driver; its notices end with it."""
        await self.driver.close()
        if self._task is not None:
            await self._task
            self._task = None

    async def hears(self, kind: type[Notice], matches: Callable[[Any], bool] = lambda _: True) -> Any:
        """Wait for a notice."""

        def found() -> Any:
            return next((notice for notice in self.heard if isinstance(notice, kind) and matches(notice)), None)

        async with self._news:
            return await asyncio.wait_for(self._news.wait_for(found), WAIT_S)

    async def sa(self, spi: int) -> SaState:
        """Return the state with this SPI."""
        return next(state for state in await self.driver.list_sas() if state.id.spi == spi)

    def counts(self, spi: int) -> tuple[int, int]:
        """Return octets and packets of an SA as ``ip -s xfrm state`` has them."""
        listing = self.namespace.run("ip", "-s", "xfrm", "state", "list", "spi", hex(spi))
        found = re.search(r"lifetime current:\s*(\d+)\(bytes\), (\d+)\(packets\)", listing)
        assert found is not None, listing
        return int(found[1]), int(found[2])

    async def ping(self, target: str, source: str, count: int = 3, payload: int = 56) -> int:
        """Send echo requests quickly one after the other; returns how many answers came."""
        output = await asyncio.to_thread(
            self.namespace.run, "ping", "-n", "-c", str(count), "-i", "0.01", "-W", "2", "-s", str(payload),
            "-p", "76706e", "-I", source, target, check=False,
        )  # fmt: skip
        found = re.search(r"(\d+) received", output)
        assert found is not None, output
        return int(found[1])

    async def say(self, target: str, source: str, count: int) -> None:
        """Send echo requests, some of which may have no answer."""
        await self.ping(target, source, count)

    @contextlib.asynccontextmanager
    async def led(
        self, local: str, remote: str, protocol: int, local_port: int | None, remote_port: int | None
    ) -> AsyncIterator[None]:
        """Nothing is to be done: policies lead what hosts say into the kernel's data plane."""
        yield

    def let_outside(self, opened: socket.socket) -> None:
        """Let what a socket sends and receives be outside the tunnels, as IKE's is."""
        bypass_policies(opened)

    @contextlib.contextmanager
    def takes_udp(self, *, six: bool) -> Iterator[None]:
        """Hold UDP 4500 as ``iked`` does: the kernel takes ESP from its socket, and no policy what that receives."""
        with inside(self.namespace):
            udp = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
        with udp:
            udp.bind((self.outer6 if six else self.outer, 4500))
            accept_encapsulated_esp(udp)
            bypass_policies(udp)
            yield

    async def _collect(self) -> None:
        async for notice in self.driver.notices():
            async with self._news:
                self.heard.append(notice)
                self._news.notify_all()


class Pair:
    """Two ends, joined by a link; the inner addresses are reached through the other end's outer address."""

    def __init__(self) -> None:
        self.left = End("left", "192.0.2.1", "10.1.0.1", "2001:db8::1", "fd01::1")
        self.right = End("right", "192.0.2.2", "10.2.0.1", "2001:db8::2", "fd02::1")

    def build(self) -> None:
        """Make namespaces, link, addresses and routes."""
        for end in (self.left, self.right):
            end.namespace.create()
        left, right = self.left, self.right
        connect(
            left.namespace, "wire", (f"{left.outer}/24", f"{left.outer6}/64"),
            right.namespace, "wire", (f"{right.outer}/24", f"{right.outer6}/64"),
        )  # fmt: skip
        for here, there in ((left, right), (right, left)):
            # A tunnel's interface shall carry what is sent, not IPv6's own solicitations too: they would be counted.
            here.namespace.run("sysctl", "-q", "-w", "net.ipv6.conf.default.addr_gen_mode=1")
            here.namespace.ip("address", "add", f"{here.inner}/32", "dev", "lo")
            here.namespace.ip("address", "add", f"{here.inner6}/128", "dev", "lo", "nodad")
            here.namespace.ip("route", "add", f"{there.inner}/32", "via", there.outer)
            here.namespace.ip("-6", "route", "add", f"{there.inner6}/128", "via", there.outer6)
            # In transport mode policies would take neighbour advertisements too: into the counts, or into a TUN.
            mac = there.namespace.ip("link", "show", "wire").split("link/ether ")[1].split()[0]
            here.namespace.ip("neighbour", "replace", there.outer6, "lladdr", mac, "dev", "wire", "nud", "permanent")

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Open both drivers for one check, and close them whatever comes of it."""
        await self.left.open()
        await self.right.open()
        try:
            yield
        finally:
            await self.left.close()
            await self.right.close()

    async def both(self, spec: SaSpec) -> None:
        """Install one SA at its receiver and at its sender; ``spec`` is the sender's."""
        left_sends = spec.source in (self.left.outer, self.left.outer6)
        sender, receiver = (self.left, self.right) if left_sends else (self.right, self.left)
        await receiver.driver.add_sa(inbound(spec))
        await sender.driver.add_sa(spec)

    async def tunnel(
        self, encryption: str | None = "aes-128-gcm-16", integrity: str | None = None, **more: Any
    ) -> None:
        """Install SAs of SPI 0x1001 (left to right) and 0x1002 and the policies; ``more`` goes into the SAs."""
        there = sa(0x1001, self.left.outer, self.right.outer, encryption, integrity, **more)
        await self.both(there)
        await self.both(sa(0x1002, self.right.outer, self.left.outer, encryption, integrity, **more))
        await self.policies_for(there)

    async def policies_for(self, spec: SaSpec) -> None:
        """Install policies for SAs like ``spec``: in transport mode between the outer addresses themselves."""
        compressed = spec.compression_cpi is not None
        await self.policies(mode=spec.mode, protocols=protocols_of(spec), compressed=compressed)

    async def policies(self, *, six_inside: bool = False, six_outside: bool = False, **more: Any) -> None:
        """Install the policies between the inner addresses on both ends; ``more`` goes into them."""
        for here, there in ((self.left, self.right), (self.right, self.left)):
            outer = (here.outer6, there.outer6) if six_outside else (here.outer, there.outer)
            inner = (here.inner6, there.inner6) if six_inside else (here.inner, there.inner)
            if more.get("mode") is Mode.TRANSPORT:
                inner = outer
            ours, theirs = (f"{address}/{128 if ':' in address else 32}" for address in inner)
            for each in (
                policy(Direction.OUT, ours, theirs, *outer),
                policy(Direction.IN, theirs, ours, *reversed(outer)),
            ):
                await here.driver.add_policy(dataclasses.replace(each, **more))

    async def agree(self, spi: int, packets: int, octets: int) -> None:
        """Assert that both ends and ``ip -s xfrm state`` counted this much on an SA."""
        for end in (self.left, self.right):
            counters = (await end.sa(spi)).counters
            ours = (counters.bytes_in + counters.bytes_out, counters.packets_in + counters.packets_out)
            assert ours == (octets, packets), (end.namespace.role, ours)
            assert end.counts(spi) == (octets, packets)


def sa(
    spi: int,
    source: str,
    destination: str,
    encryption: str | None = "aes-128-gcm-16",
    integrity: str | None = None,
    *,
    ah: str | None = None,
    limits: Limits = NO_LIMITS,
    encapsulation: UdpEncapsulation | None = None,
    replay_window: int = 64,
    **more: Any,
) -> SaSpec:
    """Return the sender's side of an SA with keys made of its SPI; AH around ESP has that SPI plus 0x100."""
    header = None
    if ah is not None:
        name = spi if encryption is None else spi + 0x100
        header = AuthenticationHeader(
            spi=name, integrity=ah, key=Secret(_key(name, algorithms.INTEGRITY[ah].key_octets))
        )
    return SaSpec(
        tunnel_id="tunnel",
        direction=Direction.OUT,
        spi=spi,
        source=source,
        destination=destination,
        reqid=REQID,
        encryption=encryption,
        encryption_key=Secret(_key(spi, algorithms.ENCRYPTION[encryption].keymat_octets)) if encryption else None,
        integrity=integrity,
        integrity_key=Secret(_key(spi + 1, algorithms.INTEGRITY[integrity].key_octets)) if integrity else None,
        ah=header,
        limits=limits,
        encapsulation=encapsulation,
        replay_window=replay_window,
        **more,
    )


def protocols_of(spec: SaSpec) -> tuple[SaProtocol, ...]:
    """Return what policies for an SA ask for, the inner protocol first."""
    protocols = [SaProtocol.ESP] if spec.encryption is not None else []
    return (*protocols, SaProtocol.AH) if spec.ah is not None else tuple(protocols)


def policy(
    direction: Direction, inner_source: str, inner_destination: str, source: str, destination: str
) -> PolicySpec:
    """Return a policy with our reqid."""
    return PolicySpec(
        tunnel_id="tunnel",
        direction=direction,
        selector=Selector(source=inner_source, destination=inner_destination),
        source=source,
        destination=destination,
        reqid=REQID,
    )


def _key(seed: int, octets: int) -> bytes:
    return (seed.to_bytes(4, "big") * 32)[:octets]


def inbound(spec: SaSpec) -> SaSpec:
    """Return the receiver's side of an SA."""
    return dataclasses.replace(spec, direction=Direction.IN)


async def clear(pair: Pair) -> None:
    """Take every policy and SA away at both ends."""
    for end in (pair.left, pair.right):
        for policy in await end.driver.list_policies():
            await end.driver.remove_policy(policy)
        for state in await end.driver.list_sas():
            await end.driver.remove_sa(state.id)


async def readable(waiting: socket.socket) -> None:
    """Wait until a socket has something to read."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(waiting, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(waiting)


class Wire:
    """The frames that one end puts on the link, and a way to send one again.

    Only those going out: the kernel shows a decrypted packet to the receiving link a second time.
    """

    def __init__(self, namespace: Namespace, link: str = "wire") -> None:
        with inside(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        self._socket.bind((link, _ALL))
        self._socket.setblocking(False)

    def frames(self) -> list[bytes]:
        """Return the IPv4 frames sent since the last call."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_link, protocol, kind, *_rest) = self._socket.recvfrom(65536)
                if kind == socket.PACKET_OUTGOING and protocol == _IPV4:
                    found.append(frame)
        return found

    def send(self, frame: bytes) -> None:
        """Put a frame on the link."""
        self._socket.send(frame)

    def close(self) -> None:
        """Stop looking."""
        self._socket.close()


def report(checks: Mapping[str, Callable[[], Awaitable[Any]]], *, timeout_s: float = 120) -> None:
    """Run every check in turn and leave ``{name: {"error", "value", "seconds"}}`` for the host."""
    found: dict[str, dict[str, Any]] = {}

    async def every() -> None:
        for name, check in checks.items():
            started = time.monotonic()
            entry: dict[str, Any] = {"error": "", "value": None}
            try:
                entry["value"] = await asyncio.wait_for(check(), timeout_s)
            except Exception:
                entry["error"] = traceback.format_exc()
            entry["seconds"] = round(time.monotonic() - started, 2)
            print(name, entry["seconds"], "failed" if entry["error"] else "passed")
            found[name] = entry

    asyncio.run(every())
    Path(os.environ[RESULT_VARIABLE]).write_text(json.dumps(found))
