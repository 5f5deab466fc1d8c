"""A peer that stopped answering: what becomes of its tunnel (``dpd_action`` of the IKE policy) and of its policies.

``restart`` negotiates anew at once. ``clear`` leaves nothing, and only the peer or an operator begins again. ``hold``
leaves the policies of the children in the data plane: traffic finds no SA, and that asks for a new negotiation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from agents.contract.config import DpdAction, Tunnel
from agents.dataplane.base import PolicySpec
from agents.ike.outputs import RemoveChild

if TYPE_CHECKING:
    from agents.ike.hub import Hub


class _Child(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def policies(self) -> tuple[PolicySpec, ...]: ...


class _Tunnel(Protocol):
    config: Tunnel

    @property
    def hub(self) -> Hub: ...

    def needed_policies(self, name: str) -> set[PolicySpec]: ...


_WORDS = {
    DpdAction.RESTART: ("ike.dpd-restart", "The peer stopped answering; negotiating anew"),
    DpdAction.CLEAR: ("ike.dpd-clear", "The peer stopped answering; the tunnel waits for it or for an operator"),
    DpdAction.HOLD: ("ike.dpd-hold", "The peer stopped answering; the tunnel waits for traffic"),
}


class Loss:
    """What a tunnel remembers of a lost peer. ``waits_for`` is CLEAR or HOLD while it does not begin by itself."""

    def __init__(self) -> None:
        self.waits_for: DpdAction | None = None
        self.restarting = False
        self._waiting: dict[str, set[PolicySpec]] = {}

    def peer_lost(self, tunnel: _Tunnel, children: Iterable[_Child]) -> None:
        """Decide, before the tunnel's last SA and these children go."""
        action = tunnel.config.ike.dpd_action
        code, message = _WORDS[action]
        tunnel.hub.report(code, message, tunnel_id=tunnel.config.id, configured=str(action))
        self.restarting = action is DpdAction.RESTART
        self.waits_for = None if self.restarting else action
        if action is DpdAction.HOLD:
            for child in children:
                self._waiting.setdefault(child.name, set()).update(child.policies)

    def begin_again(self) -> bool:
        """Return whether the tunnel is to begin again at once; that is asked once."""
        restarting, self.restarting = self.restarting, False
        return restarting

    def over(self) -> None:
        """The tunnel begins by itself again; policies that wait stay until a child takes their place."""
        self.waits_for = None
        self.restarting = False

    def waiting(self, name: str) -> set[PolicySpec]:
        """Return the policies of this child that wait for traffic."""
        return self._waiting.get(name, set())

    def replaced_by(self, tunnel: _Tunnel, child: _Child) -> None:
        """A child is up: policies that waited and that it does not have go."""
        waited = self._waiting.pop(child.name, set())
        kept = {(policy.direction, policy.selector) for policy in tunnel.needed_policies(child.name)}
        self._remove(tunnel, child.name, {each for each in waited if (each.direction, each.selector) not in kept})

    def forget_policies(self, tunnel: _Tunnel) -> None:
        """Take out what waits: the tunnel is going, or changed."""
        waiting, self._waiting = self._waiting, {}
        for name, policies in waiting.items():
            self._remove(tunnel, name, policies - tunnel.needed_policies(name))

    def data_plane_lost(self) -> None:
        """The policies went with the data plane: nothing can ask for the tunnel any more, so it begins by itself."""
        self._waiting.clear()
        if self.waits_for is DpdAction.HOLD:
            self.waits_for = None

    @staticmethod
    def _remove(tunnel: _Tunnel, name: str, policies: set[PolicySpec]) -> None:
        if policies:
            ordered = tuple(sorted(policies, key=repr))
            tunnel.hub.emit(RemoveChild(tunnel_id=tunnel.config.id, child=name, sas=(), policies=ordered))
