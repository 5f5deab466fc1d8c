"""Two of our daemons over the kernel's ESP, and one against strongSwan with its kernel-netlink plugin.

The checks build on each other: they run in the order of :data:`CHECKS`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from agents.contract.carriage import Attachment, Carriage
from agents.contract.config import IkeProposal, IkeVersion, Mode, Tunnel
from agents.contract.status import TunnelState, TunnelStatus
from deploy.lab.netns import Namespace
from deploy.lab.topology import EXTRANET, LYON, PARIS, Site
from tests.harness import talk
from tests.harness.talk import Talker
from tests.kernel.guest.gateways import NAT_ADDRESS, TUNNEL_EXTRANET, TUNNEL_LYON, Gateway, Gateways, kernel_sas, ping
from tests.kernel.guest.harness import Wire, report
from tests.kernel.guest.kinds import KINDS, Kind, miscounted

ECHO_OCTETS = 228
NAT_PORT = 41000


def _spis(status: TunnelStatus) -> set[int]:
    return {int(spi, 16) for child in status.children for sa in child.sas for spi in (sa.spi_in, sa.spi_out)}


async def _agree(gateway: Gateway, tunnel_id: str) -> dict[str, int]:
    """Assert that every child SA counted what the kernel did, and return the tunnel's totals."""
    status = await gateway.tunnel(tunnel_id)
    kernel = gateway.kernel_sas()
    for child in status.children:
        for sa in child.sas:
            ours = sa.counters
            assert (ours.bytes_in, ours.packets_in) == kernel[int(sa.spi_in, 16)]
            assert (ours.bytes_out, ours.packets_out) == kernel[int(sa.spi_out, 16)]
    totals = status.counters
    return {"bytes_in": totals.bytes_in, "bytes_out": totals.bytes_out, "packets_in": totals.packets_in}


async def auto_chooses_the_kernel(lab: Gateways) -> str:
    await lab.lyon.start()
    await lab.paris.start()
    chosen = (await lab.paris.status())["data_plane"]
    assert chosen["driver"] == "kernel", chosen
    return str(chosen["reason"])


async def pings_between_hosts(lab: Gateways) -> dict[str, int]:
    for gateway in (lab.paris, lab.lyon):
        await gateway.until_up(TUNNEL_LYON)
    wire = Wire(lab.paris.namespace, "wan")
    try:
        assert await lab.ping(PARIS, LYON, 5) == 5, lab.paris.log()
        frames = wire.frames()
    finally:
        wire.close()
    assert frames
    for frame in frames:
        assert frame[23] in (socket.IPPROTO_ESP, socket.IPPROTO_UDP)
        assert socket.inet_aton(PARIS.host_address) not in frame
    assert sum(frame[23] == socket.IPPROTO_ESP for frame in frames) == 5
    totals = await _agree(lab.paris, TUNNEL_LYON)
    assert totals == {"bytes_in": 5 * ECHO_OCTETS, "bytes_out": 5 * ECHO_OCTETS, "packets_in": 5}
    assert await _agree(lab.lyon, TUNNEL_LYON) == totals
    return totals


async def child_rekey_counts_on(lab: Gateways) -> None:
    before = await lab.paris.tunnel(TUNNEL_LYON)
    for gateway in (lab.paris, lab.lyon):
        old = _spis(await gateway.tunnel(TUNNEL_LYON))
        await gateway.act("rekey-child", TUNNEL_LYON)
        for each in (lab.paris, lab.lyon):
            new = _spis(await each.until(TUNNEL_LYON, partial(_rekeyed, old=old)))
            assert await _kernel_holds(each, wanted=new, gone=old)
        assert await lab.ping(LYON, PARIS) == 3, lab.lyon.log()
        await _agree(lab.paris, TUNNEL_LYON)
    after = await lab.paris.tunnel(TUNNEL_LYON)
    assert after.counters.packets_in == before.counters.packets_in + 6


def _rekeyed(status: TunnelStatus, old: set[int]) -> bool:
    spis = _spis(status)
    return status.state is TunnelState.UP and len(spis) == 2 and not spis & old


