"""Congestion on the way to a tunnel of the kernel's data plane, on a kernel with ESP and nftables (RFC 6040)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

from agents.agentd.host import LinuxHost
from agents.agentd.parts import congestion
from agents.agentd.parts import filter as parts_filter
from agents.agentd.parts.congestion import Congestion
from agents.dataplane.base import UdpEncapsulation
from agents.dataplane.outer import CONGESTED_MARK
from tests.kernel.guest import link_checks
from tests.kernel.guest.driver_checks import port_4500
from tests.kernel.guest.harness import WAIT_S, Check, Pair, clear, inside, readable, sa
from tests.kernel.guest.host_checks import load
from tests.kernel.guest.link_checks import FIRST, NAMES

_SHARED: dict[str, dict[str, Any]] = {
    "ESP": {},
    "AH": {"encryption": None, "ah": "hmac-sha2-256-128"},
    "AH around ESP": {"ah": "hmac-sha2-256-128"},
    "ESP around IPComp": {"compression_cpi": 0x4001},
    "AH around ESP around IPComp": {"ah": "hmac-sha2-256-128", "compression_cpi": 0x4001},
    "ESP in UDP": {"encapsulation": UdpEncapsulation(source_port=4500, destination_port=4500)},
}
_SHORT, _LONG = 12, 1_450
"""Of UDP: what IPComp leaves as it is, and what goes outside in fragments."""
_DSCP_AF41, _ECT_0, _CE = 0x88, 2, 3
_THEIR_MARK = 0x2A
_PATH = "path"


class _Receiver:
    """The right end, with our table; a path before it that marks what is outside, and counts who sees our bit."""

    def __init__(self, pair: Pair, host: LinuxHost) -> None:
        self._pair, self._host = pair, host
        self._dropped = 0

    async def begin(self, *interfaces: str) -> None:
        """Put our table there, for these interfaces of tunnels."""
        right = self._pair.right
        wanted = Congestion(addresses=(right.outer, right.outer6), interfaces=interfaces)
        plan = parts_filter.Beside(congestion=wanted).plan()
        await self._host.filter(parts_filter.transaction(plan, ()))
        self._dropped = 0

    async def end(self) -> None:
        """Take it away."""
        await self._host.filter(parts_filter.removal())

    async def dropped(self) -> int:
        """Return what our table dropped."""
        (count,) = congestion.counted(parts_filter.packets(await self._host.filter(parts_filter.counters())))
        return count.count

    async def drops_only_what_cannot_be_told(self, what: str, octets: int = _SHORT) -> None:
        """Send both sorts through the tunnel: one is dropped and counted, one arrives and says so."""
        with self._heard() as heard:
            _send(self._pair, _DSCP_AF41, octets)
            self._dropped += 1
            async with asyncio.timeout(WAIT_S):
                while await self.dropped() < self._dropped:
                    await asyncio.sleep(0.05)
            _send(self._pair, _DSCP_AF41 | _ECT_0, octets)
            await asyncio.wait_for(readable(heard), WAIT_S)
            data, ancillary, _flags, _address = heard.recvmsg(2_000, 100)
        (tos,) = [value[0] for level, kind, value in ancillary if (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS)]
        assert (tos, len(data)) == (_DSCP_AF41 | _CE, octets), what
        assert await self.dropped() == self._dropped, what

    @contextlib.contextmanager
    def _heard(self) -> Iterator[socket.socket]:
        right = self._pair.right
        with inside(right.namespace):
            heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with heard:
            heard.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
            heard.bind((right.inner, 9))
            yield heard

    def path(self, *marks: str) -> None:
        """Let the path mark so what comes; count who sees our bit after us, and what arrives with a mark of others."""
        right = self._pair.right
        rules = "\n".join(f"{each} meta mark set {_THEIR_MARK}" for each in marks)
        right.namespace.run("nft", f"""
            table netdev {_PATH}
            delete table netdev {_PATH}
            table netdev {_PATH} {{
                chain wire {{
                    type filter hook ingress device wire priority 0;
                    {rules}
                }}
            }}
            table ip {_PATH}
            delete table ip {_PATH}
            table ip {_PATH} {{
                counter bit {{ }}
                counter theirs {{ }}
                chain early {{
                    type filter hook prerouting priority -440;
                    meta mark & {CONGESTED_MARK:#x} != 0 counter name bit
                }}
                chain late {{
                    type filter hook input priority 290;
                    meta mark & {CONGESTED_MARK:#x} != 0 counter name bit
                    ip daddr {right.inner} meta mark {_THEIR_MARK} counter name theirs
                }}
            }}""")  # fmt: skip

    def seen(self, counter: str) -> int:
        """Return how many packets the path's own table counted."""
        listed = self._pair.right.namespace.run("nft", "list", "counter", "ip", _PATH, counter)
        return int(listed.split("packets ")[1].split()[0])

    def clear(self) -> None:
        """Take the path's tables away."""
        for family in ("netdev", "ip"):
            self._pair.right.namespace.run("nft", "delete", "table", family, _PATH, check=False)


@contextlib.asynccontextmanager
async def _receiving(pair: Pair) -> AsyncIterator[_Receiver]:
    with inside(pair.right.namespace):
        async with LinuxHost() as host:
            receiver = _Receiver(pair, host)
            try:
                yield receiver
            finally:
                receiver.clear()
                await receiver.end()


def _send(pair: Pair, tos: int, octets: int) -> None:
    with inside(pair.left.namespace):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with udp:
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        udp.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: IP_PMTUDISC_DONT
        udp.bind((pair.left.inner, 0))
        udp.sendto(bytes(octets), (pair.right.inner, 9))


async def what_cannot_be_told_of_congestion_is_dropped(pair: Pair) -> int:
    """In whatever it came; and what can be told arrives, with the mark others gave it and without ours."""
    right = pair.right
    async with _receiving(pair) as receiver:
        await receiver.begin()
        receiver.path(f"ip daddr {right.outer} ip ecn set ce")
        sockets = port_4500(pair)
        try:
            for name, more in _SHARED.items():
                await pair.tunnel(**more)
                await receiver.drops_only_what_cannot_be_told(name)
                await clear(pair)
        finally:
            for each in sockets:
                each.close()
        assert (receiver.seen("bit"), receiver.seen("theirs")) == (0, len(_SHARED))
        receiver.path(f"ip6 daddr {right.outer6} ip6 ecn set ce")
        for spec in (sa(0x1001, pair.left.outer6, right.outer6), sa(0x1002, right.outer6, pair.left.outer6)):
            await pair.both(spec)
        await pair.policies(six_outside=True)
        await receiver.drops_only_what_cannot_be_told("IPv6 outside")
        await clear(pair)
        return await receiver.dropped()


async def congestion_of_any_fragment_counts(pair: Pair) -> None:
    """Of the outer packet's fragments only the last is marked; nobody put them together before the chain that looks."""
    async with _receiving(pair) as receiver:
        await receiver.begin()
        # Not ECT and CE together are no packet (RFC 3168 section 5.3): the sender makes ECT of them all.
        to_us = f"ip daddr {pair.right.outer} ip frag-off & 0x1fff"
        receiver.path(f"{to_us} == 0 ip ecn set ect0", f"{to_us} != 0 ip ecn set ce")
        await pair.tunnel()
        await receiver.drops_only_what_cannot_be_told("fragments", _LONG)
        await clear(pair)


async def what_an_interface_takes_in_is_looked_at_too(pair: Pair) -> list[str]:
    """A VTI forgets that a packet was decrypted; the bit stays."""
    kinds = []
    async with _receiving(pair) as receiver:
        await receiver.begin(NAMES[FIRST])
        receiver.path(f"ip daddr {pair.right.outer} ip ecn set ce")
        kinds.append(await _through_an_interface(pair, receiver))
        pair.right.namespace.run("rmmod", "xfrm_interface")
        try:
            kinds.append(await _through_an_interface(pair, receiver))
        finally:
            load(("xfrm_interface",))
        assert (receiver.seen("bit"), receiver.seen("theirs")) == (0, 2)
    return kinds


async def _through_an_interface(pair: Pair, receiver: _Receiver) -> str:
    await link_checks.open_links(pair)
    kind = link_checks.interface_kind(pair.right, NAMES[FIRST])
    await link_checks.key(pair)
    async with link_checks.routed(pair):
        await receiver.drops_only_what_cannot_be_told(kind)
    await clear(pair)
    for end in (pair.left, pair.right):
        await end.driver.close_link(FIRST)
    return kind


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        what_cannot_be_told_of_congestion_is_dropped, congestion_of_any_fragment_counts,
        what_an_interface_takes_in_is_looked_at_too,
    )
}  # fmt: skip
