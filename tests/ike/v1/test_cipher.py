from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.algorithms import ENCRYPTION
from agents.contract.ikev1 import ENCRYPTION as NUMBERS
from agents.ike.errors import WireError
from agents.ike.v1.cipher import Phase1Cipher

_CIPHERS = {
    slug: Phase1Cipher(ENCRYPTION[slug], bytes(range(1, 1 + ENCRYPTION[slug].key_octets))) for slug in sorted(NUMBERS)
}


@given(st.sampled_from(sorted(NUMBERS)), st.binary(max_size=100), st.binary(min_size=16, max_size=16))
def test_what_is_sealed_opens_with_its_padding(slug: str, plaintext: bytes, iv: bytes) -> None:
    cipher = _CIPHERS[slug]
    iv = iv[: cipher.block_octets]
    ciphertext = cipher.seal(iv, plaintext)
    assert len(ciphertext) == -(-len(plaintext) // cipher.block_octets) * cipher.block_octets
    if ciphertext:
        assert cipher.open(iv, ciphertext) == plaintext.ljust(len(ciphertext), b"\0")


@pytest.mark.parametrize("slug", sorted(NUMBERS))
def test_messages_in_a_row_are_one_cbc_stream(slug: str) -> None:
    cipher = _CIPHERS[slug]
    block = cipher.block_octets
    iv, first, second = bytes(block), b"1" * (2 * block), b"2" * block
    sealed = cipher.seal(iv, first)
    following = cipher.seal(cipher.next_iv(sealed), second)
    assert cipher.next_iv(sealed) == sealed[-block:]
    assert sealed + following == cipher.seal(iv, first + second)


def test_sealing_and_opening_twice_gives_the_same() -> None:
    """No state: a message that comes again does not move the chain."""
    cipher = _CIPHERS["aes-128-cbc"]
    iv = b"i" * 16
    sealed = cipher.seal(iv, b"a message")
    assert cipher.seal(iv, b"a message") == sealed
    assert cipher.open(iv, sealed) == cipher.open(iv, sealed) == b"a message".ljust(16, b"\0")


@pytest.mark.parametrize("octets", [0, 1, 15, 17, 31])
def test_what_is_not_whole_blocks_is_malformed(octets: int) -> None:
    with pytest.raises(WireError, match="whole blocks") as caught:
        _CIPHERS["aes-256-cbc"].open(bytes(16), bytes(octets))
    assert caught.value.code == "ikev1.payload-malformed"
    assert (caught.value.received, caught.value.expected) == (f"{octets} octets", "a multiple of 16")


def test_aes_agrees_with_rfc_3602() -> None:
    """Section 4, case 2."""
    cipher = Phase1Cipher(ENCRYPTION["aes-128-cbc"], bytes.fromhex("c286696d887c9aa0611bbb3e2025a45a"))
    iv = bytes.fromhex("562e17996d093d28ddb3ba695a2e6f58")
    sealed = cipher.seal(iv, bytes(range(32)))
    assert sealed.hex() == "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1"
    assert cipher.open(iv, sealed) == bytes(range(32))


@pytest.mark.parametrize(
    ("slug", "octets", "reason"),
    [
        ("aes-128-cbc", 24, "16 octets"),
        ("3des-cbc", 16, "24 octets"),
        ("aes-128-gcm-16", 16, "IKEv1"),
        ("null", 0, "IKEv1"),
    ],
)
def test_other_keys_and_ciphers_are_refused(slug: str, octets: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Phase1Cipher(ENCRYPTION[slug], bytes(octets))