def _has_new(status: TunnelStatus, old: set[int]) -> bool:
    """Whether there is a new SA; of IKEv1, strongSwan leaves it to us to delete what it has rekeyed."""
    return status.state is TunnelState.UP and len(_spis(status) - old) == 2


async def _kernel_holds(gateway: Gateway, *, wanted: set[int], gone: set[int]) -> bool:
    """Wait until the kernel has the one and not the other: status runs ahead of the effects that carry it out.

    One inbound SA that another took the place of stays for 3 s.
    """
    for _ in range(200):
        held = set(gateway.kernel_sas())
        if wanted <= held and not gone & held:
            return True
        await asyncio.sleep(0.1)
    return False


async def ike_rekey_keeps_the_children(lab: Gateways) -> None:
    before = await lab.paris.tunnel(TUNNEL_LYON)
    await lab.paris.act("rekey-ike", TUNNEL_LYON)
    old = before.ike_sas[0].spi_i
    after = await lab.paris.until(
        TUNNEL_LYON, lambda status: len(status.ike_sas) == 1 and status.ike_sas[0].spi_i != old
    )
    assert _spis(after) == _spis(before)
    assert await lab.ping(PARIS, LYON) == 3


async def every_kind_of_child(lab: Gateways) -> list[str]:
    """Transport mode, extended numbers, AH, IPComp and their combinations: one edit of both documents each."""
    before = {gateway: gateway.document.tunnels for gateway in (lab.paris, lab.lyon)}
    for kind in KINDS:
        old = set(lab.paris.kernel_sas())
        for gateway, there in ((lab.lyon, PARIS), (lab.paris, LYON)):
            await gateway.change(TUNNEL_LYON, partial(_of_kind, kind, before[gateway][0], there))
        for gateway in (lab.paris, lab.lyon):
            new = _spis(await gateway.until(TUNNEL_LYON, partial(_is_of_kind, kind, old)))
            assert await _kernel_holds(gateway, wanted=new, gone=set()), (kind.name, gateway.log())
        ping = lab.ping if kind.mode is Mode.TUNNEL else lab.ping_outside
        assert await ping(PARIS, LYON) == 3, (kind.name, lab.paris.log())
        assert await ping(LYON, PARIS) == 3, (kind.name, lab.lyon.log())
        for gateway in (lab.paris, lab.lyon):
            shown = await _settled(gateway, kind, old)
            assert not miscounted(shown, kind), (kind.name, miscounted(shown, kind), shown)
        ours, theirs = await _agree(lab.paris, TUNNEL_LYON), await _agree(lab.lyon, TUNNEL_LYON)
        # An answer may compress better than its question, so each end's octets in are the other's out.
        assert (ours["bytes_in"], ours["bytes_out"]) == (theirs["bytes_out"], theirs["bytes_in"]), kind.name
    old = set(lab.paris.kernel_sas())
    for gateway in (lab.lyon, lab.paris):
        await gateway.change(TUNNEL_LYON, lambda tunnel, was=before[gateway]: was[0])  # type: ignore[misc]
    for gateway in (lab.paris, lab.lyon):
        await gateway.until(TUNNEL_LYON, partial(_rekeyed, old=old))
    return [kind.name for kind in KINDS]


def _of_kind(kind: Kind, plain: Tunnel, there: Site, _now: Tunnel) -> Tunnel:
    (child,) = plain.children
    return replace(plain, children=(kind.child(child, plain.local.address, there.outer_address),))


def _is_of_kind(kind: Kind, old: set[int], status: TunnelStatus) -> bool:
    """Whether the tunnel has just the one new SA, and that is of this kind by our own words."""
    if not _rekeyed(status, old):
        return False
    (sa,) = status.children[0].sas
    proposal = (sa.encryption, sa.integrity, sa.ah_integrity)
    wanted = (kind.proposal.encryption, kind.proposal.integrity, kind.proposal.ah_integrity)
    return (proposal, sa.mode, sa.esn, sa.ipcomp) == (wanted, kind.mode.value, kind.extended, kind.ipcomp)


async def _settled(gateway: Gateway, kind: Kind, old: set[int]) -> str:
    """Return ``ip -d xfrm state`` once the kernel no longer has the SAs before: status runs ahead of effects."""
    assert await _kernel_holds(gateway, wanted=set(), gone=old)
    return gateway.namespace.run("ip", "-d", "xfrm", "state", "list", "nokeys")


