"""A gateway in a namespace with a wan, a lan and a tunnel's interface, for what its packet filter does with packets."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from agents.agentd.errors import HostError
from agents.agentd.host import LinuxHost
from agents.agentd.parts import filter as parts_filter
from agents.agentd.parts.carried import carried
from agents.contract.config import GatewayDocument, Tunnel
from agents.contract.status import FilterCounters
from deploy.lab.netns import Namespace, connect
from tests.agentd.fakes import TUNNEL_ID, document, tunnel, up_status
from tests.agentd.inside import run_inside

TUN = "vpnaaaaaaaa"
HERE, PEER, STRANGER, INNER, REMOTE = "192.0.2.1", "192.0.2.2", "192.0.2.3", "10.1.0.9", "10.2.0.5"

LAN6, REMOTE6 = "fd01::9", "fd02::5"


def filtered(generation: int, *tunnels: Tunnel, on: bool = True) -> GatewayDocument:
    return document(generation, *tunnels, packet_filter=on)


@dataclasses.dataclass
class Site:
    """A gateway with a wan, a lan and an interface that has the name of a tunnel's."""

    here: Namespace
    peer: Namespace
    lan: Namespace

    def build(self) -> None:
        self.here.create()
        self.wire()

    def wire(self) -> None:
        """Give the gateway, which has nothing yet, its interfaces and neighbours."""
        for namespace in (self.peer, self.lan):
            namespace.create()
        self.here.forward()
        outer = [f"{PEER}/24", f"{STRANGER}/24", "2001:db8::2/64", "2001:db8::3/64"]
        connect(self.here, "wan", [f"{HERE}/24", "2001:db8::1/64"], self.peer, "wan", outer)
        connect(self.here, TUN, [], self.peer, "tunnel", [f"{REMOTE}/32"])
        connect(self.here, "lan", ["10.1.0.1/24"], self.lan, "lan", [f"{INNER}/24", "10.1.0.77/24"])
        self.here.sysctl(f"net.ipv4.conf.{TUN}.proxy_arp", 1)
        self.peer.ip("route", "add", "10.1.0.0/24", "via", HERE)
        self.peer.ip("route", "add", "10.1.0.0/24", "dev", "tunnel", "metric", "50")
        self.lan.ip("route", "add", "default", "via", "10.1.0.1")
        self.here.ip("route", "add", "10.2.0.0/24", "dev", "wan")

    def add_ipv6(self) -> None:
        """Give the inner networks IPv6 addresses too, with a way between them in the clear."""
        for namespace, link, address in (
            (self.here, "lan", "fd01::1"),
            (self.lan, "lan", LAN6),
            (self.peer, "wan", REMOTE6),
        ):
            namespace.ip("address", "add", f"{address}/64", "dev", link, "nodad")
        self.lan.ip("route", "add", "default", "via", "fd01::1")
        self.here.ip("route", "add", "fd02::/64", "via", "2001:db8::2")
        self.peer.ip("route", "add", "fd01::/64", "via", "2001:db8::1")

    def remove(self) -> None:
        for namespace in (self.here, self.peer, self.lan):
            namespace.remove()


def send(namespace: Namespace, source: str, destination: str, port: int, data: bytes = b"x", device: str = "") -> None:
    async def work() -> None:
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sending:
            if device:
                sending.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            sending.bind((source, 0))
            sending.sendto(data, (destination, port))

    run_inside(namespace, work)


def send_raw(
    namespace: Namespace,
    source: str,
    protocol: int,
    to: str = HERE,
    data: bytes = bytes.fromhex("c0000001") + bytes(36),
) -> None:
    async def work() -> None:
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        with socket.socket(family, socket.SOCK_RAW, protocol) as sending:
            sending.bind((source, 0))
            sending.sendto(data, (to, 0))

    run_inside(namespace, work)


@contextlib.contextmanager
def hearing(namespace: Namespace, address: str, *ports: int) -> Iterator[list[socket.socket]]:
    """UDP sockets inside, which stay in their namespace whoever reads them."""

    async def work() -> list[socket.socket]:
        opened = []
        for port in ports:
            each = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            each.bind((address, port))
            each.settimeout(60)
            opened.append(each)
        return opened

    opened = run_inside(namespace, work)
    try:
        yield opened
    finally:
        for each in opened:
            each.close()


async def listed(host: LinuxHost) -> tuple[dict[str, Any], ...]:
    try:
        return await host.filter(parts_filter.listing())
    except HostError as error:
        if error.errno == errno.ENOENT:
            return ()
        raise


@contextlib.contextmanager
def built(letter: str) -> Iterator[Site]:
    """A site whose namespaces have this letter in their names, so that files of tests do not meet."""
    prefix = f"vc{os.getpid()}{letter}"
    made = Site(*(Namespace(prefix, role) for role in ("here", "peer", "lan")))
    try:
        made.build()
        yield made
    finally:
        made.remove()


def counts(site: Site) -> FilterCounters:
    async def work() -> FilterCounters:
        async with LinuxHost() as host:
            found = parts_filter.counters_of(TUNNEL_ID, parts_filter.packets(await listed(host)))
            assert found is not None
            return found

    return run_inside(site.here, work)


def until_counted(site: Site, condition: Callable[[FilterCounters], object]) -> None:
    """Wait until the counters are so: the kernel may have in hand still what a namespace beside it has sent."""
    ends_at = time.monotonic() + 20
    while not condition(seen := counts(site)):
        assert time.monotonic() < ends_at, seen
        time.sleep(0.02)


def apply(site: Site, given: GatewayDocument, *, kernel: bool = False) -> None:
    async def work() -> None:
        async with LinuxHost() as host:
            statuses = {each.id: up_status(each) for each in given.tunnels}
            seen = carried(given, statuses, "kernel" if kernel else "userspace")
            plan = parts_filter.plan(seen, await host.look(), kernel=kernel, vrfs=False)
            await host.filter(parts_filter.transaction(plan, await listed(host)))

    run_inside(site.here, work)


def lab_document(**changes: Any) -> GatewayDocument:
    return filtered(1, tunnel(local=HERE, remote=PEER, **changes))
