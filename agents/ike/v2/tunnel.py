"""One configured tunnel: which IKE SAs it has, what is missing, when to try again.

Rules where RFC 7296 leaves room:

* **Simultaneous initiation.** Both ends may open an IKE SA at once. An end that is still waiting for its first answer
  when the peer's SA stands gives its own up. Of two SAs that stand and overlapped in time, the one with the larger SPI
  pair (as octets, initiator's first) stays; of two that did not overlap, the younger. The end that opened the
  superfluous one deletes it; if it has not done so in 10 s, the other end does. One that a younger SA replaces goes
  when that has its children, or after 30 s (60 s at the other end).
* **INITIAL_CONTACT** is sent when the tunnel has no other SA, and on receipt removes the SAs that stood before the
  peer's negotiation began, never one negotiated at the same time.
* **Missing children** are asked for by the end that opened the IKE SA; the other end waits a moment first. If the
  requests cross, the opener's is the one that is answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.contract.config import Child, ConnectionType, DpdAction, Tunnel, TunnelKind, UniquePolicy
from agents.contract.events import KINDS
from agents.contract.status import Reason, TunnelState
from agents.dataplane.base import PolicySpec
from agents.ike import change, identity, ondemand, selectors
from agents.ike.change import Fate, Plan
from agents.ike.crypto.errors import IntegrityError
from agents.ike.crypto.suite import IkeSuite
from agents.ike.errors import PeerError, WireError
from agents.ike.identity import Shown
from agents.ike.loss import Loss
from agents.ike.ondemand import Membership, Peers
from agents.ike.paths import addresses_of
from agents.ike.timers import DUPLICATE_GRACE_S, REPLACED_GRACE_S, retry_after_s
from agents.ike.v2 import reauth, slots
from agents.ike.v2.child import ChildSa
from agents.ike.v2.path import first_path
from agents.ike.v2.pieces import Piece, Pieces
from agents.ike.v2.roam import own_addresses_changed
from agents.ike.v2.sa import IkeSa
from agents.ike.v2.states import LIVE_CHILD, PROGRESSING, STEP_TEXTS, UP_CHILD, ChildState, SaState
from agents.ike.v2.tasks.create import CreateChild
from agents.ike.v2.tasks.delete import DeleteChildren
from agents.ike.v2.tasks.init import InitiateSa
from agents.ike.v2.tasks.rekey import RekeyIke
from agents.ike.wire.payloads import SelectorRange
from agents.ike.wire.registry import NotifyType

if TYPE_CHECKING:
    from agents.ike.hub import Hub
    from agents.ike.v2.core import Core


class TunnelRuntime:
    """A tunnel of the document and everything that lives for it."""

    version = "v2"

    def __init__(
        self,
        core: Core,
        config: Tunnel,
        now: float,
        start_at: float,
        membership: Membership[TunnelRuntime] | None = None,
    ) -> None:
        self.core = core
        self.membership = membership
        self.peers: Peers[TunnelRuntime] = Peers()
        self.config: Tunnel = config
        self.sas: list[IkeSa] = []
        self.held = False
        self.standby = False
        """Whether the other IKE version has the turn (:mod:`agents.ike.fallback`)."""
        self.removed = False
        self.reason: Reason | None = None
        self.state = TunnelState.NEGOTIATING
        self.since = now
        self.retry_at: float | None = start_at
        self.scheduled_at: float | None = None
        self.loss = Loss()
        self._failures = 0
        self._child_retries: dict[str, tuple[int, float]] = {}
        self._pieces = Pieces()

    def __repr__(self) -> str:
        return f"TunnelRuntime({self.config.name} {self.state})"

    @property
    def hub(self) -> Hub:
        """What both IKE versions share."""
        return self.core.hub

    # --- what is wanted

    @property
    def may_initiate(self) -> bool:
        """Whether this end may start a negotiation."""
        waits = self.standby or self.config.connection_type is ConnectionType.RESPONDER_ONLY
        return self._wanted and not waits

    @property
    def accepts_peer(self) -> bool:
        """Whether the peer may start one."""
        return self._wanted and self.config.connection_type is not ConnectionType.INITIATOR_ONLY

    @property
    def _wanted(self) -> bool:
        return self.config.enabled and not self.held and not self.removed

    def child_config(self, name: str) -> Child | None:
        """Return the configured child of this name."""
        return next((child for child in self.config.children if child.name == name), None)

    def protects(self, ranges: tuple[SelectorRange, ...]) -> bool:
        """Return whether a child of ours that is not up has any of these addresses behind us."""
        return any(
            self.live_child(child.name) is None and selectors.narrow(selectors.to_ranges(child.local_ts), ranges)
            for child in self.config.children
        )

    def slot(self, slot: int) -> int:
        """Return the slot of a child's reqid: a peer of an on-demand tunnel has a range of its own."""
        return ondemand.slot_of(self.membership, slot)

    @property
    def proven(self) -> Shown | None:
        """The identity of the peer that this is for, where that came by an on-demand tunnel."""
        return None if self.membership is None else self.membership.shown

    def forget_if_gone(self) -> None:
        """Forget a peer of an on-demand tunnel that has nothing left here."""
        if self.membership is not None and not self.sas:
            self.membership.template.peers.forget(self, self.membership)

    # --- what there is

    def add_sa(self, sa: IkeSa) -> None:
        """Count this SA as one of ours."""
        if sa not in self.sas:
            self.sas.append(sa)
        self.core.hub.touch(self)

    def drop_sa(self, sa: IkeSa) -> None:
        """This SA is another tunnel's now."""
        self.sas.remove(sa)
        self.core.hub.touch(self)

    def starts_anew(self, sa: IkeSa) -> bool:
        """Return whether to say INITIAL_CONTACT: the tunnel has no other SA, nor is another one welcome."""
        return self.config.ike.unique is not UniquePolicy.NEVER and all(other is sa for other in self.sas)

    def established(self) -> list[IkeSa]:
        """Return the SAs that stand."""
        return [sa for sa in self.sas if sa.state is SaState.ESTABLISHED]

    def primary(self) -> IkeSa | None:
        """Return the SA that new children go to."""
        standing = [sa for sa in self._staying() if not sa.undecided]
        return standing[-1] if standing else None

    def live_child(self, name: str) -> ChildSa | None:
        """Return the newest child of this name that is up or coming up, on an SA that stays."""
        found = [child for sa in self._staying() if (child := sa.live_child(name)) is not None]
        return found[-1] if found else None

    def _staying(self) -> list[IkeSa]:
        return [sa for sa in self.established() if sa.delete_at is None]

    def lacks(self, config: Child) -> bool:
        """Return whether this child, or a piece of it, is not there."""
        if self._pieces.is_split(config.name):
            return self.missing_piece(config.name) is not None
        return self.live_child(config.name) is None

    def missing_piece(self, name: str) -> Piece | None:
        """Return the selectors to ask for next where a child is asked for in pieces."""
        live = [child for sa in self._staying() for child in sa.children if child.state in LIVE_CHILD]
        return self._pieces.missing(name, (child for child in live if child.name == name))

    def ask_in_pieces(self, name: str) -> bool:
        """Ask for one child per pair of selectors from now on; False where that is no help."""
        config = self.child_config(name)
        return config is not None and self._pieces.split(config)

    def needed_policies(self, name: str) -> set[PolicySpec]:
        """Return the policies of this child that are to stay, whichever IKE version needs them."""
        return self.own_policies(name) | self.core.turns.policies_elsewhere(self, self.core.version, name)

    def own_policies(self, name: str) -> set[PolicySpec]:
        """Return the policies that SAs of this child have now, or that wait for traffic."""
        found = {policy for sa in self.sas for child in sa.children if child.name == name for policy in child.policies}
        return found | self.loss.waiting(name)

    # --- news from the SAs

    def sa_established(self, sa: IkeSa, now: float) -> None:
        """An SA stands: failures are forgotten, superfluous SAs go."""
        self._failures = 0
        self.retry_at = None
        self.loss.over()
        self.core.turns.stands(self, self.core.version, now)
        for other in tuple(self.sas):
            if other is sa or other.successor is not None:
                continue
            if other.state is SaState.INIT_SENT:
                self.core.hub.report("ike.simultaneous", "The peer was first", tunnel_id=self.config.id)
                other.close(now)
            elif other.state is SaState.ESTABLISHED and self._superfluous(sa, other):
                self._resolve(sa, other, now)
        self.core.hub.touch(self)

    def _superfluous(self, newer: IkeSa, older: IkeSa) -> bool:
        """Whether one of two SAs that stand has to go.

        Those of different peers (of a partial identity) stand beside each other, and where the unique policy says so
        those of one peer as well, unless they come from one simultaneous initiation or we reauthenticate.
        """
        one, other = newer.auth.identity, older.auth.identity
        if one is not None and other is not None and not identity.same(one, other):
            return False
        if self.config.ike.unique is not UniquePolicy.NEVER:
            return True
        return _overlapped(newer, older) or (newer.opener and older.opener)

    def kept_beside(self, sa: IkeSa) -> IkeSa | None:
        """Return the SA that makes the unique policy ``keep`` refuse this one: the same peer's, standing before it.

        One whose authentication is to be renewed soon does not: this may be the renewal.
        """
        shown = sa.auth.identity
        if self.config.ike.unique is not UniquePolicy.KEEP or shown is None:
            return None
        for other in self.established():
            before = other.auth.identity
            if other is sa or before is None or not identity.same(before, shown) or _overlapped(sa, other):
                continue
            if not reauth.expected(other, sa.created_at):
                return other
        return None

    def _resolve(self, newer: IkeSa, older: IkeSa, now: float) -> None:
        overlapped = _overlapped(newer, older)
        older_stays = overlapped and older.spi_i + older.spi_r > newer.spi_i + newer.spi_r
        loser = newer if older_stays else older
        if loser.delete_at is not None:
            return
        if not overlapped:  # replaced: its children go over one by one
            loser.delete_at = now + REPLACED_GRACE_S * (1 if loser.opener else 2)
        else:
            self.core.hub.report("ike.simultaneous", "Two IKE SAs stand; one is deleted", tunnel_id=self.config.id)
            if loser.opener:
                loser.start_delete(now)
                return
            loser.delete_at = now + DUPLICATE_GRACE_S
        loser.rekey_at = None
        self.core.hub.touch(loser)

    def _delete_replaced(self, now: float) -> None:
        """Delete the SAs we opened whose children another one has now."""
        staying = self._staying()
        if not staying or any(child.state is ChildState.INSTALLING for sa in staying for child in sa.children):
            return
        for sa in self.established():
            if sa.delete_at is None or not sa.opener or sa.responses.in_progress:
                continue
            names = {child.name for child in sa.children if child.state in LIVE_CHILD}
            if not any(self.lacks(child) for child in self.config.children if child.name in names):
                sa.start_delete(now)

    def initial_contact(self, sa: IkeSa, now: float) -> None:
        """The peer says that it has no other SA with us: what stood before its negotiation began is gone.

        The unique policy ``never`` does not believe it.
        """
        if self.config.ike.unique is UniquePolicy.NEVER:
            return
        for other in tuple(self.sas):
            if other is sa or other.established_at is None or other.established_at > sa.created_at:
                continue
            if not self._superfluous(sa, other):
                continue
            self.core.hub.report("ike.initial-contact", "The peer starts anew", tunnel_id=self.config.id)
            other.close(now)

    def sa_closed(self, sa: IkeSa, now: float) -> None:
        """An SA is gone."""
        if sa in self.sas:
            self.sas.remove(sa)
        if not self._has_sa() and self.loss.begin_again():
            self.retry_at = now
        elif not self._has_sa() and self.retry_at is None:
            self.try_again_later(now)
            self._pieces.forget()
        self.core.hub.touch(self)

    def try_again_later(self, now: float) -> None:
        """A negotiation came to nothing: wait, longer each time."""
        self.retry_at = now + retry_after_s(self._failures, self.core.hub.entropy.uniform())
        self._failures += 1
        self.core.turns.failed(self, self.core.version, now)

    def negotiating(self) -> bool:
        """Return whether an IKE SA is coming up."""
        return any(sa.state in PROGRESSING for sa in self.sas)

    def _has_sa(self) -> bool:
        return any(sa.state in PROGRESSING or sa.state is SaState.ESTABLISHED for sa in self.sas)

    def child_up(self, sa: IkeSa, child: ChildSa, now: float) -> None:
        """A child is in the data plane; one that the document has changed under meanwhile is brought up to date."""
        self._child_retries.pop(child.name, None)
        self.loss.replaced_by(self, child)
        self.core.hub.touch(self)
        config, agreed = self.child_config(child.name), child.agreement.config
        if config is agreed:
            return
        if config is None or change.must_remake(agreed, config):
            self._delete_children(sa, {child.name}, now)
        elif change.must_rekey(agreed, config):
            sa.rekey_child(child, now)

    def child_gone(self, child: ChildSa, now: float, by_peer: bool) -> None:
        """A child left the data plane; after a Delete by the peer we wait before asking for it again."""
        if by_peer and child.name not in self._child_retries:
            self.postpone_child(child.name, now + retry_after_s(0, self.core.hub.entropy.uniform()))
        self.core.hub.touch(self)

    def child_refused(self, name: str | None, error: PeerError, now: float, piece: Piece | None = None) -> None:
        """A child, or a piece of it, could not be made; ``name`` None when it was the peer's request."""
        self.note_error(error)
        if name is not None:
            self._pieces.refused(name, piece)
            if error.notify == NotifyType.SINGLE_PAIR_REQUIRED and self.ask_in_pieces(name):
                self._child_retries[name] = (0, now)
                self.core.hub.touch(self)
                return
            failures = self._child_retries.get(name, (0, 0.0))[0]
            pause = retry_after_s(failures + 1, self.core.hub.entropy.uniform())
            self._child_retries[name] = (failures + 1, now + pause)
        self.core.hub.touch(self)

    def postpone_child(self, name: str, until: float) -> None:
        """Do not ask for this child before ``until``."""
        failures = self._child_retries.get(name, (0, 0.0))[0]
        self._child_retries[name] = (failures, until)
        self.core.hub.touch(self)

    def note_error(self, error: PeerError) -> None:
        """Keep why the tunnel is not up."""
        self.reason = Reason(
            code=error.code,
            message=error.message[:500],
            received=error.received,
            configured=error.configured,
            field=error.field or KINDS[error.code].field or None,
        )
        self.core.hub.touch(self)

    # --- verbs

    def initiate(self, now: float) -> None:
        """Open an IKE SA."""
        self.retry_at = None
        path = first_path(self, self._failures)
        sa = IkeSa(self.core, initiator=True, opener=True, path=path, now=now)
        sa.adopt(self)
        self.core.register(sa)
        sa.report("ike.initiate", f"Negotiation with {path.remote_address}")
        sa.enqueue(InitiateSa(), now)

    def start(self, now: float) -> None:
        """Be up from now on: what an operator or a new document asks for."""
        self.held = False
        self.loss.over()
        self._failures = 0
        self._child_retries.clear()
        self.retry_at = now
        self.core.hub.touch(self)

    def stop(self, now: float) -> None:
        """Be down: delete what there is."""
        for sa in tuple(self.sas):
            sa.start_delete(now)
        self.loss.over()
        self.loss.forget_policies(self)
        self._child_retries.clear()
        self.retry_at = None
        self.core.hub.touch(self)

    def give_way(self, now: float) -> None:
        """The other IKE version has the tunnel now."""
        for sa in tuple(self.sas):
            if sa.state is not SaState.DELETING:
                self.stop(now)
                return

    def forget_reason(self) -> None:
        """What kept the tunnel down does not count any more."""
        self.reason = None

    def react(self, error: WireError | PeerError | IntegrityError, now: float) -> None:
        """Leave a fault that is no SA's to the machine."""
        self.core.react(error, now)

    def abandon(self) -> None:
        """A tunnel answers no requests itself."""

    def clear_ike(self, now: float) -> None:
        """Delete every IKE SA with its children and begin again."""
        self.stop(now)
        self._failures = 0
        self.retry_at = now

    def traffic_wanted(self, now: float) -> None:
        """Traffic found no SA: begin or ask again now, unless the tunnel is to stay down."""
        if not self.may_initiate or self.loss.waits_for is DpdAction.CLEAR:
            return
        self._child_retries.clear()
        if not self._has_sa():
            self.initiate(now)
        self.core.hub.touch(self)

    def data_plane_lost(self, now: float) -> None:
        """Every SA and policy is gone: delete the children at the peer and ask for them again."""
        self.loss.data_plane_lost()
        self.clear_ipsec(now)
        self.core.hub.touch(self)

    def clear_ipsec(self, now: float) -> None:
        """Delete every child and ask for them again."""
        for sa in self.established():
            self._delete_children(sa, {child.name for child in sa.children}, now)

    def rekey_ike(self, now: float) -> bool:
        """Rekey the IKE SA; False when there is none."""
        sa = self.primary()
        if sa is None:
            return False
        if not isinstance(sa.current, RekeyIke):
            sa.enqueue(RekeyIke(), now)
        return True

    def rekey_children(self, now: float, names: frozenset[str] | None = None) -> bool:
        """Rekey the children of these names, or all; False when there is none."""
        found = False
        for sa in self.established():
            for child in tuple(sa.children):
                if child.state in UP_CHILD and (names is None or child.name in names):
                    sa.rekey_child(child, now)
                    found = True
        return found

    def _delete_children(self, sa: IkeSa, names: set[str] | frozenset[str], now: float) -> None:
        children = tuple(child for child in sa.children if child.name in names and child.state in LIVE_CHILD)
        if children:
            sa.report("child.deleted", f"Deleting {', '.join(sorted({child.name for child in children}))}")
            sa.enqueue(DeleteChildren(children), now)

    def apply(self, config: Tunnel, plan: Plan, now: float) -> None:
        """Take over a changed configuration as :mod:`agents.ike.change` says."""
        before, self.config = self.config, config
        self.core.hub.touch(self)
        if plan.fate is Fate.DROP:
            self.reason = None
            self.stop(now)
        elif plan.fate is Fate.START:
            self.start(now)
        elif plan.fate is Fate.REAUTHENTICATE:
            self.reason = None
            self.clear_ike(now)
        else:
            self._apply_in_place(plan, now)
            if self.loss.waits_for is not None and (plan != Plan(fate=Fate.KEEP) or before.ike != config.ike):
                self.loss.forget_policies(self)
                self.start(now)
            if addresses_of(before.local) != addresses_of(config.local):
                own_addresses_changed(self, now)

    def _apply_in_place(self, plan: Plan, now: float) -> None:
        for sa in self.established():
            if plan.retime:
                sa.retime()
                reauth.retime(sa)
            self._delete_children(sa, plan.remake_children | plan.delete_children, now)
            for child in sa.children:
                config = self.child_config(child.name)
                if child.name in plan.retime_children and config is not None:
                    child.retime(config, self.core.hub.entropy.uniform())
            self.core.hub.touch(sa)
        self.rekey_children(now, plan.rekey_children)
        if plan.fate is Fate.REKEY:
            self.renew_suite(now)
        changed = plan.remake_children | plan.rekey_children | plan.delete_children
        self._pieces.forget(changed)
        for name in changed:
            self._child_retries.pop(name, None)
        if not self._has_sa() and plan != Plan(fate=Fate.KEEP):
            self._failures = 0
            self.retry_at = now

    def renew_suite(self, now: float) -> None:
        """Rekey the IKE SA for changed proposals, unless it has the suite of the first one already."""
        sa = self.primary()
        if sa is not None and sa.suite != IkeSuite.from_proposal(self.config.ike.proposals[0]):
            self.rekey_ike(now)

    def remove(self, now: float) -> None:
        """The document does not have this tunnel any more."""
        self.removed = True
        self.stop(now)

    # --- time and needs

    def deadline(self) -> float | None:
        """Return when to look at the tunnel's needs again."""
        times = []
        if self.may_initiate:
            if self.retry_at is not None and not self._has_sa() and self.loss.waits_for is None:
                times.append(self.retry_at)
            sa = self.primary() if self._child_retries else None
            asked = None if sa is None else self._asked(sa)
            if asked is not None:
                times += [
                    at
                    for name, (_, at) in self._child_retries.items()
                    if name not in asked and (config := self.child_config(name)) is not None and self.lacks(config)
                ]
        for sa in self.established():
            if sa.current is None and not sa.queue and (doubled := slots.doubled(sa.children)) is not None:
                times.append(doubled[1])
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        """Something may be due; the engine calls :meth:`maintain` after every input anyway."""
        self.core.hub.touch(self)

    def maintain(self, now: float) -> None:
        """Start what is missing and due, and note the state that results."""
        if self.may_initiate:
            if not self._has_sa():
                if self.loss.waits_for is None and (self.retry_at is None or now >= self.retry_at):
                    self.initiate(now)
            else:
                self._ask_for_children(now)
        self._delete_replaced(now)
        self._delete_doubled(now)
        self._note_state(now)
        self.forget_if_gone()

    def _delete_doubled(self, now: float) -> None:
        """Delete our one of two children that crossing requests have made, once nothing is under way."""
        for sa in self.established():
            found = None if sa.current is not None or sa.queue else slots.doubled(sa.children)
            if found is not None and now >= found[1]:
                sa.report("ike.simultaneous", f"Both ends asked for child {found[0].name}; ours is deleted")
                sa.enqueue(DeleteChildren((found[0],)), now)

    @staticmethod
    def _asked(sa: IkeSa) -> set[str] | None:
        """Return the children under negotiation, or None while a Delete is: then nothing is asked for."""
        tasks = (sa.current, *sa.queue)
        if any(isinstance(task, DeleteChildren) for task in tasks):
            return None
        return {task.name for task in tasks if isinstance(task, CreateChild)}

    def _ask_for_children(self, now: float) -> None:
        sa = self.primary()
        asked = None if sa is None else self._asked(sa)
        if sa is None or asked is None:
            return
        for child in self.config.children:
            if child.name in asked or not self.lacks(child):
                continue
            if child.name not in self._child_retries and not sa.opener:
                self.postpone_child(child.name, now + 2 * retry_after_s(0, self.core.hub.entropy.uniform()))
            if now >= self._child_retries.get(child.name, (0, now))[1]:
                sa.enqueue(CreateChild(child.name), now)

    def _note_state(self, now: float) -> None:
        state = self._find_state()
        if self.config.kind is TunnelKind.ON_DEMAND:
            state = self.peers.state(self.config, state)
        if state is TunnelState.UP:
            self.reason = None
        if state is not self.state:
            self.state = state
            self.since = now
            if self.membership is not None:
                self.core.hub.touch(self.membership.template)

    def _find_state(self) -> TunnelState:
        if not self.config.enabled:
            return TunnelState.DISABLED
        up = sum(self.is_up(child.name) for child in self.config.children)
        if up == len(self.config.children):
            return TunnelState.UP
        if up:
            return TunnelState.PARTLY_UP
        if self.step() is not None:
            return TunnelState.NEGOTIATING
        if self.reason is None and not self.may_initiate and not self.held:
            return TunnelState.IDLE
        return TunnelState.DOWN

    def is_up(self, name: str) -> bool:
        """Return whether the child carries traffic."""
        return any(child.name == name and child.state in UP_CHILD for sa in self.established() for child in sa.children)

    def step(self) -> str | None:
        """Return in a few words what is under way, or None."""
        for sa in self.sas:
            if sa.state in PROGRESSING:
                return STEP_TEXTS[sa.state]
            making = any(isinstance(task, CreateChild) for task in (sa.current, *sa.queue))
            if sa.state is SaState.ESTABLISHED and (
                making or any(child.state is ChildState.INSTALLING for child in sa.children)
            ):
                return STEP_TEXTS[sa.state]
        return None


def _overlapped(newer: IkeSa, older: IkeSa) -> bool:
    """Whether the negotiation of one of two SAs began before the other stood."""
    return older.established_at is not None and newer.created_at < older.established_at
