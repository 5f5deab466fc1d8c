"""One ISAKMP SA (RFC 2408, 2409): its keys, the exchanges under way on it, its timers.

IPsec SAs are not its own but the tunnel's: in IKEv1 they outlive the ISAKMP SA that they were negotiated on. Exchanges
are in :mod:`agents.ike.v1.tasks`; an exception raised here ends in the hub's funnel.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from agents.contract.config import ExchangeMode
from agents.contract.events import KINDS
from agents.contract.status import Reason
from agents.ike import paths
from agents.ike.crypto.errors import IntegrityError
from agents.ike.errors import PeerError, WireError
from agents.ike.outputs import Path
from agents.ike.timers import HALF_OPEN_S, rekey_after_s
from agents.ike.v1 import keymat, receiving, steps, used_ids, watch
from agents.ike.v1.capabilities import Capabilities
from agents.ike.v1.cipher import Phase1Cipher
from agents.ike.v1.exchange import Exchange
from agents.ike.v1.natd import Nat
from agents.ike.v1.phase1 import Phase1
from agents.ike.v1.sending import Request
from agents.ike.v1.states import INITIATED, PROGRESSING, SaState
from agents.ike.v1.unanswered import FAREWELL_S, Again, Unanswered
from agents.ike.v1.used_ids import UsedIds
from agents.ike.wire.header import NO_SPI, Header
from agents.ike.wire.isakmp.fragments import Reassembly
from agents.ike.wire.isakmp.registry import Exchange as ExchangeType

if TYPE_CHECKING:
    from agents.ike.v1.machine import Machine
    from agents.ike.v1.proposals import Phase1Suite
    from agents.ike.v1.tunnel import TunnelRuntime

_MOST_DELETED = 256

_LEAST_KILOBYTES = 64
"""A shorter lifetime in kilobytes would be over before the first children are up, again and again."""


class IsakmpSa:
    """An ISAKMP SA of either role. ``waiting`` says that an answer of the shell is awaited, so no message is taken."""

    version = "v1"

    def __init__(self, core: Machine, *, initiator: bool, mode: ExchangeMode, path: Path, now: float) -> None:
        self.core = core
        self.initiator = initiator
        self.mode = mode
        self.path = path
        self.tunnel: TunnelRuntime | None = None
        self.cookie_own = core.new_cookie()
        self.cookie_peer = NO_SPI
        self.state = _first_state(initiator, mode)
        self.waiting = False
        self.phase1 = Phase1()
        self.peer = Capabilities()
        self.nat = Nat()
        self.exchange = Exchange(message_id=0, number=_EXCHANGES[mode])
        """Phase 1."""
        self.exchanges: dict[int, Exchange] = {}
        """Quick Modes by message ID."""
        self.used_ids = UsedIds()
        self.unanswered = Unanswered()
        self.last_again: Again | None = None
        """What sends our last message of Aggressive Mode again."""
        self.deleted: OrderedDict[tuple[int, int], float] = OrderedDict()
        """Protocol and SPI of SAs that the peer has deleted, and when: it may say so again, and before we have them."""
        self.reassembly = Reassembly()
        self.path_octets = 65_535
        self.heard_encrypted = False
        """Whether the peer has shown that it has our last message of phase 1."""
        self.first_key: tuple[str, int, bytes] | None = None
        self.half_open_address: str | None = None
        self.created_at = now
        self.established_at: float | None = None
        self.cause: str | None = None
        self.failure_told = False
        self.lifetime_s = 0
        self.lifetime_kilobytes = 0
        self.octets = 0
        self.worn = False
        """Whether it has protected most of the kilobytes that it may."""
        self.rekey_at: float | None = None
        self.expire_at: float | None = None if initiator else now + HALF_OPEN_S
        self.delete_at: float | None = None
        self.last_heard = now
        self.last_sent = now
        self.dpd = watch.Liveness(core.hub.entropy)
        self.request: Request | None = None
        """The message of phase 1 that came last."""
        self.told = False
        """Whether a notify in clear has been sent about it."""
        self.hint: Reason | None = None
        """What a notify in clear says may be wrong."""
        self.heard_in_clear: set[int] = set()
        """Types of the notifies in clear that were reported."""
        self.unreadable_told = False
        """Whether an Informational was reported that the keys of phase 1 do not open."""
        self.scheduled_at: float | None = None
        self._suite: Phase1Suite | None = None
        self._keys: keymat.Phase1Keys | None = None
        self._cipher: Phase1Cipher | None = None
        self._last_block = b""

    def __repr__(self) -> str:
        return f"IsakmpSa({self.cookie_i.hex()}_{self.cookie_r.hex()} {self.state})"

    @property
    def cookie_i(self) -> bytes:
        """The initiator's cookie."""
        return self.cookie_own if self.initiator else self.cookie_peer

    @property
    def cookie_r(self) -> bytes:
        """The responder's cookie; zero before it is known."""
        return self.cookie_peer if self.initiator else self.cookie_own

    @property
    def suite(self) -> Phase1Suite:
        """The negotiated suite; only after it is."""
        assert self._suite is not None
        return self._suite

    @property
    def keys(self) -> keymat.Phase1Keys:
        """The keys; only after the key exchange."""
        assert self._keys is not None
        return self._keys

    @property
    def cipher(self) -> Phase1Cipher:
        """The cipher; only after the key exchange."""
        assert self._cipher is not None
        return self._cipher

    @property
    def keyed(self) -> bool:
        """Whether messages can be encrypted."""
        return self._cipher is not None

    @property
    def standing(self) -> bool:
        """Whether the SA is established and not on its way out."""
        return self.state is SaState.ESTABLISHED

    @property
    def fragmenting(self) -> bool:
        """Whether both ends cut large messages."""
        return self.peer.fragmentation and self.takes_fragments

    @property
    def takes_fragments(self) -> bool:
        """Whether we have said that we take them; in Aggressive Mode the peer's first message may come so already."""
        tunnels = self.phase1.candidates if self.tunnel is None else (self.tunnel,)
        return any(tunnel.config.ike.fragmentation for tunnel in tunnels)

    @property
    def meant(self) -> TunnelRuntime | None:
        """The tunnel, or the only one that it can be about: that of reports while the peer is not known yet."""
        if self.tunnel is not None:
            return self.tunnel
        found = self.phase1.candidates
        return found[0] if len(found) == 1 else None

    def adopt(self, tunnel: TunnelRuntime) -> None:
        """Belong to this tunnel from now on."""
        if self.tunnel not in (None, tunnel):
            self.tunnel.drop_sa(self)
        self.tunnel = tunnel
        tunnel.add_sa(self)

    def take_suite(self, suite: Phase1Suite) -> None:
        """Note what was agreed on."""
        self._suite = suite

    def take_keys(self, keys: keymat.Phase1Keys) -> None:
        """Encrypt with these keys from now on."""
        self._keys = keys
        key = keymat.encryption_key(self.suite.prf, self.suite.encryption, keys.skeyid_e)
        self._cipher = Phase1Cipher(self.suite.encryption, key)
        phase1 = self.phase1
        self.exchange.iv = keymat.first_iv(
            self.suite.hash, phase1.public_i, phase1.public_r, self.suite.encryption.block_octets
        )

    def end_phase_1(self) -> None:
        """What comes next is encrypted from the last block of phase 1 on."""
        self._last_block = self.exchange.iv

    def iv_of(self, message_id: int) -> bytes:
        """Return the IV that an exchange after phase 1 begins with."""
        return keymat.exchange_iv(self.suite.hash, self._last_block, message_id, self.suite.encryption.block_octets)

    def new_message_id(self) -> int:
        """Return a message ID that no exchange of this SA had."""
        while True:
            number = int.from_bytes(self.core.hub.entropy.octets(4), "big")
            if number and number not in self.used_ids:
                self.use_id(number)
                return number

    def use_id(self, number: int) -> None:
        """Remember a message ID; an SA that has used many is renewed, and ends before they could be forgotten."""
        self.used_ids.add(number)
        if self.standing and len(self.used_ids) == used_ids.RENEW_AT:
            self.rekey_at = self.last_heard
        if self.standing and len(self.used_ids) >= used_ids.MOST:
            self.expire_at = self.last_heard

    def note_deleted(self, protocol: int, spi: int, now: float) -> bool:
        """Remember a Delete; False when it has been there before."""
        known = (protocol, spi) in self.deleted
        self.deleted[protocol, spi] = now
        if len(self.deleted) > _MOST_DELETED:
            self.deleted.popitem(last=False)
        return not known

    # --- reports

    def report(
        self,
        code: str,
        message: str,
        *,
        received: str | None = None,
        configured: str | None = None,
        field: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Report something about this SA."""
        self.core.hub.report(
            code,
            message,
            tunnel_id=None if self.meant is None else self.meant.config.id,
            received=received,
            configured=configured,
            field=field,
            attributes={**steps.attributes(self), **(attributes or {})},
        )

    def report_error(self, error: PeerError) -> None:
        """Report a refusal, ours or the peer's."""
        self.cause = error.code
        self.report(
            error.code,
            error.message,
            received=error.received,
            configured=error.configured,
            field=error.field or KINDS[error.code].field or None,
            attributes=error.attributes,
        )

    # --- receiving

    def receive(self, datagram: bytes, header: Header, path: Path, now: float) -> None:
        """Handle a message for this SA. Raises WireError, IntegrityError or PeerError for the funnel."""
        receiving.receive(self, datagram, header, path, now)

    def heard(self, path: Path, now: float) -> None:
        """An authentic message came on this path: the peer is there, perhaps behind another mapping of its NAT."""
        self.last_heard = now
        if not self.heard_encrypted:
            self.heard_encrypted = True
            self.unanswered.forget(self.last_again)
        self.dpd.heard()
        self._follow(path)

    def _follow(self, path: Path) -> None:
        """Take the path that the peer's authentic messages come on, where its NAT can have changed it."""
        if path == self.path or not self.nat.remote or (self.nat.local and self.initiator):
            return
        old, self.path = self.path, path
        self.report(
            "ike.nat-moved",
            "The peer's messages come from another address or port",
            received=paths.endpoint(path.remote_address, path.remote_port),
            configured=paths.endpoint(old.remote_address, old.remote_port),
        )
        if self.tunnel is not None:
            self.tunnel.children.move(self)

    def move_peer(self, address: str, port: int) -> None:
        """Follow the peer to where its authenticated ESP packets come from now."""
        self.dpd.heard()
        self._follow(replace(self.path, remote_address=address, remote_port=port))

    # --- life and death

    def establish(self, now: float) -> None:
        """Both ends are authenticated: the lifetime begins."""
        assert self.tunnel is not None
        self.state = SaState.ESTABLISHED
        self.end_phase_1()
        self.established_at = now
        self.exchange.finish(now)
        self.phase1.forget_secrets()
        self.waiting = False
        self.core.authenticated(self)
        self.retime()
        self.last_heard = now
        steps.established(self)
        self.tunnel.sa_established(self, now)
        self.core.hub.touch(self)

    def retime(self) -> None:
        """Set when a new phase 1 begins and when this one ends, by the lifetime agreed on and the present one."""
        if self.tunnel is None or self.established_at is None:
            return
        lifetime_s = min(self.lifetime_s, self.tunnel.config.ike.lifetime_s)
        self.rekey_at = self.established_at + rekey_after_s(lifetime_s, self.initiator, self.core.hub.entropy.uniform())
        self.expire_at = self.established_at + lifetime_s
        self.core.hub.touch(self)

    def carried(self, octets: int, now: float) -> None:
        """Count what this SA has protected: near its lifetime in kilobytes a new phase 1 begins, at its end this ends.

        Either happens a second later: what was protected may be the first of several messages.
        """
        self.octets += octets
        if not self.lifetime_kilobytes or not self.standing or self.delete_at is not None:
            return
        limit = max(_LEAST_KILOBYTES, self.lifetime_kilobytes) * 1024
        if self.octets >= limit:
            self.expire_at = min(now + 1.0, self.expire_at or now + 1.0)
        elif self.octets >= 0.8 * limit and not self.worn:
            self.worn, self.rekey_at = True, now + 1.0
        self.core.hub.touch(self)

    def close(self, now: float, *, linger: bool = False) -> None:
        """End this SA at once.

        With ``linger`` it still answers repetitions of the last message for a while, and Deletes go out and come in.
        """
        if self.state is SaState.CLOSED:
            return
        self.state = SaState.CLOSED
        self.core.hub.questions.drop(self)
        self.core.authenticated(self)
        self.waiting = False
        self.phase1.forget_secrets()
        pending = [each for each in self.exchanges.values() if each.gave_up is not None]
        self.exchanges.clear()
        self.reassembly = Reassembly()
        self.exchange.due = self.rekey_at = self.expire_at = self.delete_at = None
        self.dpd.stop()
        if linger and self.exchange.sent:
            self.expire_at = now + FAREWELL_S
        else:
            self.unanswered.clear()
            self.core.unregister(self)
        for each in pending:
            assert each.gave_up is not None
            each.gave_up(now)
        if self.tunnel is not None:
            self.tunnel.sa_closed(self, now)
        self.core.hub.touch(self)

    def fail(self, error: PeerError, now: float, *, linger: bool = False) -> None:
        """The negotiation cannot succeed: report why, tell the tunnel, end.

        What a peer said in clear says more than its silence after it.
        """
        self.report_error(error)
        if self.meant is not None:
            self.meant.note_error(error)
        if self.hint is not None and error.code == "ike.peer-unresponsive":
            self.cause = self.hint.code
            if self.tunnel is not None:
                self.tunnel.hint(self.hint)
        steps.failed(self, error.message)
        self.close(now, linger=linger)

    # --- time

    def deadline(self) -> float | None:
        """Return when something is due next."""
        return watch.deadline(self)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        watch.handle_timer(self, now)
        self.core.hub.touch(self)

    def maintain(self, now: float) -> None:
        """Nothing is missing that a deadline would not say."""

    # --- what goes wrong

    def react(self, error: WireError | PeerError | IntegrityError, now: float) -> None:
        """Turn a fault in a message for this SA into a notify, where one is due, and a report."""
        self.core.react_for(self, error, now)

    def abandon(self) -> None:
        """A bug of ours ended a step: what was awaited may come again."""
        self.waiting = False

    @property
    def progressing(self) -> bool:
        """Whether phase 1 is under way."""
        return self.state in PROGRESSING

    @property
    def initiated(self) -> bool:
        """Whether phase 1 is under way and we began it."""
        return self.state in INITIATED


_EXCHANGES = {ExchangeMode.MAIN: ExchangeType.MAIN, ExchangeMode.AGGRESSIVE: ExchangeType.AGGRESSIVE}


def _first_state(initiator: bool, mode: ExchangeMode) -> SaState:
    if mode is ExchangeMode.MAIN:
        return SaState.SA_SENT if initiator else SaState.SA_ANSWERED
    return SaState.AGGRESSIVE_SENT if initiator else SaState.AGGRESSIVE_ANSWERED
