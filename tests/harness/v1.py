"""Documents of tunnels that speak IKEv1, and what the tests of that machine look at."""

from __future__ import annotations

from agents.contract.config import (
    Child,
    ConnectionType,
    ExchangeMode,
    IkePolicy,
    IkeProposal,
    IkeVersion,
    IpsecProposal,
)
from agents.ike.v1.machine import Machine
from agents.ike.v1.sa import IsakmpSa
from agents.ike.v1.tunnel import TunnelRuntime
from tests.harness import documents
from tests.harness.documents import Side
from tests.harness.world import Host, World, matched, up

PARIS, LYON = "192.0.2.1", "192.0.2.2"
FAST_IKE = IkeProposal(
    encryption="aes-128-cbc", integrity="hmac-sha2-256-128", prf="prf-hmac-sha2-256", group="group-19"
)
FAST_ESP = IpsecProposal(encryption="aes-128-gcm-16")
BOTH = (ConnectionType.BOTH, ConnectionType.BOTH)
ONE = (ConnectionType.INITIATOR_ONLY, ConnectionType.RESPONDER_ONLY)
MODES = (ExchangeMode.MAIN, ExchangeMode.AGGRESSIVE)


def policy(mode: ExchangeMode = ExchangeMode.MAIN, *suites: IkeProposal, **changes: object) -> IkePolicy:
    """Return an IKE policy for IKEv1."""
    return IkePolicy(proposals=suites or (FAST_IKE,), exchange_mode=mode, **changes)  # type: ignore[arg-type]


def child(
    name: str = "main",
    local: tuple[str, ...] = ("10.1.0.0/16",),
    remote: tuple[str, ...] = ("10.2.0.0/16",),
    **changes: object,
) -> Child:
    """Return a child whose suite has a number in IKEv1."""
    return documents.child(name, local, remote, **{"proposals": (FAST_ESP,), **changes})


VOICE = child("voice", ("10.9.0.0/24",), ("10.8.0.0/24",))


def pair(
    mode: ExchangeMode = ExchangeMode.MAIN, *, version: IkeVersion = IkeVersion.V1, **changes: object
) -> tuple[Side, Side]:
    """Return both ends' documents of one tunnel, as :func:`tests.harness.documents.pair` does."""
    filled = {"ike": policy(mode), "children": (child(),), **changes}
    return documents.pair(version=version, **filled)  # type: ignore[arg-type]


class Scene:
    """Two hosts with one tunnel between them, started."""

    def __init__(
        self, mode: ExchangeMode = ExchangeMode.MAIN, *, world: World | None = None, **changes: object
    ) -> None:
        self.world = world or World()
        self.left, self.right = pair(mode, **changes)  # type: ignore[arg-type]
        self.paris = self.world.host("paris", self.left.tunnels[0].local.address)
        self.lyon = self.world.host("lyon", self.right.tunnels[0].local.address)
        self.hosts = (self.paris, self.lyon)

    def start(self) -> Scene:
        """Let both have their documents, the responder first."""
        self.lyon.configure(self.right.document())
        self.paris.configure(self.left.document())
        return self

    def come_up(self, *, seconds: float = 40, rest_s: float = 0.5) -> Scene:
        """Start, and be up with equal keys at both ends."""
        self.start()
        assert self.world.run(seconds, up(*self.hosts)), (self.paris.reports, self.lyon.reports)
        self.world.run(rest_s)
        self.check()
        return self

    def check(self, *, addresses: bool = True) -> None:
        """Look: both up, equal keys, one ISAKMP SA, nothing left over."""
        assert up(*self.hosts)(), (self.paris.reports, self.lyon.reports)
        assert matched(*self.hosts, addresses=addresses)
        for host in self.hosts:
            assert left_behind(host) is None
        ours, theirs = (cookies(host) for host in self.hosts)
        assert ours == theirs
        assert len(ours) == 1

    def exchanges(self, begin: int = 0) -> list[tuple[str, int]]:
        """Return who sent which exchange type, in order."""
        return [(each.sender, each.octets[18]) for each in self.world.log[begin:]]


def machine(host: Host) -> Machine:
    """Return the host's IKEv1 machine, which must be there."""
    assert host.engine.v1 is not None
    return host.engine.v1


def runtime(host: Host, index: int = 0) -> TunnelRuntime:
    """Return a tunnel of the host."""
    return list(machine(host).tunnels.values())[index]


def runtimes(v1: Machine) -> list[TunnelRuntime]:
    """Return the tunnels of the document and those of the peers of on-demand ones."""
    return [each for tunnel in v1.tunnels.values() for each in (tunnel, *tunnel.peers)]


def sa_of(host: Host) -> IsakmpSa:
    """Return the ISAKMP SA that stands, the only one."""
    (sa,) = [sa for sa in machine(host).sas.values() if sa.standing]
    return sa


def cookies(host: Host) -> set[tuple[str, str]]:
    """Return the cookies of the ISAKMP SAs that stand."""
    return {
        (sa.spi_i, sa.spi_r)
        for status in host.engine.snapshot(host.world.now)
        for sa in status.ike_sas
        if sa.state == "established"
    }


def left_behind(host: Host) -> str | None:
    """Return what a host has that nothing needs, or None."""
    if host.codes()["ike.bug"]:
        return f"{[report.message for report in host.reports if report.code == 'ike.bug']}"
    hub, v1 = host.engine.hub, host.engine.v1
    if hub.questions.pending() or hub.installs:
        return "waits for effects"
    if v1 is None:
        return None
    if v1.door.half_open:
        return f"counts half-open SAs {v1.door.half_open}"
    known = {sa for tunnel in runtimes(v1) for sa in tunnel.sas}
    unknown = [str(sa) for sa in v1.sas.values() if sa not in known and sa.state != "closed"]
    if unknown:
        return f"SAs of no tunnel {unknown}"
    return _numbers_left(host, v1)


def _numbers_left(host: Host, v1: Machine) -> str | None:
    hub = host.engine.hub
    children = [child for tunnel in runtimes(v1) for child in tunnel.children]
    others = [child for sa in host.engine.v2.sas.values() for child in sa.children]
    quick = [each for tunnel in runtimes(v1) for each in tunnel.children.quick if not each.done]
    if quick:
        return f"{len(quick)} Quick Modes under way"
    agreed = [child.agreement for child in children]
    spis = {each.spi_in for each in agreed} | {each.ah_spi_in for each in agreed} | {child.spi_in for child in others}
    if hub.esp_spis != spis - {None}:
        return f"{len(hub.esp_spis)} SPIs taken for {len(children)} children"
    cpis = {each.cpi_in for each in agreed} | {child.agreement.cpi_in for child in others}
    if hub.cpis != cpis - {None}:
        return f"{len(hub.cpis)} CPIs taken for {len(children)} children"
    if len(host.data_plane.sas) + len(host.data_plane.held) != 2 * (len(children) + len(others)):
        return f"{len(host.data_plane.sas)} SAs in the data plane for {len(children)} children"
    return None
