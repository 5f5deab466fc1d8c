"""Dynamic routing over the userspace data plane: FRR's OSPF at both ends of a tunnel, over the TUN at each."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agents.contract.carriage import Attachment, Carriage
from agents.contract.config import ConnectionType, Tunnel
from agents.iked.links import link_name
from deploy.lab.frr import Frr
from deploy.lab.netns import Namespace
from tests.agentd.gateways import eventually
from tests.iked.cast import document, psk, tunnel
from tests.interop.rig import OUR_HOST, OURS, THEIR_HOST, THEIRS, OurGateway, ping, two_namespaces

pytestmark = [pytest.mark.lab, pytest.mark.needs("frr"), pytest.mark.timeout(300)]

EVERYTHING = "0.0.0.0/0"
CIRCUIT = Carriage(attachment=Attachment.INTERFACE, queues=4)
INITIATOR, RESPONDER = ConnectionType.INITIATOR_ONLY, ConnectionType.RESPONDER_ONLY
OUR_LINK, THEIR_LINK = "10.99.1.1/30", "10.99.1.2/30"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A gateway with a router beside it, and the host at the other end that the router is to learn of."""

    gateway: OurGateway
    link: str
    router: Frr
    other_host: str

    @property
    def adjacent(self) -> bool:
        """Whether the router and its only neighbour have the same picture of the network (RFC 2328 section 10.1)."""
        return [(name, state.partition("/")[0]) for name, state in self.router.neighbours().items()] == [
            (self.link, "Full")
        ]

    @property
    def routed(self) -> bool:
        """Whether OSPF has laid the route to the other host, into the tunnel."""
        shown = self.gateway.namespace.ip("route", "show", self.other_host, "proto", "ospf")
        return f" dev {self.link} " in shown


def circuit(name: str, here: str, there: str, connection_type: ConnectionType) -> Tunnel:
    """A tunnel for whatever is routed into it, which asks for no routes itself."""
    made = tunnel(name, here, there, local_ts=EVERYTHING, remote_ts=EVERYTHING, connection_type=connection_type)
    return dataclasses.replace(made, add_routes=False, carriage=CIRCUIT)


@contextlib.asynccontextmanager
async def routed_sites(spaces: tuple[Namespace, Namespace], directory: Path) -> AsyncIterator[tuple[Site, Site]]:
    """Run our daemons and a router in both namespaces, the tunnel between them up."""
    one, other = circuit("there", OURS, THEIRS, INITIATOR), circuit("here", THEIRS, OURS, RESPONDER)
    async with contextlib.AsyncExitStack() as stack:
        ours = await stack.enter_async_context(OurGateway(spaces[0], directory / "ours"))
        theirs = await stack.enter_async_context(OurGateway(spaces[1], directory / "theirs", THEIR_HOST))
        await theirs.load(document("theirs", [other], [psk(THEIRS, OURS)]))
        await ours.load(document("ours", [one], [psk(OURS, THEIRS)]))
        sites = []
        for gateway, made, address, other_host in (
            (ours, one, OUR_LINK, THEIR_HOST),
            (theirs, other, THEIR_LINK, OUR_HOST),
        ):
            await gateway.until_up()
            link = link_name(made.id)
            # Not below pytest's own directory, which only its user may enter: FRR has one of its own.
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vc-frr-")))
            router = Frr(gateway.namespace, place, gateway.inner_address, [link], {link: address})
            stack.callback(router.stop)
            await asyncio.to_thread(router.start)
            sites.append(Site(gateway=gateway, link=link, router=router, other_host=other_host))
        yield sites[0], sites[1]


async def until(condition: Callable[[], bool], *sites: Site) -> None:
    """Wait until this holds; where it does not, what the routers wrote says why."""
    try:
        await asyncio.to_thread(eventually, condition)
    except AssertionError:
        raise AssertionError("\n".join(site.router.log()[-3_000:] for site in sites)) from None


async def test_routers_are_neighbours_through_the_tunnel_and_again_after_its_data_plane_died(tmp_path: Path) -> None:
    with two_namespaces("ospf") as spaces:
        async with routed_sites(spaces, tmp_path) as (ours, theirs):
            both = ours, theirs
            await until(lambda: all(site.adjacent and site.routed for site in both), *both)
            await asyncio.to_thread(ping, spaces[0], OUR_HOST, THEIR_HOST)
            first = await ours.gateway.until_up()
            highest, *_, lowest = first.queues
            assert highest.packets > 0, "OSPF marks its packets CS6"
            assert lowest.packets == 3, "the echo requests"

            ours.gateway.stop("espd", signal.SIGKILL)
            assert not ours.routed, "the route went with the TUN"
            await until(lambda: not theirs.routed, *both)

            ours.gateway.start("espd")
            await until(lambda: all(site.adjacent and site.routed for site in both), *both)
            await asyncio.to_thread(ping, spaces[0], OUR_HOST, THEIR_HOST)
            second = await ours.gateway.until_up()
            assert second.children[0].sas[0].spi_in != first.children[0].sas[0].spi_in
