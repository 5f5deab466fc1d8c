from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.algorithms import ENCRYPTION, INTEGRITY, Encryption, Integrity
from agents.ike.crypto.cipher import IntegrityError, SkCipher
from tests.vectors import FOLDER, ike_messages, load, needs_vectors

from .seeded import SeededEntropy

_FOR_IKE = [encryption for encryption in ENCRYPTION.values() if encryption.ike]
_SUITES = [
    *((encryption, None) for encryption in _FOR_IKE if encryption.aead),
    *itertools.product((encryption for encryption in _FOR_IKE if not encryption.aead), INTEGRITY.values()),
]
_IDS = [f"{e.slug}/{i.slug if i else '-'}" for e, i in _SUITES]
_AAD = bytes(range(32))


def _cipher(encryption: Encryption, integrity: Integrity | None, seed: int = 1) -> SkCipher:
    entropy = SeededEntropy(seed)
    key = entropy.octets(encryption.keymat_octets)
    return SkCipher(encryption, integrity, key, b"" if integrity is None else entropy.octets(integrity.key_octets))


@pytest.mark.parametrize(("encryption", "integrity"), _SUITES, ids=_IDS)
def test_what_is_sealed_opens_and_grows_by_the_overhead(encryption: Encryption, integrity: Integrity | None) -> None:
    cipher = _cipher(encryption, integrity)
    for octets in (0, 1, 14, 15, 16, 17, 255, 256, 1400):
        plaintext = SeededEntropy(octets).octets(octets)
        body = cipher.seal(_AAD, plaintext, SeededEntropy(3).octets(cipher.iv_octets))
        assert len(body) == octets + cipher.overhead(octets)
        assert cipher.open(_AAD, body) == plaintext


@pytest.mark.parametrize(("encryption", "integrity"), _SUITES, ids=_IDS)
def test_every_changed_bit_is_noticed(encryption: Encryption, integrity: Integrity | None) -> None:
    cipher = _cipher(encryption, integrity)
    body = cipher.seal(_AAD, b"twenty octets of it.", bytes(cipher.iv_octets))
    for bit in range(8 * len(body)):
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            cipher.open(_AAD, bytes(changed))
    for position in range(len(_AAD)):
        header = bytearray(_AAD)
        header[position] ^= 0x80
        with pytest.raises(IntegrityError):
            cipher.open(bytes(header), body)


@pytest.mark.parametrize(("encryption", "integrity"), _SUITES, ids=_IDS)
def test_a_shortened_body_is_refused_at_every_length(encryption: Encryption, integrity: Integrity | None) -> None:
    cipher = _cipher(encryption, integrity)
    body = cipher.seal(_AAD, b"payloads", bytes(cipher.iv_octets))
    for octets in range(len(body)):
        with pytest.raises(IntegrityError):
            cipher.open(_AAD, body[:octets])


@given(
    suite=st.sampled_from(_SUITES),
    plaintext=st.binary(max_size=2000),
    aad=st.binary(min_size=28, max_size=64),
    seed=st.integers(0, 2**32),
)
def test_any_contents_come_back_and_no_noise_opens(
    suite: tuple[Encryption, Integrity | None], plaintext: bytes, aad: bytes, seed: int
) -> None:
    cipher, entropy = _cipher(*suite, seed=seed), SeededEntropy(seed + 1)
    first, second = (cipher.seal(aad, plaintext, entropy.octets(cipher.iv_octets)) for _ in range(2))
    assert cipher.open(aad, second) == cipher.open(aad, first) == plaintext  # a context keeps nothing between messages
    assert first != second
    with pytest.raises(IntegrityError):
        cipher.open(aad, entropy.octets(len(first)))
    with pytest.raises(IntegrityError):
        cipher.open(aad, plaintext)


def test_what_is_not_for_ike_is_refused() -> None:
    for slug in ("null", "aes-128-gmac"):
        row = ENCRYPTION[slug]
        with pytest.raises(ValueError, match="does not protect IKE"):
            SkCipher(row, None, bytes(row.keymat_octets), b"")


