"""What is fuzzed. Each target takes mutated inputs and raises only when something is wrong.

``codec``: octets to values and back. ``door``: first requests of strangers. ``states``: a peer that has the keys and
has gone mad, at every state. ``conversation``: both ends lively while changed copies of everything arrive first. The
first three are guided by coverage (:mod:`tests.fuzz.guidance`).
"""

from __future__ import annotations

import random
from dataclasses import replace

from agents.contract.config import ConnectionType
from agents.ike.crypto.errors import IntegrityError
from agents.ike.errors import WireError
from agents.ike.limits import HalfOpenLimits
from agents.ike.outputs import Path, Transmit
from agents.ike.wire.fragments import is_fragment, open_fragment, seal_fragment
from agents.ike.wire.header import Header, classify
from agents.ike.wire.message import Message, is_protected, open_message, parse_clear, seal_message, serialize_clear
from agents.ike.wire.payloads import SecurityAssociation, TrafficSelectors
from agents.ike.wire.registry import NotifyType
from tests.fuzz.guidance import Corpus, Edges
from tests.fuzz.mutations import mutate, with_length
from tests.fuzz.states import HYBRID, NAMES, Scene, scene
from tests.fuzz.target import Target
from tests.harness.documents import child, pair
from tests.harness.world import Host, Network, World, up


class _Plain:
    """A cipher that encrypts nothing: mutations inside the Encrypted payload reach the parser."""

    def overhead(self, plaintext_octets: int) -> int:
        return 0

    def seal(self, aad: bytes, plaintext: bytes, iv: bytes) -> bytes:
        return plaintext

    def open(self, aad: bytes, body: bytes) -> bytes:
        return body


def corpus() -> list[bytes]:
    """Return messages of every exchange, the protected ones with their content in clear."""
    found: list[bytes] = []
    networks = [f"10.1.{number}.0/24" for number in range(0, 60, 2)]
    for ike, children in (
        (None, (child(pfs_groups=("group-31",)), child("voice", local=("10.3.0.0/16",), remote=("10.4.0.0/16",)))),
        (replace(HYBRID, fragment_octets=576), (child(local=networks),)),
    ):
        world = World("corpus")
        left, right = pair(types=(ConnectionType.BOTH, ConnectionType.RESPONDER_ONLY), ike=ike, children=children)
        paris = world.host("paris", "192.0.2.1")
        lyon = world.host("lyon", "192.0.2.2", limits=HalfOpenLimits(cookie_threshold=0))

        def keep(transmit: Transmit, world: World = world) -> Transmit:
            found.append(_opened(world, transmit.datagram))
            return transmit

        world.network = Network(rewrite=keep)
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(5)
        for verb in ("rekey_child", "rekey_ike", "clear_ipsec", "clear_ike"):
            paris.do(getattr(paris.engine, verb), paris.status().id)
            world.run(5)
    return list(dict.fromkeys(found))


def _opened(world: World, datagram: bytes) -> bytes:
    """Return a protected message sealed anew with the cipher that hides nothing."""
    header = classify(datagram)
    if not is_protected(header.exchange):
        return datagram
    for host in world.hosts:
        for sa in host.engine.v2.sas.values():
            if sa.initiator != header.from_initiator and (sa.spi_i, sa.spi_r) == (header.spi_i, header.spi_r):
                cipher = sa.protection.cipher_in
                try:
                    if is_fragment(header):
                        return seal_fragment(header, open_fragment(datagram, header, cipher), _Plain(), b"")
                    message = open_message(datagram, header, cipher)
                except IntegrityError:  # of keys that are gone by now
                    return datagram
                return seal_message(Message(header=header, payloads=message.payloads), _Plain(), b"")
    return datagram


def codec(messages: list[bytes]) -> Target:
    """The codec: a message is refused with a WireError, or what is read can be written and read again the same."""
    inputs = Corpus(messages, Edges("agents/ike/wire"))

    def run(chance: random.Random) -> int:
        for _ in range(100):
            octets = with_length(inputs.mutated(chance))
            inputs.watch(octets, lambda octets=octets: _read_and_write(octets))  # type: ignore[misc]
        return 100

    return Target("codec", run, inputs.edges)


