"""One run of one cell in one role: both ends' handles, and what the steps of a script are made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agents.contract.codec import from_plain
from agents.contract.status import TunnelState, TunnelStatus
from deploy.lab.netns import LabError, Namespace
from deploy.lab.vici import Message, Vici
from tests.interop import views
from tests.interop.cells import CONNECTION, INITIATOR, Cell, Place, empty, our_document, their_connection, tunnel_id
from tests.interop.lab import Lab
from tests.interop.proofs import publish
from tests.interop.rig import OurGateway, ping

_POLL_S = 0.05


class Session:
    """The tunnel of a cell. Raises AssertionError or LabError where the cell does not go as it should."""

    def __init__(self, lab: Lab, cell: Cell, role: str, place: Place, number: int) -> None:
        self.lab = lab
        self.cell = cell
        self.role = role
        self.place = place
        self.tunnel_id = tunnel_id(number)
        self.document = our_document(cell, role, place, number)
        self.connection = their_connection(cell, place)
        self.expected_nets = {net.name for net in cell.nets}

    @property
    def ours(self) -> OurGateway:
        """Our daemons."""
        return self.lab.ours

    @property
    def vici(self) -> Vici:
        """strongSwan's control connection."""
        return self.lab.vici

    @property
    def initiator(self) -> bool:
        """Whether our side is to begin."""
        return self.role == INITIATOR

    async def prepare(self) -> None:
        """Configure both ends, whoever answers first."""
        if not self.initiator:
            await self.configure_ours()
        await self.load_theirs()
        if self.initiator:
            await self.configure_ours()

    async def configure_ours(self) -> None:
        """Give our daemon its document and route as ``agentd`` would."""
        if self.cell.proof is not None:
            self.cell.proof.load_ours(self.ours)
        await self.ours.load(self.document)
        for net in self.cell.nets:
            for network, source in net.routes():
                self.ours.route_into(self.tunnel_id, network, source)

    async def load_theirs(self) -> None:
        """Give strongSwan secrets and connection."""
        if self.cell.proof is not None:
            if self.cell.lab == "direct":
                publish(self.lab.revocation, self.cell.proof)
            await asyncio.to_thread(self.cell.proof.load_theirs, self.vici)
        psk = self.lab.psk if self.cell.their_psk is None else self.cell.their_psk
        await self.request("load-shared", {"id": "psk", "type": "IKE", "data": psk, "owners": self.cell.their_owners})
        for name, key in (self.cell.ppks if self.cell.their_ppks is None else self.cell.their_ppks).items():
            await self.request("load-shared", {"id": f"ppk-{name}", "type": "PPK", "data": key, "owners": [name]})
        await self.request("load-conn", {CONNECTION: self.connection})

    async def bring_up(self, limit_s: float = 25.0) -> None:
        """Let the initiator begin, where that does not happen by itself."""
        if not self.initiator:
            for net in self.cell.nets:
                await self.initiate(net.name, limit_s)

    async def initiate(self, child: str, limit_s: float = 25.0) -> None:
        """Let strongSwan bring a child up; raises LabError where it fails or the limit comes first."""
        limit = {"timeout": str(round(limit_s * 1000)), "loglevel": "0"}
        await self.request("initiate", {"ike": CONNECTION, "child": child, **limit})

    async def request(self, command: str, message: Message | None = None) -> Message:
        """Ask strongSwan without stopping our own loop."""
        return await asyncio.to_thread(self.vici.request, command, message or {})

    async def status(self) -> TunnelStatus:
        """Return our tunnel's status."""
        answer = await self.ours.status()
        return next(from_plain(TunnelStatus, each) for each in answer["tunnels"] if each["id"] == self.tunnel_id)

    async def list_sas(self) -> list[Message]:
        """Return strongSwan's SAs."""
        return await asyncio.to_thread(self.vici.stream, "list-sas", "list-sa")

    async def until(self, accept: Callable[[TunnelStatus], bool], what: str, limit_s: float = 30.0) -> TunnelStatus:
        """Wait for a status of our tunnel that ``accept`` takes."""
        status = await self.status()
        try:
            async with asyncio.timeout(limit_s):
                while not accept(status):
                    await self.ours.changed(0.5)
                    status = await self.status()
        except TimeoutError:
            raise AssertionError(f"not reached: {what}; our tunnel is {describe(status)}") from None
        return status

    async def until_equal(self, limit_s: float = 30.0) -> TunnelStatus:
        """Wait until the tunnel is whole and both ends report the same SAs."""
        status = await self.until(self.is_whole, "up", limit_s)
        mine, other = views.ours(status), views.theirs(await self.list_sas())
        try:
            async with asyncio.timeout(limit_s):
                while mine != other or not self.is_whole(status):
                    await self.ours.changed(_POLL_S)
                    status = await self.status()
                    mine, other = views.ours(status), views.theirs(await self.list_sas())
        except TimeoutError:
            only = f"only ours {sorted(mine - other)}, only theirs {sorted(other - mine)}"
            raise AssertionError(f"SAs differ: {only}") from None
        return status

    def is_whole(self, status: TunnelStatus) -> bool:
        """Whether the tunnel is up with one IKE SA and one pair of SAs for each child."""
        nets = [child for child in status.children if child.name in self.expected_nets]
        return (
            status.state in (TunnelState.UP, TunnelState.PARTLY_UP)
            and len(status.ike_sas) == 1
            and status.ike_sas[0].state == "established"
            and all(len(child.sas) == 1 for child in nets)
        )

    async def carrying(self) -> TunnelStatus:
        """Compare the SAs and ping both ways through every child; returns our status."""
        await self.until_equal()
        before = _packets(await self.status())
        echoes = 0
        for net in self.cell.nets:
            if net.name in self.expected_nets:
                for here, there in net.ping_pairs():
                    await asyncio.to_thread(ping, self.lab.our_space, here, there, 1)
                    await asyncio.to_thread(ping, self.lab.their_space, there, here, 1)
                    echoes += 2
        status = await self.status()
        assert _packets(status) == (before[0] + echoes, before[1] + echoes), "pings did not go through the tunnel"
        return status

    async def changed_from(self, before: TunnelStatus, part: Callable[[TunnelStatus], Any], what: str) -> TunnelStatus:
        """Wait until ``part`` of the status is another and the tunnel whole again; compare and ping."""
        await self.until(lambda now: self.is_whole(now) and part(now) != part(before), what)
        return await self.carrying()

    async def act(self, verb: str) -> None:
        """Perform a verb on our tunnel."""
        await self.ours.act(verb, self.tunnel_id)

    async def until_theirs_gone(self, limit_s: float = 30.0) -> None:
        """Wait until strongSwan has no established SA left."""
        async with asyncio.timeout(limit_s):
            while views.theirs(await self.list_sas()):
                await asyncio.sleep(_POLL_S)  # several kinds of events end an SA; the list is what counts

    async def until_theirs_without(self, spis: frozenset[str], limit_s: float = 30.0) -> None:
        """Wait until strongSwan has none of these children left; what it begins before counts as failed with them."""
        async with asyncio.timeout(limit_s):
            while spis & views.their_children(await self.list_sas()):
                await asyncio.sleep(_POLL_S)

    async def events(self) -> list[str]:
        """Return our events of this run as ``code: message``."""
        return await self.ours.events_since(self.lab.first_event)

    async def until_event(self, code: str, limit_s: float = 30.0) -> str:
        """Wait for an event of ours whose code begins so."""
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    for event in await self.events():
                        if event.startswith(code):
                            return event
                    await self.ours.changed(0.3)
        except TimeoutError:
            raise AssertionError(f"no event {code}; there were {await self.events()}") from None

    async def end(self) -> None:
        """Take the tunnel away at our side, which must take it away at theirs; clear up whatever happened."""
        try:
            await self.ours.load(empty(self.document))
            await self.until_theirs_gone()
        except TimeoutError:
            raise LabError("strongSwan still has SAs long after our tunnel was taken away") from None
        await self.clear()

    async def clear(self) -> None:
        """Take from strongSwan whatever this run gave it; its lab ends where that was not enough."""
        for command, message in (
            ("terminate", {"ike": CONNECTION, "force": "yes", "timeout": "-1"}),
            ("unload-conn", {"name": CONNECTION}),
            ("clear-creds", {}),
            ("flush-certs", {}),
        ):
            try:
                await self.request(command, message)
            except LabError:
                continue  # nothing of that kind was left

    def space(self, side: str) -> Namespace:
        """Return the namespace of a side."""
        return self.lab.our_space if side == "ours" else self.lab.their_space


def _packets(status: TunnelStatus) -> tuple[int, int]:
    return status.counters.packets_in, status.counters.packets_out


def describe(status: TunnelStatus) -> str:
    """Return the few words of a status that matter in a failure."""
    reason = f", {status.reason.code}: {status.reason.message}" if status.reason else ""
    sas = f"{len(status.ike_sas)} IKE SAs, {sum(len(child.sas) for child in status.children)} child SAs"
    return f"{status.state.value} ({status.step}), {sas}{reason}"
