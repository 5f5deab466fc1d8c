"""The IKEv1 machine of one gateway: its tunnels and ISAKMP SAs, which message is whose, what comes of a peer's fault.

What both versions share is the hub's (:mod:`agents.ike.hub`). First messages of phase 1 go to the door.
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
from agents.ike.tally import ExchangeTally
from agents.ike.v1 import place, status, steps
from agents.ike.v1.door import Door
from agents.ike.v1.reasons import reason
from agents.ike.v1.sa import IsakmpSa
from agents.ike.v1.sending import Request
from agents.ike.v1.states import UP_CHILD, SaState
from agents.ike.v1.tasks import info
from agents.ike.v1.tunnel import TunnelRuntime
from agents.ike.wire.header import NO_SPI, Header
from agents.ike.wire.isakmp import rules
from agents.ike.wire.isakmp.families import BY_CODE
from agents.ike.wire.isakmp.payloads import Identification
from agents.ike.wire.isakmp.registry import Exchange, exchange_name

if TYPE_CHECKING:
    from agents.ike.fallback import Turns
    from agents.ike.hub import Hub

_PHASE_1 = (Exchange.MAIN, Exchange.AGGRESSIVE)


class Machine:
    """All ISAKMP SAs."""

    version = "v1"

    def __init__(self, hub: Hub, turns: Turns, limits: HalfOpenLimits) -> None:
        self.hub = hub
        self.turns = turns
        self.exchanges = ExchangeTally(rules.SPOKEN, exchange_name)
        self.tunnels: dict[str, TunnelRuntime] = {}
        self.sas: dict[bytes, IsakmpSa] = {}
        self.door = Door(self, limits)
        self.fragment_id = 0
        self._by_addresses: dict[tuple[str, str], tuple[TunnelRuntime, ...]] = {}
        self._request: Request | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing needs this machine any more."""
        return not self.tunnels and not self.sas

    # --- inputs

    def configure(self, wanted: Mapping[str, Tunnel], secret_changed: SecretChanged, now: float) -> None:
        """Take over the tunnels of a document that may speak IKEv1."""
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
            index.setdefault((tunnel.config.local.address, tunnel.config.remote.address), []).append(tunnel)
        self._by_addresses = {key: tuple(tunnels) for key, tunnels in index.items()}
        self.door.forget_refusals()

    def receive(self, datagram: bytes, header: Header, path: Path, now: float) -> None:
        """Handle one datagram. Raises WireError, PeerError or IntegrityError for the funnel."""
        self._request = Request(octets=len(datagram), header=header, path=path)
        try:
            rules.check_fields(header)
            self._route(datagram, header, path, now)
        except WireError as error:
            error.exchange = exchange_name(header.exchange)
            raise

    def sa_expired(self, tunnel_id: str, spi_in: int, hard: bool, now: float) -> bool:
        """A limit in octets or packets (or the backstop in seconds) was reached; False when no child has this SPI."""
        tunnel = self._holder(tunnel_id, spi_in)
        child = None if tunnel is None else tunnel.children.by_spi_in(spi_in)
        if tunnel is None or child is None:
            return False
        if hard:
            child.expire_at = now
        elif child.rekey_at is not None:
            child.rekey_at = now
        self.hub.touch(tunnel)
        return True

    def peer_moved(self, tunnel_id: str, spi_in: int, address: str, port: int) -> bool:
        """Authenticated ESP of this SA came from another address or port; False when no child has this SPI."""
        tunnel = self._holder(tunnel_id, spi_in)
        if tunnel is None:
            return False
        sa = tunnel.primary()
        if sa is not None:
            sa.move_peer(address, port)
        return True

    def traffic_seen(self, tunnel_id: str, now: float, spi_in: int | None = None) -> None:
        """The peer sent ESP: no liveness check is needed (RFC 3706 section 5.4)."""
        tunnel = self._heard(tunnel_id, spi_in)
        if tunnel is None:
            return
        tunnel.traffic_seen(now)
        for sa in tunnel.established():
            sa.last_heard = now
            sa.dpd.heard()
            self.hub.touch(sa)

    def traffic_sent(self, tunnel_id: str, now: float, spi_in: int | None = None) -> None:
        """ESP went out: a NAT needs no keepalive (RFC 3948 section 4)."""
        tunnel = self._heard(tunnel_id, spi_in)
        for sa in () if tunnel is None else tunnel.established():
            sa.last_sent = now
            self.hub.touch(sa)

    def addresses_changed(self, now: float) -> None:
        """The host has other addresses now: what speaks from one that is gone begins again when it is back."""
        for tunnel in self._runtimes():
            self.hub.guarded(lambda tunnel=tunnel: tunnel.addresses_changed(now), now, tunnel)  # type: ignore[misc]

    def datagram_too_big(self, path: Path, packet_octets: int) -> None:
        """The path takes IP packets of at most this many octets: cut messages smaller."""
        for sa in self.sas.values():
            if (sa.path.local_address, sa.path.remote_address) == (path.local_address, path.remote_address):
                sa.path_octets = min(sa.path_octets, packet_octets)

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
        return Load(
            version=self.version,
            tunnels=len(self.tunnels),
            ike_sas=sum(sa.standing for sa in self.sas.values()),
            half_open=sum(sa.progressing for sa in self.sas.values()),
            children=sum(child.state in UP_CHILD for tunnel in self._runtimes() for child in tunnel.children),
            bugs=self.hub.bugs[self.version],
        )

    def local_addresses(self) -> frozenset[str]:
        """Return the addresses that ISAKMP SAs use here."""
        return frozenset(sa.path.local_address for sa in self.sas.values())

    # --- what SAs and tunnels ask

    def new_cookie(self) -> bytes:
        """Return 8 octets that name no other SA here."""
        while True:
            cookie = self.hub.entropy.octets(8)
            if cookie != NO_SPI and cookie not in self.sas:
                return cookie

    def register(self, sa: IsakmpSa) -> None:
        """Route messages with the SA's own cookie to it."""
        self.sas[sa.cookie_own] = sa
        self.hub.touch(sa)

    def unregister(self, sa: IsakmpSa) -> None:
        """Forget the SA."""
        self.sas.pop(sa.cookie_own, None)
        self.door.forget(sa)
        self.hub.questions.drop(sa)
        self.hub.agenda.remove(sa)

    def authenticated(self, sa: IsakmpSa) -> None:
        """Note that a responder's SA is no longer half open."""
        self.door.authenticated(sa)

    def candidates(self, local_address: str, remote_address: str) -> tuple[TunnelRuntime, ...]:
        """Return the tunnels between these addresses that take an initiation by the peer, in document order."""
        return tuple(tunnel for tunnel in self._between(local_address, remote_address) if tunnel.accepts_peer)

    def admit(self, sa: IsakmpSa, shown: Identification) -> TunnelRuntime:
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

    # --- a peer's fault

    def react(self, error: WireError | PeerError | IntegrityError, now: float) -> None:
        """Report a fault in a message of no SA, and tell the peer where that is worth an answer."""
        self.react_for(None, error, now)

    def abandon(self) -> None:
        """Nothing of a message is kept outside SAs."""

    def react_for(self, sa: IsakmpSa | None, error: WireError | PeerError | IntegrityError, now: float) -> None:
        """Turn a peer's fault into a notify, where one is due, and a report.

        On an SA that stands only what was protected is answered, and that by a protected notify. Before, a notify goes
        out in clear: once for each SA, seldom for those of none. A responder whose last message of Main Mode we refuse
        stands already: it is told by what protects that SA, and a Delete.
        """
        if isinstance(error, IntegrityError):
            error = WireError("drop.integrity", str(error))
        if isinstance(error, WireError):
            sa = sa or (None if self._request is None else self._sa_of(self._request.header))
            self._report_drop(error, sa)
            if sa is None or (sa.progressing and not sa.keyed):
                self._tell(sa, error.notify, self._request, now)
            return
        if sa is None:
            self.hub.report_error(error)
            self._tell(None, error.notify, self._request, now)
            return
        withdrawn = sa.state is SaState.ID_SENT and error.fatal
        if withdrawn:
            info.withdraw(sa, error, now)
        elif not sa.standing:
            self._tell(sa, error.notify, sa.request, now)
        if sa.progressing and error.fatal:
            sa.fail(error, now, linger=withdrawn or not sa.initiator)
            return
        sa.report_error(error)
        if sa.meant is not None:
            sa.meant.note_error(error)

    def _tell(self, sa: IsakmpSa | None, notify: int | None, request: Request | None, now: float) -> None:
        if not notify or request is None or (sa is not None and sa.told):
            return
        if sa is not None:
            sa.told = True
        self.door.tell(request, request.path if sa is None else sa.path, notify, now)

    def _report_drop(self, error: WireError, sa: IsakmpSa | None) -> None:
        """Report a message that is not taken, and where it stood.

        Anybody can send one: so it ends nothing, and is the reason of a tunnel that is down only until there is a
        better one.
        """
        request, attributes = self._request, drop_attributes(error)
        where = None if request is None else place.of(request.header, sa)
        tunnel = sa.meant if sa is not None else None if request is None else self._only_tunnel(request.path)
        text = error.detail
        if where is not None:
            attributes = {**attributes, **where.attributes}
            text = f"{text}, {where.sentence}" if error.code in BY_CODE else text
        if sa is None and request is not None:
            attributes = {"remote": request.path.remote_address, "version": self.version, **attributes}
        self.hub.report(
            error.code,
            text,
            tunnel_id=None if tunnel is None else tunnel.config.id,
            received=error.received,
            configured=error.expected,
            attributes=attributes if sa is None else {**steps.attributes(sa), **attributes},
        )
        if tunnel is not None and error.code in BY_CODE and (sa is None or sa.progressing):
            tunnel.hint(reason(error.code, text, error.received, error.expected))

    # --- inside

    def _runtimes(self) -> list[TunnelRuntime]:
        """Return every tunnel: those of the document, and those of the peers of on-demand ones."""
        return [each for tunnel in self.tunnels.values() for each in (tunnel, *tunnel.peers)]

    def _between(self, local_address: str, remote_address: str) -> tuple[TunnelRuntime, ...]:
        """Return the document's tunnels between these addresses, then those whose peers come from anywhere."""
        known = self._by_addresses.get((local_address, remote_address), ())
        return known + self._by_addresses.get((local_address, ondemand.anywhere(local_address)), ())

    def _route(self, datagram: bytes, header: Header, path: Path, now: float) -> None:
        named = self.sas.get(header.spi_i) or self.sas.get(header.spi_r)
        sa = self._sa_of(header)
        if named is not None and sa is None:
            raise WireError("drop.direction", "a cookie does not go with the ISAKMP SA")
        if sa is not None:
            rules.check_message_id(header)
            self.hub.subject = sa
            sa.receive(datagram, header, path, now)
            return
        if header.exchange in _PHASE_1 and header.spi_r == NO_SPI:
            rules.check_message_id(header)
            self.door.first_message(datagram, header, path, now)
            return
        raise WireError(
            "ikev1.exchange-without-sa",
            f"The exchange type {exchange_name(header.exchange)} ({header.exchange:#x}) was received for an IKE SA "
            f"that does not exist ({header.spi_i.hex()}_{header.spi_r.hex()})",
            received=exchange_name(header.exchange),
            expected="main-mode or aggressive-mode of a new IKE SA",
        )

    def _sa_of(self, header: Header) -> IsakmpSa | None:
        """Return the SA that both cookies name."""
        sa = self.sas.get(header.spi_i) or self.sas.get(header.spi_r)
        return sa if sa is not None and self._is_its_peer(sa, header) else None

    def _only_tunnel(self, path: Path) -> TunnelRuntime | None:
        """Return the tunnel that a message between these addresses is about, where it can be no other."""
        found = self._between(path.local_address, path.remote_address)
        return found[0] if len(found) == 1 else None

    @staticmethod
    def _is_its_peer(sa: IsakmpSa, header: Header) -> bool:
        """Return whether the other cookie is the peer's; an initiator learns it from the first answer."""
        if sa.initiator and sa.cookie_peer == NO_SPI:
            return header.spi_i == sa.cookie_own
        return (header.spi_i, header.spi_r) == (sa.cookie_i, sa.cookie_r)

    def _holder(self, tunnel_id: str, spi_in: int) -> TunnelRuntime | None:
        """Return the tunnel, or the peer's one, that has the child with this SPI."""
        tunnel = self.tunnels.get(tunnel_id)
        everyone = () if tunnel is None else (tunnel, *tunnel.peers)
        return next((each for each in everyone if each.children.by_spi_in(spi_in) is not None), None)

    def _heard(self, tunnel_id: str, spi_in: int | None) -> TunnelRuntime | None:
        """Return whose traffic it was: the tunnel, or the peer that has the child with this SPI."""
        tunnel = self.tunnels.get(tunnel_id)
        if tunnel is None or tunnel.config.kind is not TunnelKind.ON_DEMAND:
            return tunnel
        return None if spi_in is None else self._holder(tunnel_id, spi_in)
