"""The world two engines live in: one clock, a network that loses, repeats and reorders, data planes that answer.

Deterministic: everything random comes from one seed. ``run`` advances the clock from event to event.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import assert_never

from agents.contract.config import GatewayDocument
from agents.contract.psk import PresharedKeys
from agents.contract.status import TunnelState, TunnelStatus
from agents.dataplane.base import PolicySpec, SaId, SaSpec
from agents.ike.engine import Engine
from agents.ike.limits import HalfOpenLimits
from agents.ike.outputs import (
    FindPsk,
    InstallChild,
    Keepalive,
    MoveChild,
    Output,
    Path,
    RemoveChild,
    Report,
    Sign,
    SwitchOutbound,
    Transmit,
    Validate,
)
from tests.harness.entropy import SeededEntropy
from tests.harness.pki import Shell


@dataclass(kw_only=True)
class Network:
    """How datagrams fare. ``rewrite`` may change or swallow (None) a datagram and its path: a NAT, an attacker.

    ``lag_s`` says how much later than others one arrives.
    """

    loss: float = 0.0
    duplicates: float = 0.0
    delay_s: tuple[float, float] = (0.01, 0.01)
    rewrite: Callable[[Transmit], Transmit | None] | None = None
    lag_s: Callable[[Transmit], float] | None = None


@dataclass
class Datagram:
    """One datagram as it was sent."""

    at: float
    sender: str
    path: Path
    octets: bytes


@dataclass
class DataPlane:
    """A data plane in memory: what is installed, in order, and what it refuses."""

    sas: dict[SaId, SaSpec] = field(default_factory=dict)
    policies: list[PolicySpec] = field(default_factory=list)
    held: dict[int, SaSpec] = field(default_factory=dict)
    refuse: str | None = None
    mute: bool = False
    history: list[Output] = field(default_factory=list)

    def move(self, output: MoveChild) -> None:
        """Give an SA other outer addresses; the policies of its direction go with it, as a driver has it."""
        old = self.sas.get(output.old)
        self.sas = {
            (output.spec.id if key == output.old else key): (output.spec if key == output.old else spec)
            for key, spec in self.sas.items()
        }
        self.held = {key: output.spec if spec.id == output.old else spec for key, spec in self.held.items()}
        if old is not None:
            mine, new = (old.direction, old.reqid), output.spec
            self.policies = [
                replace(each, source=new.source, destination=new.destination)
                if (each.direction, each.reqid) == mine
                else each
                for each in self.policies
            ]

    def outbound(self, reqid: int) -> SaSpec | None:
        """The SA that packets of this reqid leave on: the newest."""
        found = [spec for spec in self.sas.values() if spec.reqid == reqid and spec.direction == "out"]
        return found[-1] if found else None


class Host:
    """One gateway: an engine, a data plane, its reports."""

    def __init__(self, world: World, name: str, addresses: tuple[str, ...], limits: HalfOpenLimits | None) -> None:
        self.world = world
        self.name = name
        self.addresses = addresses
        self.engine = Engine(SeededEntropy((world.seed, name)), limits)
        self.data_plane = DataPlane()
        self.document: GatewayDocument | None = None
        self.reports: list[Report] = []
        self.psk_answers = True
        self.shell = Shell()

    def change_addresses(self, *addresses: str) -> None:
        """Have these addresses from now on, and tell the engine."""
        self.addresses = addresses
        self.do(self.engine.addresses_changed, frozenset(addresses))

    def configure(self, document: GatewayDocument) -> None:
        self.document = document
        self.engine.configure(document, self.world.now)
        self.world.drain()

    def codes(self) -> Counter[str]:
        return Counter(report.code for report in self.reports)

    def status(self, index: int = 0) -> TunnelStatus:
        return self.engine.snapshot(self.world.now)[index]

    @property
    def state(self) -> TunnelState:
        return self.status().state

    def do(self, verb: Callable[..., None], *arguments: object) -> None:
        """Call an input of the engine at the present time, then perform what it asks."""
        verb(*arguments, self.world.now)
        self.world.drain()

    def reauthenticate(self) -> None:
        """Open another IKE SA beside what every tunnel has, as when its authentication is to be renewed."""
        for tunnel in self.engine.v2.tunnels.values():
            tunnel.initiate(self.world.now)
        self.do(self.engine.hub.settle)

    def perform(self, output: Output) -> None:
        match output:
            case Transmit():
                self.world.send(self, output)
            case FindPsk():
                assert self.document is not None
                if self.psk_answers:
                    secret = PresharedKeys(self.document.preshared_keys).find(output)
                    self.engine.psk_found(output.request_id, secret, self.world.now)
            case Sign() | Validate():
                self.shell.log.append(output)
                if self.shell.answers:
                    self._answer_later(output)
                else:
                    self.shell.asked.append(output)
            case Keepalive():
                self.world.keep_alive(output)
            case InstallChild():
                self._install(output)
            case SwitchOutbound():
                spec = self.data_plane.held.pop(output.install_id)
                self.data_plane.sas[spec.id] = spec
                self.data_plane.history.append(output)
            case RemoveChild():
                self.data_plane.history.append(output)
                for sa in output.sas:
                    self.data_plane.sas.pop(sa, None)
                gone = {spec.id: key for key, spec in self.data_plane.held.items()}
                for sa in output.sas:
                    if sa in gone:
                        del self.data_plane.held[gone[sa]]
                self.data_plane.policies = [each for each in self.data_plane.policies if each not in output.policies]
            case MoveChild():
                self.data_plane.history.append(output)
                self.data_plane.move(output)
            case Report():
                self.reports.append(output)
            case _:
                assert_never(output)

    def answer_shell(self) -> None:
        """Answer every Sign and Validate asked so far."""
        asked, self.shell.asked = self.shell.asked, []
        for request in asked:
            self._answer(request)

    def _answer_later(self, request: Sign | Validate) -> None:
        engine = self.engine

        def answer() -> None:
            if self.engine is engine:  # a host that starts anew has forgotten what it asked
                self._answer(request)

        if self.shell.delay_s is None:
            answer()
        else:
            self.world.later(self.shell.delay_s, answer)

    def _answer(self, request: Sign | Validate) -> None:
        assert self.document is not None
        if isinstance(request, Sign):
            self.engine.signed(request.request_id, self.shell.sign(request), self.world.now)
        else:
            verdict = self.shell.judge(request, self.document)
            self.engine.validated(request.request_id, verdict, self.world.now)

    def _install(self, output: InstallChild) -> None:
        plane = self.data_plane
        plane.history.append(output)
        if plane.mute:
            return
        if plane.refuse is not None:
            self.engine.child_install_failed(output.install_id, plane.refuse, self.world.now)
            return
        plane.sas[output.inbound.id] = output.inbound
        if output.outbound_later:
            plane.held[output.install_id] = output.outbound
        else:
            plane.sas[output.outbound.id] = output.outbound
        plane.policies += [policy for policy in output.policies if policy not in plane.policies]
        self.engine.child_installed(output.install_id, self.world.now)


class World:
    """Clock, network, hosts."""

    def __init__(self, seed: object = 0, network: Network | None = None) -> None:
        self.seed = seed
        self.now = 1_000.0
        self.network = network or Network()
        self.hosts: list[Host] = []
        self.log: list[Datagram] = []
        self.keepalives: list[Datagram] = []
        self._random = random.Random(repr(("network", seed)))
        self._flying: list[tuple[float, int, Host, bytes, Path]] = []
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._draining = False

    def host(self, name: str, *addresses: str, limits: HalfOpenLimits | None = None) -> Host:
        host = Host(self, name, addresses, limits)
        self.hosts.append(host)
        return host

    def send(self, sender: Host, output: Transmit) -> None:
        self.log.append(Datagram(self.now, sender.name, output.path, output.datagram))
        network = self.network
        transmit: Transmit | None = output
        if output.path.local_address not in sender.addresses:
            return  # the kernel does not send from an address that is not there
        if network.rewrite is not None:
            transmit = network.rewrite(output)
        if transmit is None:
            return
        lag_s = 0.0 if network.lag_s is None else network.lag_s(transmit)
        copies = 1 + (self._random.random() < network.duplicates)
        for _ in range(copies):
            if self._random.random() >= network.loss:
                self.deliver(transmit, lag_s + self._random.uniform(*network.delay_s))

    def keep_alive(self, output: Keepalive) -> None:
        """One octet on its way: a NAT sees it, the peer's shell swallows it."""
        for host in self.hosts:
            if output.path.local_address in host.addresses:
                self.keepalives.append(Datagram(self.now, host.name, output.path, b"\xff"))
        if self.network.rewrite is not None:
            self.network.rewrite(Transmit(path=output.path, datagram=b"\xff"))

    def deliver(self, transmit: Transmit, delay_s: float) -> None:
        """Let a datagram arrive at whoever has its destination."""
        path = transmit.path
        seen = Path(
            local_address=path.remote_address,
            local_port=path.remote_port,
            remote_address=path.local_address,
            remote_port=path.local_port,
        )
        for host in self.hosts:
            if seen.local_address in host.addresses:
                self._sequence += 1
                heapq.heappush(self._flying, (self.now + delay_s, self._sequence, host, transmit.datagram, seen))

    def later(self, delay_s: tuple[float, float], action: Callable[[], None]) -> None:
        """Do something after a while."""
        self._sequence += 1
        heapq.heappush(self._later, (self.now + self._random.uniform(*delay_s), self._sequence, action))

    def drain(self) -> None:
        """Perform outputs until no engine has any."""
        if self._draining:
            return
        self._draining = True
        busy = True
        while busy:
            busy = False
            for host in self.hosts:
                for output in host.engine.take_outputs():
                    busy = True
                    host.perform(output)
        self._draining = False

    def next_event(self) -> float | None:
        times = [due for host in self.hosts if (due := host.engine.next_deadline()) is not None]
        if self._flying:
            times.append(self._flying[0][0])
        if self._later:
            times.append(self._later[0][0])
        return min(times, default=None)

    def step(self) -> bool:
        """Let the next thing happen; False when nothing is to come."""
        due = self.next_event()
        if due is None:
            return False
        self.now = max(self.now, due)
        while self._flying and self._flying[0][0] <= self.now:
            _, _, host, octets, path = heapq.heappop(self._flying)
            host.engine.receive(octets, path, self.now)
            self.drain()
        while self._later and self._later[0][0] <= self.now:
            heapq.heappop(self._later)[2]()
            self.drain()
        for host in self.hosts:
            deadline = host.engine.next_deadline()
            if deadline is not None and deadline <= self.now:
                host.engine.handle_timer(self.now)
                again = host.engine.next_deadline()
                assert again is None or again > self.now, "a deadline that does not move"
                self.drain()
        return True

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Advance the clock; stop early when ``until`` holds. Returns whether it does (True without one)."""
        end = self.now + seconds
        while until is None or not until():
            due = self.next_event()
            if due is None or due > end:
                self.now = end
                return until is None or until()
            self.step()
        return True

    def restart(self, host: Host) -> None:
        """Lose everything this host knew, as after kill -9; its data plane is emptied as the driver does."""
        self._sequence += 1
        host.engine = Engine(SeededEntropy((self.seed, host.name, self._sequence)), host.engine.v2.door.limits)
        host.data_plane = DataPlane()


def up(*hosts: Host) -> Callable[[], bool]:
    """Return a condition: every tunnel of these hosts is up."""
    return lambda: all(
        status.state is TunnelState.UP for host in hosts for status in host.engine.snapshot(host.world.now)
    )


def matched(left: Host, right: Host, addresses: bool = True) -> bool:
    """Return whether both data planes hold the same SAs with equal keys, mirrored in direction.

    Through a NAT the ``addresses`` are not the same at both ends.
    """
    return _mirror(left, addresses) == _mirror(right, addresses, flip=True)


def _mirror(host: Host, addresses: bool, flip: bool = False) -> set[tuple[object, ...]]:
    specs = [*host.data_plane.sas.values(), *host.data_plane.held.values()]
    return {
        (
            spec.spi,
            (spec.source, spec.destination) if addresses else None,
            spec.direction if not flip else {"in": "out", "out": "in"}[spec.direction],
            spec.encryption,
            None if spec.encryption_key is None else spec.encryption_key.reveal(),
            spec.integrity,
            None if spec.integrity_key is None else spec.integrity_key.reveal(),
            None if spec.ah is None else (spec.ah.spi, spec.ah.integrity, spec.ah.key.reveal()),
            spec.mode,
            spec.extended_sequence_numbers,
            spec.compression_cpi,
        )
        for spec in specs
    }
