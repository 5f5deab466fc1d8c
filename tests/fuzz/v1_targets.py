"""What is fuzzed of IKEv1: the same four as of IKEv2 (:mod:`tests.fuzz.targets`), with the same promises.

``codec-v1``: octets to values and back, and what is read of values. ``door-v1``: first messages of strangers.
``states-v1``: a peer that has the keys and has gone mad, at every state. ``conversation-v1``: both ends lively while
changed copies of everything arrive first.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from unittest import mock

from agents.contract.config import ExchangeMode, Identity, IdentityType
from agents.ike.errors import PeerError, WireError
from agents.ike.limits import HalfOpenLimits
from agents.ike.outputs import Path, Transmit
from agents.ike.v1 import mismatch, proposals, quick_proposals, selectors, sending, terms
from agents.ike.v1.children import most_of
from agents.ike.v1.exchange import Exchange
from agents.ike.v1.receiving import MOST_FINISHED
from agents.ike.v1.sa import IsakmpSa
from agents.ike.v1.used_ids import MOST as MOST_IDS
from agents.ike.wire.header import NO_SPI, Header, classify
from agents.ike.wire.isakmp import fragments, rules, vendor
from agents.ike.wire.isakmp import message as wire
from agents.ike.wire.isakmp.fragments import Reassembly
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import Fragment, Identification, Notify, Payload, SecurityAssociation, VendorId
from agents.ike.wire.isakmp.registry import Exchange as ExchangeType
from agents.ike.wire.isakmp.registry import Flag
from tests.fuzz.guidance import Corpus, Edges
from tests.fuzz.mutations import mutate, with_length
from tests.fuzz.target import Target
from tests.fuzz.v1_states import HEADER_OCTETS, NAMES, Scene, forge, scene
from tests.harness import documents, pki
from tests.harness.documents import endpoint, key
from tests.harness.v1 import BOTH, LYON, PARIS, VOICE, child, left_behind, machine, pair, policy
from tests.harness.v1 import Scene as Tunnel
from tests.harness.world import Host, Network, World, up

_PHASE_1 = (ExchangeType.MAIN, ExchangeType.AGGRESSIVE)
_HERE = quick_proposals.Circumstances(encapsulations=frozenset((1, 2)))
_CHILD = child(ipcomp=True, pfs_groups=("group-19",))
_MOST_ANSWERS = 24
"""Datagrams that one message of a peer may bring about: deletes of all there is, at worst."""


def corpus() -> list[bytes]:
    """Return messages of every exchange, the encrypted ones with their content in clear; some also in fragments."""
    found: list[bytes] = []
    write = sending._datagram

    def keep(sa: IsakmpSa, exchange: Exchange, payloads: Sequence[Payload], encrypted: bool) -> bytes:
        first, chain = wire.encode(payloads)
        header = Header(
            spi_i=sa.cookie_i, spi_r=sa.cookie_r, next_payload=first, exchange=exchange.number,
            flags=int(Flag.ENCRYPTED) if encrypted else 0, message_id=exchange.message_id, version=0x10,
        )  # fmt: skip
        found.append(header.serialize_for(first, HEADER_OCTETS + len(chain)) + chain)
        return write(sa, exchange, payloads, encrypted)

    with mock.patch.object(sending, "_datagram", keep):
        for mode, certified, lifetime_s in (
            (ExchangeMode.MAIN, False, 3_600),
            (ExchangeMode.AGGRESSIVE, False, 300),
            (ExchangeMode.MAIN, True, 3_600),
            (ExchangeMode.AGGRESSIVE, True, 3_600),
        ):
            _converse(mode, certified, lifetime_s)
    whole = next(each for each in found if each[18] == ExchangeType.AGGRESSIVE and len(each) > 400)
    cut = fragments.cut(whole, classify(whole), 1, 200)
    return list(dict.fromkeys((*found, *cut)))


def _converse(mode: ExchangeMode, certified: bool, lifetime_s: int) -> None:
    ours = (child(pfs_groups=("group-19",), ipcomp=True, lifetime_s=lifetime_s), VOICE)
    held = Tunnel(mode, children=ours, types=BOTH, world=World("corpus"))
    theirs = (documents.mirrored(replace(ours[0], lifetime_s=200)), documents.mirrored(VOICE))
    held.right.change(children=theirs)  # a shorter lifetime is told
    for side, host in zip((held.left, held.right), held.hosts, strict=True):
        if certified:
            pki.certify(side, host)
        if mode is ExchangeMode.AGGRESSIVE:
            side.change(force_udp_encapsulation=True)
    held.start()
    held.world.run(80)  # liveness checks too
    for verb in ("rekey_child", "rekey_ike", "clear_ipsec", "clear_ike"):
        held.paris.do(getattr(held.paris.engine, verb), held.paris.status().id)
        held.world.run(15)


# --- codec


def codec(messages: list[bytes]) -> Target:
    """A message is refused with a WireError, or what is read can be written and read again the same, and judged."""
    inputs = Corpus(
        messages,
        Edges(
            "agents/ike/wire/isakmp",
            *(
                f"agents/ike/v1/{name}.py"
                for name in ("terms", "proposals", "quick_proposals", "mismatch", "selectors")
            ),
        ),
    )

    def run(chance: random.Random) -> int:
        reassembly = Reassembly()
        for number in range(100):
            octets = with_length(inputs.mutated(chance))
            inputs.watch(octets, lambda octets=octets, at=float(number): _read_and_write(octets, reassembly, at))  # type: ignore[misc]
        return 100

    return Target("codec-v1", run, inputs.edges)


def _read_and_write(octets: bytes, reassembly: Reassembly, now: float) -> None:
    try:
        header = classify(octets)
        rules.check_header(header)
        if fragments.is_fragment(header):
            _piece(fragments.read(octets, header), reassembly, now)
            return
        message = _read(header, octets)
    except WireError:
        return
    first, chain = wire.encode(message.payloads)
    again = replace(header, next_payload=first, length=HEADER_OCTETS + len(chain))
    if _read(again, again.serialize() + chain).payloads != message.payloads:
        raise AssertionError(f"read otherwise after writing: {octets.hex()}")
    if message.payloads and b"".join(message.bodies[1:]) and not message.protected:
        raise AssertionError(f"nothing would be hashed: {octets.hex()}")
    _judge(message)


def _read(header: Header, octets: bytes) -> Message:
    if header.flags & Flag.ENCRYPTED:
        return wire.read_plain(header, octets[HEADER_OCTETS:])
    return wire.parse_clear(octets, header)


def _piece(fragment: Fragment, reassembly: Reassembly, now: float) -> None:
    reassembly.add(fragment, now)
    if reassembly.octets > fragments.MOST_IDS * fragments.MOST_OCTETS:
        raise AssertionError(f"{reassembly.octets} octets wait")


def _judge(message: Message) -> None:
    """Ask of the values what the machine asks."""
    for step in range(1, 7):
        try:
            rules.check(message.header.exchange, message.payloads, step)
        except WireError:
            continue
    for each in message.payloads:
        if isinstance(each, VendorId):
            vendor.recognise(each.data)
        elif isinstance(each, Notify):
            terms.read_lifetimes((1, 2), each.data)
        elif isinstance(each, Identification):
            try:
                selectors.to_identification(selectors.from_identification(each))
            except PeerError as error:
                _check_bounded(error)
        elif isinstance(each, SecurityAssociation):
            _judge_offer(each)


def _judge_offer(offer: SecurityAssociation) -> None:
    config, methods = policy(), frozenset((1, 3))
    if proposals.choose_phase1(config, offer, methods) is None:
        mismatch.phase1_refusal(config, offer, methods, exchange="main-mode", message=1)
    choice = quick_proposals.choose_quick(_CHILD, offer, replace(_HERE, ke_octets=64))
    if choice is None:
        mismatch.quick_refusal(_CHILD, offer, _HERE)
    for read in (
        lambda: proposals.read_answer_phase1(config, 1, proposals.offer_phase1(config, 1), offer),
        lambda: quick_proposals.read_answer_quick(_CHILD, offer, offer, _HERE),
    ):
        try:
            read()
        except PeerError as error:
            _check_bounded(error)


def _check_bounded(error: PeerError) -> None:
    if len(error.message) + len(error.received or "") > 2_000:
        raise AssertionError(f"a long refusal: {error.message} {error.received}")


# --- strangers


def door(messages: list[bytes]) -> Target:
    """First messages: at most one answer, in Main Mode and in notifies not longer; no state that does not go away."""
    first = [each for each in messages if each[18] in _PHASE_1 and each[8:16] == NO_SPI]
    others = [each for each in messages if each not in first]
    inputs = Corpus(
        (*first, *first, *others[::4]), Edges("agents/ike/wire/isakmp", "agents/ike/v1", "agents/ike/engine.py")
    )
    places = (PARIS, PARIS, "192.0.2.3", "192.0.2.4", "203.0.113.7")

    def run(chance: random.Random) -> int:
        world, lyon = _waiting(chance)
        for _ in range(25):
            octets = with_length(inputs.mutated(chance))
            if chance.random() < 0.5:
                octets = octets[:8] + NO_SPI + octets[16:]
            path = Path(
                local_address=LYON,
                local_port=500,
                remote_address=chance.choice(places),
                remote_port=chance.choice((500, 4500)),
            )
            inputs.watch(octets, lambda octets=octets, path=path: _knock(world, lyon, octets, path))  # type: ignore[misc]
        world.run(120)
        _check_empty(lyon, world, most_sas=0)
        return 25

    return Target("door-v1", run, inputs.edges)


def _waiting(chance: random.Random) -> tuple[World, Host]:
    """A host with a tunnel in Main Mode, one in Aggressive Mode, and one with certificates, that nobody plays."""
    world = World(chance.random())
    limits = HalfOpenLimits(per_address=chance.choice((2, 64)), total=chance.choice((3, 2_000)))
    lyon = world.host("lyon", LYON, limits=limits)
    _, side = pair()
    for number, mode in (
        (3, ExchangeMode.AGGRESSIVE),
        (4, chance.choice((ExchangeMode.MAIN, ExchangeMode.AGGRESSIVE))),
    ):
        address = f"192.0.2.{number}"
        config = documents.tunnel(
            endpoint(LYON),
            endpoint(address, Identity(type=IdentityType.IPV4, value=PARIS)),
            name=f"other-{number}",
            ike=policy(mode),
            children=(documents.mirrored(child()),),
            connection_type=side.tunnels[0].connection_type,
            version=side.tunnels[0].version,
        )
        side.tunnels.append(config)
        side.keys.append(key(b"a shared secret of both", LYON, address))
    pki.certify(side, lyon)
    certified = side.tunnels[0]
    side.tunnels[0] = replace(
        side.tunnels[0], local_auth=side.tunnels[1].local_auth, remote_auth=side.tunnels[1].remote_auth
    )
    side.tunnels[2] = replace(side.tunnels[2], local_auth=certified.local_auth, remote_auth=certified.remote_auth)
    lyon.configure(side.document())
    return world, lyon


def _knock(world: World, lyon: Host, octets: bytes, path: Path) -> None:
    v1 = machine(lyon)
    since, before = len(world.log), len(v1.sas)
    lyon.do(lyon.engine.receive, octets, path)
    sent = [each.octets for each in world.log[since:]]
    if lyon.codes()["ike.bug"]:
        raise AssertionError(f"a bug by {octets.hex()}: {lyon.reports[-1]}")
    if len(sent) > 1 or len(v1.sas) - before > len(sent):
        raise AssertionError(f"{len(sent)} answers, SAs {before} to {len(v1.sas)}: {octets.hex()}")
    if sent and len(sent[0]) > len(octets) and sent[0][18] != ExchangeType.AGGRESSIVE:
        raise AssertionError(f"an answer of {len(sent[0])} octets to {octets.hex()}")
    limits, half_open = v1.door.limits, v1.door.half_open
    if half_open.total() > limits.total or max(half_open.values(), default=0) > limits.per_address:
        raise AssertionError(f"half open: {half_open}")


# --- a mad peer


def states(messages: list[bytes]) -> Target:
    """A peer with true keys and wrong content at every state; afterwards the tunnel comes up and nothing is left."""
    inputs = Corpus(messages, Edges("agents/ike/v1", "agents/ike/wire/isakmp", "agents/ike/engine.py"))

    def run(chance: random.Random) -> int:
        held = scene(chance.choice(NAMES), chance.random())
        for _ in range(12):
            base = inputs.mutated(chance) if chance.random() < 0.9 else inputs.draw(chance)
            forged = held.forge(base, chance) if chance.random() < 0.9 else None
            octets = with_length(base) if forged is None else forged
            inputs.watch(base, lambda octets=octets: _give(held, octets))  # type: ignore[misc]
            if chance.random() < 0.1:
                held.world.run(chance.uniform(0.0, 3.0))
        _heal(held)
        return 12

    return Target("states-v1", run, inputs.edges)


def _give(held: Scene, octets: bytes) -> None:
    since = len(held.world.log)
    held.victim.do(held.victim.engine.receive, octets, held.path())
    if held.victim.codes()["ike.bug"]:
        bugs = [each.message for each in held.victim.reports if each.code == "ike.bug"]
        raise AssertionError(f"{held.name}: {bugs} by {octets.hex()}")
    if len(held.world.log) - since > _MOST_ANSWERS:
        raise AssertionError(f"{held.name}: {len(held.world.log) - since} datagrams by {octets.hex()}")


def _heal(held: Scene) -> None:
    """Let everything arrive again: both ends agree in the end, whatever one was told in between."""
    held.go_on()
    held.world.run(900)
    hosts = (held.victim, held.other)
    if not up(*hosts)():
        raise AssertionError(f"{held.name}: not up again: {[host.status() for host in hosts]}")
    for host in hosts:
        _check_empty(host, held.world, most_sas=2)


def _check_empty(host: Host, world: World, most_sas: int) -> None:
    v1 = machine(host)
    left = (len(v1.sas), len(v1.door.requests))
    problem = left_behind(host)
    if problem is not None or left[0] > most_sas or left[1] > left[0]:
        raise AssertionError(f"seed {world.seed}: {host.name} keeps {left}, {v1.sas}: {problem}")
    for sa in v1.sas.values():
        finished = [each for each in sa.exchanges.values() if each.take is None]
        sizes = (len(sa.used_ids), len(finished), sa.reassembly.octets)
        if sizes[0] > MOST_IDS or sizes[1] > MOST_FINISHED or sizes[2]:
            raise AssertionError(f"seed {world.seed}: {host.name} keeps {sizes} in {sa}")
    for tunnel in v1.tunnels.values():
        if len(tunnel.children) > sum(most_of(len(tunnel.children.pairs_of(each))) for each in tunnel.config.children):
            raise AssertionError(f"seed {world.seed}: {host.name} has {len(tunnel.children)} children")


# --- everything at once


def conversation(messages: list[bytes]) -> Target:
    """Authentic but wrong content, and unauthentic datagrams, at every moment of a conversation."""

    def run(chance: random.Random) -> int:
        count = 0
        world = World(chance.random())

        def spoil(transmit: Transmit) -> Transmit:
            nonlocal count
            for octets in _variants(world, transmit, messages, chance):
                count += 1
                world.deliver(replace(transmit, datagram=octets), 0.001)
            return transmit

        world.network = Network(loss=0.05, duplicates=0.1, delay_s=(0.001, 0.05), rewrite=spoil)
        mode = chance.choice((ExchangeMode.MAIN, ExchangeMode.AGGRESSIVE))
        ours = (child(pfs_groups=("group-19",), lifetime_s=300),)
        held = Tunnel(mode, types=BOTH, world=world, children=ours, ike=policy(mode, lifetime_s=240)).start()
        for verb in ("rekey_child", "rekey_ike", "clear_ipsec", "clear_ike"):
            world.run(chance.uniform(1, 20), up(*held.hosts))
            host = chance.choice(held.hosts)
            if verb.startswith("clear") or (host.status().children[0].up and host.status().ike_sas):
                _try(host, verb)
        world.run(5)
        world.network = Network()
        _check(world, held.hosts)
        return count

    return Target("conversation-v1", run)


def _try(host: Host, verb: str) -> None:
    host.do(getattr(host.engine, verb), host.status().id)


def _variants(world: World, transmit: Transmit, messages: list[bytes], chance: random.Random) -> list[bytes]:
    found = [with_length(mutate(transmit.datagram, messages, chance)) for _ in range(2)]
    if chance.random() < 0.1:
        target = next(host for host in world.hosts if transmit.path.remote_address in host.addresses)
        sas = [] if target.engine.v1 is None else list(target.engine.v1.sas.values())
        base = mutate(chance.choice(messages), messages, chance)
        forged = forge(chance.choice(sas), base, chance) if sas else None
        found += [] if forged is None else [forged]
    return found


def _check(world: World, hosts: tuple[Host, Host]) -> None:
    for host in hosts:
        bugs = [report.message for report in host.reports if report.code == "ike.bug"]
        if bugs:
            raise AssertionError(f"seed {world.seed}: {host.name} has bugs {bugs}")
    world.run(900)
    if not up(*hosts)():
        raise AssertionError(f"seed {world.seed}: not up again: {hosts[0].status()} {hosts[1].status()}")
    for host in hosts:
        _check_empty(host, world, most_sas=2)


ALL = (codec, door, states, conversation)
