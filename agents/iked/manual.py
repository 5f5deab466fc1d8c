"""Tunnels with manual keys (RFC 4301 section 4.5.1): their SAs stand as long as the document has them.

Level-triggered: :meth:`ManualTunnels.configure` says what is wanted, and a job in the tunnel's lane of
:class:`~agents.iked.effects.Effects` brings the data plane there from whatever it has. A child is replaced exactly when
one of its values changed; of its SAs nothing is touched when only its selectors or its place among the rules did. One
that the data plane refuses is tried again now and then; its neighbours stand meanwhile.

Nothing remembers sequence numbers: they begin anew with every installation, thus after a restart of ``iked`` or the
data plane, and by ``clear-ipsec``. That is why the replay window of such a child is 0 unless configured otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agents.contract.actions import Verb
from agents.contract.config import GatewayDocument
from agents.contract.manual import ManualChild, ManualTunnel
from agents.contract.status import ChildSaStatus, ChildStatus, Counters, Reason, TunnelState, TunnelStatus
from agents.dataplane.base import DataplaneError, Driver, PolicySpec, SaId
from agents.ike.engine import Engine
from agents.ike.errors import LocalError
from agents.ike.outputs import Report
from agents.iked.effects import Effects
from agents.iked.manual_plane import InPlace, Standing
from agents.iked.manual_specs import Bundle, Key, bundles, obstacles
from agents.iked.traffic import Traffic

_UP = frozenset({TunnelState.UP, TunnelState.PARTLY_UP})
_NONE: frozenset[str] = frozenset()


class Surroundings(Protocol):
    """What tunnels with manual keys need of the daemon."""

    engine: Engine
    effects: Effects
    traffic: Traffic

    def report(self, event: Report) -> None:
        """Tell of something that happened."""
        ...

    def changed(self) -> None:
        """Tell that a status has moved."""
        ...


@dataclass(slots=True)
class _Tunnel:
    """One tunnel: what the document says, why something of it does not stand, and the traffic that it has claimed."""

    config: ManualTunnel
    since: float
    state: TunnelState = TunnelState.DOWN
    wanted: Mapping[str, Bundle] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    claimed: dict[str, tuple[PolicySpec, ...]] = field(default_factory=dict)


class ManualTunnels:
    """All of one gateway. ``clock`` returns monotonic seconds."""

    def __init__(self, daemon: Surroundings, clock: Callable[[], float]) -> None:
        self._daemon = daemon
        self._clock = clock
        self._tunnels: dict[str, _Tunnel] = {}
        self._order: tuple[str, ...] = ()
        self._obstacles: dict[Key, str] = {}
        self._in_place = InPlace(daemon.traffic, clock)

    def configure(self, document: GatewayDocument) -> None:
        """Take the tunnels of a document over, after the engine has."""
        self._obstacles = obstacles(document.manual_tunnels)
        self._order = tuple(config.id for config in document.manual_tunnels)
        for config in document.manual_tunnels:
            tunnel = self._tunnels.get(config.id)
            if tunnel is None:
                tunnel = self._tunnels[config.id] = _Tunnel(config, self._clock())
            tunnel.config = config
            tunnel.wanted = self._bundles(config) if config.enabled else {}
            self._bring(config.id)
        for tunnel_id in self._tunnels.keys() - set(self._order):
            self._tunnels[tunnel_id].wanted = {}
            self._bring(tunnel_id)

    def lost(self) -> None:
        """Every SA of the data plane is gone; where there is a driver still, they are put back at once."""
        self._in_place.lost = True
        self._in_place = InPlace(self._daemon.traffic, self._clock)
        for tunnel_id, tunnel in self._tunnels.items():
            self._judge(tunnel)
            if self._daemon.effects.driver is not None:
                self._bring(tunnel_id)

    def try_again(self) -> None:
        """Try once more what the data plane refused: what was in its way may be gone."""
        for tunnel_id, tunnel in self._tunnels.items():
            if tunnel.problems and self._daemon.effects.driver is not None:
                self._bring(tunnel_id)

    def expired(self, sa: SaId) -> bool:
        """An SA was removed by someone else, or has no numbers left; returns whether it is one of these tunnels'."""
        found = self._in_place.child_of(sa)
        if found is not None:
            tunnel_id, name = found
            self._bring(tunnel_id, frozenset({name}), "the data plane had no more use of them")
        return found is not None

    def tunnel_of(self, reqid: int) -> str | None:
        """Return the tunnel whose policies carry a reqid."""
        for tunnel_id, tunnel in self._tunnels.items():
            if any(bundle.outbound.reqid == reqid for bundle in tunnel.wanted.values()):
                return tunnel_id
        return None

    def action(self, verb: Verb, tunnel_id: str) -> bool:
        """Perform a verb where the tunnel is one of these; returns whether it is. Raises LocalError with a sentence."""
        if tunnel_id not in self._order:
            return False
        tunnel = self._tunnels[tunnel_id]
        name = tunnel.config.name
        if verb is not Verb.CLEAR_IPSEC:
            raise LocalError(f"{name} has manual keys and no IKE SA; {Verb.CLEAR_IPSEC} installs its SAs anew")
        if not tunnel.config.enabled:
            raise LocalError(f"{name} is disabled")
        if self._daemon.effects.driver is None:
            raise LocalError(f"{name} has no SAs to install anew: {self._daemon.effects.refusal}")
        self._bring(tunnel_id, frozenset(tunnel.wanted), "an operator asked for it")
        return True

    def snapshot(self) -> tuple[TunnelStatus, ...]:
        """Return every tunnel in the document's order; times are monotonic, and counters missing."""
        return tuple(self._status(self._tunnels[tunnel_id]) for tunnel_id in self._order)

    # Inside

    def _bundles(self, config: ManualTunnel) -> Mapping[str, Bundle]:
        reqids = {child.name: self._daemon.engine.reqid(config.id, child.name) for child in config.children}
        return bundles(config, reqids)

    def _bring(self, tunnel_id: str, anew: frozenset[str] = _NONE, why: str = "") -> None:
        """Bring the data plane to what is wanted of a tunnel, the children of ``anew`` by new SAs."""
        self._daemon.effects.enqueue(tunnel_id, lambda: self._work(tunnel_id, anew, why))

    async def _work(self, tunnel_id: str, anew: frozenset[str], why: str) -> None:
        tunnel = self._tunnels.get(tunnel_id)
        if tunnel is None:
            return
        try:
            driver = await self._daemon.effects.ready()
        except DataplaneError as error:
            tunnel.problems = {name: text for name, text in tunnel.problems.items() if name in tunnel.wanted}
            for name in tunnel.wanted:
                self._note(tunnel, name, error.reason)
        else:
            await self._reconcile(driver, tunnel, anew, why)
        self._judge(tunnel)
        if tunnel_id not in self._order and not self._in_place.names(tunnel_id):
            del self._tunnels[tunnel_id]
            self._daemon.traffic.forget(tunnel_id)

    async def _reconcile(self, driver: Driver, tunnel: _Tunnel, anew: frozenset[str], why: str) -> None:
        tunnel_id, wanted, in_place = tunnel.config.id, dict(tunnel.wanted), self._in_place
        released = self._release(tunnel, wanted)
        tunnel.problems = {name: text for name, text in tunnel.problems.items() if name in wanted}
        for name in in_place.names(tunnel_id):
            if name not in wanted:
                await in_place.take_out(driver, (tunnel_id, name))
        for name, bundle in wanted.items():
            standing = in_place.get((tunnel_id, name))
            if standing is not None and standing.bundle == bundle and name not in anew:
                continue
            problem = self._claim(tunnel, name, bundle)
            if problem is None:
                problem = await in_place.put(driver, (tunnel_id, name), bundle, anew=name in anew)
                self._daemon.changed()
                if problem is not None:
                    self._daemon.engine.release(tunnel.claimed.pop(name))
                elif name in anew:
                    self._tell(tunnel, "manual.reinstalled", f"The SAs of {name} were installed anew: {why}")
            else:
                await in_place.take_out(driver, (tunnel_id, name))
            if in_place is self._in_place:
                self._note(tunnel, name, problem)
        if released:
            self.try_again()

    def _release(self, tunnel: _Tunnel, wanted: Mapping[str, Bundle]) -> bool:
        """Let go of traffic that is not wanted as it was claimed, so that others and other children can have it."""
        stale = [name for name, claim in tunnel.claimed.items() if name not in wanted or wanted[name].policies != claim]
        for name in stale:
            self._daemon.engine.release(tunnel.claimed.pop(name))
        return bool(stale)

    def _claim(self, tunnel: _Tunnel, name: str, bundle: Bundle) -> str | None:
        """Claim a child's traffic; returns why it cannot have it, or why it cannot be at all."""
        problem = self._obstacles.get((tunnel.config.id, name))
        if problem is not None or name in tunnel.claimed:
            return problem
        owner = self._daemon.engine.claim(bundle.policies)
        if owner is not None:
            return f"{owner} protects this traffic already"
        tunnel.claimed[name] = bundle.policies
        return None

    def _note(self, tunnel: _Tunnel, name: str, problem: str | None) -> None:
        """Keep why a child does not stand, or that it does; told once as long as the reason is the same."""
        before = tunnel.problems.pop(name, None)
        if problem is None:
            return
        tunnel.problems[name] = problem
        if problem != before:
            self._tell(tunnel, "manual.install-failed", f"{name}: {problem}")
            self._daemon.changed()

    def _judge(self, tunnel: _Tunnel) -> None:
        before, tunnel.state = tunnel.state, self._state(tunnel)
        if tunnel.state is before:
            return
        tunnel.since = self._clock()
        if tunnel.state is TunnelState.UP:
            self._tell(tunnel, "manual.up", f"The SAs of {tunnel.config.name} stand")
        elif before in _UP and tunnel.state not in _UP:
            self._tell(tunnel, "manual.down", f"No SA of {tunnel.config.name} stands any more")
        self._daemon.changed()

    def _state(self, tunnel: _Tunnel) -> TunnelState:
        there = self._in_place.names(tunnel.config.id)
        if not tunnel.config.enabled:
            return TunnelState.DISABLED
        if not there:
            return TunnelState.DOWN
        return TunnelState.UP if set(there) == tunnel.wanted.keys() else TunnelState.PARTLY_UP

    def _tell(self, tunnel: _Tunnel, code: str, message: str) -> None:
        self._daemon.report(Report(code=code, message=message, tunnel_id=tunnel.config.id))

    def _status(self, tunnel: _Tunnel) -> TunnelStatus:
        config, reason = tunnel.config, None
        for name, text in tunnel.problems.items():
            reason = Reason(code="manual.install-failed", message=f"{name}: {text}")
            break
        pending = reason is None and tunnel.state in {TunnelState.DOWN, TunnelState.PARTLY_UP}
        children = [_child(child, self._in_place.get((config.id, child.name))) for child in config.children]
        return TunnelStatus(
            id=config.id,
            name=config.name,
            kind="manual",
            state=tunnel.state,
            since=tunnel.since,
            step="waiting for the data plane" if pending else None,
            reason=reason,
            children=tuple(children),
        )


def _child(child: ManualChild, standing: Standing | None) -> ChildStatus:
    """Return a child's status. Both directions may have suites of their own; shown is that of the inbound SA."""
    if standing is None:
        return ChildStatus(name=child.name, up=False)
    inbound, outbound = standing.bundle.sas
    local_ts, remote_ts = standing.bundle.selectors
    sa = ChildSaStatus(
        spi_in=f"{inbound.spi:08x}",
        spi_out=f"{outbound.spi:08x}",
        encryption=inbound.encryption,
        integrity=inbound.integrity,
        group=None,
        udp_encapsulation=False,
        local_ts=(local_ts,),
        remote_ts=(remote_ts,),
        installed_at=standing.at,
        rekey_at=None,
        expires_at=None,
        counters=Counters(),
        ah_integrity=inbound.ah.integrity if inbound.ah is not None else None,
        mode=str(inbound.mode),
        ipcomp=inbound.compression_cpi is not None,
    )
    return ChildStatus(name=child.name, up=True, sas=(sa,))
