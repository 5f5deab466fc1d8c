"""Stateless cookies (RFC 7296 section 2.6): what keeps unproven addresses from costing much."""

from __future__ import annotations

import hmac

from agents.ike.outputs import Entropy, Path

ROTATE_S = 60.0
"""Age at which the secret is replaced; the one before stays good for as long again."""


class CookieJar:
    """Makes and checks cookies without keeping anything per request."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._secrets: list[bytes] = []
        self._version = 0
        self._rotate_at = 0.0

    def make(self, path: Path, spi_i: bytes, nonce_i: bytes, now: float) -> bytes:
        """Return the cookie for this request: the secret's version and a MAC of nonce, address and SPI."""
        self._rotate(now)
        return bytes((self._version,)) + self._mac(self._secrets[0], path, spi_i, nonce_i)

    def check(self, cookie: bytes, path: Path, spi_i: bytes, nonce_i: bytes, now: float) -> bool:
        """Return whether the cookie is one of ours for this request, by the present or the last secret."""
        self._rotate(now)
        if len(cookie) != 33:
            return False
        age = (self._version - cookie[0]) % 256
        if age >= len(self._secrets):
            return False
        return hmac.compare_digest(cookie[1:], self._mac(self._secrets[age], path, spi_i, nonce_i))

    def _rotate(self, now: float) -> None:
        if self._secrets and now < self._rotate_at:
            return
        keep = self._secrets[:1] if now < self._rotate_at + ROTATE_S else []
        self._secrets = [self._entropy.octets(32), *keep]
        self._version = (self._version + 1) % 256
        self._rotate_at = now + ROTATE_S

    @staticmethod
    def _mac(secret: bytes, path: Path, spi_i: bytes, nonce_i: bytes) -> bytes:
        place = f"{path.remote_address} {path.remote_port} {path.local_address} ".encode("ascii")
        return hmac.digest(secret, place + spi_i + nonce_i, "sha256")
