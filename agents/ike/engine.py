"""The protocol core's door: inputs in, outputs and one next deadline out (see :mod:`agents.ike.outputs`).

Here: routing datagrams to SAs (those of nobody go to :mod:`agents.ike.v2.door`), the continuations of effects,
the document, and the one funnel that turns exceptions into protocol reactions. Not here: what an exchange means
(:mod:`agents.ike.v2`). Nothing that a peer sends makes an input raise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from agents.contract.config import GatewayDocument, Retransmission
from agents.contract.events import KINDS
from agents.contract.psk import PresharedKeys
from agents.contract.secret import Secret
from agents.contract.status import ExchangeCounters, TunnelStatus
from agents.dataplane.base import REQID_BASE, Features, PolicySpec, SaId
from agents.ike import change
from agents.ike.crypto.errors import IntegrityError
from agents.ike.errors import LocalError, PeerError, WireError
from agents.ike.outputs import Entropy, InstallChild, Output, Path, Report, Verdict
from agents.ike.questions import Continuation, Questions
from agents.ike.timers import Agenda, Owner
from agents.ike.v2 import messages, proof, status, steps
from agents.ike.v2.child import ChildSa
from agents.ike.v2.cookie import HalfOpenLimits
from agents.ike.v2.core import InstallContinuation
from agents.ike.v2.credentials import Credentials
from agents.ike.v2.door import Door
from agents.ike.v2.path import addresses_of, pairs_of
from agents.ike.v2.roam import own_addresses_changed
from agents.ike.v2.sa import IkeSa
from agents.ike.v2.slots import Protected
from agents.ike.v2.states import SaState
from agents.ike.v2.tally import Count, ExchangeTally
from agents.ike.v2.tasks.delete import DeleteChildren
from agents.ike.v2.tunnel import TunnelRuntime
from agents.ike.wire.header import NO_SPI, Header, classify
from agents.ike.wire.message import parse_clear
from agents.ike.wire.registry import Exchange, NotifyType, exchange_name

_FROM_STRANGERS = frozenset(
    {"ike.peer-initiates", "ike.sa-failed", "ike.no-tunnel", "ike.cookie-demanded", "ike.no-proposal", "ike.invalid-ke"}
)
"""Reports besides drops that anybody can cause: they come under flood control too."""

_Answer = TypeVar("_Answer")
_REQIDS = 65_535
_CPIS = range(256, 61_440)
_LINK_PER_TUNNEL = "userspace"
"""The driver whose tunnels have a link each: there routes, not policies, choose among tunnels."""

_STARTS_AT_ONCE = 100
_STARTS_PER_S = 200.0
"""New tunnels of one document begin at this pace, so that thousands do not stop the process or flood a peer."""

_REPORTS_AT_ONCE = 20
_REPORTS_PER_S = 5.0


class Engine:
    """All IKE SAs of one gateway. ``counters`` counts reports by code, those held back by flood control too."""

    def __init__(self, entropy: Entropy, limits: HalfOpenLimits | None = None) -> None:
        self.entropy = entropy
        self.retransmission = Retransmission()
        self.require_udp_encapsulation = False
        self.features: Features | None = None
        self.addresses: frozenset[str] | None = None
        self.counters: Counter[str] = Counter()
        self.exchanges = ExchangeTally()
        self._keys = PresharedKeys()
        self._tunnels: dict[str, TunnelRuntime] = {}
        self._by_addresses: dict[tuple[str, str], tuple[TunnelRuntime, ...]] = {}
        self._sas: dict[bytes, IkeSa] = {}
        self.door = Door(self, limits or HalfOpenLimits())
        self._esp_spis: set[int] = set()
        self._cpis: set[int] = set()
        self._protected = Protected()
        self._reqids: dict[tuple[str, str, int], int] = {}
        self._taken_reqids: set[int] = set()
        self._last_reqid = 1
        self.credentials = Credentials()
        self.questions = Questions(self.emit)
        self._installs: dict[int, tuple[IkeSa, InstallContinuation]] = {}
        self._sequence = 0
        self._agenda = Agenda()
        self._touched: dict[Owner, None] = {}
        self._outputs: list[Output] = []
        self._subject: IkeSa | None = None
        self._now = 0.0
        self._floods: dict[str, tuple[float, float, int]] = {}

    @property
    def local_addresses(self) -> frozenset[str]:
        """The addresses that IKE SAs use here or may move to, those being deleted included."""
        used = {sa.path.local_address for sa in self._sas.values()}
        tunnels = {sa.tunnel.config.id: sa.tunnel for sa in self._sas.values() if sa.tunnel is not None}
        return frozenset(used.union(*(addresses_of(tunnel.config.local) for tunnel in tunnels.values())))

    # --- inputs

    def configure(self, document: GatewayDocument, now: float) -> None:
        """Take over a whole document; what that does to running tunnels is :mod:`agents.ike.change`."""
        self._now = now
        old_keys, self._keys = self._keys, PresharedKeys(document.preshared_keys)
        old_credentials, self.credentials = self.credentials, Credentials(document)
        self.retransmission = document.retransmission
        wanted = {tunnel.id: tunnel for tunnel in document.tunnels}
        new = 0
        for tunnel_id in [each for each in self._tunnels if each not in wanted]:
            self._tunnels.pop(tunnel_id).remove(now)
        for tunnel_id, config in wanted.items():
            runtime = self._tunnels.get(tunnel_id)
            if runtime is None:
                new += 1
                start_at = now + max(0, new - _STARTS_AT_ONCE) / _STARTS_PER_S
                self._tunnels[tunnel_id] = runtime = TunnelRuntime(self, config, now, start_at)
                self.touch(runtime)
                continue
            before = runtime.config
            secret_changed = (
                proof.needs_psk(config) and not self._keys.gives_same(old_keys, before, config)
            ) or old_credentials.ppk(before.ppk) != self.credentials.ppk(config.ppk)
            if secret_changed or runtime.config != config:
                runtime.apply(config, change.plan(runtime.config, config, secret_changed), now)
        self._tunnels = {tunnel_id: self._tunnels[tunnel_id] for tunnel_id in wanted}
        self._index()
        self._settle(now)

    def receive(self, datagram: bytes, path: Path, now: float) -> None:
        """Handle one datagram, without non-ESP marker. Never raises for what the peer sent."""
        self._guarded(lambda: self._receive(datagram, path, now), now)
        self._settle(now)

    def handle_timer(self, now: float) -> None:
        """Do everything that is due."""
        due = []
        while (owner := self._agenda.pop_due(now)) is not None:
            due.append(owner)
        for owner in due:
            self.touch(owner)
            self._guarded(lambda owner=owner: owner.handle_timer(now), now)  # type: ignore[misc]
        self._settle(now)

    def next_deadline(self) -> float | None:
        """Return when :meth:`handle_timer` is wanted next, or None."""
        return self._agenda.next_deadline()

    def take_outputs(self) -> tuple[Output, ...]:
        """Return the outputs since the last call."""
        outputs, self._outputs = tuple(self._outputs), []
        return outputs

    def snapshot(self, now: float) -> tuple[TunnelStatus, ...]:
        """Return the status of every configured tunnel."""
        return tuple(status.tunnel_status(tunnel) for tunnel in self._tunnels.values())

    def exchange_counters(self) -> tuple[ExchangeCounters, ...]:
        """Return the messages counted by exchange type."""
        return self.exchanges.counters()

    # --- verbs; each raises LocalError for a tunnel that is not configured

    def initiate(self, tunnel_id: str, now: float) -> None:
        """Bring the tunnel up. Raises LocalError when this end may not start."""
        tunnel = self._tunnel(tunnel_id)
        was_held, tunnel.held = tunnel.held, False
        if not tunnel.may_initiate:
            tunnel.held = was_held and not tunnel.config.enabled
            self.touch(tunnel)
            self._settle(now)
            raise LocalError("this end may not start the negotiation: the tunnel is disabled or waits for the peer")
        tunnel.start(now)
        self._settle(now)

    def terminate(self, tunnel_id: str, now: float) -> None:
        """Take the tunnel down and keep it down until :meth:`initiate`."""
        tunnel = self._tunnel(tunnel_id)
        tunnel.held = True
        tunnel.reason = None
        tunnel.stop(now)
        self._settle(now)

    def rekey_ike(self, tunnel_id: str, now: float) -> None:
        """Rekey the IKE SA. Raises LocalError when there is none."""
        done = self._tunnel(tunnel_id).rekey_ike(now)
        self._settle(now)
        if not done:
            raise LocalError("the tunnel has no IKE SA")

    def rekey_child(self, tunnel_id: str, now: float) -> None:
        """Rekey every child. Raises LocalError when none is up."""
        done = self._tunnel(tunnel_id).rekey_children(now)
        self._settle(now)
        if not done:
            raise LocalError("the tunnel has no IPsec SA")

    def clear_ike(self, tunnel_id: str, now: float) -> None:
        """Delete IKE SA and children and negotiate anew."""
        self._tunnel(tunnel_id).clear_ike(now)
        self._settle(now)

    def clear_ipsec(self, tunnel_id: str, now: float) -> None:
        """Delete the children and ask for them anew."""
        self._tunnel(tunnel_id).clear_ipsec(now)
        self._settle(now)

    # --- results of effects

    def psk_found(self, request_id: int, secret: Secret | None, now: float) -> None:
        """Answer a :class:`FindPsk`; one that nobody waits for any more is passed over."""
        self._go_on(self.questions.psks.take(request_id), secret, now)

    def signed(self, request_id: int, signature: bytes | None, now: float) -> None:
        """Answer a :class:`Sign`; None when the key is not there or cannot sign so."""
        self._go_on(self.questions.signatures.take(request_id), signature, now)

    def validated(self, request_id: int, verdict: Verdict, now: float) -> None:
        """Answer a :class:`Validate`."""
        self._go_on(self.questions.verdicts.take(request_id), verdict, now)

    def traffic_wanted(self, tunnel_id: str, now: float) -> None:
        """Traffic matched a policy that has no SA."""
        tunnel = self._tunnels.get(tunnel_id)
        if tunnel is not None:
            self._guarded(lambda: tunnel.traffic_wanted(now), now)
        self._settle(now)

    def addresses_changed(self, addresses: frozenset[str], now: float) -> None:
        """The host has these unicast addresses now (RFC 4555 section 3.5)."""
        self.addresses = addresses
        for tunnel in self._tunnels.values():
            self._guarded(lambda tunnel=tunnel: own_addresses_changed(tunnel, now), now)  # type: ignore[misc]
            self.touch(tunnel)
        self._settle(now)

    def datagram_too_big(self, path: Path, packet_octets: int, now: float) -> None:
        """The path takes IP packets of at most this many octets: cut messages smaller (RFC 7383 section 2.5.2)."""
        for sa in tuple(self._sas.values()):
            if (sa.path.local_address, sa.path.remote_address) == (path.local_address, path.remote_address):
                messages.path_narrowed(sa, packet_octets)
        self._settle(now)

    def child_installed(self, install_id: int, now: float) -> None:
        """Answer an :class:`InstallChild`: it is in place."""
        self._install_result(install_id, None, now)

    def child_install_failed(self, install_id: int, reason: str, now: float) -> None:
        """Answer an :class:`InstallChild`: the data plane refused."""
        self._install_result(install_id, reason, now)

    def sa_expired(self, tunnel_id: str, spi_in: int, hard: bool, now: float) -> None:
        """A limit in octets or packets (or the backstop in seconds) was reached."""
        found = self._find_child(tunnel_id, spi_in)
        if found is not None:
            sa, child = found
            if hard:
                sa.report("child.deleted", f"Child {child.name} reached its limit")
                sa.enqueue(DeleteChildren((child,)), now)
            else:
                sa.rekey_child(child, now)
        self._settle(now)

    def peer_moved(self, tunnel_id: str, spi_in: int, address: str, port: int, now: float) -> None:
        """Authenticated ESP of this SA came from another address or port."""
        found = self._find_child(tunnel_id, spi_in)
        if found is not None:
            found[0].move_peer(address, port)
        self._settle(now)

    def traffic_seen(self, tunnel_id: str, now: float) -> None:
        """The peer sent ESP: no liveness check is needed (RFC 7296 section 2.4)."""
        tunnel = self._tunnels.get(tunnel_id)
        for sa in () if tunnel is None else tunnel.established():
            sa.last_heard = now
            self.touch(sa)
        self._settle(now)

    def traffic_sent(self, tunnel_id: str, now: float) -> None:
        """ESP went out: a NAT needs no keepalive (RFC 3948 section 4)."""
        tunnel = self._tunnels.get(tunnel_id)
        for sa in () if tunnel is None else tunnel.established():
            sa.last_sent = now
            self.touch(sa)
        self._settle(now)

    def dataplane_lost(self, now: float) -> None:
        """Every ESP SA is gone: delete the children at the peers and make new ones with fresh keys."""
        for install_id in tuple(self._installs):
            self._install_result(install_id, "the data plane was lost", now)
        for tunnel in self._tunnels.values():
            tunnel.data_plane_lost(now)
        self._settle(now)

    # --- what SAs and tunnels ask (agents.ike.v2.core.Core)

    def emit(self, output: Output) -> None:
        """Queue one output."""
        self._outputs.append(output)

    def report(
        self,
        code: str,
        message: str,
        *,
        tunnel_id: str | None = None,
        received: str | None = None,
        configured: str | None = None,
        field: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Queue one report and count it; what strangers can cause beyond 5 per second is only counted."""
        kind = KINDS[code]
        self.counters[code] += 1
        extra = dict(attributes or {})
        if code.startswith(("drop.", "wire.")) or code in _FROM_STRANGERS:
            held_back = self._flood("wire" if code.startswith("wire.") else code)
            if held_back is None:
                return
            if held_back:
                extra["held_back"] = str(held_back)
        self._outputs.append(
            Report(
                code=code,
                message=message[:1_000],
                tunnel_id=tunnel_id,
                received=received,
                configured=configured,
                field=field or kind.field or None,
                attributes=extra,
            )
        )

    def new_ike_spi(self) -> bytes:
        """Return 8 octets that name no other SA here."""
        while True:
            spi = self.entropy.octets(8)
            if spi != NO_SPI and spi not in self._sas:
                return spi

    def new_esp_spi(self) -> int:
        """Return an inbound SPI above the reserved ones (RFC 4303 section 2.1) that no other child has."""
        while True:
            spi = int.from_bytes(self.entropy.octets(4), "big")
            if spi > 255 and spi not in self._esp_spis:
                self._esp_spis.add(spi)
                return spi

    def free_esp_spi(self, spi: int) -> None:
        """Give an inbound SPI back."""
        self._esp_spis.discard(spi)

    def new_cpi(self) -> int:
        """Return an inbound CPI of the negotiated range (RFC 3173 section 3.3). Raises LocalError when none is left."""
        if len(self._cpis) >= len(_CPIS):
            raise LocalError("no CPI is left")
        cpi = _CPIS[int.from_bytes(self.entropy.octets(4), "big") % len(_CPIS)]
        while cpi in self._cpis:
            cpi = cpi + 1 if cpi + 1 in _CPIS else _CPIS[0]
        self._cpis.add(cpi)
        return cpi

    def free_cpi(self, cpi: int | None) -> None:
        """Give an inbound CPI back; None is none."""
        if cpi is not None:
            self._cpis.discard(cpi)

    def reqid(self, tunnel_id: str, child: str, slot: int) -> int:
        """Return the reqid of a child's slot. Raises LocalError when all 65,535 are taken."""
        key = (tunnel_id, child, slot)
        number = self._reqids.get(key)
        if number is None:
            if len(self._taken_reqids) >= _REQIDS:
                raise LocalError("no reqid is left")
            while self._last_reqid in self._taken_reqids:
                self._last_reqid = self._last_reqid % _REQIDS + 1
            number = self._reqids[key] = self._last_reqid
            self._taken_reqids.add(number)
            self._last_reqid = number % _REQIDS + 1  # one just given back may still be in the data plane
        return REQID_BASE + number

    def protected_by_other(self, policies: Sequence[PolicySpec]) -> str | None:
        """Return the name of a tunnel one of whose children protects some of this traffic with another reqid."""
        if self.features is not None and self.features.driver == _LINK_PER_TUNNEL:
            return None
        reqid = self._protected.other(policies)
        owner = next((key[0] for key, number in self._reqids.items() if REQID_BASE + number == reqid), None)
        tunnel = None if owner is None else self._tunnels.get(owner)
        return None if reqid is None else "another tunnel" if tunnel is None else f"tunnel {tunnel.config.name}"

    def removed(self, child: ChildSa) -> None:
        """Note that an installed child leaves the data plane."""
        if child.install_id:
            self._protected.remove(child.policies)

    def register(self, sa: IkeSa) -> None:
        """Route messages for the SA's own SPI to it."""
        self._sas[sa.spi_own] = sa
        self.touch(sa)

    def unregister(self, sa: IkeSa) -> None:
        """Forget the SA."""
        self._sas.pop(sa.spi_own, None)
        self.door.forget(sa)
        self.questions.drop(sa)
        self._agenda.remove(sa)

    def authenticated(self, sa: IkeSa) -> None:
        """Note that a responder's SA is no longer half open."""
        self.door.authenticated(sa)

    def touch(self, owner: Owner) -> None:
        """Look at the owner's deadline, and for a tunnel at its needs, when the present input is done."""
        self._touched[owner] = None

    def install(
        self,
        sa: IkeSa,
        child: ChildSa,
        *,
        replaces: tuple[SaId, ...],
        outbound_later: bool,
        then: InstallContinuation,
    ) -> None:
        """Ask for the child's SAs and policies."""
        assert sa.tunnel is not None
        self._sequence += 1
        child.install_id = self._sequence
        self._installs[self._sequence] = (sa, then)
        self._protected.add(child.policies)
        self.emit(
            InstallChild(
                install_id=child.install_id,
                tunnel_id=sa.tunnel.config.id,
                child=child.name,
                inbound=child.inbound,
                outbound=child.outbound,
                policies=child.policies,
                replaces=replaces,
                outbound_later=outbound_later,
            )
        )

    def candidates(self, local_address: str, remote_address: str) -> tuple[TunnelRuntime, ...]:
        """Return the tunnels between these addresses that take an initiation by the peer."""
        found = self._by_addresses.get((local_address, remote_address), ())
        return tuple(tunnel for tunnel in found if tunnel.accepts_peer)

    def pretends_nat(self, path: Path) -> bool:
        """Return whether a responder on this path asks for UDP encapsulation without a NAT."""
        return self.require_udp_encapsulation or any(
            tunnel.config.force_udp_encapsulation
            for tunnel in self._by_addresses.get((path.local_address, path.remote_address), ())
        )

    # --- inside

    def _receive(self, datagram: bytes, path: Path, now: float) -> None:
        try:
            header = classify(datagram)
        except WireError as error:
            if error.notify == NotifyType.INVALID_MAJOR_VERSION:
                self.door.answer_version(datagram, path, now)
            raise
        try:
            self._route(datagram, header, path, now)
        except WireError as error:
            error.exchange = exchange_name(header.exchange)
            raise

    def _route(self, datagram: bytes, header: Header, path: Path, now: float) -> None:
        if header.exchange == Exchange.IKE_SA_INIT:
            if header.response:
                self._first_answer(datagram, header, path, now)
            else:
                self.door.first_request(datagram, header, path, now)
            return
        sa = self._sas.get(header.spi_r if header.from_initiator else header.spi_i)
        peer = header.spi_i if header.from_initiator else header.spi_r
        if sa is None:
            other = self._sas.get(header.spi_i if header.from_initiator else header.spi_r)
            if other is not None:
                raise WireError("drop.direction", "the initiator flag does not go with the SPIs")
            self.door.answer_unknown(datagram, header, path, now)
            raise WireError("drop.unknown-spi", f"no IKE SA {header.spi_i.hex()}_{header.spi_r.hex()}")
        if sa.initiator == header.from_initiator or sa.spi_peer != peer:
            raise WireError("drop.direction", "the initiator flag or an SPI does not go with the IKE SA")
        self._subject = sa
        sa.receive(datagram, header, path, now)

    def _first_answer(self, datagram: bytes, header: Header, path: Path, now: float) -> None:
        sa = self._sas.get(header.spi_i)
        if sa is None or not sa.initiator:
            raise WireError("drop.unknown-spi", f"no IKE SA {header.spi_i.hex()} waits for a first answer")
        if header.from_initiator:
            raise WireError("drop.direction", "a first answer with the initiator flag")
        if sa.state is not SaState.INIT_SENT or not sa.requests.accepts(header.message_id, header.exchange):
            raise WireError("drop.duplicate", "a first answer nobody waits for")
        if path.remote_address != sa.path.remote_address:
            raise WireError("drop.state", f"a first answer from {path.remote_address}")
        message = parse_clear(datagram, header)
        self._subject = sa
        self.exchanges.add(header.exchange, Count.RESPONSES_IN)
        sa.init_response = datagram
        sa.finish_request(message, now)

    def _go_on(self, waiting: tuple[IkeSa, Continuation[_Answer]] | None, answer: _Answer, now: float) -> None:
        """Go on with what waited for an answer of the shell, if anything still does."""
        if waiting is not None:
            sa, then = waiting
            self._guarded(lambda: then(answer, now), now, sa)
        self._settle(now)

    def _install_result(self, install_id: int, problem: str | None, now: float) -> None:
        pending = self._installs.pop(install_id, None)
        if pending is not None:
            sa, then = pending
            self._guarded(lambda: then(problem, now), now, sa)
        self._settle(now)

    def _find_child(self, tunnel_id: str, spi_in: int) -> tuple[IkeSa, ChildSa] | None:
        tunnel = self._tunnels.get(tunnel_id)
        for sa in () if tunnel is None else tunnel.sas:
            child = sa.child_by_spi_in(spi_in)
            if child is not None:
                return sa, child
        return None

    def _tunnel(self, tunnel_id: str) -> TunnelRuntime:
        tunnel = self._tunnels.get(tunnel_id)
        if tunnel is None:
            raise LocalError("no such tunnel")
        return tunnel

    def _index(self) -> None:
        index: dict[tuple[str, str], list[TunnelRuntime]] = {}
        for tunnel in self._tunnels.values():
            for addresses in pairs_of(tunnel.config):
                index.setdefault(addresses, []).append(tunnel)
        self._by_addresses = {key: tuple(tunnels) for key, tunnels in index.items()}
        self._reqids = {key: number for key, number in self._reqids.items() if key[0] in self._tunnels}
        self._taken_reqids = set(self._reqids.values())

    def _flood(self, code: str) -> int | None:
        """Return how many reports of this sort were held back since the last one, or None to hold this one back."""
        credit, at, held_back = self._floods.get(code, (float(_REPORTS_AT_ONCE), self._now, 0))
        credit = min(float(_REPORTS_AT_ONCE), credit + (self._now - at) * _REPORTS_PER_S)
        if credit < 1.0:
            self._floods[code] = (credit, self._now, held_back + 1)
            return None
        self._floods[code] = (credit - 1.0, self._now, 0)
        return held_back

    def _guarded(self, step: Callable[[], None], now: float, subject: IkeSa | None = None) -> None:
        """The funnel: run one step; a peer's fault becomes an answer and a report, a bug only a loud report."""
        self._now = now
        self._subject = subject
        try:
            try:
                step()
            except (WireError, PeerError, IntegrityError) as error:
                self.react(self._subject, error, now)
        except Exception as error:
            self._bug(error)
        self._subject = None

    def react(self, sa: IkeSa | None, error: WireError | PeerError | IntegrityError, now: float) -> None:
        """Turn a peer's fault into an answer, where one is due, and a report."""
        if isinstance(error, IntegrityError):
            self._report_drop(WireError("drop.integrity", str(error)), sa)
            return
        if sa is not None and sa.responses.in_progress and error.notify:
            sa.refuse(error, now)
        if isinstance(error, WireError):
            self._report_drop(error, sa)
            return
        if sa is None:
            self.report(
                error.code,
                error.message,
                received=error.received,
                configured=error.configured,
                field=error.field,
                attributes=error.attributes,
            )
            return
        sa.report_error(error)
        if error.code.startswith("child."):
            steps.child_failed(sa, None, error)
        if error.fatal and sa.tunnel is not None:
            sa.tunnel.note_error(error)

    def _report_drop(self, error: WireError, sa: IkeSa | None) -> None:
        (self if sa is None else sa).report(
            error.code,
            error.detail,
            received=error.received,
            configured=error.expected,
            attributes={
                name: value
                for name, value in (("exchange", error.exchange), ("payload", error.payload))
                if value is not None
            },
        )

    def _bug(self, error: Exception) -> None:
        """Report where it happened; the text of an unknown exception could hold anything, so it stays out."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = "unknown" if trace is None else f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
        sa = self._subject
        if sa is not None and sa.responses.in_progress:
            sa.responses.abandon()
        self.report("ike.bug", f"{type(error).__name__} in {place}", attributes={"place": place})

    def _settle(self, now: float) -> None:
        """After an input: let touched tunnels see to their needs, then take over the deadlines."""
        self._now = now
        touched = self._touched
        while touched:
            owner = next(iter(touched))
            del touched[owner]
            if isinstance(owner, TunnelRuntime):
                self._guarded(lambda owner=owner: owner.maintain(now), now)  # type: ignore[misc]
            self._agenda.update(owner)
