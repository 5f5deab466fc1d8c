"""Messages in clear of those nobody knows: first requests, cookies, half-open limits, what is said to strangers.

Until a cookie has come back no answer is longer than its question (RFC 7296 section 2.6): where the true answer would
be, a cookie is demanded instead. Answers to messages of unknown IKE SAs or versions are few, and never go to answers.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from agents.contract.config import IkeProposal
from agents.ike.errors import PeerError, WireError
from agents.ike.limits import HalfOpenLimits
from agents.ike.outputs import Path, Transmit
from agents.ike.tally import Count
from agents.ike.v2 import steps
from agents.ike.v2.cookie import CookieJar
from agents.ike.v2.sa import IkeSa
from agents.ike.v2.tasks import init
from agents.ike.wire.header import HEADER_OCTETS, NO_SPI, Header
from agents.ike.wire.message import Message, parse_clear, serialize_clear
from agents.ike.wire.payloads import Nonce, Notify
from agents.ike.wire.registry import Exchange, Flag, NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.core import Core
    from agents.ike.v2.tunnel import TunnelRuntime

_ANSWERS_AT_ONCE = 10
_ANSWERS_PER_S = 5.0
"""Answers to messages of unknown IKE SAs (section 2.21.4 wants them limited)."""


class Door:
    """Where a negotiation of a peer begins."""

    def __init__(self, core: Core, limits: HalfOpenLimits) -> None:
        self._core = core
        self.limits = limits
        self.requests: dict[tuple[str, int, bytes], IkeSa] = {}
        self.half_open: Counter[str] = Counter()
        self._cookies = CookieJar(core.hub.entropy)
        self._credit = float(_ANSWERS_AT_ONCE)
        self._credit_at = 0.0

    def first_request(self, datagram: bytes, header: Header, path: Path, now: float) -> None:
        """Handle an IKE_SA_INIT request. Raises WireError for the funnel."""
        if not header.from_initiator:
            raise WireError("drop.direction", "a first request without the initiator flag")
        if header.spi_r != NO_SPI or header.message_id != 0:
            raise WireError("drop.state", "a first request with a responder's SPI or a message ID")
        key = (path.remote_address, path.remote_port, header.spi_i)
        known = self.requests.get(key)
        if known is not None:
            if known.init_request == datagram and known.init_response:
                self._core.exchanges.add(header.exchange, Count.RETRANSMISSIONS_IN)
                self._core.exchanges.add(header.exchange, Count.RETRANSMISSIONS_OUT)
                self._core.hub.emit(Transmit(path=path, datagram=known.init_response))
            raise WireError("drop.duplicate", "a first request that was already answered")
        self._core.exchanges.add(header.exchange, Count.REQUESTS_IN)
        candidates = self._core.candidates(path.local_address, path.remote_address)
        if not candidates:
            self._refuse(datagram, header, path, NotifyType.NO_PROPOSAL_CHOSEN)
            self._core.hub.report_error(self._core.turns.not_served(path, self._core.version))
            return
        try:
            self._open(datagram, header, path, candidates, now)
        except WireError as error:
            if error.notify == NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD:
                self._refuse(datagram, header, path, error.notify, error.data)
            raise
        except PeerError as error:
            self._refuse(datagram, header, path, error.notify, error.data)
            self._report_refusal(error, header, path, candidates[0] if len(candidates) == 1 else None)

    def _open(
        self, datagram: bytes, header: Header, path: Path, candidates: tuple[TunnelRuntime, ...], now: float
    ) -> None:
        message = parse_clear(datagram, header)
        address, limits = path.remote_address, self.limits
        total, of_address = self.half_open.total(), self.half_open[address]
        proven = self._proven(message, path, now)
        if not proven and (total >= limits.cookie_threshold or of_address >= limits.cookie_per_address):
            self._demand_cookie(datagram, message, path, now)
            return
        if total >= limits.total or of_address >= limits.per_address:
            raise WireError("drop.half-open-limit", f"too many half-open negotiations, last from {address}")
        sa = IkeSa(self._core, initiator=False, opener=False, path=path, now=now)
        most_octets = None if proven else len(datagram)
        try:
            init.respond(self._core, sa, message, datagram, _proposals(candidates), now, most_octets)
        except init.AnswerTooLongError:
            self._demand_cookie(datagram, message, path, now)
            return
        sa.first_key = (address, path.remote_port, header.spi_i)
        self.requests[sa.first_key] = sa
        self.half_open[address] += 1
        sa.half_open_address = address
        self._core.register(sa)
        self._core.hub.report("ike.peer-initiates", f"{address} asks for an IKE SA", attributes=steps.attributes(sa))

    def _proven(self, message: Message, path: Path, now: float) -> bool:
        """Return whether the request carries a cookie of ours: its sender gets what is sent to its address."""
        cookie, nonce = message.notify(NotifyType.COOKIE), message.find(Nonce)
        if cookie is None or nonce is None:
            return False
        return self._cookies.check(cookie.data, path, message.header.spi_i, nonce.data, now)

    def _demand_cookie(self, datagram: bytes, message: Message, path: Path, now: float) -> None:
        nonce = message.find(Nonce)
        assert nonce is not None  # the payload rules ask for it
        fresh = self._cookies.make(path, message.header.spi_i, nonce.data, now)
        self._answer(datagram, path, init.refuse(message.header, NotifyType.COOKIE, fresh))
        if message.notify(NotifyType.COOKIE) is not None:
            raise WireError("drop.cookie", "a cookie that is not ours or too old")
        self._core.hub.report("ike.cookie-demanded", f"A cookie was demanded from {path.remote_address}")

    def _report_refusal(self, error: PeerError, header: Header, path: Path, tunnel: TunnelRuntime | None) -> None:
        """Report a first request that was refused; ``tunnel`` when it can only have meant this one."""
        self._core.hub.report(
            error.code,
            error.message,
            tunnel_id=None if tunnel is None else tunnel.config.id,
            received=error.received,
            configured=error.configured,
            field=error.field,
            attributes=error.attributes,
        )
        if error.notify == NotifyType.INVALID_KE_PAYLOAD:
            return
        self._core.hub.report(
            "ike.sa-failed",
            f"The IKE SA with {path.remote_address} could not be established: {error.message}",
            tunnel_id=None if tunnel is None else tunnel.config.id,
            attributes={
                "ike_sa": f"{header.spi_i.hex()}_{NO_SPI.hex()}",
                "remote": path.remote_address,
                "role": "responder",
                "message": "ike-sa-init 0",
                "cause": error.code,
            },
        )
        if tunnel is not None:
            tunnel.note_error(error)

    def _refuse(self, request: bytes, header: Header, path: Path, notify: int, data: bytes = b"") -> None:
        self._core.exchanges.add(header.exchange, Count.REFUSED)
        self._answer(request, path, init.refuse(header, notify, data))

    def _answer(self, request: bytes, path: Path, answer: bytes) -> None:
        if len(answer) <= len(request):  # never amplify towards an address that is not proven
            self._core.exchanges.add(Exchange.IKE_SA_INIT, Count.RESPONSES_OUT)
            self._core.hub.emit(Transmit(path=path, datagram=answer))

    # --- said to strangers

    def answer_version(self, request: bytes, path: Path, now: float) -> None:
        """Say that version 2 is the highest here (RFC 7296 section 2.5)."""
        header = Header(
            spi_i=request[:8],
            spi_r=request[8:16],
            next_payload=0,
            exchange=request[18],
            flags=request[19],
            message_id=int.from_bytes(request[20:24], "big"),
        )
        if len(request) > HEADER_OCTETS and request[:8] != NO_SPI:
            self._tell(request, header, path, Notify(type=NotifyType.INVALID_MAJOR_VERSION, data=b"\x02"), now)

    def answer_unknown(self, request: bytes, header: Header, path: Path, now: float) -> None:
        """Say that there is no such IKE SA, to a request only (RFC 7296 section 2.21.4)."""
        if not header.response:
            self._tell(request, header, path, Notify(type=NotifyType.INVALID_IKE_SPI), now)

    def _tell(self, request: bytes, header: Header, path: Path, notify: Notify, now: float) -> None:
        """Answer in clear with the question's SPIs, exchange and message ID (RFC 7296 section 1.5), now and then."""
        self._credit = min(float(_ANSWERS_AT_ONCE), self._credit + (now - self._credit_at) * _ANSWERS_PER_S)
        self._credit_at = now
        flags = Flag.RESPONSE | (0 if header.from_initiator else Flag.INITIATOR)
        answer = serialize_clear(
            Message(
                header=Header(
                    spi_i=header.spi_i,
                    spi_r=header.spi_r,
                    next_payload=0,
                    exchange=header.exchange,
                    flags=int(flags),
                    message_id=header.message_id,
                ),
                payloads=(notify,),
            )
        )
        if self._credit >= 1.0 and len(answer) <= len(request):
            self._credit -= 1.0
            self._core.hub.emit(Transmit(path=path, datagram=answer))

    # --- what is counted

    def forget(self, sa: IkeSa) -> None:
        """The SA is gone."""
        self.authenticated(sa)
        if sa.first_key is not None:
            self.requests.pop(sa.first_key, None)

    def authenticated(self, sa: IkeSa) -> None:
        """The SA is not half open any more."""
        address, sa.half_open_address = sa.half_open_address, None
        if address is not None:
            self.half_open[address] -= 1
            if self.half_open[address] <= 0:
                del self.half_open[address]


def _proposals(candidates: tuple[TunnelRuntime, ...]) -> tuple[IkeProposal, ...]:
    if len(candidates) == 1:
        return candidates[0].config.ike.proposals
    return tuple(dict.fromkeys(each for tunnel in candidates for each in tunnel.config.ike.proposals))
