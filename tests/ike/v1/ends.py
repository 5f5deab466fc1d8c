"""Two ends that speak IKEv1 in the harness's world, and what went over the wire between them, read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from agents.contract.config import ExchangeMode, IkeVersion, IpsecProposal
from agents.ike.outputs import Report, Transmit
from agents.ike.v1.sa import IsakmpSa
from agents.ike.wire.header import classify
from agents.ike.wire.isakmp import message as wire
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import Notify, Payload
from agents.ike.wire.isakmp.registry import Exchange, Flag, NotifyType
from tests.harness.documents import Side, child, pair
from tests.harness.v1 import LYON, PARIS, policy
from tests.harness.world import Host, Network, World, up

ESP = IpsecProposal(encryption="aes-128-cbc", integrity="hmac-sha2-256-128")
CHILD = child(proposals=(ESP,))
SECRET = hashlib.sha256(b"what both ends know").digest()


@dataclass(kw_only=True)
class Ends:
    """Paris, which begins, and Lyon."""

    world: World
    paris: Host
    lyon: Host

    def named(self, name: str) -> Host:
        return self.paris if name == "paris" else self.lyon


def sides(mode: ExchangeMode = ExchangeMode.MAIN, **changes: Any) -> tuple[Side, Side]:
    """Return the documents of both ends of one tunnel."""
    given: dict[str, Any] = {
        "ike": policy(mode), "children": (CHILD,), "secret": SECRET, "version": IkeVersion.V1, **changes
    }  # fmt: skip
    return pair(**given)


def start(documents: tuple[Side, Side], network: Network | None = None, seed: object = 0) -> Ends:
    """Give both ends their documents: Paris begins at once."""
    world = World(seed, network)
    paris, lyon = world.host("paris", PARIS), world.host("lyon", LYON)
    lyon.configure(documents[1].document())
    paris.configure(documents[0].document())
    return Ends(world=world, paris=paris, lyon=lyon)


def meet(
    documents: tuple[Side, Side] | None = None,
    seconds: float = 0.4,
    rewrite: Callable[[Transmit], Transmit | None] | None = None,
) -> Ends:
    """Let them talk for a moment: long enough for an answer to everything, too short for a second try."""
    ends = start(documents or sides(), Network(rewrite=rewrite))
    ends.world.run(seconds)
    return ends


def standing(documents: tuple[Side, Side] | None = None) -> Ends:
    """Let them talk until the tunnel is up."""
    ends = start(documents or sides())
    assert ends.world.run(5, up(ends.paris, ends.lyon)), (ends.paris.status(), ends.lyon.status())
    ends.world.run(0.5)
    return ends


def only_sa(host: Host) -> IsakmpSa:
    machine = host.engine.v1
    assert machine is not None
    (sa,) = machine.sas.values()
    return sa


def the(host: Host, code: str) -> Report:
    (report,) = [each for each in host.reports if each.code == code]
    return report


# --- changing a message on its way


def first_main(sent: Transmit) -> bool:
    """Return whether it is a first message of Main Mode."""
    header = classify(sent.datagram)
    return header.exchange == Exchange.MAIN and header.spi_r == bytes(8)


def patch(offset: int, octets: bytes) -> Callable[[Transmit], Transmit | None]:
    """Put these octets into each first message of Main Mode."""

    def rewrite(sent: Transmit) -> Transmit | None:
        if not first_main(sent):
            return sent
        old = sent.datagram
        return replace(sent, datagram=old[:offset] + octets + old[offset + len(octets) :])

    return rewrite


def remake(change: Callable[[Message], tuple[Payload, ...]]) -> Callable[[Transmit], Transmit | None]:
    """Read each first message of Main Mode and send other payloads in its place."""

    def rewrite(sent: Transmit) -> Transmit | None:
        if not first_main(sent):
            return sent
        message = wire.parse_clear(sent.datagram, classify(sent.datagram))
        return replace(sent, datagram=wire.serialize_clear(message.header, change(message)))

    return rewrite


# --- what went over the wire


def in_clear(world: World, sender: str) -> list[Notify]:
    """Return the notifies of this end's Informationals in clear, in order."""
    found: list[Notify] = []
    for each in world.log:
        header = classify(each.octets)
        if each.sender == sender and header.exchange == Exchange.INFORMATIONAL and not header.flags & Flag.ENCRYPTED:
            found += wire.parse_clear(each.octets, header).find_all(Notify)
    return found


def protected(world: World, sa: IsakmpSa) -> Iterator[tuple[str, Message]]:
    """Decrypt what was sent on an ISAKMP SA after phase 1: yield sender and message, each message once."""
    ivs: dict[int, bytes] = {}
    seen: set[bytes] = set()
    for each in world.log:
        header = classify(each.octets)
        if not header.message_id or not header.flags & Flag.ENCRYPTED or each.octets in seen:
            continue
        if (header.spi_i, header.spi_r) != (sa.cookie_i, sa.cookie_r):
            continue
        seen.add(each.octets)
        ciphertext = wire.encrypted_body(each.octets, header)
        iv = ivs.get(header.message_id) or sa.iv_of(header.message_id)
        ivs[header.message_id] = sa.cipher.next_iv(ciphertext)
        yield each.sender, wire.read_plain(header, sa.cipher.open(iv, ciphertext))


def notifies(ends: Ends, sender: str) -> list[str]:
    """Return the names of all notifies of one end, those in clear first."""
    found = list(in_clear(ends.world, sender))
    machine = ends.named(sender).engine.v1
    assert machine is not None
    for sa in machine.sas.values():
        if sa.standing:
            found += [
                one for who, message in protected(ends.world, sa) if who == sender for one in message.find_all(Notify)
            ]
    return [NotifyType(each.type).name for each in found]
