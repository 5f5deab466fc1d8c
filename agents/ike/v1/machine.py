"""The IKEv1 machine of one gateway: its tunnels and ISAKMP SAs, which message is whose, what comes of a peer's fault.

What both versions share is the hub's (:mod:`agents.ike.hub`). First messages of phase 1 go to the door.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from agents.contract.config import Tunnel
from agents.contract.status import ExchangeCounters, TunnelStatus
from agents.ike.crypto.errors import IntegrityError
from agents.ike.errors import PeerError, WireError
from agents.ike.limits import HalfOpenLimits
from agents.ike.machine import SecretChanged, drop_attributes, take_over
from agents.ike.outputs import Path
from agents.ike.tally import ExchangeTally
from agents.ike.v1 import status, steps
from agents.ike.v1.door import Door
from agents.ike.v1.sa import IsakmpSa
from agents.ike.v1.tasks import info
from agents.ike.v1.tunnel import TunnelRuntime
from agents.ike.wire.header import NO_SPI, Header
from agents.ike.wire.isakmp import rules
from agents.ike.wire.isakmp.registry import Exchange, exchange_name

if TYPE_CHECKING:
    from agents.ike.fallback import Turns
    from agents.ike.hub import Hub

_PHASE_1 = (Exchange.MAIN, Exchange.AGGRESSIVE)
_WITH_KEYS_OCTETS = 96
"""No message with a key exchange or a proof is shorter."""


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
        self._message: tuple[bytes, Header, Path] | None = None

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

    def receive(self, datagram: bytes, header: Header, path: Path, now: float) -> None:
        """Handle one datagram. Raises WireError, PeerError or IntegrityError for the funnel."""
        self._message = (datagram, header, path)
        try:
            rules.check_header(header)
            self._route(datagram, header, path, now)
        except WireError as error:
            error.exchange = exchange_name(header.exchange)
            raise

    def sa_expired(self, tunnel_id: str, spi_in: int, hard: bool, now: float) -> bool:
        """A limit in octets or packets (or the backstop in seconds) was reached; False when no child has this SPI."""
        tunnel = self.tunnels.get(tunnel_id)
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
        tunnel = self.tunnels.get(tunnel_id)
        if tunnel is None or tunnel.children.by_spi_in(spi_in) is None:
            return False
        sa = tunnel.primary()
        if sa is not None:
            sa.move_peer(address, port)
        return True

    def traffic_seen(self, tunnel_id: str, now: float) -> None:
        """The peer sent ESP: no liveness check is needed (RFC 3706 section 5.4)."""
        tunnel = self.tunnels.get(tunnel_id)
        if tunnel is not None:
            tunnel.traffic_seen(now)
        for sa in self._established(tunnel_id):
            sa.last_heard = now
            sa.dpd.heard()
            self.hub.touch(sa)

    def traffic_sent(self, tunnel_id: str, now: float) -> None:
        """ESP went out: a NAT needs no keepalive (RFC 3948 section 4)."""
        for sa in self._established(tunnel_id):
            sa.last_sent = now
            self.hub.touch(sa)

    def addresses_changed(self, now: float) -> None:
        """The host has other addresses now: what speaks from one that is gone begins again when it is back."""
        for tunnel in self.tunnels.values():
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

    def message_done(self) -> None:
        """What goes on now goes on with an answer of the shell: the message that came last may be another's."""
        self._message = None

    def authenticated(self, sa: IsakmpSa) -> None:
        """Note that a responder's SA is no longer half open."""
        self.door.authenticated(sa)

    def candidates(self, local_address: str, remote_address: str) -> tuple[TunnelRuntime, ...]:
        """Return the tunnels between these addresses that take an initiation by the peer, in document order."""
        found = self._by_addresses.get((local_address, remote_address), ())
        return tuple(tunnel for tunnel in found if tunnel.accepts_peer)

    # --- a peer's fault

    def react(self, error: WireError | PeerError | IntegrityError, now: float) -> None:
        """Report a fault in a message of no SA, and tell the peer where that is worth an answer."""
        self.react_for(None, error, now)

    def abandon(self) -> None:
        """Nothing of a message is kept outside SAs."""

    def react_for(self, sa: IsakmpSa | None, error: WireError | PeerError | IntegrityError, now: float) -> None:
        """Turn a peer's fault into a notify, where one is due, and a report.

        On an SA that stands only what was protected is answered, and that by a protected notify. Before, a notify goes
        out in clear: once for each SA, seldom for those of none.
        """
        if isinstance(error, IntegrityError):
            error = WireError("drop.integrity", str(error))
        if isinstance(error, WireError):
            self._report_drop(error, sa)
            if sa is None or (sa.progressing and not sa.keyed):
                self._tell(sa, error.notify, now)
            return
        if sa is None:
            self.hub.report_error(error)
            self._tell(None, error.notify, now)
            return
        if sa.standing:
            sa.report_error(error)
            info.refuse(sa, error, now)
            steps.child_failed(sa, None, error)
            if sa.tunnel is not None:
                sa.tunnel.note_error(error)
            return
        self._tell(sa, error.notify, now)
        if error.fatal:
            sa.fail(error, now, linger=not sa.initiator)
            return
        sa.report_error(error)
        if sa.meant is not None:
            sa.meant.note_error(error)

    def _tell(self, sa: IsakmpSa | None, notify: int | None, now: float) -> None:
        if not notify or (sa is not None and sa.told):
            return
        if self._message is not None:
            datagram, header, path = self._message
            cookies, octets = (header.spi_i, header.spi_r), len(datagram)
            if header.exchange == Exchange.INFORMATIONAL:
                return
        elif sa is not None:  # what is wrong turned out later, about a message with a key exchange at least
            cookies, octets, path = (sa.cookie_i, sa.cookie_r), _WITH_KEYS_OCTETS, sa.path
        else:
            return
        if sa is not None:
            sa.told = True
            path = sa.path
        self.door.tell(cookies, path, notify, octets, now)

    def _report_drop(self, error: WireError, sa: IsakmpSa | None) -> None:
        (self.hub if sa is None else sa).report(
            error.code,
            error.detail,
            received=error.received,
            configured=error.expected,
            attributes=drop_attributes(error),
        )

    # --- inside

    def _route(self, datagram: bytes, header: Header, path: Path, now: float) -> None:
        sa = self.sas.get(header.spi_i) or self.sas.get(header.spi_r)
        if sa is not None and not self._is_its_peer(sa, header):
            raise WireError("drop.direction", "a cookie does not go with the ISAKMP SA")
        if sa is not None:
            self.hub.subject = sa
            sa.receive(datagram, header, path, now)
            return
        if header.exchange in _PHASE_1 and header.spi_r == NO_SPI:
            self.door.first_message(datagram, header, path, now)
            return
        raise WireError(
            "ikev1.exchange-without-sa",
            f"{exchange_name(header.exchange)} for an IKE SA that does not exist: "
            f"{header.spi_i.hex()}_{header.spi_r.hex()}",
            received=f"{header.spi_i.hex()}_{header.spi_r.hex()}",
        )

    @staticmethod
    def _is_its_peer(sa: IsakmpSa, header: Header) -> bool:
        """Return whether the other cookie is the peer's; an initiator learns it from the first answer."""
        if sa.initiator and sa.cookie_peer == NO_SPI:
            return header.spi_i == sa.cookie_own
        return (header.spi_i, header.spi_r) == (sa.cookie_i, sa.cookie_r)

    def _established(self, tunnel_id: str) -> list[IsakmpSa]:
        tunnel = self.tunnels.get(tunnel_id)
        return [] if tunnel is None else tunnel.established()
