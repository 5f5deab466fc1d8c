"""Two hosts brought to a state of the protocol and held there: what the peer's next message would be is the fuzzer's.

Every state is reached by a real conversation of which one message is lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from agents.contract.config import ConnectionType, IkePolicy
from agents.ike.outputs import Path, Transmit
from agents.ike.v2.sa import IkeSa
from agents.ike.wire.header import Header
from agents.ike.wire.message import Inner, seal_inner
from agents.ike.wire.registry import Exchange
from tests.harness.documents import FAST_IKE, child, pair
from tests.harness.world import Host, Network, World, up

HYBRID = IkePolicy(proposals=(replace(FAST_IKE, additional_key_exchanges=("group-19",)), FAST_IKE))


@dataclass(kw_only=True)
class Scene:
    """A world that stands still: ``victim`` is given messages as ``forger``'s IKE SA could send them."""

    name: str
    world: World
    victim: Host
    forger: Host
    answer: bool
    exchanges: tuple[int, ...]

    def sa_of(self, host: Host) -> IkeSa | None:
        return next(iter(host.engine.v2.sas.values()), None)

    def path(self) -> Path:
        sa = self.sa_of(self.victim)
        if sa is not None:
            return sa.path
        here, there = self.victim.addresses[0], self.forger.addresses[0]
        return Path(local_address=here, local_port=500, remote_address=there, remote_port=500)

    def forge(self, first: int, chain: bytes, chance: random.Random) -> bytes | None:
        """Return a message with the true keys and this content; None when there is nobody left to send it."""
        forger, victim = self.sa_of(self.forger), self.sa_of(self.victim)
        if forger is None or victim is None or not forger.keyed:
            return None
        outstanding = victim.requests.outstanding
        if self.answer and outstanding is not None:
            exchange, message_id = outstanding.exchange, outstanding.message_id
        elif not self.exchanges:
            return None
        else:
            exchange, message_id = chance.choice(self.exchanges), victim.responses.expected
        flags = (8 if forger.initiator else 0) | (0x20 if self.answer else 0)
        header = Header(
            spi_i=victim.spi_i, spi_r=victim.spi_r, next_payload=0, exchange=exchange, flags=flags,
            message_id=message_id,
        )  # fmt: skip
        cipher = forger.protection.cipher_out
        inner = Inner(first=first, reserved=0, chain=chain)
        return seal_inner(header, inner, cipher, chance.randbytes(cipher.iv_octets))


def _lose(exchange: int, sender: str) -> Callable[[Transmit], Transmit | None]:
    def rewrite(transmit: Transmit) -> Transmit | None:
        hit = transmit.datagram[18] == exchange and transmit.path.local_address == sender
        return None if hit else transmit

    return rewrite


_PARIS, _LYON = "192.0.2.1", "192.0.2.2"
_STANDING = (Exchange.CREATE_CHILD_SA, Exchange.INFORMATIONAL, Exchange.IKE_FOLLOWUP_KE)

# state: the message that is lost (exchange and sender), the verb that comes before, what is forged, whose victim
_SCENES: dict[str, tuple[int, str, str, bool, tuple[int, ...]]] = {
    "init-received": (Exchange.IKE_AUTH, _PARIS, "", False, (Exchange.IKE_AUTH,)),
    "intermediate": (Exchange.IKE_INTERMEDIATE, _PARIS, "", False, (Exchange.IKE_INTERMEDIATE, Exchange.IKE_AUTH)),
    "intermediate-sent": (Exchange.IKE_INTERMEDIATE, _LYON, "", True, ()),
    "authenticating": (Exchange.IKE_AUTH, _LYON, "", True, ()),
    "established": (0, "", "", False, _STANDING),
    "rekeying-child": (Exchange.CREATE_CHILD_SA, _LYON, "rekey_child", True, ()),
    "rekeying-ike": (Exchange.CREATE_CHILD_SA, _LYON, "rekey_ike", True, ()),
    "following-up": (Exchange.IKE_FOLLOWUP_KE, _LYON, "rekey_ike", True, ()),
    "followed-up": (Exchange.IKE_FOLLOWUP_KE, _PARIS, "rekey_ike", False, _STANDING),
    "deleting": (Exchange.INFORMATIONAL, _LYON, "clear_ike", True, ()),
    "asked-while-rekeying": (Exchange.CREATE_CHILD_SA, _LYON, "rekey_ike", False, _STANDING),
}
NAMES = tuple(_SCENES)


def scene(name: str, seed: object) -> Scene:
    """Return the state of this name."""
    exchange, sender, verb, answer, exchanges = _SCENES[name]
    world = World(seed)
    hybrid = exchange in (Exchange.IKE_INTERMEDIATE, Exchange.IKE_FOLLOWUP_KE)
    left, right = pair(
        types=(ConnectionType.BOTH, ConnectionType.BOTH if verb else ConnectionType.RESPONDER_ONLY),
        ike=HYBRID if hybrid else None,
        children=(child(pfs_groups=("group-31",)),),
    )
    paris, lyon = world.host("paris", _PARIS), world.host("lyon", _LYON)
    if not verb and exchange:
        world.network = Network(rewrite=_lose(exchange, sender))
    lyon.configure(right.document())
    paris.configure(left.document())
    world.run(0.3)
    if verb:
        assert up(paris, lyon)(), name
        world.network = Network(rewrite=_lose(exchange, sender))
        paris.do(getattr(paris.engine, verb), paris.status().id)
        world.run(0.3)
    victim = paris if answer or name == "asked-while-rekeying" else lyon
    forger = lyon if victim is paris else paris
    return Scene(name=name, world=world, victim=victim, forger=forger, answer=answer, exchanges=exchanges)
