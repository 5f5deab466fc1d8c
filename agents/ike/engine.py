"""The protocol core's door: inputs in, outputs and one next deadline out (see :mod:`agents.ike.outputs`).

It is the broker between two machines that know nothing of each other, IKEv1's and IKEv2's: datagrams go by their major
version, verbs and results of effects to whoever has the tunnel. A machine is there only while a tunnel of the document
may speak its version; IKEv2's always is, since it also tells strangers which version is spoken here. Nothing that a
peer sends makes an input raise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from agents.contract import algorithms
from agents.contract.carriage import Attachment
from agents.contract.config import GatewayDocument, Tunnel
from agents.contract.manual import ManualTunnel
from agents.contract.psk import PresharedKeys
from agents.contract.secret import Secret
from agents.contract.status import ExchangeCounters, TunnelStatus
from agents.dataplane.base import Features, PolicySpec
from agents.ike.credentials import Credentials
from agents.ike.crypto import dh
from agents.ike.errors import LocalError, WireError
from agents.ike.fallback import Turns
from agents.ike.hub import Hub
from agents.ike.limits import HalfOpenLimits
from agents.ike.machine import Load, Machine, MachineTunnel
from agents.ike.outputs import Entropy, Output, Path, Verdict
from agents.ike.v1.machine import Machine as MachineV1
from agents.ike.v2.machine import Machine as MachineV2
from agents.ike.wire.header import classify
from agents.ike.wire.isakmp.registry import is_known_exchange as is_v1_exchange
from agents.ike.wire.registry import NotifyType


class Engine:
    """All IKE SAs of one gateway."""

    def __init__(self, entropy: Entropy, limits: HalfOpenLimits | None = None) -> None:
        self.hub = Hub(entropy)
        self.limits = limits or HalfOpenLimits()
        self.turns = Turns(self.hub, lambda: self._machines)
        self.v2 = MachineV2(self.hub, self.turns, self.limits)
        self.v1: MachineV1 | None = None
        self._machines: dict[str, Machine] = {"v2": self.v2}
        self._keys = PresharedKeys()
        self._order: tuple[str, ...] = ()

    @property
    def counters(self) -> Counter[str]:
        """How often each event happened, those held back by flood control too."""
        return self.hub.counters

    @property
    def local_addresses(self) -> frozenset[str]:
        """The addresses that IKE SAs use here or may move to, those being deleted included."""
        return frozenset().union(*(machine.local_addresses() for machine in self._machines.values()))

    @property
    def addresses(self) -> frozenset[str] | None:
        """This host's addresses; None while they are not known."""
        return self.hub.addresses

    def set_data_plane(self, features: Features | None, require_udp_encapsulation: bool) -> None:
        """Take what the data plane can, from the next negotiation on."""
        self.hub.features, self.hub.require_udp_encapsulation = features, require_udp_encapsulation

    # --- inputs

    def configure(self, document: GatewayDocument, now: float) -> None:
        """Take over a whole document; what that does to running tunnels is :mod:`agents.ike.change`."""
        old_keys, self._keys = self._keys, PresharedKeys(document.preshared_keys)
        old, self.hub.credentials = self.hub.credentials, Credentials(document)
        new, keys = self.hub.credentials, self._keys
        self.hub.retransmission = document.retransmission

        def secret_changed(before: Tunnel, after: Tunnel) -> bool:
            psk = after.needs_psk and not keys.gives_same(old_keys, before, after)
            return psk or old.ppk(before.ppk) != new.ppk(after.ppk)

        wanted = {tunnel.id: tunnel for tunnel in document.tunnels}
        for slug in {each.group for tunnel in document.tunnels for each in tunnel.ike.proposals}:
            dh.prepare(algorithms.KEY_EXCHANGE[slug])
        manual = {tunnel.id: tunnel.name for tunnel in document.manual_tunnels}
        self.hub.name_tunnels({tunnel.id: tunnel.name for tunnel in document.tunnels} | manual)
        every: tuple[Tunnel | ManualTunnel, ...] = (*document.tunnels, *document.manual_tunnels)
        self.hub.own_interfaces = frozenset(
            tunnel.id for tunnel in every if tunnel.carriage.attachment is Attachment.INTERFACE
        )
        self.hub.reserved_spis = frozenset(spi for each in document.manual_tunnels for _, spi in each.inbound_spis())
        by_v1 = {tunnel_id: each for tunnel_id, each in wanted.items() if each.version.allows_v1}
        if by_v1 and self.v1 is None:
            self.v1 = self._machines["v1"] = MachineV1(self.hub, self.turns, self.limits)
        self.v2.configure(
            {tunnel_id: each for tunnel_id, each in wanted.items() if each.version.allows_v2}, secret_changed, now
        )
        if self.v1 is not None:
            self.v1.configure(by_v1, secret_changed, now)
        self._order = tuple(wanted)
        self.turns.settle()
        self.hub.settle(now)
        self._retire_v1()

    def receive(self, datagram: bytes, path: Path, now: float) -> None:
        """Handle one datagram, without non-ESP marker. Never raises for what the peer sent."""
        self.hub.guarded(lambda: self._receive(datagram, path, now), now, self.v2)
        self.hub.settle(now)

    def handle_timer(self, now: float) -> None:
        """Do everything that is due."""
        self.hub.handle_timer(now)
        self.hub.settle(now)
        self._retire_v1()

    def next_deadline(self) -> float | None:
        """Return when :meth:`handle_timer` is wanted next, or None."""
        return self.hub.agenda.next_deadline()

    def take_outputs(self) -> tuple[Output, ...]:
        """Return the outputs since the last call."""
        return self.hub.take_outputs()

    def snapshot(self, now: float) -> tuple[TunnelStatus, ...]:
        """Return the status of every configured tunnel."""
        return tuple(self.turns.best(tunnel_id) for tunnel_id in self._order)

    def exchange_counters(self) -> tuple[ExchangeCounters, ...]:
        """Return the messages counted by exchange type."""
        return tuple(each for machine in self._machines.values() for each in machine.counters())

    def loads(self) -> tuple[Load, ...]:
        """Return how much each machine has, of those that are there."""
        return tuple(machine.load() for machine in self._machines.values())

    # --- verbs; each raises LocalError for a tunnel that is not configured

    def initiate(self, tunnel_id: str, now: float) -> None:
        """Bring the tunnel up. Raises LocalError when this end may not start."""
        tunnels = self._tunnels(tunnel_id)
        was_held = [tunnel.held for tunnel in tunnels]
        for tunnel in tunnels:
            tunnel.held = False
        starting = [tunnel for tunnel in tunnels if tunnel.may_initiate]
        for tunnel in starting:
            tunnel.start(now)
        if not starting:
            for tunnel, held in zip(tunnels, was_held, strict=True):
                tunnel.held = held and not tunnel.config.enabled
                self.hub.touch(tunnel)
        self.hub.settle(now)
        if not starting:
            raise LocalError("this end may not start the negotiation: the tunnel is disabled or waits for the peer")

    def terminate(self, tunnel_id: str, now: float) -> None:
        """Take the tunnel down and keep it down until :meth:`initiate`."""
        for tunnel in self._tunnels(tunnel_id):
            tunnel.held = True
            tunnel.forget_reason()
            tunnel.stop(now)
        self.hub.settle(now)

    def rekey_ike(self, tunnel_id: str, now: float) -> None:
        """Rekey the IKE SA. Raises LocalError when there is none."""
        done = [tunnel.rekey_ike(now) for tunnel in self._tunnels(tunnel_id)]
        self.hub.settle(now)
        if not any(done):
            raise LocalError("the tunnel has no IKE SA")

    def rekey_child(self, tunnel_id: str, now: float) -> None:
        """Rekey every child. Raises LocalError when none is up."""
        done = [tunnel.rekey_children(now) for tunnel in self._tunnels(tunnel_id)]
        self.hub.settle(now)
        if not any(done):
            raise LocalError("the tunnel has no IPsec SA")

    def clear_ike(self, tunnel_id: str, now: float) -> None:
        """Delete IKE SA and children and negotiate anew."""
        for tunnel in self._tunnels(tunnel_id):
            tunnel.clear_ike(now)
        self.hub.settle(now)

    def clear_ipsec(self, tunnel_id: str, now: float) -> None:
        """Delete the children and ask for them anew."""
        for tunnel in self._tunnels(tunnel_id):
            tunnel.clear_ipsec(now)
        self.hub.settle(now)

    # --- results of effects

    def psk_found(self, request_id: int, secret: Secret | None, now: float) -> None:
        """Answer a :class:`FindPsk`; one that nobody waits for any more is passed over."""
        self.hub.go_on(self.hub.questions.psks.take(request_id), secret, now)
        self.hub.settle(now)

    def signed(self, request_id: int, signature: bytes | None, now: float) -> None:
        """Answer a :class:`Sign`; None when the key is not there or cannot sign so."""
        self.hub.go_on(self.hub.questions.signatures.take(request_id), signature, now)
        self.hub.settle(now)

    def validated(self, request_id: int, verdict: Verdict, now: float) -> None:
        """Answer a :class:`Validate`."""
        self.hub.go_on(self.hub.questions.verdicts.take(request_id), verdict, now)
        self.hub.settle(now)

    def child_installed(self, install_id: int, now: float) -> None:
        """Answer an :class:`InstallChild`: it is in place."""
        self.hub.installed(install_id, None, now)
        self.hub.settle(now)

    def child_install_failed(self, install_id: int, reason: str, now: float) -> None:
        """Answer an :class:`InstallChild`: the data plane refused."""
        self.hub.installed(install_id, reason, now)
        self.hub.settle(now)

    def traffic_wanted(self, tunnel_id: str, now: float) -> None:
        """Traffic matched a policy that has no SA."""
        for tunnel in self._having(tunnel_id):
            self.hub.guarded(lambda tunnel=tunnel: tunnel.traffic_wanted(now), now, tunnel)  # type: ignore[misc]
        self.hub.settle(now)

    def addresses_changed(self, addresses: frozenset[str], now: float) -> None:
        """The host has these unicast addresses now (RFC 4555 section 3.5)."""
        self.hub.addresses = addresses
        for machine in self._machines.values():
            machine.addresses_changed(now)
        self.hub.settle(now)

    def datagram_too_big(self, path: Path, packet_octets: int, now: float) -> None:
        """The path takes IP packets of at most this many octets: cut messages smaller."""
        for machine in self._machines.values():
            machine.datagram_too_big(path, packet_octets)
        self.hub.settle(now)

    def sa_expired(self, tunnel_id: str, spi_in: int, hard: bool, now: float) -> None:
        """A limit in octets or packets (or the backstop in seconds) was reached."""
        any(machine.sa_expired(tunnel_id, spi_in, hard, now) for machine in self._machines.values())
        self.hub.settle(now)

    def peer_moved(self, tunnel_id: str, spi_in: int, address: str, port: int, now: float) -> None:
        """Authenticated ESP of this SA came from another address or port."""
        any(machine.peer_moved(tunnel_id, spi_in, address, port) for machine in self._machines.values())
        self.hub.settle(now)

    def traffic_seen(self, tunnel_id: str, now: float, spi_in: int | None = None) -> None:
        """The peer sent ESP: it is there. ``spi_in`` names the child; an on-demand tunnel's peers need it."""
        for machine in self._machines.values():
            machine.traffic_seen(tunnel_id, now, spi_in)
        self.hub.settle(now)

    def traffic_sent(self, tunnel_id: str, now: float, spi_in: int | None = None) -> None:
        """ESP went out: a NAT needs no keepalive (RFC 3948 section 4). ``spi_in`` as in :meth:`traffic_seen`."""
        for machine in self._machines.values():
            machine.traffic_sent(tunnel_id, now, spi_in)
        self.hub.settle(now)

    def dataplane_lost(self, now: float) -> None:
        """Every ESP SA is gone: delete the children at the peers and make new ones with fresh keys."""
        for install_id in tuple(self.hub.installs):
            self.hub.installed(install_id, "the data plane was lost", now)
            self.hub.settle(now)
        for machine in self._machines.values():
            for tunnel in machine.tunnels.values():
                for each in (tunnel, *tunnel.peers):
                    each.data_plane_lost(now)
        self.hub.settle(now)

    # --- what tunnels with manual keys share with those that are negotiated

    def reqid(self, tunnel_id: str, child: str) -> int:
        """Return the reqid of a child of a tunnel of the document. Raises LocalError when all are taken."""
        return self.hub.reqid(tunnel_id, child, 0)

    def claim(self, policies: Sequence[PolicySpec]) -> str | None:
        """Take traffic for a child with manual keys. Returns who has it where another does; then none is taken."""
        owner = self.hub.protected_by_other(policies)
        if owner is None:
            self.hub.protected.add(policies, self.hub.table_of(policies[0].tunnel_id))
        return owner

    def release(self, policies: Sequence[PolicySpec]) -> None:
        """Give back what :meth:`claim` took."""
        self.hub.protected.remove(policies)

    # --- inside

    def _receive(self, datagram: bytes, path: Path, now: float) -> None:
        """Give a datagram to a machine. IKEv2 has none of IKEv1's exchange types (RFC 7296 section 3.1): with its major
        version they are IKEv1 messages of a wrong version."""
        try:
            header = classify(datagram)
        except WireError as error:
            if error.notify == NotifyType.INVALID_MAJOR_VERSION:
                self.v2.answer_version(datagram, path, now)
            raise
        if header.major == 2 and (self.v1 is None or not is_v1_exchange(header.exchange)):
            self.v2.receive(datagram, header, path, now)
            return
        if self.v1 is None:
            raise WireError("drop.ikev1", "IKE major version 1", received=1, expected=2)
        self.hub.subject = self.v1
        self.v1.receive(datagram, header, path, now)

    def _retire_v1(self) -> None:
        """Let IKEv1's machine go when no tunnel may speak it and none of its SAs is left."""
        if self.v1 is not None and self.v1.idle:
            self.v1 = None
            del self._machines["v1"]

    def _having(self, tunnel_id: str) -> Iterable[MachineTunnel]:
        """Return the tunnel of each machine that has it, those of the peers of an on-demand one too."""
        tunnels = [each for machine in self._machines.values() if (each := machine.tunnels.get(tunnel_id)) is not None]
        return [each for tunnel in tunnels for each in (tunnel, *tunnel.peers)]

    def _tunnels(self, tunnel_id: str) -> list[MachineTunnel]:
        found = list(self._having(tunnel_id))
        if not found:
            raise LocalError("no such tunnel")
        return found
