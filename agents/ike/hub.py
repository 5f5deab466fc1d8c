"""What the machines of both IKE versions share: outputs and reports, numbers, questions, deadlines, and the funnel.

One per engine. Here is nothing of a protocol: only what must not be there twice, because a peer, an operator or the
data plane sees one gateway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from agents.contract.config import Mode, Retransmission
from agents.contract.events import KINDS
from agents.dataplane.base import REQID_BASE, Features, OriginalAddresses, PolicySpec, SaId, SaSpec
from agents.ike.credentials import Credentials
from agents.ike.crypto.errors import IntegrityError
from agents.ike.errors import LocalError, PeerError, WireError
from agents.ike.ondemand import SLOTS, PeerNumbers
from agents.ike.outputs import Entropy, InstallChild, Output, Report
from agents.ike.protected import SHARED, Host, Hosts, Protected
from agents.ike.questions import Continuation, Questions, Reactor
from agents.ike.timers import Agenda, Owner

_FROM_STRANGERS = frozenset(
    {
        "ike.peer-initiates",
        "ike.sa-failed",
        "ike.no-tunnel",
        "ike.cookie-demanded",
        "ike.no-proposal",
        "ike.invalid-ke",
        "ike.peer-notify",
        "ike.version-unsupported",
        "ike.peer-refused-auth",
    }
)
"""Reports besides drops, and besides all of IKEv1's, that anybody can cause: they come under flood control too."""

_FLOODABLE = ("drop.", "wire.", "ikev1.")
_ONE_BUCKET = ("wire.",)
_REPORTS_AT_ONCE = 20
_REPORTS_PER_S = 5.0
_REQIDS = 65_535
_CPIS = range(256, 61_440)
_NO_PROPOSAL_CHOSEN = 14
"""Both versions have it under this number (RFC 2408 section 3.14.1, RFC 7296 section 3.10.1)."""
_LINK_PER_TUNNEL = "userspace"
"""The driver whose tunnels have a link each: there routes, not policies, choose among tunnels."""

_Answer = TypeVar("_Answer")

InstallContinuation = Callable[[str | None, float], None]
"""Called with None when the child is installed, or with the reason why not."""


class InstallableChild(Protocol):
    """A child of either version as the data plane gets it."""

    name: str
    host: Host
    install_id: int
    inbound: SaSpec
    outbound: SaSpec
    policies: tuple[PolicySpec, ...]