def test_padding_longer_than_the_message_is_refused() -> None:
    aead = _cipher(ENCRYPTION["aes-128-gcm-16"], None)
    # Sealed by hand, since seal() would not write such a pad length.
    sealed = aead._mode.seal(_AAD, b"\x05\x06\x07\x09", bytes(8))
    with pytest.raises(IntegrityError, match="padding"):
        aead.open(_AAD, sealed)
    assert aead.open(_AAD, aead._mode.seal(_AAD, b"ab\xff\xfe\x02", bytes(8))) == b"ab"


def test_another_key_opens_nothing() -> None:
    encryption = ENCRYPTION["chacha20-poly1305"]
    body = _cipher(encryption, None, seed=1).seal(_AAD, b"payloads", bytes(8))
    with pytest.raises(IntegrityError):
        _cipher(encryption, None, seed=2).open(_AAD, body)


def test_keys_of_a_wrong_length_are_a_callers_fault() -> None:
    gcm, cbc, sha256 = ENCRYPTION["aes-128-gcm-16"], ENCRYPTION["aes-128-cbc"], INTEGRITY["hmac-sha2-256-128"]
    with pytest.raises(ValueError, match="key and salt"):
        SkCipher(gcm, None, bytes(16), b"")
    with pytest.raises(ValueError, match="integrity key"):
        SkCipher(gcm, None, bytes(20), bytes(1))
    with pytest.raises(ValueError, match="integrity key"):
        SkCipher(cbc, sha256, bytes(16), bytes(16))
    with pytest.raises(ValueError, match="needs an integrity"):
        SkCipher(cbc, None, bytes(16), b"")
    with pytest.raises(ValueError, match="IV"):
        _cipher(gcm, None).seal(_AAD, b"", bytes(16))


def test_chacha20_poly1305_example_of_rfc_7634_appendix_b() -> None:
    """An INFORMATIONAL message with N(SET_WINDOW_SIZE), octet by octet as the RFC prints it."""
    keymat = bytes.fromhex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3")
    message = bytes.fromhex(
        "c0c1c2c3c4c5c6c7d0d1d2d3d4d5d6d72e202500000000090000004529000029"
        "1011121314151617610394701f8d017f7c129248896b71bfe25236efd7cdc67066906315b2"
    )
    plaintext = bytes.fromhex("0000000c000040010000000a")
    cipher = SkCipher(ENCRYPTION["chacha20-poly1305"], None, keymat, b"")
    assert cipher.seal(message[:32], plaintext, bytes.fromhex("1011121314151617")) == message[32:]
    assert cipher.open(message[:32], message[32:]) == plaintext


_CAPTURES = [
    ("ikev2-decrypt-aes256cbc.pcapng", "aes-256-cbc", "hmac-sha2-256-128"),
    ("ikev2-decrypt-aes256gcm16.pcap", "aes-256-gcm-16", None),
    ("ikev2-decrypt-aes256gcm8.pcap", "aes-256-gcm-8", None),
    ("ikev2-decrypt-aes256ccm16.pcapng", "aes-256-ccm-16", None),
]


@needs_vectors
@pytest.mark.parametrize(("name", "encryption", "integrity"), _CAPTURES)
def test_a_captured_conversation_opens_with_its_keys(name: str, encryption: str, integrity: str | None) -> None:
    keys = {}
    for line in (FOLDER / "wireshark/ikev2_decryption_table.txt").read_text().splitlines():
        fields = line.split(",")
        keys[fields[0]] = fields
    expected = next(row["must_contain"] for row in load("wireshark/expected.json") if row["file"] == name)
    opened = []
    for message in ike_messages(f"wireshark/{name}"):
        if message[16] != 46:  # the first payload is not Encrypted: IKE_SA_INIT
            continue
        _, _, ei, er, _, ai, ar, _ = keys[message[:8].hex()]
        from_initiator = bool(message[19] & 0x08)
        integrity_row = None if integrity is None else INTEGRITY[integrity]
        encryption_key = bytes.fromhex(ei if from_initiator else er)
        integrity_key = bytes.fromhex(ai if from_initiator else ar)
        cipher = SkCipher(ENCRYPTION[encryption], integrity_row, encryption_key, integrity_key)
        opened.append(cipher.open(message[:32], message[32:]))
    assert len(opened) >= 2
    assert any(expected in plaintext.hex() for plaintext in opened)
