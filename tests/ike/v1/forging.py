"""Messages as a stranger or a mad peer makes them: first ones in clear, and those that only true keys can seal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agents.contract.config import ExchangeMode
from agents.ike.outputs import Path
from agents.ike.v1 import keymat
from agents.ike.v1.proposals import offer_phase1
from agents.ike.v1.sa import IsakmpSa
from agents.ike.wire.header import NO_SPI, Header
from agents.ike.wire.isakmp import message as wire
from agents.ike.wire.isakmp.payloads import Hash, Identification, KeyExchangeData, Nonce, Payload, SecurityAssociation
from agents.ike.wire.isakmp.registry import Exchange, IdType
from tests.harness.v1 import LYON, PARIS, pair, policy
from tests.harness.world import Host, World

PATH = Path(local_address=LYON, local_port=500, remote_address=PARIS, remote_port=500)
BACK = Path(local_address=PARIS, local_port=500, remote_address=LYON, remote_port=500)
SHOWN = Identification(id_type=IdType.IPV4_ADDR, data=bytes((192, 0, 2, 1)))
GENERATOR = bytes.fromhex(
    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
"""A point of group 19 (FIPS 186-4 D.1.2.3): as good a public value as any."""


def responder(mode: ExchangeMode = ExchangeMode.MAIN, **changes: object) -> tuple[World, Host]:
    """Return a responder that waits for a peer nobody plays."""
    world = World()
    lyon = world.host("lyon", LYON, limits=changes.pop("limits", None))  # type: ignore[arg-type]
    _, right = pair(mode, **changes)  # type: ignore[arg-type]
    right.allow_legacy = True
    lyon.configure(right.document())
    return world, lyon


def give(host: Host, datagram: bytes, path: Path = PATH) -> list[bytes]:
    """Let a datagram arrive, and return what is sent at once."""
    since = len(host.world.log)
    host.do(lambda now: host.engine.receive(datagram, path, now))
    return [each.octets for each in host.world.log[since:]]


def first(
    mode: ExchangeMode = ExchangeMode.MAIN,
    *more: Payload,
    offer: SecurityAssociation | None = None,
    cookie: bytes = b"stranger",
    public: bytes = GENERATOR,
    nonce: bytes = bytes(8),
    shown: Identification = SHOWN,
) -> bytes:
    """Return as short a first message as there is."""
    keys: tuple[Payload, ...] = ()
    if mode is ExchangeMode.AGGRESSIVE:
        keys = (KeyExchangeData(data=public), Nonce(data=nonce), shown)
    exchange = Exchange.MAIN if mode is ExchangeMode.MAIN else Exchange.AGGRESSIVE
    return clear(exchange, (offer or offer_phase1(policy(mode), 1), *keys, *more), cookie)


def clear(
    exchange: int, payloads: Sequence[Payload], cookie_i: bytes, cookie_r: bytes = NO_SPI, number: int = 0
) -> bytes:
    """Return a message in clear."""
    header = Header(
        spi_i=cookie_i, spi_r=cookie_r, next_payload=0, exchange=exchange, flags=0, message_id=number, version=0x10
    )  # fmt: skip
    return wire.serialize_clear(header, payloads)


def sealed(
    sa: IsakmpSa,
    payloads: Sequence[Payload],
    exchange: int = Exchange.INFORMATIONAL,
    *,
    number: int = 0x1234_5678,
    made: bytes | None = None,
    commit: bool = False,
) -> bytes:
    """Return a first message after phase 1 with an SA's keys: its hash (``made``, else the right one), then these."""
    chain = wire.encode(payloads)[1]
    if made is None:
        made = keymat.quick_hash_1(sa.suite.prf, sa.keys.skeyid_a, number, chain)
    return sealed_bare(sa, (Hash(data=made), *payloads), exchange, sa.iv_of(number), number, commit=commit)


def sealed_bare(
    sa: IsakmpSa, payloads: Sequence[Payload], exchange: int, iv: bytes, number: int = 0, *, commit: bool = False
) -> bytes:
    """Return an encrypted message of exactly these payloads."""
    kind, chain = wire.encode(payloads)
    header = Header(
        spi_i=sa.cookie_i, spi_r=sa.cookie_r, next_payload=0, exchange=exchange, flags=2 if commit else 0,
        message_id=number, version=0x10,
    )  # fmt: skip
    return wire.serialize_encrypted(header, kind, sa.cipher.seal(iv, chain))


def elsewhere(address: str, port: int = 500) -> Path:
    """Return the way from another address."""
    return replace(PATH, remote_address=address, remote_port=port)