class Hub:
    """Shared services. ``counters`` counts reports by code, those held back by flood control too."""

    def __init__(self, entropy: Entropy) -> None:
        self.entropy = entropy
        self.retransmission = Retransmission()
        self.require_udp_encapsulation = False
        self.features: Features | None = None
        self.addresses: frozenset[str] | None = None
        """This host's addresses; None while they are not known."""
        self.counters: Counter[str] = Counter()
        self.bugs: Counter[str] = Counter()
        """Steps that a bug of ours has ended, by IKE version."""
        self.credentials = Credentials()
        self.questions = Questions(self.emit)
        self.protected = Protected()
        self.hosts = Hosts()
        self.agenda = Agenda()
        self.subject: Reactor | None = None
        self.esp_spis: set[int] = set()
        self.reserved_spis: frozenset[int] = frozenset()
        """Inbound SPIs of SAs with manual keys."""
        self.cpis: set[int] = set()
        self.installs: dict[int, tuple[Reactor, InstallContinuation]] = {}
        self.peer_numbers = PeerNumbers()
        self.own_interfaces: frozenset[str] = frozenset()
        """Tunnels of the document with an interface of their own in either data plane."""
        self.tunnel_names: Mapping[str, str] = {}
        """Names of the tunnels of the document by id."""
        self._reqids: dict[tuple[str, str, int], int] = {}
        self._taken_reqids: set[int] = set()
        self._last_reqid = 1
        self._sequence = 0
        self._touched: dict[Owner, None] = {}
        self._outputs: list[Output] = []
        self._now = 0.0
        self._floods: dict[str, tuple[float, float, int]] = {}

    @property
    def now(self) -> float:
        """The time of the present input."""
        return self._now

    # --- outputs and reports

    def emit(self, output: Output) -> None:
        """Queue one output."""
        self._outputs.append(output)

    def take_outputs(self) -> tuple[Output, ...]:
        """Return the outputs since the last call."""
        outputs, self._outputs = tuple(self._outputs), []
        return outputs

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
        if code.startswith(_FLOODABLE) or code in _FROM_STRANGERS:
            held_back = self._flood("wire" if code.startswith(_ONE_BUCKET) else code)
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

    def report_error(self, error: PeerError) -> None:
        """Report a refusal of a message that belongs to no SA."""
        self.report(
            error.code,
            error.message,
            received=error.received,
            configured=error.configured,
            field=error.field,
            attributes=error.attributes,
        )

    def _flood(self, code: str) -> int | None:
        """Return how many reports of this sort were held back since the last one, or None to hold this one back."""
        credit, at, held_back = self._floods.get(code, (float(_REPORTS_AT_ONCE), self._now, 0))
        credit = min(float(_REPORTS_AT_ONCE), credit + (self._now - at) * _REPORTS_PER_S)
        if credit < 1.0:
            self._floods[code] = (credit, self._now, held_back + 1)
            return None
        self._floods[code] = (credit - 1.0, self._now, 0)
        return held_back

    # --- numbers

    def new_esp_spi(self) -> int:
        """Return an inbound SPI above the reserved ones (RFC 4303 section 2.1) that is nobody else's."""
        while True:
            spi = int.from_bytes(self.entropy.octets(4), "big")
            if spi > 255 and spi not in self.esp_spis and spi not in self.reserved_spis:
                self.esp_spis.add(spi)
                return spi

    def free_esp_spi(self, spi: int) -> None:
        """Give an inbound SPI back."""
        self.esp_spis.discard(spi)

    def new_cpi(self) -> int:
        """Return an inbound CPI of the negotiated range (RFC 3173 section 3.3). Raises LocalError when none is left."""
        if len(self.cpis) >= len(_CPIS):
            raise LocalError("no CPI is left")
        cpi = _CPIS[int.from_bytes(self.entropy.octets(4), "big") % len(_CPIS)]
        while cpi in self.cpis:
            cpi = cpi + 1 if cpi + 1 in _CPIS else _CPIS[0]
        self.cpis.add(cpi)
        return cpi

    def free_cpi(self, cpi: int | None) -> None:
        """Give an inbound CPI back; None is none."""
        if cpi is not None:
            self.cpis.discard(cpi)

    def reqid(self, tunnel_id: str, child: str, slot: int) -> int:
        """Return the reqid of a child's slot: the same as long as the tunnel is configured, whatever the IKE version.

        Raises LocalError when all 65,535 are taken.
        """
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

    def name_tunnels(self, names: Mapping[str, str]) -> None:
        """Take the tunnels of a new document; numbers of those that are gone may be given out again."""
        self.tunnel_names = names
        self._reqids = {key: number for key, number in self._reqids.items() if key[0] in names}
        self._taken_reqids = set(self._reqids.values())

    # --- children in the data plane

    def protected_by_other(self, policies: Sequence[PolicySpec], slot: int = 0) -> str | None:
        """Return the name of a tunnel one of whose children protects this traffic with another reqid.

        That of a peer of an on-demand tunnel must not even overlap with another peer's. ``slot`` is the child's.
        """
        tunnel_id = policies[0].tunnel_id
        if slot >= SLOTS and self._another_peers(tunnel_id, policies, slot // SLOTS):
            return f"another peer of tunnel {self.tunnel_names.get(tunnel_id, tunnel_id)}"
        reqid = self.protected.other(policies, self.table_of(tunnel_id))
        if reqid is None:
            return None
        owner = next((key[0] for key, number in self._reqids.items() if REQID_BASE + number == reqid), None)
        name = None if owner is None else self.tunnel_names.get(owner)
        return "another tunnel" if name is None else f"tunnel {name}"

    def check_host(self, host: Host, child: str, address: str, original: OriginalAddresses | None) -> None:
        """Raise PeerError for transport mode with a second host behind one address of a NAT."""
        other = self.hosts.other(host, address, original)
        if other is None:
            return
        name = self.tunnel_names.get(other.tunnel_id, other.tunnel_id)
        raise PeerError(
            _NO_PROPOSAL_CHOSEN,
            "child.transport-nat",
            f"Child {child} is for transport mode, and another host behind {address} has that already (tunnel {name}): "
            "their packets could not be told apart; use tunnel mode",
            received=address if original is None else f"{address}, which is {original.source} there",
            configured=Mode.TRANSPORT,
            field="children.mode",
            attributes={"child": child},
        )

    def table_of(self, tunnel_id: str) -> str:
        """Return the table of policies that a tunnel's traffic is looked up in: its own where it has an interface."""
        link_per_tunnel = self.features is not None and self.features.driver == _LINK_PER_TUNNEL
        return tunnel_id if link_per_tunnel or tunnel_id in self.own_interfaces else SHARED

    def _another_peers(self, tunnel_id: str, policies: Sequence[PolicySpec], peer: int) -> bool:
        others = {
            REQID_BASE + number
            for (owner, _, slot), number in self._reqids.items()
            if owner == tunnel_id and slot >= SLOTS and slot // SLOTS != peer
        }
        return bool(others) and self.protected.overlaps(policies, others)

    def install(
        self,
        asker: Reactor,
        child: InstallableChild,
        *,
        replaces: tuple[SaId, ...],
        outbound_later: bool,
        then: InstallContinuation,
    ) -> None:
        """Ask for a child's SAs and policies."""
        self._sequence += 1
        child.install_id = self._sequence
        self.installs[self._sequence] = (asker, then)
        self.protected.add(child.policies, self.table_of(child.inbound.tunnel_id))
        self.hosts.add(child.install_id, child.host, child.inbound)
        self.emit(
            InstallChild(
                install_id=child.install_id,
                tunnel_id=child.inbound.tunnel_id,
                child=child.name,
                inbound=child.inbound,
                outbound=child.outbound,
                policies=child.policies,
                replaces=replaces,
                outbound_later=outbound_later,
            )
        )

    def removed(self, child: InstallableChild) -> None:
        """Note that an installed child leaves the data plane."""
        if child.install_id:
            self.protected.remove(child.policies)
            self.hosts.remove(child.install_id, child.inbound)

    def installed(self, install_id: int, problem: str | None, now: float) -> None:
        """Go on with what waited for an installation."""
        pending = self.installs.pop(install_id, None)
        if pending is not None:
            asker, then = pending
            self.guarded(lambda: then(problem, now), now, asker)

    # --- the funnel and the time

    def touch(self, owner: Owner) -> None:
        """Look at the owner's needs and its deadline when the present input is done."""
        self._touched[owner] = None

    def go_on(self, waiting: tuple[Reactor, Continuation[_Answer]] | None, answer: _Answer, now: float) -> None:
        """Go on with what waited for an answer of the shell, if anything still does."""
        if waiting is not None:
            asker, then = waiting
            self.guarded(lambda: then(answer, now), now, asker)

    def guarded(self, step: Callable[[], None], now: float, reactor: Reactor) -> None:
        """The funnel: run one step; a peer's fault becomes an answer and a report, a bug only a loud report.

        ``reactor`` says who answers: an SA, or a machine until the step finds out which SA it is about and says so in
        :attr:`subject`.
        """
        self._now = now
        self.subject = reactor
        try:
            try:
                step()
            except (WireError, PeerError, IntegrityError) as error:
                self.subject.react(error, now)
        except Exception as error:
            self._bug(error)
        self.subject = None

    def _bug(self, error: Exception) -> None:
        """Report where it happened; the text of an unknown exception could hold anything, so it stays out."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = "unknown" if trace is None else f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
        attributes = {"place": place}
        if self.subject is not None:
            self.subject.abandon()
            attributes["version"] = self.subject.version
            self.bugs[self.subject.version] += 1
        self.report("ike.bug", f"{type(error).__name__} in {place}", attributes=attributes)

    def handle_timer(self, now: float) -> None:
        """Do everything that is due."""
        due = []
        while (owner := self.agenda.pop_due(now)) is not None:
            due.append(owner)
        for owner in due:
            self.touch(owner)
            self.guarded(lambda owner=owner: owner.handle_timer(now), now, owner)  # type: ignore[misc]

    def settle(self, now: float) -> None:
        """After an input: let what it touched see to its needs, then take over the deadlines."""
        self._now = now
        touched = self._touched
        while touched:
            owner = next(iter(touched))
            del touched[owner]
            self.guarded(lambda owner=owner: owner.maintain(now), now, owner)  # type: ignore[misc]
            self.agenda.update(owner)
