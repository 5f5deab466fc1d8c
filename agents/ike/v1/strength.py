"""Whether a pre-shared key stands guessing: Aggressive Mode shows a hash of it to whoever asks (RFC 2409 section 5.4).

A judgement of form, not of entropy: a key that passes may still stand in a dictionary. Random keys of 20 octets pass,
and so do nearly all that are written in hexadecimal.
"""

from __future__ import annotations

import itertools

from agents.contract.secret import Secret

LEAST_OCTETS = 20
_LEAST_VARIETY = 8


def weak_for_aggressive(psk: Secret) -> str | None:
    """Return one sentence on what makes a key easy to guess, which shows nothing of it; None where nothing does."""
    octets = psk.reveal()
    if len(octets) < LEAST_OCTETS:
        return f"The pre-shared key has fewer than {LEAST_OCTETS} octets"
    if any(octets[period:] == octets[:-period] for period in range(1, min(LEAST_OCTETS, len(octets) // 2 + 1))):
        return "The pre-shared key is a short piece again and again"
    steps = {(after - before) % 256 for before, after in itertools.pairwise(octets)}
    if len(set(octets)) < _LEAST_VARIETY:
        return f"The pre-shared key is made of fewer than {_LEAST_VARIETY} different octets"
    if len(steps) < _LEAST_VARIETY:
        return "The pre-shared key is a row of neighbouring octets"
    return None
