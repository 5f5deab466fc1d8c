"""One IKE SA (RFC 7296): keys, message windows, the queue of our requests, its children and its timers.

Exchanges are in :mod:`agents.ike.v2.tasks`; what the SA is for is the tunnel's business. An exception raised here ends
in the engine's funnel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agents.ike.crypto.errors import IntegrityError
from agents.ike.crypto.suite import IkeSuite
from agents.ike.errors import PeerError, WireError
from agents.ike.outputs import Path, RemoveChild, SwitchOutbound
from agents.ike.tally import Count
from agents.ike.timers import (
    HALF_OPEN_S,
    LINGER_S,
    SWITCH_OUTBOUND_S,
    TEMPORARY_FAILURE_S,
    rekey_after_s,
)
from agents.ike.v2 import messages, reauth, roam, steps, watch
from agents.ike.v2 import path as paths
from agents.ike.v2.authrecord import AuthRecord
from agents.ike.v2.child import Agreement, ChildSa
from agents.ike.v2.keymat import IkeKeys
from agents.ike.v2.mobility import Mobility
from agents.ike.v2.natd import NatDetection
from agents.ike.v2.protection import Protection
from agents.ike.v2.reassembly import Reassembly
from agents.ike.v2.reauth import Authentication
from agents.ike.v2.states import LIVE_CHILD, ChildState, SaState
from agents.ike.v2.tasks import auth, create, delete, intermediate, mobike, rekey
from agents.ike.v2.tasks.base import Task
from agents.ike.v2.tasks.delete import DeleteChildren, DeleteIke, DeleteUnaccepted, Liveness
from agents.ike.v2.tasks.followup import Unfinished
from agents.ike.v2.window import LAST_MESSAGE_ID, WINDOW, RequestWindow, ResponseWindow
from agents.ike.wire.header import NO_SPI, Header
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import Notify, Payload
from agents.ike.wire.registry import Exchange, NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.core import Core
    from agents.ike.v2.tasks.first import FirstChild
    from agents.ike.v2.tunnel import TunnelRuntime


class IkeSa:
    """An IKE SA of either role. ``initiator`` is about this SA, ``opener`` about the first of a chain of rekeys."""

    version = "v2"

    def __init__(self, core: Core, *, initiator: bool, opener: bool, path: Path, now: float) -> None:
        self.core = core
        self.initiator = initiator
        self.opener = opener
        self.path = path
        self.reply_path = path
        self.tunnel: TunnelRuntime | None = None
        self.spi_own = core.new_ike_spi()
        self.spi_peer = NO_SPI
        self.state = SaState.INIT_SENT if initiator else SaState.INIT_RECEIVED
        self.nat = NatDetection(supported=False, local=False, remote=False)
        self.nonce_i = b""
        self.nonce_r = b""
        self.init_request = b""
        self.init_response = b""
        self.int_auth = b""
        """IntAuth of RFC 9242: what the IKE_INTERMEDIATE exchanges add to the octets that AUTH signs; mostly empty."""
        self.intermediate = intermediate.Intermediate()
        self.fragmentation = False
        self.path_octets = 65_535
        self.reassembly = Reassembly()
        self.first_key: tuple[str, int, bytes] | None = None
        self.half_open_address: str | None = None
        self.requests = RequestWindow()
        self.responses = ResponseWindow()
        self.current: Task | None = None
        self.queue: deque[Task] = deque()
        self.children: list[ChildSa] = []
        self.deleted_early: set[tuple[int, int]] = set()
        self.created_at = now
        self.established_at: float | None = None
        self.cause: str | None = None
        self.failure_told = False
        self.rekey_at: float | None = None
        self.expire_at: float | None = None if initiator else now + HALF_OPEN_S
        self.delete_at: float | None = None
        self.last_heard = now
        self.last_sent = now
        self.mobility = Mobility()
        self.moves = 0
        self._esp_path: Path | None = None
        self.scheduled_at: float | None = None
        self._protection: Protection | None = None
        self.successor: IkeSa | None = None
        self.crossed: IkeSa | None = None
        self.unfinished: Unfinished | None = None
        self.first_child: FirstChild | None = None
        self.authentication = Authentication()
        self.auth = AuthRecord()

    def __repr__(self) -> str:
        return f"IkeSa({self.spi_i.hex()}_{self.spi_r.hex()} {self.state})"

    @property
    def spi_i(self) -> bytes:
        """The original initiator's SPI."""
        return self.spi_own if self.initiator else self.spi_peer

    @property
    def spi_r(self) -> bytes:
        """The original responder's SPI; zero before it is known."""
        return self.spi_peer if self.initiator else self.spi_own

    @property
    def protection(self) -> Protection:
        """Suite, keys and ciphers; only after IKE_SA_INIT."""
        assert self._protection is not None
        return self._protection

    @property
    def suite(self) -> IkeSuite:
        """The negotiated suite; only after IKE_SA_INIT."""
        return self.protection.suite

    @property
    def keys(self) -> IkeKeys:
        """The keys; only after IKE_SA_INIT."""
        return self.protection.keys

    @property
    def keyed(self) -> bool:
        """Whether messages can be protected."""
        return self._protection is not None

    @property
    def standing(self) -> bool:
        """Whether the SA is established and not on its way out."""
        return self.state is SaState.ESTABLISHED

    @property
    def encapsulated(self) -> bool:
        """Whether ESP travels in UDP."""
        return self.nat.encapsulates

    def take_keys(self, suite: IkeSuite, keys: IkeKeys) -> None:
        """Protect messages with these keys from now on."""
        self._protection = Protection(suite, keys, self.initiator)

    def spawn(self, *, initiator: bool, now: float) -> IkeSa:
        """Return the IKE SA that a rekey of this one makes (RFC 7296 section 2.18).

        It is not registered, and not one of the tunnel's, before it is established.
        """
        assert self.tunnel is not None
        new = IkeSa(self.core, initiator=initiator, opener=self.opener, path=self.path, now=now)
        new.nat = self.nat
        new.auth = self.auth
        new.fragmentation, new.path_octets = self.fragmentation, self.path_octets
        new.mobility, new._esp_path, new.moves = self.mobility, self._esp_path, self.moves
        new.authentication = self.authentication
        new.expire_at = None
        new.tunnel = self.tunnel
        return new

    def latest(self) -> IkeSa:
        """Return the SA that has this one's children now."""
        sa = self
        while sa.successor is not None:
            sa = sa.successor
        return sa

    def adopt(self, tunnel: TunnelRuntime) -> None:
        """Belong to this tunnel from now on."""
        if self.tunnel not in (None, tunnel):
            self.tunnel.drop_sa(self)
        self.tunnel = tunnel
        tunnel.add_sa(self)

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
            tunnel_id=None if self.tunnel is None else self.tunnel.config.id,
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
            field=error.field,
            attributes=error.attributes,
        )

    # --- sending

    def enqueue(self, task: Task, now: float, first: bool = False) -> None:
        """Queue a request; it goes out when the one before is answered."""
        if first:
            self.queue.appendleft(task)
        else:
            self.queue.append(task)
        self.start_next(now)

    def start_next(self, now: float) -> None:
        """Send the next queued request if none is outstanding."""
        self.core.hub.touch(self)
        if self.undecided and self.state is SaState.ESTABLISHED:
            return
        while self.queue and self.requests.outstanding is None and self.state is not SaState.CLOSED:
            task = self.queue.popleft()
            if self.tunnel is not None:
                self.core.hub.touch(self.tunnel)
            payloads = task.start(self, now)
            if payloads is not None and self.requests.next_id >= LAST_MESSAGE_ID:
                task.abandoned(self, now)
                self.fail(PeerError(0, "ike.sa-failed", "The IKE SA has no message ID left"), now)
            elif payloads is not None:
                self.current = task
                messages.send_request(self, task, payloads, now)

    def respond(self, payloads: tuple[Payload, ...], now: float) -> None:
        """Answer the request in progress."""
        messages.respond(self, payloads, now)

    def refuse(self, error: PeerError | WireError, now: float) -> None:
        """Answer the request in progress with an error notify; a fatal one ends the SA (RFC 7296 section 2.21)."""
        assert error.notify is not None
        self.core.exchanges.add(self.responses.exchange, Count.REFUSED)
        self.respond((Notify(type=error.notify, data=error.data),), now)
        if isinstance(error, WireError):
            fatal = error.notify == NotifyType.INVALID_SYNTAX
        else:
            fatal = error.fatal
        if fatal or self.state is SaState.INIT_RECEIVED:
            self.cause = error.code
            steps.failed(self, str(error))
            self.close(now, linger=True)
        self.core.hub.touch(self)

    # --- receiving

    def receive(self, datagram: bytes, header: Header, path: Path, now: float) -> None:
        """Handle a protected message for this SA. Raises WireError, IntegrityError or PeerError for the funnel."""
        if header.response:
            messages.receive_response(self, datagram, header, path, now)
        else:
            messages.receive_request(self, datagram, header, path, now)

    def heard(self, path: Path, now: float, answer: bool = False) -> None:
        """An authentic message came on this path; ``answer`` says that it answers one of ours."""
        self.last_heard = now
        if path != self.path and answer:
            roam.answered_on(self, path, now)
        elif path != self.path:
            paths.heard_from(self, path)

    def dispatch(self, message: Message, now: float) -> None:
        """Hand a request to its exchange. Raises PeerError or WireError for the funnel."""
        exchange = message.header.exchange
        if exchange == Exchange.IKE_INTERMEDIATE:
            intermediate.respond(self, message, now)
        elif exchange == Exchange.IKE_AUTH:
            intermediate.check_done(self)
            refusal = mobike.take_offer(self, message)
            if refusal is not None:
                raise refusal
            auth.respond(self, message, now)
        elif exchange == Exchange.INFORMATIONAL and mobike.concerns(message):
            mobike.respond(self, message, now)
        elif exchange == Exchange.INFORMATIONAL:
            if delete.concerns_children(message):
                self._take_over_crossed(now)
            delete.respond(self, message, now)
        elif self.state is not SaState.ESTABLISHED:
            raise PeerError(NotifyType.TEMPORARY_FAILURE, "drop.state", f"The IKE SA is {self.state}")
        elif exchange == Exchange.IKE_FOLLOWUP_KE:
            rekey.respond_further(self, message, now)
        else:
            self._take_over_crossed(now)
            (rekey.respond if rekey.is_request(message) else create.respond)(self, message, now)

    @property
    def undecided(self) -> bool:
        """Whether this SA was made by a rekey of the peer that crossed one of ours still without an answer."""
        old = self.crossed
        return old is not None and isinstance(old.current, rekey.RekeyIke) and old.current.redundant is self

    def _take_over_crossed(self, now: float) -> None:
        """The peer uses this SA, made by its rekey, for children: so it counts, whatever comes of our own rekey."""
        old, self.crossed = self.crossed, None
        if old is not None and isinstance(old.current, rekey.RekeyIke) and old.state is SaState.ESTABLISHED:
            old.current.redundant = None
            old.hand_over(self, now)

    def finish_request(self, message: Message, now: float) -> None:
        """Hand an answer to the request it belongs to, then send the next."""
        task = self.current
        assert task is not None
        assert self.tunnel is not None
        self.core.hub.touch(self.tunnel)
        self.requests.answered()
        self.current = None
        if task.exchange == Exchange.IKE_AUTH:
            mobike.take_answer(self, message)
            reauth.take(self, message)
        try:
            task.answered(self, message, now)
        except PeerError as error:
            task.failed(self, error, now)
        self.start_next(now)

    @property
    def esp_path(self) -> Path:
        """The path of ESP: the SA's, but for a peer whose move is not proven yet or whose NAT moved ESP alone."""
        return self._esp_path or self.path

    def use_for_esp(self, path: Path | None) -> None:
        """Let new children use this path, or with None the SA's."""
        self._esp_path = path

    def move_peer(self, address: str, port: int) -> None:
        """Follow the peer to where its authenticated ESP packets come from now."""
        paths.esp_heard_from(self, address, port)

    # --- life and death

    def establish(self, now: float) -> None:
        """Both ends are authenticated (or this SA comes from a rekey): the lifetime begins."""
        assert self.tunnel is not None
        self.state = SaState.ESTABLISHED
        self.tunnel.add_sa(self)
        self.established_at = now
        self.init_request = self.init_response = self.int_auth = b""
        self.intermediate = intermediate.Intermediate()
        self.responses.size = WINDOW
        self.retime()
        reauth.begin(self, now)
        self.core.authenticated(self)
        self.core.hub.touch(self)

    def retime(self) -> None:
        """Set rekey time and expiry by the tunnel's present lifetime."""
        if self.tunnel is None or self.established_at is None:
            return
        lifetime_s = self.tunnel.config.ike.lifetime_s
        uniform = self.core.hub.entropy.uniform()
        self.rekey_at = self.established_at + rekey_after_s(lifetime_s, self.initiator, uniform)
        self.expire_at = self.established_at + lifetime_s
        self.core.hub.touch(self)

    def start_delete(self, now: float, notify: int | None = None) -> None:
        """Delete this SA politely; without keys it just goes."""
        if self.state in (SaState.DELETING, SaState.CLOSED):
            return
        if notify == NotifyType.AUTHENTICATION_FAILED:
            steps.failed(self)
        if self.responses.in_progress and self.state in (SaState.INIT_RECEIVED, SaState.AUTHENTICATING):
            self.respond((Notify(type=NotifyType.AUTHENTICATION_FAILED),), now)
            self.close(now, linger=True)
            return
        asked = self.requests.last_exchange == Exchange.IKE_AUTH
        unproven = self.initiator and self.state is SaState.AUTHENTICATING and not asked
        if not self.keyed or unproven or self.state in (SaState.INIT_SENT, SaState.INIT_RECEIVED):
            self.close(now)
            return
        self.state = SaState.DELETING
        self.queue.clear()
        self.rekey_at = self.expire_at = self.delete_at = None
        self.remove_all_children(now)
        self.enqueue(DeleteIke(notify), now)

    def close(self, now: float, linger: bool = False) -> None:
        """End this SA at once. With ``linger`` it still answers repetitions of the last request for a while."""
        if self.state is SaState.CLOSED:
            return
        current, self.current = self.current, None
        if current is not None:
            current.abandoned(self, now)
        if self.first_child is not None:
            self.first_child.release(self)
        self.remove_all_children(now)
        self.state = SaState.CLOSED
        self.queue.clear()
        self.requests.answered()
        self.expire_at = self.rekey_at = self.delete_at = None
        self.reassembly.clear()
        if linger and self.responses.last is not None:
            self.expire_at = now + LINGER_S
            self.core.hub.touch(self)
        else:
            self.core.unregister(self)
        if self.tunnel is not None:
            self.tunnel.sa_closed(self, now)

    def supersede(self, now: float, wait_s: float = LINGER_S * 3) -> None:
        """Another SA has taken this one's place; it waits for the peer's Delete, ``wait_s`` at most."""
        self.state = SaState.REKEYED
        self.rekey_at = self.delete_at = None
        self.expire_at = now + wait_s
        self.core.hub.touch(self)

    def busy_with_children(self) -> bool:
        """Return whether a request of ours about children is outstanding (RFC 7296 section 2.25.2)."""
        return isinstance(self.current, create.CreateChild | DeleteChildren | DeleteUnaccepted)

    def hand_over(self, successor: IkeSa, now: float) -> None:
        """Give children and open business to the SA that a rekey made; this one waits for its Delete (2.8)."""
        assert self.tunnel is not None
        delete_at = self.delete_at
        self.supersede(now)
        self.successor = successor
        paths.inherit(successor, self)
        successor.children, self.children = [*self.children, *successor.children], []
        # A Delete of the old SA stays with it; everything about children goes along.
        keep = [task for task in self.queue if isinstance(task, DeleteIke)]
        moved = [task for task in self.queue if not isinstance(task, DeleteIke | rekey.RekeyIke | Liveness)]
        self.queue = deque(keep)
        if successor.state is not SaState.ESTABLISHED:
            successor.establish(now)
        successor.crossed = None
        if delete_at is not None:  # superfluous beside another one, and so is its successor
            successor.delete_at = delete_at
            successor.rekey_at = None
        successor.queue.extend(moved)
        successor.start_next(now)
        self.report("ike.sa-rekeyed", "The IKE SA was rekeyed")

    # --- children

    def child_by_spi_out(self, protocol: int, spi: int) -> ChildSa | None:
        """Return the child that the peer receives by this protocol on ``spi``."""
        return next((child for child in self.children if child.sends_to(protocol, spi)), None)

    def child_by_spi_in(self, spi: int) -> ChildSa | None:
        """Return the child on which we receive ``spi``."""
        return next((child for child in self.children if child.spi_in == spi), None)

    def live_child(self, name: str) -> ChildSa | None:
        """Return the newest child of this name that is up or coming up."""
        return next((each for each in reversed(self.children) if each.name == name and each.state in LIVE_CHILD), None)

    def add_child(self, agreement: Agreement, now: float) -> ChildSa:
        """Make a child of what was agreed; the caller installs it."""
        child = ChildSa(self, agreement, now)
        self.children.append(child)
        return child

    def child_up(self, child: ChildSa, now: float, rekeyed: bool = False) -> None:
        """Note that the data plane has the child."""
        child.state = ChildState.INSTALLED
        if child.outbound_held:
            child.switch_at = now + SWITCH_OUTBOUND_S
        steps.child_in_place(self, child, rekeyed)
        if self.tunnel is not None:
            self.tunnel.child_up(self, child, now)

    def switch_outbound(self, child: ChildSa) -> None:
        """Send on this child from now on, if its outbound SA was held back."""
        child.switch_at = None
        if child.outbound_held:
            child.outbound_held = False
            self.core.hub.emit(SwitchOutbound(install_id=child.install_id))

    def remove_child(self, child: ChildSa, now: float, by_peer: bool = False) -> None:
        """Take a child out of the data plane and forget it."""
        if child.state is ChildState.GONE:
            return
        replaced = child.state is ChildState.REPLACED or by_peer
        if replaced:
            for other in self.children:
                if other is not child and other.name == child.name and other.state in LIVE_CHILD:
                    self.switch_outbound(other)
        was_live = child.state in LIVE_CHILD
        child.state = ChildState.GONE
        if child in self.children:
            self.children.remove(child)
        self.core.hub.free_esp_spi(child.spi_in)
        self.core.hub.free_cpi(child.agreement.cpi_in)
        self.core.hub.removed(child)
        if self.tunnel is None:
            return
        still_needed = self.tunnel.needed_policies(child.name)
        self.core.hub.emit(
            RemoveChild(
                tunnel_id=self.tunnel.config.id,
                child=child.name,
                sas=child.sa_ids,
                policies=tuple(policy for policy in child.policies if policy not in still_needed),
            )
        )
        if was_live:
            self.report("child.deleted", f"Child {child.name} was deleted{' by the peer' if by_peer else ''}")
        self.tunnel.child_gone(child, now, by_peer=by_peer)
        self.core.hub.touch(self)

    def remove_all_children(self, now: float) -> None:
        """Take every child out of the data plane."""
        for child in tuple(self.children):
            self.remove_child(child, now)

    # --- time

    def deadline(self) -> float | None:
        """Return when something is due next."""
        return watch.deadline(self)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self.core.hub.touch(self)
        watch.handle_timer(self, now)

    def rekey_child(self, child: ChildSa, now: float) -> None:
        """Queue a rekey of this child, unless it is being replaced already."""
        child.rekey_at = None
        if child.state is ChildState.INSTALLED and not any(
            isinstance(task, create.CreateChild) and task.replaced is child for task in self.queue
        ):
            self.enqueue(create.CreateChild(child.name, child), now)

    def maintain(self, now: float) -> None:
        """Nothing is missing that a deadline would not say."""

    def react(self, error: WireError | PeerError | IntegrityError, now: float) -> None:
        """Turn a fault in a message for this SA into an answer, where one is due, and a report."""
        self.core.react_for(self, error, now)

    def abandon(self) -> None:
        """Leave the request in progress, which a bug of ours has ended, without an answer."""
        if self.responses.in_progress:
            self.responses.abandon()

    def fail(self, error: PeerError, now: float) -> None:
        """The negotiation cannot succeed: report why, tell the tunnel, end."""
        self.report_error(error)
        if self.tunnel is not None:
            self.tunnel.note_error(error)
        if error.code != "ike.sa-failed":
            steps.failed(self, error.message)
        self.close(now)

    def postponed(self, now: float, expire_at: float | None = None) -> float:
        """Return when to try again after TEMPORARY_FAILURE: several times before ``expire_at``, where that is near."""
        pause_s = TEMPORARY_FAILURE_S
        if expire_at is not None:
            pause_s = min(pause_s, max(0.1, (expire_at - now) / 8))
        return now + pause_s * (0.5 + self.core.hub.entropy.uniform())
