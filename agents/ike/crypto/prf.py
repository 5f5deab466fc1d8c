"""prf and prf+ (RFC 7296 section 2.13): HMAC (RFC 2104, RFC 4868), AES-XCBC (RFC 4434), AES-CMAC (RFC 4615)."""

from __future__ import annotations

import functools
import hmac
from collections.abc import Callable

from agents.contract.algorithms import PseudoRandom
from agents.ike.crypto.primitives import keyed_mac

_AES_KEY_OCTETS = 16


def prf(alg: PseudoRandom, key: bytes, data: bytes) -> bytes:
    """Return prf(key, data): ``alg.output_octets`` octets. A key may have any length."""
    return _keyed(alg, key)(data)


def prf_plus(alg: PseudoRandom, key: bytes, seed: bytes, octets: int) -> bytes:
    """Return the first ``octets`` octets of prf+(key, seed).

    Raises ValueError beyond 255 blocks, where the one-octet counter of section 2.13 ends.
    """
    blocks = -(-octets // alg.output_octets)
    if blocks > 255:
        raise ValueError(f"prf+ yields at most {255 * alg.output_octets} octets, not {octets}")
    keyed = _keyed(alg, key)
    block = b""
    stream = []
    for counter in range(1, blocks + 1):
        block = keyed(b"%b%b%c" % (block, seed, counter))
        stream.append(block)
    return b"".join(stream)[:octets]


def _keyed(alg: PseudoRandom, key: bytes) -> Callable[[bytes], bytes]:
    if not alg.fixed_key:
        return functools.partial(hmac.digest, key, digest=alg.hash)
    if len(key) != _AES_KEY_OCTETS:
        key = _fitted(alg, key)
    return keyed_mac(alg.hash, key)


def _fitted(alg: PseudoRandom, key: bytes) -> bytes:
    """Make a key of any length one of 16 octets: longer ones through the MAC itself (RFC 4434 section 2, RFC 4615).

    A shorter one AES-XCBC fills up with zeros and AES-CMAC treats like a longer one.
    """
    if alg.hash == "aes-xcbc" and len(key) < _AES_KEY_OCTETS:
        return key.ljust(_AES_KEY_OCTETS, b"\0")
    return keyed_mac(alg.hash, bytes(_AES_KEY_OCTETS))(key)
