"""MACs, AEADs and ciphers against the examples of their RFCs and other people's tables."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.algorithms import ENCRYPTION, INTEGRITY
from agents.ike.crypto.cipher import _Cbc, _Counter
from agents.ike.crypto.primitives import _ShortGcm, aead, block_cipher, keyed_mac
from tests.vectors import load, needs_vectors

_COUNTING = bytes(range(16))
_NIST_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
_NIST_TEXT = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
_BY_STRONGSWAN_NAME = {
    "ENCR_AES_GCM_ICV16": "gcm-16", "ENCR_AES_GCM_ICV12": "gcm-12", "ENCR_AES_GCM_ICV8": "gcm-8",
    "ENCR_AES_CCM_ICV16": "ccm-16", "ENCR_AES_CCM_ICV12": "ccm-12", "ENCR_AES_CCM_ICV8": "ccm-8",
    "AUTH_AES_XCBC_96": "aes-xcbc-96", "AUTH_AES_CMAC_96": "aes-cmac-96", "AUTH_HMAC_MD5_96": "hmac-md5-96",
    "AUTH_HMAC_SHA1_96": "hmac-sha1-96", "AUTH_HMAC_SHA2_256_128": "hmac-sha2-256-128",
    "AUTH_HMAC_SHA2_384_192": "hmac-sha2-384-192", "AUTH_HMAC_SHA2_512_256": "hmac-sha2-512-256",
}  # fmt: skip


def _rows(*tables: str) -> list[Any]:
    vectors = load("strongswan-test-vectors/strongswan_test_vectors.json")
    return [pytest.param(row, id=row["name"]) for table in tables for row in vectors.get(table, [])]


def _aead_rows() -> list[Any]:
    """One of the table's rows has a key that is two keys run together."""
    rows = _rows("aes_gcm", "aes_ccm", "chacha20poly1305")
    values = [row.values[0] for row in rows]
    kept = [row for row in values if len(row["key"]) // 2 == row["key_size"] + row["salt_size"]]
    assert len(kept) >= len(values) - 1
    return [pytest.param(row, id=row["name"]) for row in kept]


@pytest.mark.parametrize(
    ("message", "mac"),
    [
        (b"", "75f0251d528ac01c4573dfd584d79f29"),
        (bytes(range(3)), "5b376580ae2f19afe7219ceef172756f"),
        (bytes(range(16)), "d2a246fa349b68a79998a4394ff7a263"),
        (bytes(range(20)), "47f51b4564966215b8985c63055ed308"),
        (bytes(range(32)), "f54f0ec8d2b9f3d36807734bd5283fd4"),
        (bytes(range(34)), "becbb3bccdb518a30677d5481fb6b4d8"),
        (bytes(1000), "f0dafee895db30253761103b5d84528f"),
    ],
)
def test_aes_xcbc_of_rfc_3566_section_4_6(message: bytes, mac: str) -> None:
    assert keyed_mac("aes-xcbc", _COUNTING)(message).hex() == mac


@pytest.mark.parametrize(
    ("octets", "mac"),
    [
        (0, "bb1d6929e95937287fa37d129b756746"),
        (16, "070a16b46b4d4144f79bdd9dd04a287c"),
        (40, "dfa66747de9ae63030ca32611497c827"),
        (64, "51f0bebf7e3b9d92fc49741779363cfe"),
    ],
)
def test_aes_cmac_of_rfc_4493_section_4(octets: int, mac: str) -> None:
    """RFC 4494 cuts these to 96 bits."""
    assert keyed_mac("aes-cmac", _NIST_KEY)(_NIST_TEXT[:octets]).hex() == mac


@pytest.mark.parametrize(
    ("key", "message", "mac"),
    [
        (b"\x0b" * 16, b"Hi There", "9294727a3638bb1c13f48ef8158bfc9d"),
        (b"Jefe", b"what do ya want for nothing?", "750c783e6ab0b503eaa86e310a5db738"),
    ],
)
def test_hmac_md5_of_rfc_2202_section_2(key: bytes, message: bytes, mac: str) -> None:
    assert keyed_mac("md5", key)(message).hex() == mac


def test_a_keyed_mac_has_no_memory() -> None:
    for row in INTEGRITY.values():
        mac = keyed_mac(row.hash, bytes(row.key_octets))
        first = mac(b"one message of more than a block")
        assert mac(b"") != mac(b"\0")
        assert mac(b"one message of more than a block") == first
        assert len(first) >= row.icv_octets


def test_aes_ctr_of_rfc_3686_section_6() -> None:
    """Test vectors 1 and 3; the last four octets of the key are the nonce."""
    one = _Counter(bytes.fromhex("ae6852f8121067cc4bf7a5765577f39e00000030"))
    assert one.encrypt(bytes(8), b"Single block msg").hex() == "e4095d4fb7a7b3792d6175a3261311b8"
    three = _Counter(bytes.fromhex("7691be035e5020a8ac6e618529f9a0dc00e0017b"))
    sealed = three.encrypt(bytes.fromhex("27777f3f4a1786f0"), bytes(range(36)))
    assert sealed.hex() == "c1cf48a89f2ffdd9cf4652e9efdb72d74540a42bde6d7836d59a5ceaaef3105325b2072f"
    assert three.decrypt(bytes.fromhex("27777f3f4a1786f0"), sealed) == bytes(range(36))


def test_camellia_of_rfc_3713_appendix_a() -> None:
    """With a zero IV the first block of CBC (RFC 5529) is the block cipher itself."""
    text = bytes.fromhex("0123456789abcdeffedcba9876543210")
    key = text + bytes.fromhex("00112233445566778899aabbccddeeff")
    for bits, sealed in (
        (128, "67673138549669730857065648eabe43"),
        (192, "b4993401b3e996f84ee5cee7d79b09b9"),
        (256, "9acc237dff16d76c20ef7c919e3a7509"),
    ):
        cbc = _Cbc(ENCRYPTION[f"camellia-{bits}-cbc"], key[: bits // 8])
        assert cbc.encrypt(bytes(16), text).hex() == sealed
        assert cbc.decrypt(bytes(16), bytes.fromhex(sealed)) == text


def test_des_of_fips_81_appendix_c() -> None:
    cbc = _Cbc(ENCRYPTION["des-cbc"], bytes.fromhex("0123456789abcdef"))
    iv = bytes.fromhex("1234567890abcdef")
    sealed = cbc.encrypt(iv, b"Now is the time for all ")
    assert sealed.hex() == "e5c7cdde872bf27c43e934008c389c0f683788499a7c05f6"
    assert cbc.decrypt(iv, sealed) == b"Now is the time for all "


def test_a_row_without_a_block_cipher_has_none() -> None:
    with pytest.raises(ValueError, match="not a block cipher"):
        block_cipher(ENCRYPTION["chacha20-poly1305"], bytes(32))


@given(st.binary(max_size=200), st.binary(max_size=60), st.sampled_from([8, 12]), st.integers(0, 10_000))
def test_a_short_gcm_is_the_long_one_cut(data: bytes, aad: bytes, icv_octets: int, bit: int) -> None:
    short, long = _ShortGcm(_COUNTING, icv_octets), aead(ENCRYPTION["aes-128-gcm-16"], _COUNTING)
    nonce = bytes(12)
    sealed = short.encrypt(nonce, data, aad)
    assert sealed == long.encrypt(nonce, data, aad)[: icv_octets - 16]
    assert short.decrypt(nonce, sealed, aad) == data
    changed = bytearray(sealed)
    changed[bit // 8 % len(changed)] ^= 1 << bit % 8
    with pytest.raises(InvalidTag):
        short.decrypt(nonce, bytes(changed), aad)
    with pytest.raises(InvalidTag):
        short.decrypt(nonce, sealed, aad + b"\0")
    with pytest.raises(InvalidTag):
        short.decrypt(nonce, sealed[: icv_octets - 1], aad)


@needs_vectors
@pytest.mark.parametrize("row", _aead_rows())
def test_aeads_agree_with_strongswan(row: dict[str, Any]) -> None:
    kind = _BY_STRONGSWAN_NAME.get(row["alg"])
    keymat, iv, aad, plain, sealed = (
        bytes.fromhex(row.get(name, "")) for name in ("key", "iv", "adata", "plain", "cipher")
    )
    key, salt = keymat[: row["key_size"]], keymat[row["key_size"] :]
    slug = "chacha20-poly1305" if kind is None else f"aes-{len(key) * 8}-{kind}"
    assert len(salt) == ENCRYPTION[slug].salt_octets
    cipher = aead(ENCRYPTION[slug], key)
    assert cipher.encrypt(salt + iv, plain, aad) == sealed
    assert cipher.decrypt(salt + iv, sealed, aad) == plain


@needs_vectors
@pytest.mark.parametrize("row", _rows("camellia_cbc", "3des_cbc", "aes_cbc"))
def test_cbc_agrees_with_strongswan(row: dict[str, Any]) -> None:
    bits = row["key_size"] * 8
    slug = {"ENCR_CAMELLIA_CBC": f"camellia-{bits}-cbc", "ENCR_3DES": "3des-cbc", "ENCR_AES_CBC": f"aes-{bits}-cbc"}
    key, iv, plain, sealed = (bytes.fromhex(row[name]) for name in ("key", "iv", "plain", "cipher"))
    cbc = _Cbc(ENCRYPTION[slug[row["alg"]]], key)
    assert cbc.encrypt(iv, plain) == sealed
    assert cbc.decrypt(iv, sealed) == plain


@needs_vectors
@pytest.mark.parametrize("row", _rows("aes_ctr"))
def test_counter_mode_agrees_with_strongswan(row: dict[str, Any]) -> None:
    key, iv, plain, sealed = (bytes.fromhex(row[name]) for name in ("key", "iv", "plain", "cipher"))
    assert _Counter(key).encrypt(iv, plain) == sealed


@needs_vectors
def test_macs_agree_with_strongswan() -> None:
    checked = 0
    for table in ("aes_xcbc", "aes_cmac", "md5_hmac", "sha1_hmac", "sha2_hmac"):
        for row in load("strongswan-test-vectors/strongswan_test_vectors.json")[table]:
            slug = _BY_STRONGSWAN_NAME.get(row["alg"])
            if slug is None or "mac" not in row:
                continue
            mac = keyed_mac(INTEGRITY[slug].hash, bytes.fromhex(row["key"]))(bytes.fromhex(row["data"]))
            octets = INTEGRITY[slug].icv_octets
            assert mac[:octets] == bytes.fromhex(row["mac"])[:octets], row["name"]
            checked += 1
    assert checked > 15


@needs_vectors
@pytest.mark.parametrize(
    ("name", "iv_bits", "icv_octets"),
    [("aes_ccm", 88, (8, 12, 16)), ("aes_gcm", 96, (16,)), ("chacha20_poly1305", 96, (16,))],
)
def test_aeads_agree_with_wycheproof(name: str, iv_bits: int, icv_octets: tuple[int, ...]) -> None:
    """Only the sizes of ESP and IKE: nonces of salt and IV."""
    opened = refused = 0
    for group in load(f"wycheproof/{name}_test.json.xz")["testGroups"]:
        if group["tagSize"] // 8 not in icv_octets or group["ivSize"] != iv_bits:
            continue
        mode = name.removeprefix("aes_")
        slug = f"aes-{group['keySize']}-{mode}-{group['tagSize'] // 8}" if name[:3] == "aes" else "chacha20-poly1305"
        for row in group["tests"]:
            key, nonce, aad, plain, ct, tag = (
                bytes.fromhex(row[field]) for field in ("key", "iv", "aad", "msg", "ct", "tag")
            )
            cipher = aead(ENCRYPTION[slug], key)
            if row["result"] == "valid":
                assert cipher.encrypt(nonce, plain, aad) == ct + tag
                assert cipher.decrypt(nonce, ct + tag, aad) == plain
                opened += 1
            else:
                with pytest.raises(InvalidTag):
                    cipher.decrypt(nonce, ct + tag, aad)
                refused += 1
    assert opened > 2
    assert refused > 2 or name == "aes_ccm"


@needs_vectors
def test_cmac_agrees_with_wycheproof() -> None:
    agreed = refused = 0
    for group in load("wycheproof/aes_cmac_test.json.xz")["testGroups"]:
        if group["keySize"] != 128:
            continue
        for row in group["tests"]:
            mac = keyed_mac("aes-cmac", bytes.fromhex(row["key"]))(bytes.fromhex(row["msg"]))
            same = mac[: group["tagSize"] // 8].hex() == row["tag"]
            assert same == (row["result"] == "valid"), row["tcId"]
            agreed, refused = agreed + same, refused + (not same)
    assert agreed > 20
    assert refused > 20
