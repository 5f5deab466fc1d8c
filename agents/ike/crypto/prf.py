"""prf and prf+ (RFC 7296 section 2.13) for the HMAC family (RFC 2104, RFC 4868)."""

from __future__ import annotations

import hmac

from agents.contract.algorithms import PseudoRandom


def prf(alg: PseudoRandom, key: bytes, data: bytes) -> bytes:
    """Return prf(key, data): ``alg.output_octets`` octets."""
    return hmac.digest(key, data, alg.hash)


def prf_plus(alg: PseudoRandom, key: bytes, seed: bytes, octets: int) -> bytes:
    """Return the first ``octets`` octets of prf+(key, seed).

    Raises ValueError beyond 255 blocks, where the one-octet counter of section 2.13 ends.
    """
    blocks = -(-octets // alg.output_octets)
    if blocks > 255:
        raise ValueError(f"prf+ yields at most {255 * alg.output_octets} octets, not {octets}")
    hash_name = alg.hash
    block = b""
    stream = []
    for counter in range(1, blocks + 1):
        block = hmac.digest(key, b"%b%b%c" % (block, seed, counter), hash_name)
        stream.append(block)
    return b"".join(stream)[:octets]
