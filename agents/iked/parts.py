"""The parts of ``iked`` as AIX has daemons: what each is doing, and which of them the document needs (FEATURES A23).

==================  =========  ========================================================================
``iked.router``     iked       gives datagrams to the machine of their version; where both are needed
``iked.v1``         isakmpd    IKEv1; where a tunnel may speak it
``iked.v2``         ikev2d     IKEv2; likewise
``iked.credentials``  cpsd     certificates, keys and revocation; where a tunnel proves or checks by certificate
``iked.tunnels``    tmd        tunnels and what the data plane has of them; with any document
==================  =========  ========================================================================

They are modules of one process, so they share its version and process id.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from agents import __version__
from agents.contract.config import AuthKind, GatewayDocument
from agents.contract.status import ComponentHealth, TunnelState, TunnelStatus
from agents.ike.machine import Load
from agents.ike.outputs import Report
from agents.iked.words import counted
from agents.runtime import log_levels
from agents.runtime.log_levels import CREDENTIALS, ROUTER, TUNNELS, V1, V2

_OF_CREDENTIALS = ("ike.certificate-", "ike.own-certificate-", "ike.key-", "ike.sign-failed")
_OF_ROUTER = ("drop.", "wire.")
_MACHINES = {"v1": V1, "v2": V2}


def needed(document: GatewayDocument | None) -> tuple[str, ...]:
    """Return the names of the parts that a document needs."""
    if document is None:
        return ()
    tunnels = document.tunnels
    v1, v2 = any(each.version.allows_v1 for each in tunnels), any(each.version.allows_v2 for each in tunnels)
    by_certificate = any(AuthKind.CERTIFICATE in (each.local_auth.kind, each.remote_auth.kind) for each in tunnels)
    wanted = {ROUTER: v1 and v2, V1: v1, V2: v2, CREDENTIALS: by_certificate, TUNNELS: True}
    return tuple(name for name, needs in wanted.items() if needs)


def part_of(report: Report) -> str:
    """Return the part whose log tells of this."""
    code, attributes = report.code, report.attributes
    if code.startswith(_OF_CREDENTIALS):
        return CREDENTIALS
    if code.startswith("ikev1."):
        return V1
    if "version" in attributes or "ike_sa" in attributes:
        return _MACHINES.get(attributes.get("version", "v2"), ROUTER)
    return ROUTER if code.startswith(_OF_ROUTER) else TUNNELS


class Parts:
    """Since when which part is needed, and how each is."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` returns Unix seconds."""
        self._clock = clock
        self._document: GatewayDocument | None = None
        self._since: dict[str, float] = {}

    def configure(self, document: GatewayDocument) -> None:
        """Take the document in force."""
        self._document = document
        now = round(self._clock(), 3)
        self._since = {name: self._since.get(name, now) for name in needed(document)}

    def report(
        self,
        loads: Sequence[Load],
        tunnels: Sequence[TunnelStatus],
        credentials: Callable[[], tuple[bool, str]],
        data_plane_problems: Sequence[str],
    ) -> tuple[ComponentHealth, ...]:
        """Return every part that is needed."""
        by_version = {load.version: load for load in loads}
        tell: Mapping[str, Callable[[], tuple[bool, str]]] = {
            ROUTER: self._router,
            V1: lambda: _machine(by_version.get("v1")),
            V2: lambda: _machine(by_version.get("v2")),
            CREDENTIALS: credentials,
            TUNNELS: lambda: _tunnels(tunnels, data_plane_problems),
        }
        found = []
        for name, since in self._since.items():
            healthy, detail = tell[name]()
            found.append(
                ComponentHealth(
                    name=name,
                    healthy=healthy,
                    version=__version__,
                    pid=os.getpid(),
                    started_at=since,
                    detail=detail,
                    log_level=log_levels.level_of(name),
                )
            )
        return tuple(found)

    def _router(self) -> tuple[bool, str]:
        assert self._document is not None
        versions = Counter(each.version for each in self._document.tunnels)
        return True, "tunnels: " + ", ".join(f"{count} {version}" for version, count in sorted(versions.items()))


def _machine(load: Load | None) -> tuple[bool, str]:
    if load is None:
        return False, "it has not started"
    detail = f"{counted(load.tunnels, 'tunnel')}, {counted(load.ike_sas, 'IKE SA')}"
    detail += f", {counted(load.children, 'pair')} of IPsec SAs" if load.children else ""
    detail += f"; {load.half_open} half open" if load.half_open else ""
    if load.bugs:
        detail += f"; {counted(load.bugs, 'bug')} met (ike.bug)"
    return not load.bugs, detail


def _tunnels(tunnels: Sequence[TunnelStatus], data_plane_problems: Sequence[str]) -> tuple[bool, str]:
    states = Counter(each.state for each in tunnels)
    detail = counted(len(tunnels), "tunnel")
    if tunnels:
        detail += ": " + ", ".join(f"{states[state]} {state}" for state in TunnelState if states[state])
    return not data_plane_problems, "; ".join([detail, *data_plane_problems])
