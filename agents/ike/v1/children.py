"""The IPsec SAs of one tunnel: which pairs of selectors have them, which are asked for, which go.

In IKEv1 they belong to the tunnel and not to the ISAKMP SA they were negotiated on (RFC 2409 section 5.5). Where Quick
Modes of both ends cross, both pairs of SAs come up; ten seconds later the pair with the lowest nonce is deleted by the
end that asked for it. What was replaced, or is there twice, the other end deletes 20 seconds after that: the Delete may
have been lost, and the two ends may not see alike which of two is the newer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from agents.contract.config import Child, Mode
from agents.dataplane.base import PolicySpec
from agents.ike import change
from agents.ike import selectors as ranges
from agents.ike.errors import PeerError
from agents.ike.outputs import MoveChild, RemoveChild, SwitchOutbound
from agents.ike.timers import DUPLICATE_GRACE_S, retry_after_s
from agents.ike.v1 import selectors, steps
from agents.ike.v1.child import ChildSa, Pair
from agents.ike.v1.selectors import Match
from agents.ike.v1.states import LIVE_CHILD, UP_CHILD, ChildState
from agents.ike.v1.tasks import info
from agents.ike.v1.tasks.quick import Initiator
from agents.ike.wire.isakmp.registry import NotifyType

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa
    from agents.ike.v1.tunnel import TunnelRuntime

REPLACED_S = 5.0
"""How long SAs that were replaced stay for packets that are still under way."""

_PATIENCE_S = 2 * DUPLICATE_GRACE_S
"""How much longer the end waits whose task it is not to delete something."""

MOST_SLOTS = 64
"""Pairs of selectors that a peer narrows one child to."""


def most_of(pairs: int) -> int:
    """Return how many pairs of SAs a child of so many pairs of selectors has at most: each, and its successor."""
    return 2 * (pairs + MOST_SLOTS)


def _too_many(config: Child, most: int) -> PeerError:
    text = f"Child {config.name} stands as often as it may"
    return PeerError(0, "child.too-many", text, configured=str(most)).about(config.name)


class Children:
    """``sas`` are all there are, oldest first; ``quick`` the Quick Modes of ours that have no result yet."""

    def __init__(self, tunnel: TunnelRuntime) -> None:
        self._tunnel = tunnel
        self._hub = tunnel.hub
        self.sas: list[ChildSa] = []
        self.quick: list[Initiator] = []
        self.retries: dict[tuple[str, int], tuple[int, float]] = {}
        """By name and slot: failures in a row, and when to ask again."""
        self._slots: dict[tuple[str, Pair], int] = {}

    def __iter__(self) -> Iterator[ChildSa]:
        return iter(tuple(self.sas))

    def __len__(self) -> int:
        return len(self.sas)

    # --- which there are

    def pairs_of(self, config: Child) -> tuple[Pair, ...]:
        """Return the pairs of selectors of a child; in transport mode only what the two hosts can send."""
        if config.mode is Mode.TUNNEL:
            return selectors.pairs(config)
        ends = self._tunnel.config
        local = ranges.narrow(ranges.to_ranges(config.local_ts), (ranges.host(ends.local.address),))
        remote = ranges.narrow(ranges.to_ranges(config.remote_ts), (ranges.host(ends.remote.address),))
        return selectors.pair_up(local, remote)

    def slot_of(self, config: Child, found: Match) -> int:
        """Return the slot of a pair: its place among the child's, or a free one for what is narrower.

        Raises PeerError when there are too many.
        """
        pairs = self.pairs_of(config)
        used = [child.slot for child in self.sas if child.name == config.name]
        if len(used) >= most_of(len(pairs)):
            raise _too_many(config, most_of(len(pairs)))
        if found.received in pairs:
            return pairs.index(found.received)
        key = (config.name, found.received)
        if key not in self._slots:
            self._slots = {
                other: slot for other, slot in self._slots.items() if other[0] != config.name or slot in used
            }
            taken = {slot for (name, _), slot in self._slots.items() if name == config.name}
            slot = next((each for each in range(len(pairs), len(pairs) + MOST_SLOTS) if each not in taken), None)
            if slot is None:
                raise _too_many(config, MOST_SLOTS)
            self._slots[key] = slot
        return self._slots[key]

    def by_spi_out(self, protocol: int, spi: bytes) -> ChildSa | None:
        """Return the child that the peer receives by this protocol on ``spi``."""
        number = int.from_bytes(spi, "big")
        return next((child for child in self.sas if child.sends_to(protocol, number)), None)

    def by_spi_in(self, spi: int) -> ChildSa | None:
        """Return the child on which we receive ``spi``."""
        return next((child for child in self.sas if child.spi_in == spi), None)

    def live(self, name: str, slot: int | None = None) -> ChildSa | None:
        """Return the newest child of this name (and slot) that is up or coming up."""
        found = (child for child in reversed(self.sas) if child.name == name and child.state in LIVE_CHILD)
        return next((child for child in found if slot is None or child.slot == slot), None)

    def replaced_by(self, child: ChildSa) -> list[ChildSa]:
        """Return the children that a new one makes old: of its pair, in place before its Quick Mode began."""
        return [
            old
            for old in self.sas
            if old is not child
            and (old.name, old.slot) == (child.name, child.slot)
            and old.state in UP_CHILD
            and old.installed_at <= child.agreement.began_at
        ]

    def needed_policies(self, name: str) -> set[PolicySpec]:
        """Return the policies that SAs of this child have now."""
        return {policy for child in self.sas if child.name == name for policy in child.policies}

    def asking(self, sa: IsakmpSa) -> list[Initiator]:
        """Return the Quick Modes of ours on this ISAKMP SA that wait for an answer."""
        return [quick for quick in self.quick if quick.sa is sa and not quick.done]

    def is_up(self, name: str) -> bool:
        """Return whether every pair of the child carries traffic, or what the peer has asked for of it does."""
        config = self._tunnel.child_config(name)
        if config is None:
            return False
        up = {child.slot for child in self.sas if child.name == name and child.state in UP_CHILD}
        wanted = set(range(len(self.pairs_of(config))))
        return bool(up) and (wanted <= up or bool(up - wanted))

    @property
    def coming_up(self) -> bool:
        """Whether a Quick Mode is under way."""
        return any(not quick.done for quick in self.quick) or any(
            child.state is ChildState.INSTALLING for child in self.sas
        )

    # --- news of Quick Modes

    def add(self, child: ChildSa) -> None:
        """Count this child as one of ours."""
        self.sas.append(child)

    def up(self, sa: IsakmpSa, child: ChildSa, now: float, *, asked: bool) -> None:
        """A child is agreed on by both ends and in the data plane; those it replaces go in a moment."""
        self.forget_done()
        child.state = ChildState.INSTALLED
        if child.outbound_held:
            child.outbound_held = False
            self._hub.emit(SwitchOutbound(install_id=child.install_id))
        self.retries.pop((child.name, child.slot), None)
        old = self.replaced_by(child)
        for each in old:
            each.state, each.rekey_at = ChildState.REPLACED, None
            each.delete_at = now + (REPLACED_S if asked else REPLACED_S + _PATIENCE_S)
        steps.child_in_place(sa, child, bool(old))
        self._tunnel.loss.replaced_by(self._tunnel, child)
        self._hub.touch(self._tunnel)
        config, agreed = self._tunnel.child_config(child.name), child.agreement.config
        if config is agreed:
            return
        if config is None or change.must_remake(agreed, config):
            self.delete((child,), now)
        elif change.must_rekey(agreed, config):
            child.rekey_at = now

    def not_installed(self, sa: IsakmpSa, child: ChildSa, problem: str, now: float) -> PeerError:
        """The data plane refused a child: it is asked for again later. Returns what the peer is to hear of it."""
        error = PeerError(
            NotifyType.NO_PROPOSAL_CHOSEN,
            "child.install-failed",
            f"The data plane refused child {child.name}: {problem}",
            attributes={"phase": "2", "child": child.name},
        )
        sa.report_error(error)
        steps.child_failed(sa, child.name, error)
        self.remove(child, now)
        self.refused((child.name, child.slot), error, now)
        return error

    def refused(self, key: tuple[str, int], error: PeerError, now: float) -> None:
        """A child could not be made: ask again later, longer each time."""
        self._tunnel.note_error(error)
        self.forget_done()
        failures = self.retries.get(key, (0, 0.0))[0]
        self.retries[key] = (failures + 1, now + retry_after_s(failures + 1, self._hub.entropy.uniform()))
        self._rekey_later(key)

    def over(self, quick: Initiator, now: float) -> None:
        """A Quick Mode of ours got no answer."""
        self.forget_done()
        self._postpone(quick.key, now + retry_after_s(0, self._hub.entropy.uniform()))
        self._rekey_later(quick.key)

    def _rekey_later(self, key: tuple[str, int]) -> None:
        """A Quick Mode came to nothing: a rekey is due again when its pair may be asked for again."""
        child = self.live(*key)
        if child is not None and child.state is ChildState.INSTALLED and child.rekey_at is None:
            child.rekey_at = self.retries[key][1]
        self._hub.touch(self._tunnel)

    def forget_done(self) -> None:
        """Keep only the Quick Modes that have no result yet."""
        self.quick = [quick for quick in self.quick if not quick.done]

    def _postpone(self, key: tuple[str, int], until: float) -> None:
        failures = self.retries.get(key, (0, 0.0))[0]
        self.retries[key] = (failures, until)
        self._hub.touch(self._tunnel)

    # --- how they go

    def remove(self, child: ChildSa, now: float, *, by_peer: bool = False) -> None:
        """Take a child out of the data plane and forget it; after a Delete by the peer we wait before asking again."""
        if child.state is ChildState.GONE:
            return
        was_up = child.state is ChildState.INSTALLED
        child.state = ChildState.GONE
        self.sas.remove(child)
        hub, agreement, tunnel = self._hub, child.agreement, self._tunnel
        hub.free_esp_spi(child.spi_in)
        if agreement.ah_spi_in is not None:
            hub.free_esp_spi(agreement.ah_spi_in)
        hub.free_cpi(agreement.cpi_in)
        hub.removed(child)
        still_needed = tunnel.needed_policies(child.name)
        hub.emit(
            RemoveChild(
                tunnel_id=tunnel.config.id,
                child=child.name,
                sas=child.sa_ids,
                policies=tuple(policy for policy in child.policies if policy not in still_needed),
            )
        )
        if was_up:
            by = " by the peer" if by_peer else ""
            hub.report("child.deleted", f"Child {child.name} was deleted{by}", tunnel_id=tunnel.config.id)
        if by_peer and (child.name, child.slot) not in self.retries:
            self._postpone((child.name, child.slot), now + retry_after_s(0, hub.entropy.uniform()))
        hub.touch(tunnel)

    def delete(self, children: Iterable[ChildSa], now: float) -> None:
        """Delete children, and tell the peer where an ISAKMP SA stands."""
        gone = tuple(child for child in children if child.state is not ChildState.GONE)
        sa = self._tunnel.primary()
        if gone and sa is not None:
            info.send_delete(sa, now, gone)
        for child in gone:
            self.remove(child, now)

    def move(self, sa: IsakmpSa) -> None:
        """Put every child on the SA's path; one in transport mode ends where the two addresses it protects changed."""
        ends = (sa.path.local_address, sa.path.remote_address)
        for child in self.sas:
            if child.agreement.mode is Mode.TRANSPORT and ends != (child.outbound.source, child.outbound.destination):
                child.expire_at = child.installed_at
                self._hub.touch(self._tunnel)
                continue
            old_in, old_out = child.sa_ids
            before = (child.inbound, child.outbound)
            child.move(sa.path, sa.nat.encapsulates)
            if (child.inbound, child.outbound) != before:
                for old, spec in ((old_in, child.inbound), (old_out, child.outbound)):
                    self._hub.emit(MoveChild(tunnel_id=self._tunnel.config.id, old=old, spec=spec))

    # --- time and needs

    def deadline(self, *, rekeys: bool, asks: bool) -> float | None:
        """Return when something is due next; a rekey, and a pair that is missing, only where it can be asked for."""
        times: list[float | None] = []
        for child in self.sas:
            live = rekeys and child.state is ChildState.INSTALLED
            times += (child.rekey_at if live else None, child.expire_at, child.delete_at)
        if asks:
            times += [self.retries[key][1] for key in self._missing() if key in self.retries]
        times += [due for _, due in self._doubled()]
        return min((each for each in times if each is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Let go what has come to its end, or is there twice."""
        for child in self:
            if now >= child.expire_at or (child.delete_at is not None and now >= child.delete_at):
                self.delete((child,), now)
        while superfluous := [child for child, due in self._doubled() if now >= due]:
            for child in superfluous:
                text = f"Both ends asked for child {child.name}; one of the two is deleted"
                self._hub.report("ike.simultaneous", text, tunnel_id=self._tunnel.config.id)
            self.delete(superfluous, now)

    def rekey(self, now: float, names: frozenset[str] | None = None) -> bool:
        """Rekey the children of these names, or all, as soon as that can be; False when there is none."""
        found = [each for each in self.sas if each.state is ChildState.INSTALLED]
        found = [each for each in found if names is None or each.name in names]
        for child in found:
            child.rekey_at = now
        self._hub.touch(self._tunnel)
        return bool(found)

    def rekey_due(self, sa: IsakmpSa, now: float) -> None:
        """Begin the Quick Modes for children that are to be rekeyed; whoever began phase 1, either end may."""
        asked = {quick.key for quick in self.quick if not quick.done}
        for child in self:
            if child.state is not ChildState.INSTALLED or child.rekey_at is None or now < child.rekey_at:
                continue
            child.rekey_at = None
            if (child.name, child.slot) not in asked:
                self._begin(sa, child.name, child.slot, (child.agreement.local, child.agreement.remote), child, now)

    def ask(self, sa: IsakmpSa, now: float) -> None:
        """Begin the Quick Modes for pairs that have no SAs."""
        for name, slot in self._missing():
            if (name, slot) not in self.retries and not sa.initiator:  # the end that began phase 1 asks first
                self._postpone((name, slot), now + 2 * retry_after_s(0, self._hub.entropy.uniform()))
            config = self._tunnel.child_config(name)
            if config is not None and now >= self.retries.get((name, slot), (0, now))[1]:
                self._begin(sa, name, slot, self.pairs_of(config)[slot], None, now)

    def _begin(self, sa: IsakmpSa, name: str, slot: int, pair: Pair, replaced: ChildSa | None, now: float) -> None:
        config = self._tunnel.child_config(name)
        if config is not None:
            quick = Initiator(sa, config, slot, pair, replaced)
            self.quick.append(quick)
            quick.begin(now)

    def _missing(self) -> list[tuple[str, int]]:
        """Return name and slot of the pairs that have no live child and none under way."""
        asked = {quick.key for quick in self.quick if not quick.done}
        return [
            (config.name, slot)
            for config in self._tunnel.config.children
            for slot in range(len(self.pairs_of(config)))
            if (config.name, slot) not in asked and self.live(config.name, slot) is None
        ]

    def _doubled(self) -> list[tuple[ChildSa, float]]:
        """Return the children that are superfluous since Quick Modes crossed, and when each is to be deleted."""
        settled: dict[tuple[str, int], list[ChildSa]] = {}
        for child in self.sas:
            if child.state is ChildState.INSTALLED:
                settled.setdefault((child.name, child.slot), []).append(child)
        found = []
        for twins in settled.values():
            if len(twins) < 2:
                continue
            loser = min(twins, key=ChildSa.lowest_nonce)
            wait_s = DUPLICATE_GRACE_S if loser.agreement.initiator else DUPLICATE_GRACE_S + _PATIENCE_S
            found.append((loser, max(each.installed_at for each in twins) + wait_s))
        return found