def _read_and_write(octets: bytes) -> None:
    try:
        header = classify(octets)
        if is_fragment(header):
            fragment = open_fragment(octets, header, _Plain())
            again = seal_fragment(header, fragment, _Plain(), b"")
            assert open_fragment(again, classify(again), _Plain()) == replace(fragment, reserved=0)
            return
        message = _read(octets, header)
    except WireError:
        return
    again = _write(message)
    if _lossless(message) and _read(again, classify(again)).payloads != message.payloads:
        raise AssertionError(f"read otherwise after writing: {octets.hex()}")


def _lossless(message: Message) -> bool:
    """Return whether nothing was passed over in reading: unknown attributes and selector types are."""
    return all(
        all(transform.understood for proposal in each.proposals for transform in proposal.transforms)
        if isinstance(each, SecurityAssociation)
        else not isinstance(each, TrafficSelectors) or each.selectors
        for each in message.payloads
    )


def _read(octets: bytes, header: Header) -> Message:
    return open_message(octets, header, _Plain()) if is_protected(header.exchange) else parse_clear(octets, header)


def _write(message: Message) -> bytes:
    if is_protected(message.header.exchange):
        return seal_message(message, _Plain(), b"")
    return serialize_clear(message)


def door(messages: list[bytes]) -> Target:
    """First requests: no answer longer than its question before a cookie, at most one, no state without an answer."""
    first = [each for each in messages if each[18] == 34 and not each[19] & 0x20]
    inputs = Corpus(first, Edges("agents/ike/wire", "agents/ike/v2", "agents/ike/engine.py", "agents/ike/proposals.py"))

    def run(chance: random.Random) -> int:
        world = World(chance.random())
        _, right = pair(ike=chance.choice((None, HYBRID)))
        limits = HalfOpenLimits(cookie_threshold=chance.choice((0, 3, 64)))
        lyon = world.host("lyon", "192.0.2.2", limits=limits)
        lyon.configure(right.document())
        for _ in range(25):
            octets = with_length(inputs.mutated(chance))
            address = chance.choice(("192.0.2.1", "192.0.2.1", "203.0.113.7"))
            path = Path(local_address="192.0.2.2", local_port=500, remote_address=address, remote_port=500)
            inputs.watch(octets, lambda octets=octets, path=path: _knock(world, lyon, octets, path))  # type: ignore[misc]
        world.run(120)
        _check_empty(lyon, world, most_sas=0)
        return 25

    return Target("door", run, inputs.edges)


def _knock(world: World, lyon: Host, octets: bytes, path: Path) -> None:
    since, before = len(world.log), len(lyon.engine.v2.sas)
    lyon.do(lyon.engine.receive, octets, path)
    sent = [each.octets for each in world.log[since:]]
    if lyon.codes()["ike.bug"]:
        raise AssertionError(f"a bug by {octets.hex()}: {lyon.reports[-1]}")
    if len(sent) > 1 or len(lyon.engine.v2.sas) - before > len(sent):
        raise AssertionError(f"{len(sent)} answers, SAs {before} to {len(lyon.engine.v2.sas)}: {octets.hex()}")
    if sent and len(sent[0]) > len(octets) and not _has_cookie(octets):
        raise AssertionError(f"an answer of {len(sent[0])} octets to {octets.hex()}")


def _has_cookie(octets: bytes) -> bool:
    try:
        return parse_clear(octets, classify(octets)).notify(NotifyType.COOKIE) is not None
    except WireError:
        return False


def states(messages: list[bytes]) -> Target:
    """A peer with true keys and wrong content at every state; afterwards the tunnel comes up and nothing is left."""
    inputs = Corpus(
        [each for each in messages if len(each) >= 32],
        Edges("agents/ike/v2", "agents/ike/wire", "agents/ike/engine.py"),
    )

    def run(chance: random.Random) -> int:
        held = scene(chance.choice(NAMES), chance.random())
        for _ in range(12):
            base = inputs.mutated(chance)
            forged = None
            if len(base) >= 32 and chance.random() < 0.85:
                forged = held.forge(base[28], base[32:], chance)
            octets = with_length(base) if forged is None else forged
            inputs.watch(base, lambda octets=octets: _give(held, octets))  # type: ignore[misc]
        _heal(held)
        return 12

    return Target("states", run, inputs.edges)


def _give(held: Scene, octets: bytes) -> None:
    held.victim.do(held.victim.engine.receive, octets, held.path())
    if held.victim.codes()["ike.bug"]:
        bugs = [each.message for each in held.victim.reports if each.code == "ike.bug"]
        raise AssertionError(f"{held.name}: {bugs} by {octets.hex()}")


