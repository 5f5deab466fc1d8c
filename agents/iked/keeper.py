"""Keeps a data plane under the engine: chooses it, opens it, follows what it says, opens it again when it is lost.

A document becomes effective here: sockets and links first, then the engine, so that no message goes out before its
answer could be heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from functools import partial

from agents.contract.config import GatewayDocument, Tunnel
from agents.contract.manual import ManualTunnel
from agents.contract.status import DataPlaneStatus
from agents.dataplane.base import DataplaneError, Lost
from agents.ike.outputs import Report
from agents.iked.addresses import own_addresses
from agents.iked.links import linked, manual_link, tables, tunnel_link
from agents.iked.planes import Plane, Planes
from agents.iked.runtime import Runtime
from agents.iked.userspace_driver import UserspaceDriver

_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 1.0
_GRACE_S = 3.0
_POLL_S = 5.0
_QUICK_POLL_S = 1.0
_CONFIGURE_PATIENCE_S = 5.0

_log = logging.getLogger(__name__)


class Keeper:
    """Follows the wanted document; :meth:`run` is the loop, :meth:`configure` changes what is wanted."""

    def __init__(self, runtime: Runtime, planes: Planes) -> None:
        self._runtime = runtime
        self._planes = planes
        self._plane: Plane | None = None
        self._wanted: GatewayDocument | None = None
        self._poked = asyncio.Event()
        self._settled = asyncio.Event()
        self._applying = asyncio.Lock()
        self._links = runtime.links
        self._leaving: frozenset[str] = frozenset()
        self._missing_since: float | None = None

    async def configure(self, document: GatewayDocument) -> None:
        """Take a document over; returns when it is in force, or waits for a data plane that is slow to come."""
        before, self._wanted = self._wanted, document
        if self._plane is not None and before is not None and before.data_plane is document.data_plane:
            await self._apply(self._plane)
            return
        self._settled.clear()
        self._poked.set()
        if self._plane is not None:
            await _close(self._plane)  # ends the notices that run() follows
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CONFIGURE_PATIENCE_S):
                await self._settled.wait()

    async def run(self) -> None:
        """Choose, open and follow a data plane, until cancelled."""
        delay_s = _FIRST_RETRY_S
        while True:
            if self._wanted is None:
                await self._poke(None)
                continue
            plane = await self._planes.choose(self._wanted.data_plane)
            refusal = await self._open(plane)
            if refusal:
                self._go_without(plane, refusal)
                await self._poke(delay_s)
                delay_s = min(2 * delay_s, _LONGEST_RETRY_S)
                continue
            delay_s, self._missing_since = _FIRST_RETRY_S, None
            await self._follow(plane)

    async def poll(self) -> None:
        """Read the traffic counters now and then, until cancelled; often where liveness checks are frequent."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._poll_interval_s())
            if self._leaving:
                await self._leave()
            self._runtime.manual.try_again()
            if len(self._runtime.traffic):
                began = loop.time()
                await self._runtime.poll_traffic()
                # A listing of very many SAs takes its time: spend no more than a twentieth of it on that.
                await asyncio.sleep(20 * (loop.time() - began))
            else:
                self._runtime.tell_rejections()

    async def close(self) -> None:
        """Take out what the data plane holds for us."""
        if self._plane is not None:
            plane, self._plane = self._plane, None
            await _close(plane)

    async def _poke(self, timeout_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._poked.wait()
        self._poked.clear()

    async def _open(self, plane: Plane) -> str:
        """Return an empty text when the plane is open, else why it is not."""
        if not plane.features.available:
            return plane.reason
        if isinstance(plane.driver, UserspaceDriver):
            plane.driver.on_ike = self._runtime.receive_from_espd
            plane.driver.on_too_big = self._runtime.too_big_for_espd
        try:
            await plane.driver.open()
            if plane.features.owns_port_4500 and isinstance(plane.driver, UserspaceDriver) and self._wanted is not None:
                await plane.driver.bind(own_addresses(self._wanted))
        except DataplaneError as error:
            await _close(plane)
            return f"{plane.features.driver} cannot be opened: {error.reason}"
        return ""

    def _go_without(self, plane: Plane, refusal: str) -> None:
        """No data plane now. A kernel without ESP stays one, ``espd`` may be starting: after a while that is over too.

        Then the engine works without: tunnels are shown, and each says why it does not come up.
        """
        runtime, now = self._runtime, asyncio.get_running_loop().time()
        if self._missing_since is None:
            self._missing_since = now
            _log.warning("no data plane: %s", refusal)
        runtime.data_plane = DataPlaneStatus(driver=None, reason=refusal)
        runtime.problems["data plane"] = [refusal]
        may_come = isinstance(plane.driver, UserspaceDriver)
        if may_come and now - self._missing_since < _GRACE_S:
            return
        # Installations wait for an espd that may come; failing them would only make the engine pause longer.
        runtime.effects.detach(refusal, for_good=not may_come)
        if self._wanted is not None and self._wanted is not runtime.document:
            # Whatever cannot be bound here is told once there is a data plane.
            # Port 4500 is left to an espd that may come; where none will, IKE itself speaks there.
            runtime.sockets.bind(own_addresses(self._wanted), port_4500=not may_come, kernel_esp=False)
            runtime.configure(self._wanted)
        self._settled.set()
        runtime.changed()

    async def _follow(self, plane: Plane) -> None:
        """Use an open plane until it ends; a loss is told to the engine when the plane is back, or soon after."""
        runtime = self._runtime
        self._plane = plane
        self._links.clear()
        runtime.userspace = plane.driver if isinstance(plane.driver, UserspaceDriver) else None
        self._announce(plane)
        await self._apply(plane)
        self._settled.set()
        lost = ""
        async for notice in plane.driver.notices():
            if not isinstance(notice, Lost):
                runtime.notice(notice)
            elif isinstance(plane.driver, UserspaceDriver):
                lost = notice.reason
            else:
                runtime.dataplane_lost()
        self._plane = None
        runtime.effects.detach(lost or "the data plane is being changed", for_good=False)
        if not lost:
            runtime.traffic.ipsec.plane_changed()
        else:
            component = {"component": "espd"}
            runtime.report(Report(code="agent.component-lost", message=f"espd: {lost}", attributes=component))
            runtime.problems["data plane"] = [lost]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_S):
                    await self._until_available()
        # With the plane back at once, its replacement SAs can be installed as soon as they are negotiated.
        runtime.dataplane_lost()

    async def _until_available(self) -> None:
        delay_s = _FIRST_RETRY_S
        while self._wanted is not None:
            if (await self._planes.choose(self._wanted.data_plane)).features.available:
                return
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, 1.0)

    def _announce(self, plane: Plane) -> None:
        runtime = self._runtime
        status = DataPlaneStatus(driver=plane.features.driver, reason=plane.reason)
        back = "data plane" in runtime.problems and runtime.document is not None
        if runtime.data_plane != status:
            runtime.report(Report(code="agent.data-plane", message=plane.reason))
        if back and plane.features.driver == "userspace":
            component = {"component": "espd"}
            runtime.report(Report(code="agent.component-back", message="espd is back", attributes=component))
        runtime.data_plane = status
        runtime.problems.pop("data plane", None)

    async def _apply(self, plane: Plane) -> None:
        """Bring sockets, links and engine to the wanted document."""
        async with self._applying:
            document = self._wanted
            if document is None or self._plane is not plane:
                return
            runtime = self._runtime
            problems = await self._bind(plane, document)
            for tunnel in linked(document):
                problems += await self._open_link(plane, tunnel, tables(document.contexts))
            runtime.effects.attach(plane.driver)  # what waited for it finds its links
            runtime.engine.set_data_plane(plane.features, not plane.features.plain_esp)
            runtime.configure(document)
            self._close_links(plane, document)
            for problem in problems:
                _log.warning("%s", problem)
            runtime.problems.pop("configuration", None)
            if problems:
                runtime.problems["configuration"] = problems

    async def _bind(self, plane: Plane, document: GatewayDocument) -> list[str]:
        """Hold the document's addresses, and those that an IKE SA uses to say that it ends; returns what went wrong."""
        runtime, addresses = self._runtime, own_addresses(document)
        self._leaving = runtime.engine.local_addresses - addresses
        addresses |= self._leaving
        port_4500 = not plane.features.owns_port_4500
        problems = runtime.sockets.bind(addresses, port_4500=port_4500, kernel_esp=plane.kernel_esp)
        if runtime.userspace is not None and not port_4500:
            try:
                await runtime.userspace.bind(addresses)
            except DataplaneError as error:
                problems.append(str(error))
        return problems

    async def _leave(self) -> None:
        """Give back addresses that no tunnel names and no IKE SA uses any more."""
        async with self._applying:
            gone = self._leaving - self._runtime.engine.local_addresses
            if gone and self._plane is not None and self._wanted is not None:
                for problem in await self._bind(self._plane, self._wanted):
                    _log.warning("%s", problem)

    async def _open_link(self, plane: Plane, tunnel: Tunnel | ManualTunnel, contexts: Mapping[str, int]) -> list[str]:
        link = tunnel_link(tunnel, contexts) if isinstance(tunnel, Tunnel) else manual_link(tunnel, contexts)
        if self._links.get(tunnel.id) == link:
            return []
        try:
            await plane.driver.open_link(link)
        except DataplaneError as error:
            return [f"{tunnel.name}: {error}"]
        self._links[tunnel.id] = link
        return []

    def _close_links(self, plane: Plane, document: GatewayDocument) -> None:
        """Close the links of tunnels that are gone, after their SAs."""
        kept = {tunnel.id for tunnel in linked(document)}
        for tunnel_id in self._links.keys() - kept:
            del self._links[tunnel_id]
            self._runtime.effects.enqueue(tunnel_id, partial(self._close_link, plane, tunnel_id))

    async def _close_link(self, plane: Plane, tunnel_id: str) -> None:
        try:
            await plane.driver.close_link(tunnel_id)
        except DataplaneError as error:
            _log.warning("%s", error)

    def _poll_interval_s(self) -> float:
        document = self._runtime.document
        if document is None:
            return _POLL_S
        intervals = [tunnel.ike.dpd_interval_s for tunnel in document.tunnels if tunnel.ike.dpd_interval_s]
        return max(_QUICK_POLL_S, min([_POLL_S, *(interval / 4 for interval in intervals)]))


async def _close(plane: Plane) -> None:
    try:
        await plane.driver.close()
    except DataplaneError as error:
        _log.warning("the data plane was not closed cleanly: %s", error)
