"""Tunnels of version ``v2-else-v1``: which of the two machines has the turn.

IKEv2 begins. A negotiation that comes to nothing gives the turn to the other version, which begins at once where the
turn came from IKEv2 and after the usual pause where it came from IKEv1. Whatever stands first, by either end, has the
tunnel: the other version deletes what it has and waits. An attacker who drops IKEv2 messages can so bring about IKEv1
(docs/threat-model.md): who does not want that chooses ``v2``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agents.contract.config import Retransmission, TunnelKind
from agents.contract.status import TunnelState, TunnelStatus
from agents.dataplane.base import PolicySpec
from agents.ike import identity, ondemand
from agents.ike.errors import PeerError
from agents.ike.hub import Hub
from agents.ike.machine import Machine, MachineTunnel
from agents.ike.outputs import Path

_HURRIED_TRIES = 3
"""Transmissions of a first message that another IKE version waits behind."""

_OTHER = {"v1": "v2", "v2": "v1"}
_NO_PROPOSAL_CHOSEN = 14
"""Both versions have it under this number (RFC 2408 section 3.14.1, RFC 7296 section 3.10.1)."""
_BEST_FIRST = (TunnelState.UP, TunnelState.PARTLY_UP, TunnelState.NEGOTIATING)


class Turns:
    """Who has the turn, for tunnels that both machines have; for all others nothing is asked and nothing happens."""

    def __init__(self, hub: Hub, machines: Callable[[], dict[str, Machine]]) -> None:
        self._hub = hub
        self._machines = machines

    def settle(self) -> None:
        """Give tunnels that are new to a machine their turn: IKEv2 where nothing else is known."""
        machines = self._machines()
        for tunnel_id, tunnel in machines["v1"].tunnels.items() if "v1" in machines else ():
            other = machines["v2"].tunnels.get(tunnel_id)
            if other is None:
                tunnel.standby = False
            elif tunnel.standby == other.standby:
                tunnel.standby, other.standby = True, False
        for tunnel_id, tunnel in machines["v2"].tunnels.items():
            if "v1" not in machines or tunnel_id not in machines["v1"].tunnels:
                tunnel.standby = False

    def first_tries(self, tunnel_id: str) -> Retransmission:
        """Return how a first message is sent again: where the other version waits, a silent peer is given up sooner."""
        usual, machines = self._hub.retransmission, self._machines().values()
        hurried = len(machines) > 1 and all(tunnel_id in machine.tunnels for machine in machines)
        return replace(usual, tries=min(usual.tries, _HURRIED_TRIES)) if hurried else usual

    def policies_elsewhere(self, mine: MachineTunnel, version: str, child: str) -> set[PolicySpec]:
        """Return the policies that the other version's SAs of a child need; they may be the same as this version's."""
        tunnel = self._elsewhere(mine, version)
        return set() if tunnel is None else tunnel.own_policies(child)

    def failed(self, mine: MachineTunnel, version: str, now: float) -> None:
        """A negotiation that we began came to nothing; the peers of an on-demand tunnel begin by themselves."""
        waiting = None if mine.proven is not None else self._elsewhere(mine, version)
        if waiting is None or mine.standby:
            return
        mine.standby, waiting.standby = True, False
        self._hub.touch(mine)
        self._hub.touch(waiting)  # it has been waiting since its own attempt failed
        if version == "v2" and waiting.may_initiate:
            self._hub.report(
                "ike.version-fallback",
                "The peer could not be negotiated with by IKEv2; IKEv1 is tried",
                tunnel_id=mine.config.id,
                configured=str(waiting.config.version),
            )
            waiting.start(now)

    def stands(self, mine: MachineTunnel, version: str, now: float) -> None:
        """An IKE SA of this version stands: the other version gives way."""
        waiting = self._elsewhere(mine, version)
        if waiting is not None:
            mine.standby, waiting.standby = False, True
            self._hub.touch(waiting)
            waiting.give_way(now)

    def _elsewhere(self, mine: MachineTunnel, version: str) -> MachineTunnel | None:
        """Return the same tunnel at the other version's machine; of a peer's, the one of the same peer."""
        other = self._machines().get(_OTHER[version])
        tunnel = None if other is None else other.tunnels.get(mine.config.id)
        if tunnel is None or mine.proven is None:
            return tunnel
        shown = mine.proven
        return next((each for each in tunnel.peers if each.proven and identity.same(each.proven, shown)), None)

    def not_served(self, path: Path, version: str) -> PeerError:
        """Return the refusal of a negotiation that no tunnel takes; it says so where one would by the other version."""
        place = f"{path.remote_address} to {path.local_address}"
        other = self._machines().get(_OTHER[version])
        found = () if other is None else other.candidates(path.local_address, path.remote_address)
        if not found:
            text = f"No tunnel takes an IKE{version} negotiation from {place}"
            return PeerError(_NO_PROPOSAL_CHOSEN, "ike.no-tunnel", text, received=place, fatal=True)
        return PeerError(
            _NO_PROPOSAL_CHOSEN,
            "ike.version-unsupported",
            f"The peer asks for IKE{version}, and tunnel {found[0].config.name} speaks IKE{_OTHER[version]} only",
            received=f"IKE{version}",
            configured=f"IKE{_OTHER[version]}",
            field="version",
            fatal=True,
        )

    def best(self, tunnel_id: str) -> TunnelStatus:
        """Return the status of a tunnel by the version that has most of it."""
        found: list[tuple[int, bool, TunnelStatus]] = []
        for machine in self._machines().values():
            tunnel, status = machine.tunnels.get(tunnel_id), machine.snapshot(tunnel_id)
            if tunnel is not None and status is not None:
                rank = _BEST_FIRST.index(status.state) if status.state in _BEST_FIRST else len(_BEST_FIRST)
                found.append((rank, tunnel.standby, status))
        if found[0][2].kind == TunnelKind.ON_DEMAND:
            return ondemand.merged(status for _, _, status in found)
        return min(found, key=lambda entry: entry[:2])[2]
