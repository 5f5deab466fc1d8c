"""Two IKEv1 hosts brought to a state and held there, and messages with the true keys and whatever content.

As :mod:`tests.fuzz.states` does for IKEv2. Every state is reached by a real conversation: a message is lost, the shell
or the data plane does not answer. A message is forged from what the victim knows: in IKEv1 both ends have the same
keys, and the IV is the victim's to chain.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agents.contract.config import ConnectionType, ExchangeMode, GatewayDocument
from agents.ike.errors import WireError
from agents.ike.outputs import FindPsk, InstallChild, Output, Path, Transmit
from agents.ike.v1 import keymat, phase1
from agents.ike.v1.exchange import Exchange
from agents.ike.v1.sa import IsakmpSa
from agents.ike.wire.header import NO_SPI, Header
from agents.ike.wire.isakmp import message as wire
from agents.ike.wire.isakmp.payloads import Hash
from agents.ike.wire.isakmp.registry import Exchange as ExchangeType
from agents.ike.wire.isakmp.registry import Flag, PayloadType
from tests.harness import pki
from tests.harness.v1 import LYON, ONE, PARIS, VOICE, child, machine, pair
from tests.harness.world import Host, Network, World, up

MAIN, AGGRESSIVE = ExchangeMode.MAIN, ExchangeMode.AGGRESSIVE
HEADER_OCTETS = 28


@dataclass(kw_only=True)
class Scene:
    """A world that stands still. ``stopped`` are outputs of the victim that nobody has performed.

    By the document ``lively`` lyon, which waits for paris at first, begins by itself too.
    """

    name: str
    world: World
    victim: Host
    other: Host
    lively: GatewayDocument
    stopped: list[Output] = field(default_factory=list)

    def sa(self) -> IsakmpSa | None:
        """Return the victim's youngest ISAKMP SA."""
        return next(reversed(machine(self.victim).sas.values()), None)

    def path(self) -> Path:
        """Return the path on which the victim hears its peer."""
        sa = self.sa()
        if sa is not None:
            return sa.path
        here, there = self.victim.addresses[0], self.other.addresses[0]
        return Path(local_address=here, local_port=500, remote_address=there, remote_port=500)

    def forge(self, base: bytes, chance: random.Random) -> bytes | None:
        """Return a message of this content as the peer could send it; None when there is no SA, or none has keys."""
        sa = self.sa()
        return None if sa is None else forge(sa, base, chance)

    def go_on(self) -> None:
        """Let shell and data plane answer what they were asked, and everything arrive again."""
        victim = self.victim
        victim.psk_answers = victim.shell.answers = True
        victim.data_plane.mute = False
        self.world.network = Network()
        victim.answer_shell()
        stopped, self.stopped[:] = list(self.stopped), []
        for output in stopped:
            if not isinstance(output, InstallChild) or output.install_id in victim.engine.hub.installs:
                victim.perform(output)
        self.world.drain()
        self.lyon.configure(self.lively)

    @property
    def lyon(self) -> Host:
        """Return the host that answered first."""
        return self.victim if self.victim.name == "lyon" else self.other


def forge(sa: IsakmpSa, base: bytes, chance: random.Random) -> bytes | None:
    """Return ``base``, whose content is in clear, with the SA's cookies and what else makes it look like the peer's."""
    if len(base) < HEADER_OCTETS:
        return None
    cookie_r = sa.cookie_r if sa.cookie_r != NO_SPI else chance.randbytes(8)
    header = Header(
        spi_i=sa.cookie_i,
        spi_r=cookie_r,
        next_payload=base[16],
        exchange=base[18],
        flags=base[19] & 7,
        message_id=int.from_bytes(base[20:24], "big"),
        version=0x10,
    )
    chain = base[HEADER_OCTETS:]
    if not header.flags & Flag.ENCRYPTED:
        return header.serialize_for(header.next_payload, HEADER_OCTETS + len(chain)) + chain
    if not sa.keyed or not chain:
        return None
    if header.exchange in (ExchangeType.MAIN, ExchangeType.AGGRESSIVE):
        return _sealed(sa, header, sa.exchange.iv, _with_proof(sa, header, chain, chance))
    if not sa.standing:
        return None
    exchange = _under_way(sa, header, chance)
    header = replace(header, message_id=exchange.message_id)
    chain = chain if chance.random() < 0.1 else _with_hash(sa, header, exchange, chain)
    return _sealed(sa, header, exchange.iv, chain)