async def an_interface_of_its_own(lab: Gateways) -> dict[str, int]:
    """Edited to have one, with queues and a rate: SAs that stand go over to it, a rekey stays on it, and back again."""
    before = _spis(await lab.paris.tunnel(TUNNEL_LYON))
    name = f"vpn{TUNNEL_LYON[:8]}"
    ends = ((lab.paris, LYON, PARIS), (lab.lyon, PARIS, LYON))
    carriage = Carriage(attachment=Attachment.INTERFACE, queues=4, rate_kbps=10_000)
    for gateway, there, _ in ends:
        await gateway.change(TUNNEL_LYON, lambda tunnel: replace(tunnel, carriage=carriage))
        assert await _until(lambda gateway=gateway: name in gateway.namespace.ip("link")), gateway.log()  # type: ignore[misc]
        gateway.namespace.ip("route", "replace", there.lan_network, "dev", name)
    assert await lab.ping(PARIS, LYON) == 3, lab.paris.log()
    status = await lab.paris.tunnel(TUNNEL_LYON)
    assert (_spis(status), status.interface) == (before, name), "moved, not negotiated anew"
    assert ([each.packets for each in status.queues], status.rate_kbps) == ([0, 0, 0, 3], 10_000)
    assert " rate 10Mbit " in lab.paris.namespace.run("tc", "qdisc", "show", "dev", name, "root")
    await _agree(lab.paris, TUNNEL_LYON)
    await lab.lyon.act("rekey-child", TUNNEL_LYON)
    for gateway, _, _ in ends:
        await gateway.until(TUNNEL_LYON, partial(_rekeyed, old=before))
    assert await lab.ping(LYON, PARIS) == 3, lab.lyon.log()
    # The replaced inbound SA stays for a moment, for packets that its Delete has overtaken.
    assert await _until(lambda: lab.paris.namespace.run("ip", "xfrm", "state").count("mark 0x5643") == 2)
    for gateway, there, here in ends:
        await gateway.change(TUNNEL_LYON, lambda tunnel: replace(tunnel, carriage=Carriage()))
        assert await _until(lambda gateway=gateway: name not in gateway.namespace.ip("link")), gateway.log()  # type: ignore[misc]
        gateway.namespace.ip("route", "replace", there.lan_network, "via", here.router_address)
    assert await lab.ping(PARIS, LYON) == 3, lab.paris.log()
    after = await lab.paris.tunnel(TUNNEL_LYON)
    assert (after.interface, after.queues, after.rate_kbps) == (None, (), None)
    return {"packets": after.counters.packets_in - status.counters.packets_in}


async def _until(reached: Callable[[], bool]) -> bool:
    for _ in range(200):
        if await asyncio.to_thread(reached):
            return True
        await asyncio.sleep(0.05)  # another process's work: asked again
    return False


async def forced_into_udp(lab: Gateways) -> None:
    """Both documents change: ESP goes in UDP 4500 now, taken out by the kernel before IKE's socket."""
    old = set(lab.paris.kernel_sas())
    for gateway in (lab.lyon, lab.paris):
        await gateway.force_udp(TUNNEL_LYON)
    for gateway in (lab.paris, lab.lyon):
        await gateway.until(TUNNEL_LYON, partial(_rekeyed, old=old))
    wire = Wire(lab.paris.namespace, "wan")
    try:
        assert await lab.ping(PARIS, LYON) == 3, lab.paris.log()
        frames = wire.frames()
    finally:
        wire.close()
    ports = (4500).to_bytes(2, "big") * 2
    esp = [frame for frame in _esp_in_udp(frames) if frame[34:38] == ports]
    assert len(esp) == 3, [frame.hex() for frame in frames]
    child = (await lab.paris.tunnel(TUNNEL_LYON)).children[0].sas[0]
    assert child.udp_encapsulation
    await _agree(lab.paris, TUNNEL_LYON)


