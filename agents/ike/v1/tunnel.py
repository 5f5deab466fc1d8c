"""One configured tunnel as IKEv1 has it: its ISAKMP SAs, its children, what is missing, when to try again.

Rules where the RFCs leave room:

* **Children belong to the tunnel.** The end of an ISAKMP SA ends no child; the end that may begins a new phase 1, so
  that the peer can still be told and asked.
* **A new phase 1** begins before the old one ends, by whichever end comes first; the old one is deleted a moment after
  the new one stands, by the end that began the new one.
* **Crossing phase 1.** Of two ISAKMP SAs that stand and overlapped in time the one with the larger cookie pair (as
  octets, initiator's first) stays; the end that began the other deletes it.
* **Children without an ISAKMP SA** cannot be asked after. Where liveness is checked at all, they count as lost when no
  SA came to stand and no ESP came in for as long as a check would have taken.
* **INITIAL-CONTACT** is sent when the tunnel has nothing else, and on receipt removes what stood before that
  negotiation began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.contract.config import Child, ConnectionType, DpdAction, ExchangeMode, Tunnel, TunnelKind
from agents.contract.status import Reason, TunnelState
from agents.dataplane.base import PolicySpec
from agents.ike import ondemand
from agents.ike.change import Fate, Plan
from agents.ike.crypto.errors import IntegrityError
from agents.ike.errors import LocalError, PeerError, WireError
from agents.ike.identity import Shown
from agents.ike.loss import Loss
from agents.ike.ondemand import Membership, Peers
from agents.ike.outputs import Path
from agents.ike.paths import IKE_PORT
from agents.ike.timers import gives_up_after_s, retry_after_s
from agents.ike.v1.children import REPLACED_S, Children
from agents.ike.v1.reasons import reason
from agents.ike.v1.sa import IsakmpSa
from agents.ike.v1.states import STEP_TEXTS, SaState
from agents.ike.v1.tasks import aggressive, info, main

if TYPE_CHECKING:
    from agents.ike.hub import Hub
    from agents.ike.v1.machine import Machine

_PEERS_TURN_S = 3.0
"""How long the end that did not begin the ISAKMP SA that stays waits for the other to rekey the children on it."""


class TunnelRuntime:
    """A tunnel of the document and everything of IKEv1 that lives for it."""

    version = "v1"

    def __init__(
        self,
        core: Machine,
        config: Tunnel,
        now: float,
        start_at: float,
        membership: Membership[TunnelRuntime] | None = None,
    ) -> None:
        self.core = core
        self.membership = membership
        self.peers: Peers[TunnelRuntime] = Peers()
        self.config: Tunnel = config
        self.sas: list[IsakmpSa] = []
        self.children = Children(self)
        self.held = False
        self.standby = False
        self.removed = False
        self.reason: Reason | None = None
        self._hinted = False
        self.state = TunnelState.NEGOTIATING
        self.since = now
        self.retry_at: float | None = start_at
        self.scheduled_at: float | None = None
        self.loss = Loss()
        self.stops = 0
        self._failures = 0
        self._alone_since: float | None = None

    def __repr__(self) -> str:
        return f"TunnelRuntime({self.config.name} {self.state})"

    @property
    def hub(self) -> Hub:
        """What both IKE versions share."""
        return self.core.hub

    # --- what is wanted

    @property
    def may_initiate(self) -> bool:
        """Whether this end may start a negotiation now."""
        waits = self.standby or self.config.connection_type is ConnectionType.RESPONDER_ONLY
        return self._wanted and not waits

    @property
    def accepts_peer(self) -> bool:
        """Whether the peer may start one: also to renew what stands, where it may not begin by itself."""
        waits = self.config.connection_type is ConnectionType.INITIATOR_ONLY and not self.established()
        return self._wanted and not waits

    @property
    def _wanted(self) -> bool:
        return self.config.enabled and not self.held and not self.removed

    def child_config(self, name: str) -> Child | None:
        """Return the configured child of this name."""
        return next((child for child in self.config.children if child.name == name), None)

    def slot(self, slot: int) -> int:
        """Return the slot of a child's reqid: a peer of an on-demand tunnel has a range of its own."""
        return ondemand.slot_of(self.membership, slot)

    @property
    def proven(self) -> Shown | None:
        """The identity of the peer that this is for, where that came by an on-demand tunnel."""
        return None if self.membership is None else self.membership.shown

    def forget_if_gone(self) -> None:
        """Forget a peer of an on-demand tunnel that has nothing left here."""
        if self.membership is not None and not (self.sas or self.children):
            self.membership.template.peers.forget(self, self.membership)

    # --- what there is

    def add_sa(self, sa: IsakmpSa) -> None:
        """Count this SA as one of ours."""
        if sa not in self.sas:
            self.sas.append(sa)
        self.hub.touch(self)

    def drop_sa(self, sa: IsakmpSa) -> None:
        """This SA is another tunnel's now."""
        self.sas.remove(sa)
        self.hub.touch(self)

    def starts_anew(self, sa: IsakmpSa) -> bool:
        """Return whether to say INITIAL-CONTACT: there is no other SA and no child."""
        return not self.children and all(other is sa or not _counts(other) for other in self.sas)

    def established(self) -> list[IsakmpSa]:
        """Return the ISAKMP SAs that stand."""
        return [sa for sa in self.sas if sa.standing]

    def primary(self) -> IsakmpSa | None:
        """Return the SA that new exchanges go over: the youngest that stays."""
        standing = [sa for sa in self.established() if sa.delete_at is None] or self.established()
        return standing[-1] if standing else None

    def sa_by_cookies(self, cookies: bytes) -> IsakmpSa | None:
        """Return our SA with these cookies, the initiator's first."""
        return next((sa for sa in self.sas if sa.cookie_i + sa.cookie_r == cookies), None)

    def own_policies(self, name: str) -> set[PolicySpec]:
        """Return the policies that SAs of this child have now, or that wait for traffic."""
        return self.children.needed_policies(name) | self.loss.waiting(name)

    def needed_policies(self, name: str) -> set[PolicySpec]:
        """Return the policies of this child that are to stay, whichever IKE version needs them."""
        elsewhere = self.core.turns.policies_elsewhere(self, self.version, name)
        return self.own_policies(name) | elsewhere

    def _has_sa(self) -> bool:
        return any(_counts(sa) for sa in self.sas)

    # --- news of phase 1

    def sa_established(self, sa: IsakmpSa, now: float) -> None:
        """An ISAKMP SA stands: failures are forgotten, superfluous SAs go."""
        self._failures = 0
        self.retry_at = self._alone_since = None
        self.loss.over()
        if not sa.peer.dpd and self.config.ike.dpd_interval_s:
            sa.report("ikev1.dpd-unsupported", "The peer answers no liveness checks (RFC 3706)")
        self.core.turns.stands(self, self.core.version, now)
        for other in tuple(self.sas):
            if other is sa:
                continue
            if other.initiated and other.state in (SaState.SA_SENT, SaState.AGGRESSIVE_SENT):
                self.hub.report("ike.simultaneous", "The peer was first", tunnel_id=self.config.id)
                other.close(now)
            elif other.standing:
                self._resolve(sa, other, now)
        self.hub.touch(self)

    def _resolve(self, newer: IsakmpSa, older: IsakmpSa, now: float) -> None:
        """Two ISAKMP SAs stand: one goes."""
        overlapped = older.established_at is not None and newer.created_at < older.established_at
        older_stays = overlapped and older.cookie_i + older.cookie_r > newer.cookie_i + newer.cookie_r
        loser, winner = (newer, older) if older_stays else (older, newer)
        if loser.delete_at is not None:
            return
        if overlapped:
            self.hub.report("ike.simultaneous", "Two IKE SAs stand; one is deleted", tunnel_id=self.config.id)
            ours = loser.initiator
            # A peer may tie children to the SA that goes (strongSwan): each is made anew on the one that stays.
            self.children.rekey(now if winner.initiator else now + _PEERS_TURN_S)
        else:
            ours = winner.initiator
        loser.rekey_at = None
        # Whoever began the new one deletes the old one; some leave that to the other end (strongSwan).
        loser.delete_at = now + (REPLACED_S if ours else 2 * REPLACED_S)
        self.hub.touch(loser)

    def initial_contact(self, sa: IsakmpSa, now: float) -> None:
        """The peer says that it has nothing else with us: what was there when it can first have said so is gone.

        That is when it began the negotiation, or when we sent the last message that it has answered.
        """
        then = sa.exchange.sent_at if sa.initiator else sa.created_at
        old = [
            other
            for other in self.sas
            if other is not sa and other.established_at is not None and other.established_at < then
        ]
        children = [child for child in self.children if child.agreement.began_at < then]
        if old or children:
            self.hub.report("ike.initial-contact", "The peer starts anew", tunnel_id=self.config.id)
        for other in old:
            other.close(now)
        for child in children:
            self.children.remove(child, now)

    def sa_closed(self, sa: IsakmpSa, now: float) -> None:
        """An ISAKMP SA is gone."""
        if sa in self.sas:
            self.sas.remove(sa)
        if sa.established_at is not None:
            self._last_one_stays(sa, now)
        elif sa.initiator:
            self._renew_later(now)
        if not self._has_sa() and self.loss.begin_again():
            self.retry_at = now
        elif not self._has_sa() and sa.established_at is None and self.retry_at is None:
            self.try_again_later(now)
        elif not self._has_sa() and self.retry_at is None:
            self.retry_at = now + retry_after_s(0, self.hub.entropy.uniform())
        self.hub.touch(self)

    def _last_one_stays(self, gone: IsakmpSa, now: float) -> None:
        """One that stood is gone: if both ends chose otherwise which of two goes, the last is kept all the same."""
        left = self.established()
        if not left:
            self._alone_since = now if gone.peer.dpd else None
        elif len(left) == 1 and left[0].delete_at is not None:
            left[0].delete_at = None
            left[0].retime()

    def _renew_later(self, now: float) -> None:
        """A new phase 1 came to nothing while an older one stands: begin another later."""
        older = self.primary()
        if older is not None and older.rekey_at is None and older.delete_at is None:
            older.rekey_at = now + retry_after_s(self._failures, self.hub.entropy.uniform())
            self._failures += 1
            self.hub.touch(older)

    def lost(self, now: float) -> None:
        """The peer is not there any more: its children go."""
        self.loss.peer_lost(self, self.children)
        for child in self.children:
            self.children.remove(child, now)
        if not self._has_sa() and self.loss.begin_again():
            self.retry_at = now

    def try_again_later(self, now: float) -> None:
        """A negotiation came to nothing: wait, longer each time."""
        self.retry_at = now + retry_after_s(self._failures, self.hub.entropy.uniform())
        self._failures += 1
        self.core.turns.failed(self, self.core.version, now)

    # --- why it is not up

    def note_error(self, error: PeerError) -> None:
        """Keep why the tunnel is not up."""
        self.reason = reason(error.code, error.message, error.received, error.configured, error.field)
        self._hinted = False
        self.hub.touch(self)

    def hint(self, found: Reason) -> None:
        """Keep what may be why, where nothing better is known: it was in clear, and anybody can have sent it."""
        if self.reason is None or self._hinted or self.reason.code == "ike.peer-unresponsive":
            self.reason = found
            self._hinted = True
            self.hub.touch(self)

    def forget_reason(self) -> None:
        """What kept the tunnel down does not count any more."""
        self.reason = None

    def react(self, error: WireError | PeerError | IntegrityError, now: float) -> None:
        """Leave a fault that is no SA's to the machine."""
        self.core.react(error, now)

    def abandon(self) -> None:
        """A tunnel answers no requests itself."""

    # --- verbs

    def initiate(self, now: float) -> None:
        """Begin phase 1."""
        self.retry_at = None
        config, path = self.config, self._first_path()
        sa = IsakmpSa(self.core, initiator=True, mode=config.ike.exchange_mode, path=path, now=now)
        sa.adopt(self)
        self.core.register(sa)
        sa.report("ike.initiate", f"Negotiation with {path.remote_address}")
        try:
            (main if sa.mode is ExchangeMode.MAIN else aggressive).initiate(sa, now)
        except PeerError as error:
            sa.fail(error, now)

    def _first_path(self) -> Path:
        """Return where a new phase 1 begins: behind a NAT on the path of the old one (RFC 3947 section 4)."""
        standing, config = self.primary(), self.config
        if standing is not None and standing.nat.encapsulates:
            return standing.path
        return Path(
            local_address=config.local.address,
            local_port=IKE_PORT,
            remote_address=config.remote.address,
            remote_port=IKE_PORT,
        )

    def start(self, now: float) -> None:
        """Be up from now on: what an operator or a new document asks for."""
        self.held = False
        self.loss.over()
        self._failures = 0
        self.children.retries.clear()
        self.retry_at = now
        self.hub.touch(self)

    def stop(self, now: float) -> None:
        """Be down: delete what there is, and let what the peer has begun come to nothing."""
        self.stops += 1
        self.children.delete(self.children, now)
        for sa in tuple(self.sas):
            self._delete_sa(sa, now)
        self.loss.over()
        self.loss.forget_policies(self)
        self.children.retries.clear()
        self.retry_at = None
        self.hub.touch(self)

    def give_way(self, now: float) -> None:
        """The other IKE version has the tunnel now."""
        if self.sas or self.children:
            self.stop(now)

    def _delete_sa(self, sa: IsakmpSa, now: float) -> None:
        told = sa.standing
        info.send_delete(sa, now, itself=True)
        sa.close(now, linger=told)

    def delete_sa(self, sa: IsakmpSa, now: float) -> None:
        """Delete an ISAKMP SA whose time has come; the children stay."""
        sa.report("ike.sa-deleted", "The IKE SA was replaced or reached the end of its lifetime")
        self._delete_sa(sa, now)

    def clear_ike(self, now: float) -> None:
        """Delete every ISAKMP SA and every child and begin again."""
        self.stop(now)
        self._failures = 0
        self.retry_at = now

    def clear_ipsec(self, now: float) -> None:
        """Delete every child and ask for them again."""
        self.children.delete(self.children, now)
        self.children.retries.clear()

    def traffic_wanted(self, now: float) -> None:
        """Traffic found no SA: begin or ask again now, unless the tunnel is to stay down."""
        if not self.may_initiate or self.loss.waits_for is DpdAction.CLEAR:
            return
        self.children.retries.clear()
        if not self._has_sa():
            self.initiate(now)
        self.hub.touch(self)

    def data_plane_lost(self, now: float) -> None:
        """Every SA and policy is gone: delete the children at the peer and ask for them again."""
        self.loss.data_plane_lost()
        self.clear_ipsec(now)
        self.hub.touch(self)

    def rekey_ike(self, now: float) -> bool:
        """Begin a new phase 1; False when there is none to replace. Raises LocalError when this end may not."""
        if self.primary() is None:
            return False
        if not self.may_initiate:
            raise LocalError("this end may not start the negotiation that renews an IKE SA of version 1")
        if not any(sa.initiated for sa in self.sas):
            self.initiate(now)
        return True

    def rekey_children(self, now: float) -> bool:
        """Rekey every child; False when there is none."""
        return self.children.rekey(now)

    def addresses_changed(self, now: float) -> None:
        """The host has other addresses now: a negotiation from one that is gone begins again."""
        present = self.hub.addresses
        if present is None:
            return
        for sa in tuple(self.sas):
            if sa.path.local_address not in present and sa.initiated:
                sa.report("ike.address-lost", f"{sa.path.local_address} is gone: the negotiation begins again")
                sa.close(now)
                self.retry_at = now
        self.hub.touch(self)

    def apply(self, config: Tunnel, plan: Plan, now: float) -> None:
        """Take over a changed configuration as :mod:`agents.ike.change` says."""
        before, self.config = self.config, config
        self.hub.touch(self)
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

    def _apply_in_place(self, plan: Plan, now: float) -> None:
        gone = plan.remake_children | plan.delete_children
        self.children.delete([child for child in self.children if child.name in gone], now)
        for child in self.children:
            config = self.child_config(child.name)
            if child.name in plan.retime_children and config is not None:
                child.retime(config, self.hub.entropy.uniform())
        for sa in self.established():
            if plan.retime:
                sa.retime()
            self.hub.touch(sa)
        self.children.rekey(now, plan.rekey_children)
        if plan.fate is Fate.REKEY and self.may_initiate:
            self.rekey_ike(now)
        for key in [key for key in self.children.retries if key[0] in gone | plan.rekey_children]:
            del self.children.retries[key]
        if not self._has_sa() and plan != Plan(fate=Fate.KEEP):
            self._failures = 0
            self.retry_at = now

    def remove(self, now: float) -> None:
        """The document does not have this tunnel any more."""
        self.removed = True
        self.stop(now)

    def traffic_seen(self, now: float) -> None:
        """ESP of the peer came in: it is there, even where there is no ISAKMP SA to ask over."""
        if self._alone_since is not None:
            self._alone_since = now
            self.hub.touch(self)

    # --- time and needs

    def orphaned_at(self) -> float | None:
        """Return when children without an ISAKMP SA count as lost, None where there are none or nobody asks."""
        interval_s = self.config.ike.dpd_interval_s
        if self._alone_since is None or not interval_s or not self.children:
            return None
        return self._alone_since + interval_s + gives_up_after_s(self.hub.retransmission)

    def deadline(self) -> float | None:
        """Return when to look at the tunnel again."""
        times = [
            self.children.deadline(rekeys=self.primary() is not None, asks=self._may_ask),
            self.orphaned_at(),
        ]
        if self.may_initiate and not self._has_sa() and self.loss.waits_for is None:
            times.append(self.retry_at)
        return min((each for each in times if each is not None), default=None)

    @property
    def _may_ask(self) -> bool:
        """Whether a Quick Mode of ours can begin: an ISAKMP SA stands, and we may ask for children."""
        return self.may_initiate and self.primary() is not None

    def handle_timer(self, now: float) -> None:
        """Do what is due; what is missing :meth:`maintain` sees after every input."""
        self.children.handle_timer(now)
        orphaned_at = self.orphaned_at()
        if orphaned_at is not None and now >= orphaned_at:
            self._alone_since = None
            self.lost(now)
        self.hub.touch(self)

    def maintain(self, now: float) -> None:
        """Start what is missing and due, and note the state that results."""
        self.children.forget_done()
        begins = self.may_initiate and not self._has_sa() and self.loss.waits_for is None
        if begins and (self.retry_at is None or now >= self.retry_at):
            self.initiate(now)
        sa = self.primary()
        if sa is not None:
            self.children.rekey_due(sa, now)
            if self.may_initiate:
                self.children.ask(sa, now)
        self._note_state(now)
        self.forget_if_gone()

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
                self.hub.touch(self.membership.template)

    def _find_state(self) -> TunnelState:
        if not self.config.enabled:
            return TunnelState.DISABLED
        up = sum(self.children.is_up(child.name) for child in self.config.children)
        if up == len(self.config.children):
            return TunnelState.UP
        if up:
            return TunnelState.PARTLY_UP
        if self.step() is not None:
            return TunnelState.NEGOTIATING
        if self.reason is None and not self.may_initiate and not self.held:
            return TunnelState.IDLE
        return TunnelState.DOWN

    def step(self) -> str | None:
        """Return in a few words what is under way, or None."""
        for sa in self.sas:
            if sa.progressing:
                return STEP_TEXTS[sa.state]
        if self.established() and self.children.coming_up:
            return STEP_TEXTS[SaState.ESTABLISHED]
        return None


def _counts(sa: IsakmpSa) -> bool:
    """Return whether an SA stands or is coming up; anybody can begin Aggressive Mode in the peer's name."""
    return sa.standing or (sa.progressing and sa.state is not SaState.AGGRESSIVE_ANSWERED)
