"""What is fuzzed. Each target takes one mutated input and raises only when something is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from agents.contract.config import ConnectionType
from agents.ike.errors import WireError
from agents.ike.outputs import Transmit
from agents.ike.v2.cookie import HalfOpenLimits
from agents.ike.wire.header import Header, classify
from agents.ike.wire.message import Message, is_protected, open_message, parse_clear, seal_message, serialize_clear
from agents.ike.wire.payloads import SecurityAssociation, TrafficSelectors
from tests.fuzz.mutations import mutate, with_length
from tests.harness.documents import child, pair
from tests.harness.world import Host, Network, World, up


@dataclass
class Target:
    """A name and what to do once; ``run`` returns how many inputs that was."""

    name: str
    run: Callable[[random.Random], int]


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
    world = World("corpus")
    left, right = pair(
        types=(ConnectionType.BOTH, ConnectionType.RESPONDER_ONLY), children=(child(pfs_groups=("group-31",)),)
    )
    paris = world.host("paris", "192.0.2.1")
    lyon = world.host("lyon", "192.0.2.2", limits=HalfOpenLimits(cookie_threshold=0))
    found: list[bytes] = []

    def keep(transmit: Transmit) -> Transmit:
        header = classify(transmit.datagram)
        found.append(transmit.datagram if not is_protected(header.exchange) else _opened(world, transmit.datagram))
        return transmit

    world.network = Network(rewrite=keep)
    lyon.configure(right.document())
    paris.configure(left.document())
    world.run(5)
    for verb in ("rekey_child", "rekey_ike", "clear_ipsec", "clear_ike"):
        paris.do(getattr(paris.engine, verb), paris.status().id)
        world.run(5)
    return found


def _opened(world: World, datagram: bytes) -> bytes:
    """Return a protected message sealed anew with the cipher that hides nothing."""
    header = classify(datagram)
    for host in world.hosts:
        for sa in host.engine._sas.values():
            if sa.initiator != header.from_initiator and (sa.spi_i, sa.spi_r) == (header.spi_i, header.spi_r):
                cipher = sa.protection.cipher_in
                message = open_message(datagram, header, cipher)
                return seal_message(Message(header=header, payloads=message.payloads), _Plain(), b"")
    return datagram


def codec(messages: list[bytes]) -> Target:
    """The codec: a message is refused with a WireError, or what is read can be written and read again the same."""

    def run(chance: random.Random) -> int:
        for _ in range(200):
            octets = with_length(mutate(chance.choice(messages), messages, chance))
            try:
                header = classify(octets)
                message = _read(octets, header)
            except WireError:
                continue
            again = _write(message)
            if _lossless(message) and _read(again, classify(again)).payloads != message.payloads:
                raise AssertionError(f"read otherwise after writing: {octets.hex()}")
        return 200

    return Target("codec", run)


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


def machine(messages: list[bytes]) -> Target:
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

    return Target("machine", run)


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
        for sa in host.engine._sas.values():
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
        if len(host.engine._sas) > 2 or host.engine.door.half_open or len(host.engine._esp_spis) > 8:
            raise AssertionError(f"seed {world.seed}: {host.name} keeps {host.engine._sas} {host.engine._esp_spis}")