async def hosts_in_udp(lab: Gateways) -> None:
    """Forced into UDP, a child in transport mode is between the very addresses that its UDP has; and back."""
    old, before = (
        set(lab.paris.kernel_sas()),
        {gateway: gateway.document.tunnels[0] for gateway in (lab.paris, lab.lyon)},
    )
    kind = replace(KINDS[0], shown=(*KINDS[0].shown, ("encap type espinudp", 2)))
    for gateway, there in ((lab.lyon, PARIS), (lab.paris, LYON)):
        await gateway.change(TUNNEL_LYON, partial(_of_kind, kind, before[gateway], there))
    for gateway in (lab.paris, lab.lyon):
        new = _spis(await gateway.until(TUNNEL_LYON, partial(_is_of_kind, kind, old)))
        assert await _kernel_holds(gateway, wanted=new, gone=set()), gateway.log()
    wire = Wire(lab.paris.namespace, "wan")
    try:
        assert await lab.ping_outside(PARIS, LYON) == 3, lab.paris.log()
        assert await lab.ping_outside(LYON, PARIS) == 3, lab.lyon.log()
        frames = wire.frames()
    finally:
        wire.close()
    assert {frame[23] for frame in frames} == {socket.IPPROTO_UDP}, [frame.hex() for frame in frames]
    for gateway in (lab.paris, lab.lyon):
        shown = await _settled(gateway, kind, old)
        assert not miscounted(shown, kind), (miscounted(shown, kind), shown)
        await _agree(gateway, TUNNEL_LYON)
    old = set(lab.paris.kernel_sas())
    for gateway in (lab.lyon, lab.paris):
        await gateway.change(TUNNEL_LYON, lambda tunnel, was=before[gateway]: was)  # type: ignore[misc]
    for gateway in (lab.paris, lab.lyon):
        await gateway.until(TUNNEL_LYON, partial(_rekeyed, old=old))


async def hosts_through_a_nat(lab: Gateways) -> None:
    """A NAT gives paris another address and port: each end's policies have the addresses that it sees itself."""
    old, before = (
        set(lab.paris.kernel_sas()),
        {gateway: gateway.document.tunnels[0] for gateway in (lab.paris, lab.lyon)},
    )
    _rewrite_addresses(lab, "to-lyon")
    behind = replace(PARIS, outer_address=NAT_ADDRESS)
    for gateway, there in ((lab.lyon, behind), (lab.paris, LYON)):
        await gateway.change(TUNNEL_LYON, partial(_to_host, before[gateway], there))
    for gateway in (lab.paris, lab.lyon):
        status = await gateway.until(TUNNEL_LYON, partial(_is_of_kind, KINDS[0], old))
        status = await gateway.until(TUNNEL_LYON, partial(_is_hidden, gateway is lab.paris))
        assert await _kernel_holds(gateway, wanted=_spis(status), gone=set()), gateway.log()
    await _talk_through_the_nat(lab, TUNNEL_LYON, lab.lyon.namespace, LYON)
    for gateway in (lab.paris, lab.lyon):
        shown = await _settled(gateway, KINDS[0], old)
        assert shown.count("encap type espinudp") == 2, shown
    lab.network.internet.run("tc", "qdisc", "del", "dev", "to-lyon", "clsact")
    old = set(lab.paris.kernel_sas())
    for gateway in (lab.lyon, lab.paris):
        await gateway.change(TUNNEL_LYON, lambda tunnel, was=before[gateway]: was)  # type: ignore[misc]
    for gateway in (lab.paris, lab.lyon):
        await gateway.until(TUNNEL_LYON, partial(_rekeyed, old=old))


def _is_hidden(hidden: bool, status: TunnelStatus) -> bool:
    """Whether there is just the IKE SA that went through the NAT; both documents ask for UDP, which looks like one."""
    return [(sa.nat_local, sa.nat_remote) for sa in status.ike_sas] == [(hidden, True)]


def _to_host(plain: Tunnel, there: Site, _now: Tunnel) -> Tunnel:
    """Return a tunnel with a child in transport mode to where the other end is seen."""
    tunnel = _of_kind(KINDS[0], plain, there, plain)
    return replace(tunnel, remote=replace(plain.remote, address=there.outer_address))


