from __future__ import annotations

import hashlib
import string

import pytest

from agents.contract.secret import Secret
from agents.ike.v1.strength import LEAST_OCTETS, weak_for_aggressive


@pytest.mark.parametrize(
    ("psk", "reason"),
    [
        ("", "fewer than 20 octets"),
        ("abc123", "fewer than 20 octets"),
        ("8JmQ2vT7xZ4kR9pLw3n", "fewer than 20 octets"),
        ("a" * 40, "again and again"),
        ("correct horse" * 3, "again and again"),
        ("12345678901234567890123456789012345678901234567890123456789012345", "again and again"),
        ("tooloottolotootlotlootlt", "different octets"),
        ("hahahehehihihohohahahehe", "different octets"),
        (string.ascii_lowercase, "neighbouring octets"),
        (string.digits[::-1] + string.ascii_uppercase, "neighbouring octets"),
    ],
)
def test_a_key_that_is_easily_guessed_is_named_without_showing_it(psk: str, reason: str) -> None:
    sentence = weak_for_aggressive(Secret(psk.encode("ascii")))
    assert sentence is not None
    assert reason in sentence
    assert not psk or psk not in sentence


def test_a_random_key_of_20_octets_does() -> None:
    for number in range(2_000):
        octets = hashlib.sha512(number.to_bytes(2, "big")).digest()
        assert weak_for_aggressive(Secret(octets[:LEAST_OCTETS])) is None
        assert weak_for_aggressive(Secret(octets[:LEAST_OCTETS].hex().encode("ascii"))) is None
    assert weak_for_aggressive(Secret("8JmQ2vT7xZ4kR9pLw3nB".encode("ascii"))) is None
