"""The daemon's middle: inputs to the engine, its outputs performed, its deadline kept.

Every input goes in by a method of :class:`Runtime` and is followed by :meth:`Runtime._after_input`, which empties the
engine's outputs before anything else happens. What the data plane does over time is in :mod:`agents.iked.keeper`, the
control socket in :mod:`agents.iked.control`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, assert_never

from agents import __version__
from agents.contract.actions import Verb
from agents.contract.carriage import Attachment
from agents.contract.config import GatewayDocument
from agents.contract.psk import PresharedKeys
from agents.contract.status import (
    ComponentHealth,
    DataPlaneStatus,
    ExchangeCounters,
    NamedCount,
    QueueStatus,
    TunnelStatus,
)
from agents.dataplane.base import Acquired, DataplaneError, Expired, Mapped, Notice, Rejected, Repaired, TunnelLink
from agents.dataplane.plain import IkeDatagram, PathLimit
from agents.ike.engine import Engine
from agents.ike.errors import LocalError
from agents.ike.outputs import (
    FindPsk,
    InstallChild,
    Keepalive,
    MoveChild,
    Output,
    Path,
    RemoveChild,
    Report,
    Sign,
    SwitchOutbound,
    Transmit,
    Validate,
    Verdict,
)
from agents.iked import trace
from agents.iked.addresses import own_addresses, present
from agents.iked.credentials.desk import Desk
from agents.iked.effects import Effects
from agents.iked.entropy import OsEntropy
from agents.iked.events import EventRing
from agents.iked.manual import ManualTunnels
from agents.iked.parts import Parts
from agents.iked.rejections import Refused, RejectionReports
from agents.iked.sockets import NAT_T_PORT, IkeSockets
from agents.iked.status import UnixTime, report
from agents.iked.traffic import Traffic
from agents.iked.userspace_driver import UserspaceDriver
from agents.runtime import log_levels
from agents.runtime.paths import Paths

_CHANGE_DELAY_S = 0.1
_CHANGE_DELAY_PER_TUNNEL_S = 0.001
_FAREWELL_S = 1.0

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")


class Runtime:
    """One engine with its surroundings. ``on_change`` is called, a little delayed, when status or events have moved."""

    def __init__(self, where: Paths, on_change: Callable[[], None] = lambda: None) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_change = on_change
        self._change: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._unix = UnixTime(self._loop.time, time.time)
        self._started_at = time.time()
        self._parts = Parts(time.time)
        self.engine = Engine(OsEntropy())
        self.document: GatewayDocument | None = None
        self._preshared_keys = PresharedKeys()
        self.events = EventRing(time.time)
        self.traffic = Traffic()
        self._rejections = RejectionReports(self.report, self._loop.time)
        self._data_plane_counts: tuple[NamedCount, ...] = ()
        self.sockets = IkeSockets(self.receive, self.too_big)
        self._host_addresses: frozenset[str] | None = None
        self.effects = Effects(self.traffic, self)
        self.manual = ManualTunnels(self, self._loop.time)
        self.links: dict[str, TunnelLink] = {}
        """The links that the data plane has, by tunnel."""
        self.credentials = Desk(where, self)
        self.userspace: UserspaceDriver | None = None
        self.data_plane = DataPlaneStatus(driver=None, reason="no configuration yet")
        self.problems: dict[str, list[str]] = {}
        self._own_reports: Counter[str] = Counter()

    # Inputs

    def receive(self, datagram: bytes, path: Path) -> None:
        """A datagram came, without non-ESP marker."""
        trace.message("<", datagram, path)
        self.engine.receive(datagram, path, self._loop.time())
        self._after_input()

    def receive_from_espd(self, came: IkeDatagram) -> None:
        """A datagram came on UDP 4500 where ``espd`` holds that port."""
        self.receive(came.datagram, _espd_path(came))

    def too_big(self, path: Path, packet_octets: int) -> None:
        """A path takes IP packets of at most so many octets."""
        self._give(self.engine.datagram_too_big, path, packet_octets, self._loop.time())
        self._after_input()

    def too_big_for_espd(self, limit: PathLimit) -> None:
        """The same of UDP 4500 where ``espd`` holds that port."""
        self.too_big(_espd_path(limit), limit.packet_octets)

    def addresses_changed(self, there: frozenset[str]) -> None:
        """The host has these addresses now."""
        self._host_addresses = there
        if self.document is not None:
            self._tell_addresses(own_addresses(self.document))

    def _tell_addresses(self, wanted: frozenset[str]) -> None:
        if self._host_addresses is None:
            return
        here = present(wanted, self._host_addresses)
        if here != self.engine.addresses:
            self._give(self.engine.addresses_changed, here, self._loop.time())
            self._after_input()

    def configure(self, document: GatewayDocument) -> None:
        """Take a document into the engine; sockets and links are the caller's."""
        before = own_addresses(self.document) if self.document is not None else frozenset()
        self._tell_addresses(before | own_addresses(document))
        gone = {t.id for t in self.document.tunnels} - {t.id for t in document.tunnels} if self.document else set()
        self.document = document
        self._preshared_keys = PresharedKeys(document.preshared_keys)
        self.credentials.configure(document)
        self._parts.configure(document)
        self.engine.configure(document, self._loop.time())
        self._after_input()
        self.manual.configure(document)
        for tunnel_id in gone:
            self.traffic.forget(tunnel_id)
        self.changed()

    def action(self, verb: Verb, tunnel_id: str) -> None:
        """Perform a one-shot verb. Raises LocalError, for example for a tunnel that is not configured."""
        if self.manual.action(verb, tunnel_id):
            return
        match verb:
            case Verb.INITIATE:
                perform = self.engine.initiate
            case Verb.TERMINATE:
                perform = self.engine.terminate
            case Verb.REKEY_IKE:
                perform = self.engine.rekey_ike
            case Verb.REKEY_CHILD:
                perform = self.engine.rekey_child
            case Verb.CLEAR_IKE:
                perform = self.engine.clear_ike
            case Verb.CLEAR_IPSEC:
                perform = self.engine.clear_ipsec
            case _:
                assert_never(verb)
        try:
            perform(tunnel_id, self._loop.time())
        finally:
            self._after_input()
            self.changed()

    def dataplane_lost(self) -> None:
        """Every SA of the data plane is gone."""
        self.traffic.all_ended()
        self.effects.give_up_installs()
        self.engine.dataplane_lost(self._loop.time())
        self._after_input()
        self.manual.lost()
        self.changed()

    def notice(self, notice: Notice) -> None:
        """The data plane said something other than ``Lost``."""
        now = self._loop.time()
        trace.noticed(notice)
        if isinstance(notice, Expired) and notice.hard:
            self.traffic.expired(notice.id)
        if isinstance(notice, Rejected):
            self._rejected(notice)
        elif isinstance(notice, Repaired):
            tunnel_id = self.effects.tunnel_of(notice.reqid) or self.manual.tunnel_of(notice.reqid)
            self.report(Report(code="agent.repaired", message=notice.detail, tunnel_id=tunnel_id))
        elif isinstance(notice, Acquired):
            wanted = self.effects.tunnel_of(notice.reqid)
            if wanted is not None:
                self._give(self.engine.traffic_wanted, wanted, now)
        elif isinstance(notice, Expired) and self.manual.expired(notice.id):
            pass
        elif isinstance(notice, Expired | Mapped) and (child := self.traffic.child_of(notice.id)) is not None:
            tunnel_id, spi_in = child
            if isinstance(notice, Expired):
                hard = notice.hard
                self._give(self.engine.sa_expired, tunnel_id, spi_in, hard, now)
            else:
                address, port = notice.address, notice.port
                self._give(self.engine.peer_moved, tunnel_id, spi_in, address, port, now)
        self._after_input()

    def child_installed(self, install_id: int) -> None:
        """An effect's result."""
        self._give(self.engine.child_installed, install_id, self._loop.time())
        self._after_input()

    def child_install_failed(self, install_id: int, reason: str) -> None:
        """An effect's result."""
        self._give(self.engine.child_install_failed, install_id, reason, self._loop.time())
        self._after_input()

    def signed(self, request_id: int, signature: bytes | None) -> None:
        """An effect's result."""
        self._give(self.engine.signed, request_id, signature, self._loop.time())
        self._after_input()

    def validated(self, request_id: int, verdict: Verdict) -> None:
        """An effect's result."""
        self._give(self.engine.validated, request_id, verdict, self._loop.time())
        self._after_input()

    def child_unusable(self, tunnel_id: str, spi_in: int, reason: str) -> None:
        """The outbound SA of a rekeyed child could not be installed: end the child as if its time were up."""
        self.report(Report(code="child.install-failed", message=f"Rekeyed SA: {reason}", tunnel_id=tunnel_id))
        self._give(self.engine.sa_expired, tunnel_id, spi_in, True, self._loop.time())
        self._after_input()

    async def poll_traffic(self) -> None:
        """Read the counters and tell the engine which peers were heard, which spares them liveness checks."""
        driver = self.effects.driver
        if driver is None:
            return
        try:
            heard = await self.traffic.refresh(driver)
            self._data_plane_counts = await driver.counts()
        except DataplaneError as error:
            _log.warning("%s", error)
            return
        self.traffic.ipsec.plane(self._data_plane_counts)
        self.tell_rejections()
        now = self._loop.time()
        for tunnel_id, spi_in in heard:
            self._give(self.engine.traffic_seen, tunnel_id, now, spi_in)
        spoke = self.traffic.take_spoke()
        for tunnel_id, spi_in in spoke:
            self._give(self.engine.traffic_sent, tunnel_id, now, spi_in)
        if heard or spoke:
            self._after_input()

    def tell_rejections(self) -> None:
        """Tell of refused packets: those just counted, and those that waited."""
        for refused in self.traffic.take_refused():
            self._rejections.add(refused)
        self._rejections.flush()

    # What others ask

    async def status(self) -> tuple[TunnelStatus, ...]:
        """Return every configured tunnel, counters read anew."""
        await self.poll_traffic()
        queues: Mapping[str, tuple[QueueStatus, ...]] = {}
        if (driver := self.effects.driver) is not None:
            try:
                queues = await driver.queues()
            except DataplaneError as error:
                _log.warning("%s", error)
        tunnels = (*self.engine.snapshot(self._loop.time()), *self.manual.snapshot())
        return report(tunnels, self.traffic, queues, self._unix, self._interface, self._rate_kbps)

    def data_plane_counts(self) -> tuple[NamedCount, ...]:
        """Return the data plane's own counters as last read; nothing without a data plane."""
        return self._data_plane_counts if self.effects.driver is not None else ()

    def health(self) -> ComponentHealth:
        """Return how this process is doing."""
        problems = [sentence for sentences in self.problems.values() for sentence in sentences]
        return ComponentHealth(
            name="iked",
            healthy=not problems,
            version=__version__,
            pid=os.getpid(),
            started_at=round(self._started_at, 3),
            detail="; ".join(problems),
            log_level=log_levels.level_of("iked"),
        )

    def parts(self, tunnels: Sequence[TunnelStatus]) -> tuple[ComponentHealth, ...]:
        """Return how the parts are that the document needs."""
        problems = self.problems.get("data plane", [])
        return self._parts.report(self.engine.loads(), tunnels, self.credentials.state, problems)

    def counters(self) -> dict[str, int]:
        """Return how often each event happened, those too many for the ring included."""
        return dict(self.engine.counters + self._own_reports)

    def exchanges(self) -> tuple[ExchangeCounters, ...]:
        """Return the IKE messages counted by exchange type since this process began."""
        return self.engine.exchange_counters()

    def report(self, event: Report) -> None:
        """Tell of something that happened outside the engine."""
        self._own_reports[event.code] += 1
        self._keep(event)

    def changed(self) -> None:
        """Tell :attr:`on_change` soon; many changes in a row are one.

        Whoever is told asks for the status of every tunnel, so with very many of them they are told less often.
        """
        if self._change is None:
            document = self.document
            tunnels = len(document.tunnels) + len(document.manual_tunnels) if document is not None else 0
            self._change = self._loop.call_later(_CHANGE_DELAY_S + tunnels * _CHANGE_DELAY_PER_TUNNEL_S, self._tell)

    async def farewell(self) -> None:
        """Tell every peer that its SAs are deleted (sent once, RFC 7296 section 1.4.1) and take them out."""
        if self.document is not None:
            for tunnel in self.document.tunnels:
                self._give(self.engine.terminate, tunnel.id, self._loop.time())
            self._after_input()
        await self.effects.settle(_FAREWELL_S)
        await self.credentials.close()
        for handle in (self._timer, self._change):
            if handle is not None:
                handle.cancel()
        self.sockets.close()

    # Inside

    def _tell(self) -> None:
        self._change = None
        self._on_change()

    def _give(self, take: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Give an input that may be too late, since what it is about can have gone meanwhile."""
        try:
            take(*args, **kwargs)
        except LocalError as error:
            _log.debug("the engine did not take an input: %s", error)

    def _on_timer(self) -> None:
        self._timer = self._timer_at = None
        self.engine.handle_timer(self._loop.time())
        self._after_input()

    def _after_input(self) -> None:
        while outputs := self.engine.take_outputs():
            for output in outputs:
                self._perform(output)
        deadline = self.engine.next_deadline()
        if deadline != self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = None if deadline is None else self._loop.call_at(deadline, self._on_timer)

    def _perform(self, output: Output) -> None:
        match output:
            case Transmit():
                self._transmit(output)
            case FindPsk():
                self._find_psk(output)
            case Sign() | Validate():
                self.credentials.perform(output)
            case Keepalive():
                self._keep_alive(output.path)
            case InstallChild() | SwitchOutbound() | RemoveChild() | MoveChild():
                self.effects.perform(output)
            case Report():
                self._keep(output)
            case _:
                assert_never(output)

    def _keep(self, event: Report) -> None:
        trace.told(event)
        self.events.add(event)
        self.changed()

    def _transmit(self, output: Transmit) -> None:
        path = output.path
        trace.message(">", output.datagram, path)
        if self.sockets.send(path, output.datagram) or path.local_port != NAT_T_PORT or self.userspace is None:
            return
        self.userspace.send_ike(
            IkeDatagram(
                local_address=path.local_address,
                remote_address=path.remote_address,
                remote_port=path.remote_port,
                datagram=output.datagram,
            )
        )

    def _keep_alive(self, path: Path) -> None:
        if self.sockets.keep_alive(path) or path.local_port != NAT_T_PORT or self.userspace is None:
            return
        self.userspace.keep_alive(path.local_address, path.remote_address, path.remote_port)

    def _find_psk(self, request: FindPsk) -> None:
        secret = self._preshared_keys.find(request)
        self._give(self.engine.psk_found, request.request_id, secret, self._loop.time())

    def _rejected(self, notice: Rejected) -> None:
        if notice.id is None or not self.traffic.noticed(notice.id, notice.code, notice.count):
            self._rejections.add(Refused(code=notice.code, count=notice.count, sa=notice.id))
        self.tell_rejections()

    def _interface(self, tunnel_id: str) -> str | None:
        link = self.links.get(tunnel_id)
        if link is None or (self.data_plane.driver != "userspace" and link.attachment is Attachment.SHARED):
            return None
        return link.name

    def _rate_kbps(self, tunnel_id: str) -> int | None:
        link = self.links.get(tunnel_id)
        return link.rate_kbps if link is not None else None


def _espd_path(told: IkeDatagram | PathLimit) -> Path:
    """Return the path that ``espd`` tells of: it holds UDP 4500."""
    return Path(
        local_address=told.local_address,
        local_port=NAT_T_PORT,
        remote_address=told.remote_address,
        remote_port=told.remote_port,
    )
