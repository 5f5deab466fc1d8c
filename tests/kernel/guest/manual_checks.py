"""``iked`` with manual keys over the kernel's ESP; the other end is ``ip xfrm`` alone, typed in from the same keys.

The checks build on each other: they run in the order of :data:`CHECKS`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from agents.contract.codec import to_plain
from agents.contract.config import DataPlane, GatewayDocument, Mode, TrafficSelector
from agents.contract.manual import ManualChild, ManualSa, ManualTunnel
from agents.contract.secret import Secret
from agents.contract.status import TunnelState, TunnelStatus
from agents.iked.manual_specs import DEFLATE_CPI
from deploy.lab.topology import PARIS
from tests.agentd.fakes import GATEWAY_ID
from tests.kernel.guest.gateways import Gateway, kernel_sas
from tests.kernel.guest.harness import Pair, report

TUNNEL = "00000000-0000-4000-8000-00000000000a"
NEIGHBOUR = "00000000-0000-4000-8000-00000000000b"
LEFT, RIGHT = "192.0.2.1", "192.0.2.2"
LEFT_NET, RIGHT_NET = "10.1.0.0/24", "10.2.0.0/24"
_NAMES = {"aes-256-cbc": "cbc(aes)", "3des-cbc": "cbc(des3_ede)", "null": "ecb(cipher_null)"}
_IPIP = {0xC0000201, 0xC0000202}
"""The kernel's own states beside IPComp in tunnel mode have an address for their SPI."""
_MACS = {"hmac-sha2-256-128": ("hmac(sha256)", 128), "hmac-sha1-96": ("hmac(sha1)", 96)}


def _key(seed: int, octets: int) -> Secret:
    return Secret(bytes((seed + 7 * place) % 256 for place in range(octets)))


def esp(spi: int, encryption: str = "aes-256-cbc", octets: int = 32) -> ManualSa:
    return ManualSa(
        esp_spi=spi,
        encryption=encryption,
        encryption_key=_key(spi, octets) if octets else None,
        integrity="hmac-sha2-256-128",
        integrity_key=_key(spi + 1, 32),
    )


def ah(spi: int) -> ManualSa:
    return ManualSa(ah_spi=spi, ah_integrity="hmac-sha1-96", ah_key=_key(spi + 2, 20))


def esp_in_ah(spi: int) -> ManualSa:
    outer = ah(spi + 0x100)
    return replace(esp(spi), ah_spi=outer.ah_spi, ah_integrity=outer.ah_integrity, ah_key=outer.ah_key)


def child(name: str, inbound: ManualSa, outbound: ManualSa, *nets: str, **more: Any) -> ManualChild:
    ours, theirs = nets or (LEFT_NET, RIGHT_NET)
    return ManualChild(
        name=name,
        local_ts=TrafficSelector(network=ours),
        remote_ts=TrafficSelector(network=theirs),
        inbound=inbound,
        outbound=outbound,
        **more,
    )


PLAIN = child("lan", esp(0x1001), esp(0x1002))
KINDS: dict[str, ManualChild] = {
    "AES-CBC, window of 64": child("lan", esp(0x1003), esp(0x1004), replay_window=64),
    "both directions with one SPI": child("lan", esp(0x1100), esp(0x1100)),
    "3DES": child("lan", esp(0x1101, "3des-cbc", 24), esp(0x1102, "3des-cbc", 24)),
    "NULL": child("lan", esp(0x1103, "null", 0), esp(0x1104, "null", 0)),
    "AH": child("lan", ah(0x2001), ah(0x2002)),
    "ESP inside AH": child("lan", esp_in_ah(0x3001), esp_in_ah(0x3002)),
    "IPComp": child("lan", esp(0x4001), esp(0x4002), ipcomp=True),
    "transport": child("lan", esp(0x5001), esp(0x5002), f"{LEFT}/32", "192.0.2.0/24", mode=Mode.TRANSPORT),
}