def _heal(held: Scene) -> None:
    """Let everything arrive again: both ends agree in the end, whatever one was told in between."""
    world = held.world
    world.network = Network()
    hosts = (held.victim, held.forger)
    world.run(700)
    if not up(*hosts)():
        raise AssertionError(f"{held.name}: not up again: {[host.status() for host in hosts]}")
    for host in hosts:
        _check_empty(host, world, most_sas=2)


def _check_empty(host: Host, world: World, most_sas: int) -> None:
    engine = host.engine
    left = (len(engine.v2.sas), dict(engine.v2.door.half_open), len(engine.v2.door.requests), len(engine.hub.installs))
    if left[0] > most_sas or left[1] or left[2] > left[0] or left[3] or engine.hub.questions.pending():
        raise AssertionError(f"seed {world.seed}: {host.name} keeps {left}, {engine.v2.sas}")
    if len(engine.hub.esp_spis) > 4 * most_sas:
        raise AssertionError(f"seed {world.seed}: {host.name} keeps SPIs {engine.hub.esp_spis}")


def conversation(messages: list[bytes]) -> Target:
    """The machine: authentic but wrong content, and unauthentic datagrams, at every moment of a conversation."""

    def run(chance: random.Random) -> int:
        world = World(chance.random())
        count = 0

        def spoil(transmit: Transmit) -> Transmit:
            nonlocal count
            for octets in _variants(world, transmit, messages, chance):
                count += 1
                world.deliver(replace(transmit, datagram=octets), 0.001)
            return transmit

        world.network = Network(loss=0.05, duplicates=0.1, delay_s=(0.001, 0.05), rewrite=spoil)
        left, right = pair(types=(ConnectionType.BOTH, ConnectionType.BOTH))
        limits = HalfOpenLimits(per_address=100, cookie_threshold=50)
        paris, lyon = world.host("paris", "192.0.2.1", limits=limits), world.host("lyon", "192.0.2.2", limits=limits)
        lyon.configure(right.document())
        paris.configure(left.document())
        for verb in ("rekey_child", "rekey_ike", "clear_ipsec", "clear_ike"):
            world.run(chance.uniform(1, 20), up(paris, lyon))
            host = chance.choice((paris, lyon))
            if verb.startswith("clear") or host.status().children[0].up:
                host.do(getattr(host.engine, verb), host.status().id)
        world.run(5)
        world.network.rewrite = None
        world.network.loss = 0.0
        _check(world, paris, lyon)
        return count

    return Target("conversation", run)


def _variants(world: World, transmit: Transmit, messages: list[bytes], chance: random.Random) -> list[bytes]:
    found = [with_length(mutate(transmit.datagram, messages, chance)) for _ in range(2)]
    forged = _authentic(world, transmit.datagram, messages, chance)
    return [*found, forged] if forged is not None and chance.random() < 0.1 else found


def _authentic(world: World, datagram: bytes, messages: list[bytes], chance: random.Random) -> bytes | None:
    """Return the message with its content changed and sealed with the true keys: a peer gone mad."""
    header = classify(datagram)
    if not is_protected(header.exchange):
        return None
    for host in world.hosts:
        for sa in host.engine.v2.sas.values():
            if sa.initiator == header.from_initiator and (sa.spi_i, sa.spi_r) == (header.spi_i, header.spi_r):
                if not sa.keyed:
                    return None
                cipher = sa.protection.cipher_out
                chain = mutate(chance.choice(messages)[32:], messages, chance)
                total = 32 + len(chain) + cipher.overhead(len(chain))
                first = chance.choice((33, 35, 36, 39, 40, 41, 42, 44, 45, 200))
                aad = replace(header, next_payload=46, length=total).serialize()
                aad += bytes((first, 0)) + (total - 28).to_bytes(2, "big")
                return aad + cipher.seal(aad, chain, chance.randbytes(cipher.iv_octets))
    return None


def _check(world: World, paris: Host, lyon: Host) -> None:
    for host in (paris, lyon):
        bugs = [report.message for report in host.reports if report.code == "ike.bug"]
        if bugs:
            raise AssertionError(f"seed {world.seed}: {host.name} has bugs {bugs}")
    world.run(600)
    if not up(paris, lyon)():
        raise AssertionError(f"seed {world.seed}: not up again: {paris.status()} {lyon.status()}")
    for host in (paris, lyon):
        _check_empty(host, world, most_sas=2)


ALL = (codec, door, states, conversation)
