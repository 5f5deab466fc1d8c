"""First messages of peers, half-open limits, and what is said to strangers.

IKEv1 has no cookie that a responder could demand before it keeps anything. So: only addresses of a tunnel are answered,
once for each message and never again unasked; in Main Mode by no more octets than the question had, and nothing is
computed before the peer has sent our cookie back. Aggressive Mode computes at once, for an identity that a tunnel has,
and so many times a second at most. What is half open is bounded for all and for each address; there the oldest goes.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from agents.contract.config import AuthKind, ExchangeMode
from agents.ike import identity
from agents.ike.crypto import dh
from agents.ike.errors import PeerError, WireError
from agents.ike.limits import HalfOpenLimits
from agents.ike.outputs import Path, Transmit
from agents.ike.tally import Count
from agents.ike.v1 import common, mismatch, names, peer_identity, place, proof, proposals, sending, steps
from agents.ike.v1.exchange import REMEMBERED_S, digest
from agents.ike.v1.proposals import Phase1Choice
from agents.ike.v1.sa import IsakmpSa
from agents.ike.v1.sending import Request
from agents.ike.v1.states import SaState
from agents.ike.v1.tasks import aggressive, main
from agents.ike.wire.header import Header
from agents.ike.wire.isakmp import message as wire
from agents.ike.wire.isakmp import rules
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import Identification, KeyExchangeData, Notify, SecurityAssociation
from agents.ike.wire.isakmp.registry import Exchange, NotifyType, Protocol, exchange_name

if TYPE_CHECKING:
    from agents.ike.v1.machine import Machine
    from agents.ike.v1.tunnel import TunnelRuntime

_MODES = {Exchange.MAIN: ExchangeMode.MAIN, Exchange.AGGRESSIVE: ExchangeMode.AGGRESSIVE}
_EXCHANGES = {mode: exchange for exchange, mode in _MODES.items()}
_MOST_REFUSED = 256
_MOST_ADDRESSES = 1_024
_UNPROVEN = frozenset({SaState.SA_ANSWERED, SaState.AGGRESSIVE_ANSWERED})


def _octets_of(group: int) -> int:
    return names.GROUPS[group].public_octets


class Budget:
    """So many times at once, so many per second."""

    def __init__(self, at_once: float, per_s: float) -> None:
        self._at_once, self._per_s = at_once, per_s
        self._credit, self._at = at_once, 0.0

    def take(self, now: float, weight: float = 1.0) -> bool:
        """Return whether it may happen once more; what has a weight counts as so many."""
        self._credit = min(self._at_once, self._credit + (now - self._at) * self._per_s)
        self._at = now
        if self._credit < weight:
            return False
        self._credit -= weight
        return True


class Door:
    """Where a negotiation of a peer begins."""

    def __init__(self, core: Machine, limits: HalfOpenLimits) -> None:
        self._core = core
        self.limits = limits
        self.requests: dict[tuple[str, int, bytes], IsakmpSa] = {}
        self.half_open: Counter[str] = Counter()
        self._computations = Budget(100, 50.0)
        """Key exchanges for addresses that nobody has proven, Aggressive Mode's, each by what its group costs."""
        self._answers: OrderedDict[str, Budget] = OrderedDict()
        """Aggressive Mode's answers, repetitions too, to each address; those asked by last are remembered."""
        self._notifies = Budget(10, 5.0)
        self._refused: OrderedDict[tuple[str, int, bytes], tuple[float, int]] = OrderedDict()
        """First messages that were refused: until when they are known, and the notify."""

    def first_message(self, datagram: bytes, header: Header, path: Path, now: float) -> None:
        """Handle the first message of Main or Aggressive Mode. Raises WireError and PeerError for the funnel."""
        key = (path.remote_address, path.remote_port, header.spi_i)
        known = self.requests.get(key)
        if known is not None:
            if known.exchange.step == 2 and known.exchange.is_repetition(datagram):
                if known.mode is ExchangeMode.AGGRESSIVE:
                    self._take_answer(path.remote_address, now)
                sending.repeat(known, known.exchange, now)
                return
            raise WireError("drop.duplicate", "a first message that was already answered")
        self._check_refused(datagram, path, now)
        message = wire.parse_clear(datagram, header)
        rules.check(header.exchange, message.payloads, 1)
        self._core.exchanges.add(header.exchange, Count.REQUESTS_IN)
        found = self._tunnels(path)
        sa = IsakmpSa(self._core, initiator=False, mode=_MODES[Exchange(header.exchange)], path=path, now=now)
        sa.cookie_peer = header.spi_i
        sa.exchange.step, sa.exchange.taken = 1, digest(datagram)
        sa.request, sa.phase1.candidates = Request(octets=len(datagram), header=header, path=path), found
        self._core.hub.subject = sa
        offer = common.need(message, SecurityAssociation)
        try:
            candidates = self._in_mode(sa, found)
            if header.exchange == Exchange.MAIN:
                self._main(sa, message, candidates, offer, len(datagram), now)
            else:
                self._aggressive(sa, message, candidates, offer, now)
        except PeerError as error:
            self._remember_refused(datagram, path, error.notify, now)
            raise

    def _tunnels(self, path: Path) -> tuple[TunnelRuntime, ...]:
        """Return the tunnels that can be meant. Raises PeerError when there is none."""
        found = self._core.candidates(path.local_address, path.remote_address)
        if not found:
            raise self._core.turns.not_served(path, self._core.version)
        return found

    def _in_mode(self, sa: IsakmpSa, found: tuple[TunnelRuntime, ...]) -> tuple[TunnelRuntime, ...]:
        """Return the tunnels that are negotiated in the SA's mode. Raises PeerError when there is none."""
        fitting = tuple(each for each in found if each.config.ike.exchange_mode is sa.mode)
        if not fitting:
            received = exchange_name(sa.exchange.number)
            configured = exchange_name(_EXCHANGES[found[0].config.ike.exchange_mode])
            raise PeerError(
                NotifyType.UNSUPPORTED_EXCHANGE_TYPE,
                "ikev1.exchange-mode-mismatch",
                f"Mismatching exchange type ({received}) received, ({configured}) configured, "
                f"{place.phase1(sa).sentence}",
                received=received,
                configured=configured,
                field="ike.exchange_mode",
                fatal=True,
            )
        return fitting

    def _main(
        self,
        sa: IsakmpSa,
        message: Message,
        candidates: tuple[TunnelRuntime, ...],
        offer: SecurityAssociation,
        octets: int,
        now: float,
    ) -> None:
        choice, fitting = self._choose(candidates, offer)
        if choice is None:
            raise self._no_proposal(sa, candidates, offer)
        self._open(sa, now)
        main.answer(sa, message, choice, fitting, octets, now)

    def _aggressive(
        self,
        sa: IsakmpSa,
        message: Message,
        candidates: tuple[TunnelRuntime, ...],
        offer: SecurityAssociation,
        now: float,
    ) -> None:
        shown = common.need(message, Identification)
        named = tuple(each for each in candidates if identity.matches(each.config.remote.identity, shown))
        tunnel = peer_identity.best(named, shown)
        sa.phase1.candidates = candidates if tunnel is None else (tunnel,)
        if tunnel is None:
            by_psk = any(each.config.remote_auth.kind is AuthKind.PSK for each in candidates)
            raise peer_identity.mismatch(sa, tuple(each.config for each in candidates), shown, 1, by_psk)
        choice = self._choose_for(tunnel, sa, offer, len(common.need(message, KeyExchangeData).data))
        self._take_answer(sa.path.remote_address, now)
        if not self._computations.take(now, dh.weight(choice.suite.group)):
            raise WireError("drop.half-open-limit", f"too many first messages of Aggressive Mode, last for {tunnel}")
        self._open(sa, now)
        sa.adopt(tunnel)
        aggressive.answer(sa, message, choice, now)

    def _take_answer(self, address: str, now: float) -> None:
        """Count an answer of Aggressive Mode, which is longer than its question. Raises WireError for one too many."""
        budget = self._answers.setdefault(address, Budget(20, 5.0))
        self._answers.move_to_end(address)
        if len(self._answers) > _MOST_ADDRESSES:
            self._answers.popitem(last=False)
        if not budget.take(now):
            raise WireError("drop.half-open-limit", f"too many first messages of Aggressive Mode from {address}")

    def _choose(
        self, candidates: tuple[TunnelRuntime, ...], offer: SecurityAssociation
    ) -> tuple[Phase1Choice | None, tuple[TunnelRuntime, ...]]:
        """Return the first suite that a tunnel has, and the tunnels that would choose the same."""
        chosen: Phase1Choice | None = None
        fitting = []
        offered = proposals.read_offer(offer)
        for tunnel in candidates:
            choice = proposals.choose_offered(tunnel.config.ike, offered, self._methods(tunnel))
            if choice is None:
                continue
            if chosen is None:
                chosen = choice
            if choice.answer == chosen.answer:
                fitting.append(tunnel)
        return chosen, tuple(fitting)

    def _choose_for(self, tunnel: TunnelRuntime, sa: IsakmpSa, offer: SecurityAssociation, octets: int) -> Phase1Choice:
        """Return the first suite of a tunnel whose group has public values of so many octets. Raises PeerError."""
        config, methods = tunnel.config.ike, self._methods(tunnel)
        offered, groups = proposals.read_offer(offer), {each for each in names.GROUPS if _octets_of(each) == octets}
        usable = {suite: found for suite, found in offered.items() if found[3].group in groups}
        choice = proposals.choose_offered(config, usable, methods)
        if choice is not None:
            return choice
        choice = proposals.choose_offered(config, offered, methods)
        if choice is None:
            raise self._no_proposal(sa, (tunnel,), offer)
        raise PeerError(
            NotifyType.INVALID_KEY_INFORMATION,
            "ike.invalid-ke",
            f"The peer's public value cannot be used: {choice.suite.group.slug} has {choice.suite.group.public_octets} "
            f"octets, not {octets}",
            received=f"{octets} octets",
            configured=choice.suite.group.slug,
            fatal=True,
        )

    def _methods(self, tunnel: TunnelRuntime) -> frozenset[int]:
        method = proof.method_of(tunnel.config, self._core.hub.credentials)
        return frozenset() if method is None else frozenset({method})

    def _no_proposal(
        self, sa: IsakmpSa, candidates: tuple[TunnelRuntime, ...], offer: SecurityAssociation
    ) -> PeerError:
        tunnel = candidates[0]
        sa.phase1.candidates = candidates
        exchange = exchange_name(sa.exchange.number)
        error = mismatch.phase1_refusal(tunnel.config.ike, offer, self._methods(tunnel), exchange=exchange, message=1)
        error.fatal = True
        return error

    # --- what is half open

    def _make_room(self, address: str, now: float) -> None:
        """Let the oldest negotiation go that has proven nothing: of this address, or where all are too many of the one
        that has most. Raises WireError where that is none.
        """
        limits, count = self.limits, self.half_open[address]
        if count < limits.per_address and self.half_open.total() < limits.total:
            return
        busiest = address if count >= limits.per_address else max(self.half_open, key=self.half_open.__getitem__)
        unproven = (sa for sa in self.requests.values() if sa.half_open_address == busiest and sa.state in _UNPROVEN)
        oldest = min(unproven, key=lambda sa: sa.created_at, default=None)
        if oldest is None or (busiest != address and self.half_open[busiest] <= count + 1):
            raise WireError("drop.half-open-limit", f"too many half-open negotiations, last from {address}")
        steps.failed(oldest, "the peer began too many others")
        oldest.close(now)

    def _open(self, sa: IsakmpSa, now: float) -> None:
        address = sa.path.remote_address
        self._make_room(address, now)
        sa.first_key = (address, sa.path.remote_port, sa.cookie_peer)
        self.requests[sa.first_key] = sa
        self.half_open[address] += 1
        sa.half_open_address = address
        self._core.register(sa)
        sa.report("ike.peer-initiates", f"{address} asks for an IKE SA ({sa.mode} mode)")

    def forget(self, sa: IsakmpSa) -> None:
        """The SA is gone."""
        self.authenticated(sa)
        if sa.first_key is not None:
            self.requests.pop(sa.first_key, None)

    def authenticated(self, sa: IsakmpSa) -> None:
        """The SA is not half open any more."""
        address, sa.half_open_address = sa.half_open_address, None
        if address is not None:
            self.half_open[address] -= 1
            if self.half_open[address] <= 0:
                del self.half_open[address]

    # --- what was refused

    def _check_refused(self, datagram: bytes, path: Path, now: float) -> None:
        """Raise WireError for a first message that was refused: the peer is told again, people are not."""
        until, notify = self._refused.get((path.remote_address, path.remote_port, digest(datagram)), (now, 0))
        if now < until:
            raise WireError("drop.duplicate", "a first message that was refused already", notify=notify)

    def _remember_refused(self, datagram: bytes, path: Path, notify: int, now: float) -> None:
        key = (path.remote_address, path.remote_port, digest(datagram))
        self._refused[key] = now + REMEMBERED_S, notify
        self._refused.move_to_end(key)
        if len(self._refused) > _MOST_REFUSED:
            self._refused.popitem(last=False)

    def forget_refusals(self) -> None:
        """Another document may take what the one before refused."""
        self._refused.clear()

    # --- said in clear

    def tell(self, request: Request, path: Path, notify: int, now: float) -> None:
        """Send a notify in clear about a message, now and then and by no more octets than it had (RFC 2408 5.15)."""
        header = request.header
        if header.exchange == Exchange.INFORMATIONAL:
            return
        payload = Notify(type=notify, protocol=Protocol.ISAKMP, spi=header.spi_i + header.spi_r)
        own = Header(
            spi_i=header.spi_i,
            spi_r=header.spi_r,
            next_payload=0,
            exchange=Exchange.INFORMATIONAL,
            flags=0,
            message_id=int.from_bytes(self._core.hub.entropy.octets(4), "big") or 1,
            version=0x10,
        )
        datagram = wire.serialize_clear(own, (payload,))
        if len(datagram) <= request.octets and self._notifies.take(now):
            self._core.hub.emit(Transmit(path=path, datagram=datagram))