class Ends:
    """``iked`` on the left, ``ip xfrm`` on the right."""

    def __init__(self) -> None:
        self.pair = Pair()
        self.pair.build()
        self.generation = 0
        self.left = Gateway(PARIS, self.pair.left.namespace, self.document())

    def document(self, *tunnels: ManualTunnel) -> GatewayDocument:
        self.generation += 1
        return GatewayDocument(
            gateway_id=GATEWAY_ID,
            gateway_name="left",
            generation=self.generation,
            nonce="00" * 16,
            data_plane=DataPlane.KERNEL,
            allow_legacy=True,
            manual_tunnels=tunnels,
        )

    async def configure(self, *tunnels: ManualTunnel) -> None:
        assert self.left.client is not None
        self.left.document = self.document(*tunnels)
        await self.left.client.call("configure", {"document": to_plain(self.left.document)})

    async def stand(self, *children: ManualChild) -> TunnelStatus:
        """Let both ends have these children; return the status when the kernel has just them."""
        self.clear_right()
        for each in children:
            self.type_in(each)
        await self.configure(tunnel(*children))
        await self.left.until(TUNNEL, lambda status: status.state is TunnelState.UP)
        wanted = {spi for each in children for sa in (each.inbound, each.outbound) for spi in (sa.esp_spi, sa.ah_spi)}
        for _ in range(200):
            held = set(self.left.kernel_sas()) - {DEFLATE_CPI, *_IPIP}
            if held == wanted - {None} and self.ruled_by(children):
                return await self.left.tunnel(TUNNEL)
            await asyncio.sleep(0.1)  # the kernel's tables tell nobody who only looks
        raise AssertionError((self.left.kernel_sas(), self.policies(), self.left.log()))

    def ruled_by(self, children: tuple[ManualChild, ...]) -> bool:
        """Whether the kernel's policies are those of these children, in their order."""
        policies = self.policies()
        outward = sorted((int(each.split("priority ")[1].split()[0]), each) for each in policies if "dir out" in each)
        held = [each.split("\n")[0].removeprefix("src ").split() for _, each in outward]
        wanted = [[source, "dst", target] for source, target in map(_nets, children)]
        return len(policies) == 3 * len(children) - self.transport(children) and held == wanted

    @staticmethod
    def transport(children: tuple[ManualChild, ...]) -> int:
        return sum(each.mode is Mode.TRANSPORT for each in children)

    def policies(self) -> list[str]:
        """Return the policies with a template, on the left."""
        listing = self.left.namespace.run("ip", "xfrm", "policy")
        return [each for each in listing.split("\nsrc ") if "tmpl" in each]

    def clear_right(self) -> None:
        for what in ("policy", "state"):
            self.pair.right.namespace.run("ip", "xfrm", what, "flush")

    def type_in(self, one: ManualChild) -> None:
        """Install the right end's half of a child, as an operator of a plain Linux does."""
        for ends, sa in (((LEFT, RIGHT), one.outbound), ((RIGHT, LEFT), one.inbound)):
            for number, arguments in enumerate(_states(sa, one)):
                mode = one.mode if number == 0 else Mode.TRANSPORT
                self._xfrm("state", "add", "src", ends[0], "dst", ends[1], *arguments, "mode", mode, "reqid", "77")
        templates = _templates(one)
        nets = _nets(one)
        for direction, inner, ends in (
            ("in", nets, (LEFT, RIGHT)), ("out", nets[::-1], (RIGHT, LEFT)),
        ):  # fmt: skip
            words = ["policy", "add", "dir", direction, "src", inner[0], "dst", inner[1]]
            for number, protocol in enumerate(templates):
                mode = one.mode if number == 0 else Mode.TRANSPORT
                words += ["tmpl", "src", ends[0], "dst", ends[1], "proto", protocol, "reqid", "77", "mode", mode]
                words += ["level", "use"] if protocol == "comp" and direction == "in" else []
            self._xfrm(*words)

    def _xfrm(self, *words: str) -> None:
        self.pair.right.namespace.run("ip", "xfrm", *map(str, words))

    async def both_ping(self, mode: Mode = Mode.TUNNEL, count: int = 3) -> None:
        left, right = self.pair.left, self.pair.right
        ends = ((left, left.inner, right.inner), (right, right.inner, left.inner))
        if mode is Mode.TRANSPORT:
            ends = ((left, LEFT, RIGHT), (right, RIGHT, LEFT))
        for end, source, target in ends:
            answers = await end.ping(target, source, count, payload=400)
            assert answers == count, (
                answers,
                self.left.log(),
                self.pair.right.namespace.run("cat", "/proc/net/xfrm_stat"),
            )


