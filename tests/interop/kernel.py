"""The matrices of what only a kernel carries, and its lab: XFRM on both sides, so a machine with ESP (User Mode Linux).

The cells are :mod:`tests.interop.cells`' own; ``tests/kernel/guest/interop_cells.py`` runs them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agents.contract import algorithms
from agents.contract.config import DataPlane, GatewayDocument, IpsecProposal, Mode, SequenceNumbers
from agents.iked.effects import LINGER_S
from deploy.lab.netns import Namespace
from deploy.lab.strongswan import StrongSwan
from tests.interop import steps, words
from tests.interop.cells import ESP_GCM, Cell, Net, Step
from tests.interop.lab import OURS_6, THEIRS_6, Lab
from tests.interop.rig import OURS, THEIR_HOST, THEIRS, OurGateway
from tests.interop.session import Session

AXIS = "Kernel ESP, AH and IPComp on both sides"
AH_AXIS = "AH integrity"
_CBC = IpsecProposal(encryption="aes-256-cbc", integrity="hmac-sha2-256-128")
_LARGE_OCTETS = 1000
_PLAIN = Net()
COMPRESSED = ("proto comp",)


class KernelGateway(OurGateway):
    """``iked`` alone: the kernel carries what ``espd`` would."""

    def start(self, name: str) -> None:
        """Start ``iked``; there is no ``espd``."""
        if name != "espd":
            super().start(name)

    async def load(self, document: GatewayDocument) -> None:
        """Hand a document over, made one for the kernel."""
        await super().load(dataclasses.replace(document, data_plane=DataPlane.KERNEL))

    def route_into(self, tunnel_id: str, network: str, source: str) -> None:
        """Route one network out of the outer link, where the kernel's policies catch it."""
        if ":" not in network:
            self.namespace.ip("route", "replace", network, "via", THEIRS, "src", source)


class KernelLab(Lab):
    """A lab whose daemons both use the kernel's ESP."""

    def make_ours(self, directory: Path) -> OurGateway:
        """Return our daemon."""
        return KernelGateway(self.our_space, directory)

    def make_theirs(self, directory: Path) -> StrongSwan:
        """Return strongSwan with its kernel-netlink plugin; what it rekeyed goes at once, so that states count."""
        settings = {**self._settings, "delete_rekeyed_delay": "0", "delete_rekeyed": "yes"}
        return StrongSwan(self.their_space, directory, settings=settings, kernel_esp=True)

    @contextmanager
    def _network(self) -> Iterator[None]:
        with super()._network():
            self.their_space.ip("route", "add", "10.1.0.0/16", "via", OURS, "src", THEIR_HOST)
            yield


def cells() -> list[Cell]:
    """Return every cell; the quick ones are those of ``make test``."""
    return [*_kinds(), *_ah_algorithms()]


def _kinds() -> list[Cell]:
    transport, six = hosts(OURS, THEIRS), hosts(OURS_6, THEIRS_6)
    extended = {"sequence_numbers": SequenceNumbers.EXTENDED}
    return [
        cell("tunnel mode", shown=("proto esp", "mode tunnel")),
        cell("tunnel mode in UDP", shown=("encap type espinudp",), tunnel={"force_udp_encapsulation": True}),
        cell("transport mode", net=transport, shown=("mode transport",), quick=True),
        cell(
            "transport mode in UDP", net=transport, shown=("mode transport", "encap type espinudp"),
            tunnel={"force_udp_encapsulation": True},
        ),
        cell("transport mode over IPv6", net=six, outer=6, shown=("mode transport",)),
        cell("extended sequence numbers, AES-GCM", child=extended, theirs="aes128gcm16-esn", shown=("esn\n",)),
        cell(
            "extended sequence numbers, AES-CBC with HMAC", child=extended, esp=_CBC, theirs="aes256-sha256-esn",
            shown=("esn\n",), quick=True,
        ),
        ah_cell("AH, tunnel mode", "hmac-sha2-256-128", shown=("proto ah", "mode tunnel"), quick=True),
        ah_cell("AH, transport mode", "hmac-sha2-256-128", net=transport, shown=("proto ah", "mode transport")),
        ah_cell(
            "AH with extended sequence numbers", "hmac-sha2-256-128", child=extended, numbers="-esn",
            shown=("proto ah", "esn\n"),
        ),
        cell("IPComp, tunnel mode", child={"ipcomp": True}, peer={"ipcomp": "yes"}, shown=COMPRESSED, quick=True),
        cell(
            "IPComp, transport mode", net=transport, child={"ipcomp": True}, peer={"ipcomp": "yes"}, shown=COMPRESSED
        ),
        cell("IPComp offered to a peer that does not want it", child={"ipcomp": True}),
        dataclasses.replace(
            cell("ESP inside AH", esp=IpsecProposal(encryption="aes-128-gcm-16", ah_integrity="hmac-sha2-256-128")),
            their_esp="aes128gcm16", needs=("AH around ESP in one child",),
        ),
    ]  # fmt: skip


