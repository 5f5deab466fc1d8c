"""Steps that change what is between the ends, or end one of them: addresses, translators, cookies, killed daemons."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator

from agents.contract.status import TunnelStatus
from agents.ike.engine import Engine
from agents.ike.outputs import Transmit
from agents.iked.entropy import OsEntropy
from deploy.lab.netns import Namespace, run
from deploy.lab.vici import Message
from tests.interop.cells import INITIATOR, our_document
from tests.interop.lab import OUR_SECOND, THEIR_SECOND
from tests.interop.rig import OURS, THEIRS, ping
from tests.interop.session import Session
from tests.interop.steps import ike_spis

_MAPPING_LIVES_S = 1
_SEND = """
import base64, json, socket, sys
source, target, datagrams = json.load(sys.stdin)
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.bind((source, 1500))
for each in datagrams:
    sender.sendto(base64.b64decode(each), (target, 500))
"""


async def our_address_moves(session: Session) -> None:
    """192.0.2.1 leaves our wan; 192.0.2.11 stays."""
    before = await session.status()
    with _without(session.lab.our_space, OURS):
        await session.until(lambda now: _at(now, "local", OUR_SECOND), "our end moved")
        await _until_theirs(session, "remote-host", OUR_SECOND)
        await _settle(session)
        await session.carrying()
        assert ike_spis(await session.status()) == ike_spis(before), "a new IKE SA instead of a moved one"


async def their_address_moves(session: Session) -> None:
    """192.0.2.2 leaves the peer's wan; 192.0.2.12 stays."""
    before = await session.status()
    with _without(session.lab.their_space, THEIRS):
        await session.until(lambda now: _at(now, "remote", THEIR_SECOND), "their end moved", 30)
        await _until_theirs(session, "local-host", THEIR_SECOND)
        await _settle(session)
        await session.carrying()
        assert ike_spis(await session.status()) == ike_spis(before), "a new IKE SA instead of a moved one"


async def _settle(session: Session) -> None:
    """Send a few packets that may be lost: kernel-libipsec cannot move an SA, so the peer makes another."""
    (here, there), *_ = session.cell.nets[0].ping_pairs()
    await asyncio.to_thread(session.lab.their_space.run, "ping", "-c", "3", "-i", "0.2", "-I", there, here, check=False)


def _at(status: TunnelStatus, end: str, address: str) -> bool:
    return any(getattr(sa, end).rpartition(":")[0] == address for sa in status.ike_sas)


async def _until_theirs(session: Session, key: str, value: str) -> None:
    async with asyncio.timeout(60):
        while not any(_has(message, key, value) for message in await session.list_sas()):
            await session.ours.changed(0.1)


def _has(message: Message, key: str, value: str) -> bool:
    return any(isinstance(section, dict) and section.get(key) == value for section in message.values())


@contextlib.contextmanager
def _without(namespace: Namespace, address: str) -> Iterator[None]:
    namespace.ip("address", "delete", f"{address}/24", "dev", "wan")
    try:
        yield
    finally:
        namespace.ip("address", "add", f"{address}/24", "dev", "wan")


async def the_peer_has_looked_once(session: Session) -> None:
    """strongSwan compares what its liveness checks find with what the first one found, so that must be over."""
    await asyncio.sleep(float(session.cell.connection["dpd_delay"].removesuffix("s")) + 0.3)  # it tells nobody


async def mapping_in_front_of_the_peer_changes(session: Session) -> None:
    """The translator forgets the peer's mapping; its next ESP packet comes from another port."""
    router, (sa,) = session.lab.router, (await session.status()).ike_sas
    names = ("net.netfilter.nf_conntrack_udp_timeout", "net.netfilter.nf_conntrack_udp_timeout_stream")
    for name in names:
        router.sysctl(name, _MAPPING_LIVES_S)
    try:
        (here, there), *_ = session.cell.nets[0].ping_pairs()
        await asyncio.to_thread(ping, session.lab.their_space, there, here, 1)
        await asyncio.sleep(_MAPPING_LIVES_S + 1)  # the kernel tells nobody when it forgets
        await _settle(session)  # the answers to the first ones may still go where the peer was
    finally:
        for name in names:
            router.sysctl(name, 120)
    await session.until(lambda now: now.ike_sas[0].remote != sa.remote, "the new mapping")
    await session.carrying()


async def the_peer_is_killed(session: Session) -> None:
    """strongSwan ends by SIGKILL; our dead peer detection has to find out."""
    pid = session.lab.theirs.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await session.until(lambda now: not session.is_whole(now), "found dead", 40)


async def the_peer_comes_back_and_we_restart(session: Session) -> None:
    """``restart``: we negotiate anew without being asked."""
    before = await session.status()
    await session.lab.restart_theirs()
    await session.load_theirs()
    await session.changed_from(before, ike_spis, "up again with the peer that came back")


async def the_tunnel_is_cleared_until_asked_for(session: Session) -> None:
    """``clear``: nothing is left here, and the peer or an operator begins again."""
    await session.until(lambda now: not now.ike_sas, "cleared", 40)
    await session.lab.restart_theirs()
    await session.load_theirs()
    if session.initiator:
        await session.act("initiate")
    else:
        await session.bring_up()
    await session.carrying()


async def we_are_killed_and_the_peer_clears(session: Session) -> None:
    """Our IKE daemon ends by SIGKILL; strongSwan's detection clears the SAs; we come back."""
    await session.ours.disconnect()
    session.ours.stop("iked", signal.SIGKILL)
    await session.until_theirs_gone(20)
    await session.lab.restart_ours()
    await session.configure_ours()
    await session.bring_up()
    await session.carrying()


def _half_open(session: Session, count: int) -> list[str]:
    """Return first requests of as many negotiations, for whichever end is to hold them half-open."""
    datagrams = []
    document = our_document(session.cell, INITIATOR, session.place, 1)
    for _ in range(count):
        engine = Engine(OsEntropy())
        engine.configure(document, time.monotonic())
        sent = [each for each in engine.take_outputs() if isinstance(each, Transmit)]
        datagrams.append(base64.b64encode(sent[0].datagram).decode())
    return datagrams


async def the_peer_wants_a_cookie(session: Session) -> None:
    """One negotiation that nobody goes on with is all that strongSwan's threshold here bears."""
    await session.load_theirs()
    await _send(session.lab.our_space, OURS, THEIRS, _half_open(session, 1))
    await session.configure_ours()
    await session.carrying()
    await session.until_event("ike.cookie-required")


async def we_want_a_cookie(session: Session) -> None:
    """So many negotiations from the peer's address that ours asks for cookies."""
    await session.prepare()
    await _send(session.lab.their_space, THEIRS, OURS, _half_open(session, 40))
    await session.until_event("ike.cookie-demanded")
    await session.bring_up()
    await session.carrying()


async def _send(namespace: Namespace, source: str, target: str, datagrams: list[str]) -> None:
    command = namespace.command([sys.executable, "-c", _SEND])
    await asyncio.to_thread(run, *command, input_text=json.dumps([source, target, datagrams]))