def tunnel(*children: ManualChild, tunnel_id: str = TUNNEL, name: str = "right", remote: str = RIGHT) -> ManualTunnel:
    return ManualTunnel(id=tunnel_id, name=name, local_address=LEFT, remote_address=remote, children=children)


def _nets(one: ManualChild) -> tuple[str, str]:
    """Return what a child's policies select: in transport mode what is between the two ends, whatever it asks for."""
    if one.mode is Mode.TRANSPORT:
        return f"{LEFT}/32", f"{RIGHT}/32"
    return one.local_ts.network, one.remote_ts.network


def _states(sa: ManualSa, one: ManualChild) -> list[list[str]]:
    """Return the words of ``ip xfrm state`` for each state of an SA, innermost first."""
    found = []
    if one.ipcomp:
        found.append(["proto", "comp", "spi", "2", "comp", "deflate"])
    if sa.encryption is not None:
        assert sa.integrity is not None
        assert sa.integrity_key is not None
        key = "0x" + sa.encryption_key.reveal().hex() if sa.encryption_key is not None else ""
        mac, bits = _MACS[sa.integrity]
        words = ["proto", "esp", "spi", hex(sa.esp_spi or 0), "enc", _NAMES[sa.encryption], key]
        found.append([*words, "auth-trunc", mac, "0x" + sa.integrity_key.reveal().hex(), str(bits)])
    if sa.ah_integrity is not None:
        assert sa.ah_key is not None
        mac, bits = _MACS[sa.ah_integrity]
        words = ["proto", "ah", "spi", hex(sa.ah_spi or 0), "auth-trunc", mac, "0x" + sa.ah_key.reveal().hex()]
        found.append([*words, str(bits), "flag", "align4"])
    return found


def _templates(one: ManualChild) -> list[str]:
    """Return the protocol of each template; what compression did not make smaller arrives without the first."""
    return (["comp"] if one.ipcomp else []) + list(one.outbound.protocols)


async def stands_and_pings(ends: Ends) -> dict[str, int]:
    await ends.left.start()
    status = await ends.stand(PLAIN)
    await ends.both_ping()
    assert status.kind == "manual"
    status = await ends.left.tunnel(TUNNEL)
    kernel, theirs = ends.left.kernel_sas(), kernel_sas(ends.pair.right.namespace)
    assert kernel == theirs, (kernel, theirs)
    counters = status.counters
    assert (counters.bytes_in, counters.packets_in) == kernel[0x1001]
    assert (counters.bytes_out, counters.packets_out) == kernel[0x1002]
    return {"packets_in": counters.packets_in, "packets_out": counters.packets_out}


async def every_kind(ends: Ends) -> list[str]:
    for name, kind in KINDS.items():
        try:
            await ends.stand(kind)
            await ends.both_ping(kind.mode)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
    return list(KINDS)


async def the_earlier_rule_wins(ends: Ends) -> list[int]:
    """The later one is the more specific; the policies of a foreign peer are less specific than both."""
    wide, narrow = (
        child("wide", esp(0x6001), esp(0x6002)),
        child("narrow", esp(0x6003), esp(0x6004), "10.1.0.1/32", "10.2.0.1/32"),
    )
    ends.clear_right()
    seen = []
    for order, spi in (((wide, narrow), 0x6002), ((narrow, wide), 0x6004)):
        await ends.stand(*order)
        ends.clear_right()  # there is one order only on the right: what the left sends decides
        ends.type_in(order[0])
        before = ends.left.kernel_sas()
        await ends.both_ping()
        after = ends.left.kernel_sas()
        moved = [each for each in after if after[each][1] > before[each][1]]
        assert spi in moved, (moved, after)
        assert len(moved) == 2, moved
        seen += moved
    return seen


async def other_selectors_leave_the_states_alone(ends: Ends) -> None:
    await ends.stand(PLAIN)
    await ends.both_ping()
    before = ends.left.kernel_sas()
    assert before[0x1002][1] > 0
    await ends.configure(tunnel(replace(PLAIN, remote_ts=TrafficSelector(network="10.2.0.0/23"))))
    for _ in range(100):
        if all("10.2.0.0/23" in each for each in ends.policies()):
            break
        await asyncio.sleep(0.1)
    assert len(ends.policies()) == 3, ends.policies()
    assert ends.left.kernel_sas() == before