def _rewrite_addresses(lab: Gateways, link: str) -> None:
    """Let the router towards a gateway hide paris behind another address, and its port 4500 behind another port."""
    router = partial(lab.network.internet.run, "tc")
    router("qdisc", "add", "dev", link, "clsact")
    for hook, end, was, becomes, ports in (
        ("egress", "src", PARIS.outer_address, NAT_ADDRESS, (4500, NAT_PORT)),
        ("ingress", "dst", NAT_ADDRESS, PARIS.outer_address, (NAT_PORT, 4500)),
    ):
        match = ("flower", "ip_proto", "udp", f"{end}_ip", was)
        address = ("action", "pedit", "ex", "munge", "ip", end, "set", becomes)
        port = ("munge", "udp", f"{end[0]}port", "set", str(ports[1]))
        sums = ("pipe", "action", "csum", "ip4h", "and", "udp")
        place = ("filter", "add", "dev", link, hook, "protocol", "ip")
        router(*place, "prio", "1", *match, f"{end}_port", str(ports[0]), *address, *port, *sums)
        router(*place, "prio", "2", *match, *address, *sums)


async def _talk_through_the_nat(lab: Gateways, tunnel_id: str, there: Namespace, site: Site) -> None:
    """Echoes, datagrams and streams between paris and a gateway that sees it as :data:`NAT_ADDRESS`, either way."""
    before = (await lab.paris.tunnel(tunnel_id)).counters
    assert await ping(lab.paris.namespace, site.outer_address) == 3, lab.paris.log()
    assert await ping(there, NAT_ADDRESS) == 3, lab.paris.log()
    paris = Talker(namespace=lab.paris.namespace, address=PARIS.outer_address, seen=NAT_ADDRESS)
    other = Talker(namespace=there, address=site.outer_address)
    for one, another in ((paris, other), (other, paris)):
        await talk.datagram(one, another, 7_000, 1_000)
        await talk.stream(one, another, 7_001)
    after = (await lab.paris.tunnel(tunnel_id)).counters
    assert after.bytes_out - before.bytes_out > talk.STREAM_OCTETS, "nothing of it went in the clear"
    assert after.bytes_in - before.bytes_in > talk.STREAM_OCTETS


def _esp_in_udp(frames: list[bytes]) -> list[bytes]:
    """Leave out IKE, which begins with four octets of zero, and keepalives, which are one octet (RFC 3948)."""
    return [frame for frame in frames if frame[42:46] != bytes(4) and frame[38:40] != (8 + 1).to_bytes(2, "big")]


async def nat_moves_the_peer(lab: Gateways) -> None:
    """A NAT between begins to give paris another port: lyon hears of it from the kernel and answers there."""
    before = await lab.lyon.tunnel(TUNNEL_LYON)
    _rewrite_ports(lab)
    wire = Wire(lab.lyon.namespace, "wan")
    try:
        assert await lab.ping(PARIS, LYON) == 3
        await lab.lyon.until(TUNNEL_LYON, lambda status: _remote_port(status) == NAT_PORT)
        # Both SAs: status runs ahead of them.
        xfrm = partial(lab.lyon.namespace.run, "ip", "xfrm", "state")
        assert await _until(lambda: xfrm().count(f"sport {NAT_PORT}") == xfrm().count(f"dport {NAT_PORT}") == 1)
        wire.frames()
        assert await lab.ping(PARIS, LYON) == 3, lab.lyon.log()
        frames = wire.frames()
    finally:
        wire.close()
    assert [frame[36:38] for frame in _esp_in_udp(frames)] == [NAT_PORT.to_bytes(2, "big")] * 3, lab.lyon.log()
    after = await lab.lyon.tunnel(TUNNEL_LYON)
    assert _spis(after) == _spis(before), "moved, not negotiated anew"
    assert after.counters.packets_in == before.counters.packets_in + 6
    await _agree(lab.lyon, TUNNEL_LYON)


def _rewrite_ports(lab: Gateways) -> None:
    """Let the router towards lyon change paris's port 4500 to another, and back in what returns."""
    router = partial(lab.network.internet.run, "tc")
    router("qdisc", "add", "dev", "to-lyon", "clsact")
    for hook, end, was, becomes in (("egress", "src", 4500, NAT_PORT), ("ingress", "dst", NAT_PORT, 4500)):
        router(
            "filter", "add", "dev", "to-lyon", hook, "protocol", "ip", "flower", "ip_proto", "udp",
            f"{end}_ip", PARIS.outer_address, f"{end}_port", str(was),
            "action", "pedit", "ex", "munge", "udp", f"{end[0]}port", "set", str(becomes), "pipe",
            "action", "csum", "udp",
        )  # fmt: skip