def _ah_algorithms() -> list[Cell]:
    return [
        dataclasses.replace(ah_cell(row.label, slug), axis=AH_AXIS, script=(), needs=(words.INTEGRITY[slug].name,))
        for slug, row in algorithms.INTEGRITY.items()
    ]


def hosts(ours: str, theirs: str) -> Net:
    """Return a child between the gateways themselves."""
    bits = 128 if ":" in ours else 32
    return Net(
        ours=(f"{ours}/{bits}",), theirs=(f"{theirs}/{bits}",), pings=((ours, theirs),),
        child={"mode": Mode.TRANSPORT}, peer={"mode": "transport"},
    )  # fmt: skip


def cell(
    name: str,
    *,
    net: Net = _PLAIN,
    child: Mapping[str, Any] | None = None,
    peer: Mapping[str, Any] | None = None,
    esp: IpsecProposal = ESP_GCM,
    theirs: str | None = None,
    shown: tuple[str, ...] = (),
    **more: Any,
) -> Cell:
    """Return a cell that rekeys and deletes by either side and looks at both kernels after each of these."""
    net = dataclasses.replace(net, child={**net.child, **(child or {})}, peer={**net.peer, **(peer or {})})
    look = both_kernels_show(*shown)
    script: tuple[Step, ...] = (
        look,
        steps.we_rekey_the_child,
        steps.they_rekey_the_child,
        look,
        steps.they_delete_the_child,
        steps.we_delete_the_child,
        look,
    )
    if "proto comp" in shown:
        script = (large_packets_get_smaller, *script)
    return Cell(axis=AXIS, name=name, nets=(net,), esp=(esp,), their_esp=theirs, script=script, limit_s=90, **more)


def ah_cell(name: str, slug: str, *, numbers: str = "", **more: Any) -> Cell:
    """Return a cell for AH alone: strongSwan has proposals of its own for that."""
    made = cell(name, esp=IpsecProposal(ah_integrity=slug), theirs="none", **more)
    ah = {"esp_proposals": [], "ah_proposals": [words.INTEGRITY[slug].keyword + numbers]}
    return dataclasses.replace(made, connection={"children": {made.nets[0].name: ah}})


async def _pair_only(space: Namespace, word: str) -> None:
    """Wait until a word stands in one pair of states: replaced inbound ones stay for a moment."""
    until = time.monotonic() + 2 * LINGER_S
    while (listing := space.run("ip", "-d", "xfrm", "state", "list", "nokeys")).count(word) != 2:
        assert time.monotonic() < until, f"{space.role}: {word!r} {listing.count(word)} times in {listing}"
        await asyncio.sleep(0.1)


def both_kernels_show(*wanted: str) -> Step:
    """Return a step: both kernels have one pair of states with these words, and no other state of the peers' SAs."""

    async def step(session: Session) -> None:
        for space in (session.lab.our_space, session.lab.their_space):
            for word in wanted:
                await _pair_only(space, word)

    return step


async def large_packets_get_smaller(session: Session) -> None:
    """What compresses is compressed, both ways."""
    ((here, there),) = session.cell.nets[0].ping_pairs()
    _ping_large(session.lab.our_space, here, there)
    for space in (session.lab.our_space, session.lab.their_space):
        listing = space.run("ip", "-s", "xfrm", "state", "list", "nokeys")
        assert listing.count("proto comp") == 2, listing
    before = (await session.status()).counters
    _ping_large(session.lab.their_space, there, here)
    after = (await session.status()).counters
    for was, now in ((before.bytes_in, after.bytes_in), (before.bytes_out, after.bytes_out)):
        assert 0 < now - was < _LARGE_OCTETS // 2, f"{now - was} octets for {_LARGE_OCTETS}"


def _ping_large(space: Namespace, source: str, target: str) -> None:
    out = space.run(
        "ping", "-n", "-q", "-c", "1", "-W", "5", "-s", str(_LARGE_OCTETS), "-p", "76", "-I", source, target,
        check=False,
    )  # fmt: skip
    assert "1 received" in out, out