async def removed_behind_our_back(ends: Ends) -> list[str]:
    await ends.stand(PLAIN)
    ip = partial(ends.left.namespace.run, "ip", "xfrm")
    ip("state", "delete", "src", LEFT, "dst", RIGHT, "proto", "esp", "spi", "0x1002")
    await _event(ends, "manual.reinstalled")
    await ends.both_ping()
    ip("policy", "flush")
    ip("state", "flush")
    for _ in range(100):
        if set(ends.left.kernel_sas()) == {0x1001, 0x1002} and len(ends.policies()) == 3:
            break
        await asyncio.sleep(0.1)
    await ends.both_ping()
    return sorted({event["code"] for event in await _events(ends)})


async def a_policy_of_somebody_else_is_left_and_waited_for(ends: Ends) -> str:
    """The tunnel says whose fault it is; its neighbour stands; when the policy goes, it stands by itself."""
    await ends.configure()
    for _ in range(200):
        if not ends.policies():
            break
        await asyncio.sleep(0.1)
    foreign = ("dir", "out", "src", LEFT_NET, "dst", RIGHT_NET)
    tmpl = ("tmpl", "src", LEFT, "dst", "192.0.2.9", "proto", "esp", "reqid", "5", "mode", "tunnel")
    ends.left.namespace.run("ip", "xfrm", "policy", "add", *foreign, *tmpl)
    apart = child("x", esp(0x7001), esp(0x7002), "10.7.0.0/24", "10.8.0.0/24")
    other = tunnel(apart, tunnel_id=NEIGHBOUR, name="n", remote="192.0.2.3")
    await ends.configure(tunnel(PLAIN), other)
    await ends.left.until(NEIGHBOUR, lambda status: status.state is TunnelState.UP)
    refused = await ends.left.until(TUNNEL, lambda status: status.reason is not None)
    assert refused.reason is not None
    assert "192.0.2.9" in ends.left.namespace.run("ip", "xfrm", "policy")
    assert set(ends.left.kernel_sas()) == {0x7001, 0x7002}
    ends.left.namespace.run("ip", "xfrm", "policy", "delete", *foreign)
    await ends.left.until(TUNNEL, lambda status: status.state is TunnelState.UP)
    return refused.reason.message


async def killed_and_started_again(ends: Ends) -> None:
    await ends.stand(PLAIN)
    ends.left.kill()
    assert set(ends.left.kernel_sas()) == {0x1001, 0x1002}, "the kernel goes on without the daemon"
    await ends.both_ping()
    await ends.left.start()
    await ends.left.until(TUNNEL, lambda status: status.state is TunnelState.UP)
    await ends.both_ping()


async def an_end_leaves_nothing_but_what_is_not_ours(ends: Ends) -> None:
    foreign = ("src", LEFT, "dst", "192.0.2.9", "proto", "esp", "spi", "0x9999", "reqid", "5", "mode", "tunnel")
    words = ("enc", "cbc(aes)", "0x" + "11" * 16, "auth", "hmac(sha1)", "0x" + "22" * 20)
    ends.left.namespace.run("ip", "xfrm", "state", "add", *foreign, *words)
    ends.left.stop()
    assert set(ends.left.kernel_sas()) == {0x9999}
    assert not ends.policies()


async def _events(ends: Ends) -> list[dict[str, Any]]:
    assert ends.left.client is not None
    page = await ends.left.client.call("events", {"after": 0, "boot_id": None})
    return list(page["events"])


async def _event(ends: Ends, code: str) -> None:
    for _ in range(100):
        if code in {event["code"] for event in await _events(ends)}:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(ends.left.log())


Check = Callable[[Ends], Awaitable[Any]]
CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        stands_and_pings, every_kind, the_earlier_rule_wins, other_selectors_leave_the_states_alone,
        removed_behind_our_back, a_policy_of_somebody_else_is_left_and_waited_for, killed_and_started_again,
        an_end_leaves_nothing_but_what_is_not_ours,
    )
}  # fmt: skip


if __name__ == "__main__":
    ends = Ends()
    report({name: partial(CHECKS[name], ends) for name in sys.argv[1:] or CHECKS})
