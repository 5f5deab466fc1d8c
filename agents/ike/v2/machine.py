"""The IKEv2 machine of one gateway: its tunnels and IKE SAs, which message is whose, what comes of a peer's fault.

What both versions share is the hub's (:mod:`agents.ike.hub`). Messages of nobody's SA go to the door.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from agents.contract.config import Tunnel, TunnelKind
from agents.contract.status import ExchangeCounters, TunnelStatus
from agents.ike import ondemand
from agents.ike.crypto.errors import IntegrityError
from agents.ike.errors import PeerError, WireError
from agents.ike.limits import HalfOpenLimits
from agents.ike.machine import Load, SecretChanged, drop_attributes, take_over
from agents.ike.ondemand import Membership
from agents.ike.outputs import Path
from agents.ike.paths import pairs_of
from agents.ike.tally import Count, ExchangeTally
from agents.ike.v2 import messages, status, steps
from agents.ike.v2.child import ChildSa
from agents.ike.v2.door import Door
from agents.ike.v2.roam import own_addresses_changed
from agents.ike.v2.sa import IkeSa
from agents.ike.v2.states import PROGRESSING, UP_CHILD, SaState
from agents.ike.v2.tasks.delete import DeleteChildren
from agents.ike.v2.tunnel import TunnelRuntime
from agents.ike.wire.header import NO_SPI, Header
from agents.ike.wire.message import parse_clear
from agents.ike.wire.payloads import Identification
from agents.ike.wire.registry import Exchange, exchange_name

if TYPE_CHECKING:
    from agents.ike.fallback import Turns
    from agents.ike.hub import Hub


class Machine:
    """All IKE SAs of version 2."""

    version = "v2"

    def __init__(self, hub: Hub, turns: Turns, limits: HalfOpenLimits) -> None:
        self.hub = hub
        self.turns = turns
        self.exchanges = ExchangeTally(Exchange, exchange_name)
        self.tunnels: dict[str, TunnelRuntime] = {}
        self.sas: dict[bytes, IkeSa] = {}
        self.door = Door(self, limits)
        self._by_addresses: dict[tuple[str, str], tuple[TunnelRuntime, ...]] = {}

    # --- inputs

    def configure(self, wanted: Mapping[str, Tunnel], secret_changed: SecretChanged, now: float) -> None:
        """Take over the tunnels of a document that may speak IKEv2."""
        self.tunnels = take_over(
            self.hub,
            self.tunnels,
            wanted,
            lambda config, start_at: TunnelRuntime(self, config, now, start_at),
            secret_changed,
            now,
        )
        index: dict[tuple[str, str], list[TunnelRuntime]] = {}
        for tunnel in self.tunnels.values():
            for addresses in pairs_of(tunnel.config):
                index.setdefault(addresses, []).append(tunnel)
        self._by_addresses = {key: tuple(tunnels) for key, tunnels in index.items()}

    def receive(self, datagram: bytes, header: Header, path: Path, now: float) -> None:
        """Handle one datagram. Raises WireError, PeerError or IntegrityError for the funnel."""
        try:
            self._route(datagram, header, path, now)
        except WireError as error:
            error.exchange = exchange_name(header.exchange)
            raise

    def answer_version(self, datagram: bytes, path: Path, now: float) -> None:
        """Say which version is the highest here, to a message of a higher one (RFC 7296 section 2.5)."""
        self.door.answer_version(datagram, path, now)

    def sa_expired(self, tunnel_id: str, spi_in: int, hard: bool, now: float) -> bool:
        """A limit in octets or packets (or the backstop in seconds) was reached; False when no child has this SPI."""
        found = self._find_child(tunnel_id, spi_in)
        if found is None:
            return False
        sa, child = found
        if hard:
            sa.report("child.deleted", f"Child {child.name} reached its limit")
            sa.enqueue(DeleteChildren((child,)), now)
        else:
            sa.rekey_child(child, now)
        return True

    def peer_moved(self, tunnel_id: str, spi_in: int, address: str, port: int) -> bool:
        """Authenticated ESP of this SA came from another address or port; False when no child has this SPI."""
        found = self._find_child(tunnel_id, spi_in)
        if found is not None:
            found[0].move_peer(address, port)
        return found is not None

    def traffic_seen(self, tunnel_id: str, now: float, spi_in: int | None = None) -> None:
        """The peer sent ESP: no liveness check is needed (RFC 7296 section 2.4)."""
        for sa in self._established(tunnel_id, spi_in):
            sa.last_heard = now
            self.hub.touch(sa)

    def traffic_sent(self, tunnel_id: str, now: float, spi_in: int | None = None) -> None:
        """ESP went out: a NAT needs no keepalive (RFC 3948 section 4)."""
        for sa in self._established(tunnel_id, spi_in):
            sa.last_sent = now
            self.hub.touch(sa)

    def addresses_changed(self, now: float) -> None:
        """The host has other addresses now (RFC 4555 section 3.5)."""
        for tunnel in self._runtimes():
            self.hub.guarded(lambda tunnel=tunnel: own_addresses_changed(tunnel, now), now, tunnel)  # type: ignore[misc]
            self.hub.touch(tunnel)

    def datagram_too_big(self, path: Path, packet_octets: int) -> None:
        """The path takes IP packets of at most this many octets: cut messages smaller (RFC 7383 section 2.5.2)."""
        for sa in tuple(self.sas.values()):
            if (sa.path.local_address, sa.path.remote_address) == (path.local_address, path.remote_address):
                messages.path_narrowed(sa, packet_octets)

    # --- what can be asked

    def snapshot(self, tunnel_id: str) -> TunnelStatus | None:
        """Return the status of one tunnel, None where it is not spoken by this version."""
        tunnel = self.tunnels.get(tunnel_id)
        return None if tunnel is None else status.tunnel_status(tunnel)

    def counters(self) -> tuple[ExchangeCounters, ...]:
        """Return the messages counted by exchange type."""
        return self.exchanges.counters()

    def load(self) -> Load:
        """Return how much there is."""
        sas = self.sas.values()
        return Load(
            version=self.version,
            tunnels=len(self.tunnels),
            ike_sas=sum(sa.state is SaState.ESTABLISHED for sa in sas),
            half_open=sum(sa.state in PROGRESSING for sa in sas),
            children=sum(child.state in UP_CHILD for sa in sas for child in sa.children),
            bugs=self.hub.bugs[self.version],
        )

    def local_addresses(self) -> frozenset[str]:
        """Return the addresses that IKE SAs use here or may move to, those being deleted included."""
        used = {sa.path.local_address for sa in self.sas.values()}
        for sa in self.sas.values():
            if sa.tunnel is not None:
                used.update((sa.tunnel.config.local.address, *sa.tunnel.config.local.more_addresses))
        return frozenset(used)

    # --- what SAs and tunnels ask (agents.ike.v2.core.Core)

    def new_ike_spi(self) -> bytes:
        """Return 8 octets that name no other SA here."""
        while True:
            spi = self.hub.entropy.octets(8)
            if spi != NO_SPI and spi not in self.sas:
                return spi

    def register(self, sa: IkeSa) -> None:
        """Route messages for the SA's own SPI to it."""
        self.sas[sa.spi_own] = sa
        self.hub.touch(sa)

    def unregister(self, sa: IkeSa) -> None:
        """Forget the SA."""
        self.sas.pop(sa.spi_own, None)
        self.door.forget(sa)
        self.hub.questions.drop(sa)
        self.hub.agenda.remove(sa)

    def authenticated(self, sa: IkeSa) -> None:
        """Note that a responder's SA is no longer half open."""
        self.door.authenticated(sa)

    def candidates(self, local_address: str, remote_address: str) -> tuple[TunnelRuntime, ...]:
        """Return the tunnels between these addresses that take an initiation by the peer."""
        return tuple(tunnel for tunnel in self._between(local_address, remote_address) if tunnel.accepts_peer)

    def admit(self, sa: IkeSa, shown: Identification) -> TunnelRuntime:
        """Return the tunnel of a peer that has proven this identity: its own where it came on demand.

        Raises PeerError where the on-demand tunnel has too many peers.
        """
        assert sa.tunnel is not None
        template = sa.tunnel
        if template.config.kind is not TunnelKind.ON_DEMAND:
            return template

        def make(config: Tunnel, membership: Membership[TunnelRuntime]) -> TunnelRuntime:
            return TunnelRuntime(self, config, self.hub.now, self.hub.now, membership)

        peer = template.peers.admit(template, shown, sa.path.remote_address, make)
        sa.adopt(peer)
        return peer

    def pretends_nat(self, path: Path) -> bool:
        """Return whether a responder on this path asks for UDP encapsulation without a NAT."""
        return self.hub.require_udp_encapsulation or any(
            tunnel.config.force_udp_encapsulation for tunnel in self._between(path.local_address, path.remote_address)
        )

    # --- a peer's fault

    def react(self, error: WireError | PeerError | IntegrityError, now: float) -> None:
        """Report a fault in a message of no SA; where an answer is due the door has given it."""
        self.react_for(None, error, now)

    def abandon(self) -> None:
        """Nothing of a request is kept outside SAs."""

    def react_for(self, sa: IkeSa | None, error: WireError | PeerError | IntegrityError, now: float) -> None:
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
            self.hub.report_error(error)
            return
        sa.report_error(error)
        if error.code.startswith("child."):
            steps.child_failed(sa, None, error)
        if error.fatal and sa.tunnel is not None:
            sa.tunnel.note_error(error)

    def _report_drop(self, error: WireError, sa: IkeSa | None) -> None:
        (self.hub if sa is None else sa).report(
            error.code,
            error.detail,
            received=error.received,
            configured=error.expected,
            attributes=drop_attributes(error),
        )

    # --- inside

    def _runtimes(self) -> list[TunnelRuntime]:
        """Return every tunnel: those of the document, and those of the peers of on-demand ones."""
        return [each for tunnel in self.tunnels.values() for each in (tunnel, *tunnel.peers)]

    def _between(self, local_address: str, remote_address: str) -> tuple[TunnelRuntime, ...]:
        """Return the document's tunnels between these addresses, then those whose peers come from anywhere."""
        known = self._by_addresses.get((local_address, remote_address), ())
        return known + self._by_addresses.get((local_address, ondemand.anywhere(local_address)), ())

    def _route(self, datagram: bytes, header: Header, path: Path, now: float) -> None:
        if header.exchange == Exchange.IKE_SA_INIT:
            if header.response:
                self._first_answer(datagram, header, path, now)
            else:
                self.door.first_request(datagram, header, path, now)
            return
        sa = self.sas.get(header.spi_r if header.from_initiator else header.spi_i)
        peer = header.spi_i if header.from_initiator else header.spi_r
        if sa is None:
            other = self.sas.get(header.spi_i if header.from_initiator else header.spi_r)
            if other is not None:
                raise WireError("drop.direction", "the initiator flag does not go with the SPIs")
            self.door.answer_unknown(datagram, header, path, now)
            raise WireError("drop.unknown-spi", f"no IKE SA {header.spi_i.hex()}_{header.spi_r.hex()}")
        if sa.initiator == header.from_initiator or sa.spi_peer != peer:
            raise WireError("drop.direction", "the initiator flag or an SPI does not go with the IKE SA")
        self.hub.subject = sa
        sa.receive(datagram, header, path, now)

    def _first_answer(self, datagram: bytes, header: Header, path: Path, now: float) -> None:
        sa = self.sas.get(header.spi_i)
        if sa is None or not sa.initiator:
            raise WireError("drop.unknown-spi", f"no IKE SA {header.spi_i.hex()} waits for a first answer")
        if header.from_initiator:
            raise WireError("drop.direction", "a first answer with the initiator flag")
        if sa.state is not SaState.INIT_SENT or not sa.requests.accepts(header.message_id, header.exchange):
            raise WireError("drop.duplicate", "a first answer nobody waits for")
        if path.remote_address != sa.path.remote_address:
            raise WireError("drop.state", f"a first answer from {path.remote_address}")
        message = parse_clear(datagram, header)
        self.hub.subject = sa
        self.exchanges.add(header.exchange, Count.RESPONSES_IN)
        sa.init_response = datagram
        sa.finish_request(message, now)

    def _established(self, tunnel_id: str, spi_in: int | None) -> list[IkeSa]:
        """Return the SAs that stand of the peer that has the child with this SPI, of a tunnel's only one without."""
        tunnel = self.tunnels.get(tunnel_id)
        if tunnel is not None and tunnel.config.kind is TunnelKind.ON_DEMAND:
            found = None if spi_in is None else self._find_child(tunnel_id, spi_in)
            tunnel = None if found is None else found[0].tunnel
        return [] if tunnel is None else tunnel.established()

    def _find_child(self, tunnel_id: str, spi_in: int) -> tuple[IkeSa, ChildSa] | None:
        tunnel = self.tunnels.get(tunnel_id)
        for each in () if tunnel is None else (tunnel, *tunnel.peers):
            for sa in each.sas:
                child = sa.child_by_spi_in(spi_in)
                if child is not None:
                    return sa, child
        return None
