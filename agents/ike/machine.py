"""What the engine asks of the machine of an IKE version, and of its tunnels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from agents.contract.config import Tunnel, TunnelKind
from agents.contract.status import ExchangeCounters, TunnelState, TunnelStatus
from agents.dataplane.base import PolicySpec
from agents.ike import change, ondemand
from agents.ike.change import Plan
from agents.ike.errors import WireError
from agents.ike.identity import Shown
from agents.ike.outputs import Path
from agents.ike.questions import Reactor
from agents.ike.timers import Owner
from agents.ike.wire.header import Header

if TYPE_CHECKING:
    from agents.ike.hub import Hub

SecretChanged = Callable[[Tunnel, Tunnel], bool]
"""Whether a tunnel's keys are others now than before: asked with its old and its new configuration."""


_STARTS_AT_ONCE = 100
_STARTS_PER_S = 200.0
"""New tunnels of one document begin at this pace, so that thousands do not stop the process or flood a peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a machine has now: IKE SAs that stand, negotiations under way, pairs of IPsec SAs that carry traffic.

    ``bugs`` are steps that a bug of ours has ended since the engine began.
    """

    version: str
    tunnels: int
    ike_sas: int
    half_open: int
    children: int
    bugs: int


class MachineTunnel(Owner, Protocol):
    """A tunnel as the engine sees it. ``standby`` is set where the other IKE version has the turn."""

    config: Tunnel
    state: TunnelState
    held: bool
    standby: bool

    @property
    def peers(self) -> Iterable[MachineTunnel]:
        """The tunnels of the peers that came by this one, where it is an on-demand one."""
        ...

    @property
    def proven(self) -> Shown | None:
        """The identity of the peer that it is for, where that came by an on-demand tunnel."""
        ...

    @property
    def may_initiate(self) -> bool:
        """Whether this end may start a negotiation now."""
        ...

    def start(self, now: float) -> None:
        """Be up from now on."""
        ...

    def stop(self, now: float) -> None:
        """Be down: delete what there is."""
        ...

    def give_way(self, now: float) -> None:
        """The other IKE version has the tunnel: delete what there is and wait."""
        ...

    def own_policies(self, name: str) -> set[PolicySpec]:
        """Return the policies that this version's SAs of a child have, or that wait for traffic."""
        ...

    def rekey_ike(self, now: float) -> bool:
        """Renew the IKE SA; False when there is none."""
        ...

    def rekey_children(self, now: float) -> bool:
        """Rekey every child; False when there is none."""
        ...

    def clear_ike(self, now: float) -> None:
        """Delete IKE SA and children and begin again."""
        ...

    def clear_ipsec(self, now: float) -> None:
        """Delete the children and ask for them again."""
        ...

    def traffic_wanted(self, now: float) -> None:
        """Traffic found no SA."""
        ...

    def data_plane_lost(self, now: float) -> None:
        """Every SA and policy is gone."""
        ...

    def forget_reason(self) -> None:
        """What kept the tunnel down does not count any more."""
        ...

    def apply(self, config: Tunnel, plan: Plan, now: float) -> None:
        """Take over a changed configuration as :mod:`agents.ike.change` says."""
        ...

    def remove(self, now: float) -> None:
        """The document does not have this tunnel any more."""
        ...


class Machine(Reactor, Protocol):
    """A machine as the engine sees it."""

    @property
    def tunnels(self) -> Mapping[str, MachineTunnel]:
        """The tunnels that may speak this version, by id, in document order."""
        ...

    def configure(self, wanted: Mapping[str, Tunnel], secret_changed: SecretChanged, now: float) -> None:
        """Take over the tunnels of a document that may speak this version."""
        ...

    def receive(self, datagram: bytes, header: Header, path: Path, now: float) -> None:
        """Handle one datagram of this version."""
        ...

    def sa_expired(self, tunnel_id: str, spi_in: int, hard: bool, now: float) -> bool:
        """A limit was reached; False when the child is not this machine's."""
        ...

    def peer_moved(self, tunnel_id: str, spi_in: int, address: str, port: int) -> bool:
        """Authenticated ESP came from elsewhere; False when the child is not this machine's."""
        ...

    def traffic_seen(self, tunnel_id: str, now: float, spi_in: int | None = None) -> None:
        """The peer sent ESP, by the child that has this SPI."""
        ...

    def traffic_sent(self, tunnel_id: str, now: float, spi_in: int | None = None) -> None:
        """ESP went out, by the child that has this SPI."""
        ...

    def addresses_changed(self, now: float) -> None:
        """The host has other addresses now."""
        ...

    def datagram_too_big(self, path: Path, packet_octets: int) -> None:
        """The path takes IP packets of at most this many octets."""
        ...

    def candidates(self, local_address: str, remote_address: str) -> Sequence[MachineTunnel]:
        """Return the tunnels between these addresses that take an initiation by the peer."""
        ...

    def snapshot(self, tunnel_id: str) -> TunnelStatus | None:
        """Return the status of one tunnel."""
        ...

    def counters(self) -> tuple[ExchangeCounters, ...]:
        """Return the messages counted by exchange type."""
        ...

    def load(self) -> Load:
        """Return how much there is."""
        ...

    def local_addresses(self) -> frozenset[str]:
        """Return the addresses that IKE SAs use here or may move to."""
        ...


_Runtime = TypeVar("_Runtime", bound=MachineTunnel)


def take_over(
    hub: Hub,
    tunnels: dict[str, _Runtime],
    wanted: Mapping[str, Tunnel],
    make: Callable[[Tunnel, float], _Runtime],
    secret_changed: SecretChanged,
    now: float,
) -> dict[str, _Runtime]:
    """Bring a machine's tunnels to those of a document and return them in its order.

    ``make`` takes a new tunnel's configuration and when it begins.
    """
    new = 0
    kept = dict(tunnels)
    for tunnel_id in [each for each in tunnels if each not in wanted]:
        gone = kept.pop(tunnel_id)
        gone.remove(now)
        for peer in gone.peers:
            peer.remove(now)
    for tunnel_id, config in wanted.items():
        runtime = kept.get(tunnel_id)
        if runtime is None:
            new += 1
            start_at = now + max(0, new - _STARTS_AT_ONCE) / _STARTS_PER_S
            kept[tunnel_id] = runtime = make(config, start_at)
            hub.touch(runtime)
            continue
        changed = secret_changed(runtime.config, config)
        if changed or runtime.config != config:
            plan = change.plan(runtime.config, config, changed)
            runtime.apply(config, plan, now)
            _change_peers(runtime, config, plan, now)
    return {tunnel_id: kept[tunnel_id] for tunnel_id in wanted}


def _change_peers(tunnel: MachineTunnel, config: Tunnel, plan: Plan, now: float) -> None:
    """What changes an on-demand tunnel changes those of its peers; one that is not on demand any more has none."""
    for peer in tunnel.peers:
        if config.kind is TunnelKind.ON_DEMAND:
            peer.apply(ondemand.again(config, peer.config), plan, now)
        else:
            peer.remove(now)


def drop_attributes(error: WireError) -> dict[str, str]:
    """Return where in a message the fault stood, for its report."""
    named = (("exchange", error.exchange), ("payload", error.payload))
    return {name: value for name, value in named if value is not None}