def _remote_port(status: TunnelStatus) -> int:
    return int(status.ike_sas[0].remote.rpartition(":")[2]) if status.ike_sas else 0


async def flushed_by_somebody(lab: Gateways) -> None:
    """Our SAs vanish behind our back: the daemon is told and negotiates new ones."""
    old = set(lab.paris.kernel_sas())
    lab.paris.namespace.run("ip", "xfrm", "policy", "flush")
    lab.paris.namespace.run("ip", "xfrm", "state", "flush")
    await lab.paris.until(TUNNEL_LYON, partial(_rekeyed, old=old))
    await lab.lyon.until(TUNNEL_LYON, partial(_rekeyed, old=old))
    assert await lab.ping(PARIS, LYON) == 3, lab.paris.log()
    assert lab.paris.client is not None
    page = await lab.paris.client.call("events", {"after": 0, "boot_id": None})
    repairs = [event for event in page["events"] if event["code"] == "agent.repaired"]
    assert {event["tunnel_id"] for event in repairs} == {TUNNEL_LYON}, page["events"]


async def killed_and_started_again(lab: Gateways) -> None:
    old = set(lab.paris.kernel_sas())
    assert old
    lab.paris.kill()
    assert set(lab.paris.kernel_sas()) == old, "the kernel goes on without the daemon"
    await lab.paris.start()
    await lab.paris.until(TUNNEL_LYON, partial(_rekeyed, old=old))
    await lab.lyon.until(TUNNEL_LYON, partial(_rekeyed, old=old))
    assert not old & set(lab.paris.kernel_sas())
    assert await lab.ping(PARIS, LYON) == 3, lab.paris.log()


async def strongswan_with_kernel_netlink(lab: Gateways) -> dict[str, int]:
    await asyncio.to_thread(lab.strongswan.start)
    await asyncio.to_thread(lab.strongswan.wait_ready)
    await lab.paris.act("initiate", TUNNEL_EXTRANET)
    up = await lab.paris.until_up(TUNNEL_EXTRANET)
    assert await lab.ping(PARIS, EXTRANET) == 3, lab.paris.log()
    assert await lab.ping(EXTRANET, PARIS) == 3
    totals = await _agree(lab.paris, TUNNEL_EXTRANET)
    assert totals["packets_in"] == 6
    theirs = kernel_sas(lab.extranet)
    assert {spi: theirs[spi] for spi in _spis(up)} == {spi: lab.paris.kernel_sas()[spi] for spi in _spis(up)}
    return totals


async def strongswan_rekeys(lab: Gateways) -> None:
    old = _spis(await lab.paris.tunnel(TUNNEL_EXTRANET))
    await asyncio.to_thread(lab.strongswan.swanctl, "--rekey", "--child", "lan")
    await lab.paris.until(TUNNEL_EXTRANET, partial(_rekeyed, old=old))
    assert await lab.ping(PARIS, EXTRANET) == 3, lab.paris.log()
    old = _spis(await lab.paris.tunnel(TUNNEL_EXTRANET))
    await lab.paris.act("rekey-child", TUNNEL_EXTRANET)
    await lab.paris.until(TUNNEL_EXTRANET, partial(_rekeyed, old=old))
    assert await lab.ping(EXTRANET, PARIS) == 3, lab.paris.log()