def _sealed(sa: IsakmpSa, header: Header, iv: bytes, chain: bytes) -> bytes:
    return wire.serialize_encrypted(header, header.next_payload, sa.cipher.seal(iv, chain))


def _under_way(sa: IsakmpSa, header: Header, chance: random.Random) -> Exchange:
    """Return an exchange of the SA that waits for a message, or a new one of the peer's."""
    waiting = [each for each in sa.exchanges.values() if each.take is not None]
    if header.exchange == ExchangeType.QUICK and waiting and chance.random() < 0.6:
        return chance.choice(waiting)
    known = list(sa.exchanges) if header.exchange == ExchangeType.QUICK else list(sa.used_ids)
    number = chance.choice(known) if known and chance.random() < 0.05 else chance.randrange(1, 2**32)
    return Exchange(message_id=number, number=header.exchange, iv=sa.iv_of(number))


def _with_hash(sa: IsakmpSa, header: Header, exchange: Exchange, chain: bytes) -> bytes:
    """Put the right hash into the first payload, where that is a hash and the rest can be read."""
    try:
        message = wire.read_plain(header, chain)
    except WireError:
        return chain
    if not message.payloads or not isinstance(message.payloads[0], Hash):
        return chain
    prf, key, number = sa.suite.prf, sa.keys.skeyid_a, header.message_id
    made = keymat.quick_hash_1(prf, key, number, message.protected)
    if exchange.take is not None and sa.tunnel is not None:
        nonces = [each._nonce for each in sa.tunnel.children.quick if each.exchange is exchange]
        agreed = [each.agreement for each in sa.tunnel.children if not each.agreement.initiator]
        if nonces:
            made = keymat.quick_hash_2(prf, key, number, nonces[0], message.protected)
        elif agreed:
            made = keymat.quick_hash_3(prf, key, number, agreed[-1].nonce_i, agreed[-1].nonce_r)
    body = bytes((chain[0], 0)) + (4 + len(made)).to_bytes(2, "big") + made
    return body + message.protected


def _with_proof(sa: IsakmpSa, header: Header, chain: bytes, chance: random.Random) -> bytes:
    """Put the right hash of the peer's into a last message of phase 1, half of the time."""
    gathered, before = sa.phase1, sa.phase1.id_peer
    try:
        message = wire.read_plain(header, chain)
    except WireError:
        return chain
    if chance.random() < 0.5 or not any(isinstance(each, Hash) for each in message.payloads):
        return chain
    if header.exchange == ExchangeType.MAIN:
        bodies = zip(message.payloads, message.bodies, strict=True)
        gathered.id_peer = next((body for each, body in bodies if each.TYPE == PayloadType.ID), b"")  # type: ignore[union-attr]
    made = Hash(data=phase1.proof_octets(sa, not sa.initiator))
    gathered.id_peer = before
    return wire.encode([made if isinstance(each, Hash) else each for each in message.payloads])[1]


# --- how a state is reached


def _lose(sender: str, exchange: int, number: int) -> Callable[[Transmit], Transmit | None]:
    """Lose the so-manieth different message of an exchange that this host sends, whenever it is sent."""
    seen: list[bytes] = []

    def rewrite(transmit: Transmit) -> Transmit | None:
        octets = transmit.datagram
        if transmit.path.local_address != sender or octets[18] != exchange:
            return transmit
        if octets not in seen:
            seen.append(octets)
        return None if seen.index(octets) >= number - 1 else transmit

    return rewrite


# name: mode, certificates, which message is lost (sender, exchange, the so-manieth of that sender), whose victim
_PHASE_1: dict[str, tuple[ExchangeMode, bool, str, int, int, str]] = {
    "main-2": (MAIN, False, LYON, ExchangeType.MAIN, 1, PARIS),
    "main-3": (MAIN, False, PARIS, ExchangeType.MAIN, 2, LYON),
    "main-4": (MAIN, False, LYON, ExchangeType.MAIN, 2, PARIS),
    "main-5": (MAIN, False, PARIS, ExchangeType.MAIN, 3, LYON),
    "main-5-signed": (MAIN, True, PARIS, ExchangeType.MAIN, 3, LYON),
    "main-6": (MAIN, False, LYON, ExchangeType.MAIN, 3, PARIS),
    "main-6-signed": (MAIN, True, LYON, ExchangeType.MAIN, 3, PARIS),
    "aggressive-2": (AGGRESSIVE, False, LYON, ExchangeType.AGGRESSIVE, 1, PARIS),
    "aggressive-2-signed": (AGGRESSIVE, True, LYON, ExchangeType.AGGRESSIVE, 1, PARIS),
    "aggressive-3": (AGGRESSIVE, False, PARIS, ExchangeType.AGGRESSIVE, 2, LYON),
    "aggressive-3-signed": (AGGRESSIVE, True, PARIS, ExchangeType.AGGRESSIVE, 2, LYON),
    "quick-1": (MAIN, False, PARIS, ExchangeType.QUICK, 1, LYON),
    "quick-2": (MAIN, False, LYON, ExchangeType.QUICK, 1, PARIS),
    "quick-3": (AGGRESSIVE, False, PARIS, ExchangeType.QUICK, 3, LYON),
}

