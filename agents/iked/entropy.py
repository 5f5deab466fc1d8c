"""The operating system's randomness for the protocol core."""

from __future__ import annotations

import os
import random
import secrets


class OsEntropy:
    """An :class:`~agents.ike.outputs.Entropy`."""

    def octets(self, count: int) -> bytes:
        """Return octets for keys, nonces and SPIs."""
        return os.urandom(count)

    def uniform(self) -> float:
        """Return a number in [0, 1) for jitter."""
        return _JITTER.random()


_JITTER = random.Random(secrets.randbits(64))  # noqa: S311 - jitter need not be secret