async def strongswan_hosts_through_a_nat(lab: Gateways) -> None:
    """RFC 7296 section 2.23.1 and RFC 3947 section 5.2 as others have them: strongSwan answers, then asks itself."""
    plain = lab.paris.document.tunnels[1]
    _rewrite_addresses(lab, "to-extranet")
    (child,) = plain.children
    wanted = replace(KINDS[0].child(child, PARIS.outer_address, EXTRANET.outer_address), proposals=child.proposals)
    suite = IkeProposal(
        encryption="aes-128-cbc", integrity="hmac-sha2-256-128", prf="prf-hmac-sha2-256", group="group-14"
    )
    first = replace(plain, children=(wanted,), version=IkeVersion.V1, ike=replace(plain.ike, proposals=(suite,)))
    for tunnel in (replace(plain, children=(wanted,)), first):
        old = set(lab.paris.kernel_sas())
        await lab.paris.act("terminate", TUNNEL_EXTRANET)
        await lab.paris.change(TUNNEL_EXTRANET, lambda _, now=tunnel: now)  # type: ignore[misc]
        await lab.paris.act("initiate", TUNNEL_EXTRANET)
        for theirs in (False, True):
            if theirs:
                await asyncio.to_thread(lab.strongswan.swanctl, "--rekey", "--child", "hosts")
            status = await lab.paris.until(TUNNEL_EXTRANET, partial(_has_new, old=old))
            assert {sa.mode for sa in status.children[0].sas} == {"transport"}
            assert await _kernel_holds(lab.paris, wanted=_spis(status) - old, gone=set())
            old |= _spis(status)
            await _talk_through_the_nat(lab, TUNNEL_EXTRANET, lab.extranet, EXTRANET)
    lab.network.internet.run("tc", "qdisc", "del", "dev", "to-extranet", "clsact")
    await lab.paris.change(TUNNEL_EXTRANET, lambda _: plain)


async def agentd_makes_the_routes(lab: Gateways) -> dict[str, Any]:
    """In kernel mode a route out of the outer interface is where the policy lookup starts from."""
    paris, ip = lab.paris, lab.paris.namespace.ip
    ip("route", "delete", LYON.lan_network)
    assert await lab.ping(PARIS, LYON, 1) == 0, "no route, no tunnel"
    agentd = await paris.start_agentd()
    await _until_route(paris, there=True)
    shown = ip("route", "show", "proto", "86")
    assert f"{LYON.lan_network} via {PARIS.router_address} dev wan" in shown, shown
    assert await lab.ping(PARIS, LYON) == 3, paris.log()
    status = await agentd.call("status", {})
    tunnel = next(each for each in status["tunnels"] if each["id"] == TUNNEL_LYON)
    assert tunnel["routes"] == [LYON.lan_network]
    assert tunnel["interface"] is None
    assert status["data_plane"]["driver"] == "kernel"
    ip("route", "delete", LYON.lan_network)
    await _until_route(paris, there=True)
    await paris.act("terminate", TUNNEL_LYON)
    await _until_route(paris, there=False)
    await paris.act("initiate", TUNNEL_LYON)
    await _until_route(paris, there=True)
    assert await lab.ping(LYON, PARIS) == 3, paris.log()
    return {"problems": status["problems"]}


async def _until_route(gateway: Gateway, *, there: bool) -> None:
    for _ in range(200):
        if (LYON.lan_network in gateway.namespace.ip("route", "show", "proto", "86")) is there:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"route {'missing' if there else 'still there'}\n{gateway.log()}")


async def terminate_leaves_nothing(lab: Gateways) -> None:
    old = set(lab.lyon.kernel_sas())
    await lab.paris.act("terminate", TUNNEL_LYON)
    assert await _kernel_holds(lab.lyon, wanted=set(), gone=old), lab.lyon.log()
    lab.paris.stop()
    lab.lyon.stop()
    for gateway in (lab.paris, lab.lyon):
        assert gateway.kernel_sas() == {}
        assert gateway.namespace.run("ip", "xfrm", "policy").count("tmpl") == 0
    lab.strongswan.stop()


Check = Callable[[Gateways], Awaitable[Any]]
CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        auto_chooses_the_kernel, pings_between_hosts, child_rekey_counts_on, ike_rekey_keeps_the_children,
        every_kind_of_child, an_interface_of_its_own, forced_into_udp, hosts_in_udp, hosts_through_a_nat,
        nat_moves_the_peer, flushed_by_somebody, killed_and_started_again, strongswan_with_kernel_netlink,
        strongswan_rekeys, strongswan_hosts_through_a_nat, agentd_makes_the_routes, terminate_leaves_nothing,
    )
}  # fmt: skip


if __name__ == "__main__":
    lab = Gateways()
    lab.build()
    report({name: partial(CHECKS[name], lab) for name in sys.argv[1:] or CHECKS})