# name: mode, certificates, what of the victim does not answer, whose victim
_AWAITING: dict[str, tuple[ExchangeMode, bool, str, str]] = {
    "psk-awaited-by-initiator": (MAIN, False, "psk", PARIS),
    "psk-awaited-by-responder": (MAIN, False, "psk", LYON),
    "psk-awaited-aggressive": (AGGRESSIVE, False, "psk", LYON),
    "signature-awaited": (MAIN, True, "shell", PARIS),
    "verdict-awaited": (AGGRESSIVE, True, "shell", PARIS),
    "signature-awaited-aggressive": (AGGRESSIVE, True, "shell", LYON),
    "installing-as-initiator": (MAIN, False, "install", PARIS),
    "installing-as-responder": (MAIN, False, "install", LYON),
}

# name: the verb of the victim, the exchange of the peer's that is lost from then on
_STANDING: dict[str, tuple[str, int]] = {
    "standing": ("", 0),
    "rekeying-child": ("rekey_child", ExchangeType.QUICK),
    "rekeying-ike": ("rekey_ike", ExchangeType.MAIN),
    "cleared": ("clear_ike", ExchangeType.MAIN),
    "children-cleared": ("clear_ipsec", ExchangeType.QUICK),
}
NAMES = (*_PHASE_1, *_AWAITING, *_STANDING)


def scene(name: str, seed: object) -> Scene:
    """Return the state of this name."""
    if name in _PHASE_1:
        mode, certified, sender, exchange, number, whose = _PHASE_1[name]
        held = _cast(name, seed, mode, certified, whose)
        held.world.network = Network(rewrite=_lose(sender, exchange, number))
        return _begun(held)
    if name in _AWAITING:
        mode, certified, what, whose = _AWAITING[name]
        held = _cast(name, seed, mode, certified, whose)
        _stop(held, what)
        return _begun(held)
    verb, exchange = _STANDING[name]
    held = _begun(_cast(name, seed, MAIN, False, PARIS))
    assert up(held.victim, held.other)(), name
    if verb:
        held.world.network = Network(rewrite=_lose(LYON, exchange, 1))
        held.victim.do(getattr(held.victim.engine, verb), held.victim.status().id)
        held.world.run(0.3)
    return held


def _cast(name: str, seed: object, mode: ExchangeMode, certified: bool, whose: str) -> Scene:
    world = World(seed)
    paris, lyon = world.host("paris", PARIS), world.host("lyon", LYON)
    left, right = pair(mode, types=ONE, children=(child(pfs_groups=("group-19",), ipcomp=True), VOICE))
    left.change(connection_type=ConnectionType.BOTH)
    for side, host in ((left, paris), (right, lyon)):
        if certified:
            pki.certify(side, host)
        host.document = side.document()
    right.change(connection_type=ConnectionType.BOTH)
    victim, other = (paris, lyon) if whose == PARIS else (lyon, paris)
    return Scene(name=name, world=world, victim=victim, other=other, lively=right.document())


def _stop(held: Scene, what: str) -> None:
    victim, perform = held.victim, held.victim.perform
    victim.shell.answers = what != "shell"

    def listen(output: Output) -> None:
        if (what == "psk" and isinstance(output, FindPsk)) or (what == "install" and isinstance(output, InstallChild)):
            held.stopped.append(output)
            return
        perform(output)

    victim.perform = listen  # type: ignore[method-assign]
    go_on = held.go_on

    def again() -> None:
        victim.perform = perform  # type: ignore[method-assign]
        go_on()

    held.go_on = again  # type: ignore[method-assign]


def _begun(held: Scene) -> Scene:
    """Let lyon have its document, then paris, which begins."""
    paris = held.other if held.victim is held.lyon else held.victim
    for host in (held.lyon, paris):
        assert host.document is not None
        host.configure(host.document)
    held.world.run(0.3)
    return held
