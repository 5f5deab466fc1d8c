"""Changing octets in ways that parsers get wrong: lengths, counts, types, splices."""

from __future__ import annotations

import random
from collections.abc import Sequence

_INTERESTING = (b"\0", b"\1", b"\4", b"\7", b"\x7f", b"\x80", b"\xff", b"\0\0", b"\xff\xff", b"\0\4", b"\x80\0")


def mutate(octets: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Return ``octets`` with one to six changes; ``others`` are donors for splices."""
    changed = bytearray(octets)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(changed) + 1)
        match chance.randrange(6):
            case 0 if changed:
                changed[place % len(changed)] ^= 1 << chance.randrange(8)
            case 1:
                value = chance.choice(_INTERESTING)
                changed[place : place + len(value)] = value
            case 2:
                del changed[place : place + chance.randint(1, 16)]
            case 3:
                changed[place:place] = chance.randbytes(chance.randint(1, 16))
            case 4:
                donor = chance.choice(others)
                start = chance.randrange(len(donor) + 1)
                changed[place:place] = donor[start : start + chance.randint(1, 64)]
            case _:
                del changed[place:]
    return bytes(changed)


def with_length(octets: bytes) -> bytes:
    """Return an IKE datagram whose header says its true length."""
    return octets[:24] + len(octets).to_bytes(4, "big") + octets[28:] if len(octets) >= 28 else octets
