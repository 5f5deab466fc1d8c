from __future__ import annotations

import hmac
from typing import Any

import pytest

from agents.contract.algorithms import PSEUDO_RANDOM
from agents.ike.crypto.prf import prf, prf_plus
from tests.vectors import load, needs_vectors

_SHA256 = PSEUDO_RANDOM["prf-hmac-sha2-256"]
_BY_STRONGSWAN_NAME = {
    "PRF_HMAC_SHA2_256": _SHA256,
    "PRF_HMAC_SHA2_384": PSEUDO_RANDOM["prf-hmac-sha2-384"],
    "PRF_HMAC_SHA2_512": PSEUDO_RANDOM["prf-hmac-sha2-512"],
}
_BY_NSS_NAME = {"sha1": PSEUDO_RANDOM["prf-hmac-sha1"], "sha256": _SHA256, "sha384": PSEUDO_RANDOM["prf-hmac-sha2-384"],
                "sha512": PSEUDO_RANDOM["prf-hmac-sha2-512"]}  # fmt: skip


def _strongswan(table: str) -> list[Any]:
    rows = load("strongswan-test-vectors/strongswan_test_vectors.json")
    return [pytest.param(row, id=row["name"]) for row in rows.get(table, [])]


def test_hmac_sha256_of_rfc_4231_section_4_3() -> None:
    digest = prf(_SHA256, b"Jefe", b"what do ya want for nothing?")
    assert digest.hex() == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


def test_a_key_longer_than_the_block_is_hashed_first_as_in_rfc_4231_section_4_7() -> None:
    digest = prf(_SHA256, b"\xaa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First")
    assert digest.hex() == "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"


# RFC 4434 section 3 and RFC 4615 section 4: 16, 10 and 18 octets of key, 20 octets of data.
@pytest.mark.parametrize(
    ("slug", "key_octets", "output"),
    [
        ("prf-aes128-xcbc", 16, "47f51b4564966215b8985c63055ed308"),
        ("prf-aes128-xcbc", 10, "0fa087af7d866e7653434e602fdde835"),
        ("prf-aes128-xcbc", 18, "8cd3c93ae598a9803006ffb67c40e9e4"),
        ("prf-aes128-cmac", 16, "980ae87b5f4c9c5214f5b6a8455e4c2d"),
        ("prf-aes128-cmac", 10, "290d9e112edb09ee141fcf64c0b72f3d"),
        ("prf-aes128-cmac", 18, "84a348a4a45d235babfffc0d2b4da09a"),
    ],
)
def test_prfs_of_aes_take_keys_of_any_length(slug: str, key_octets: int, output: str) -> None:
    key = (bytes(range(16)) + b"\xed\xcb")[:key_octets]
    assert prf(PSEUDO_RANDOM[slug], key, bytes(range(20))).hex() == output


@pytest.mark.parametrize("slug", PSEUDO_RANDOM)
@pytest.mark.parametrize("key_octets", [0, 1, 16, 17, 64, 200])
def test_prf_plus_is_a_chain_of_prfs(slug: str, key_octets: int) -> None:
    row, key = PSEUDO_RANDOM[slug], bytes(range(key_octets))
    first = prf(row, key, b"seed\1")
    second = prf(row, key, first + b"seed\2")
    assert len(first) == row.output_octets
    assert prf_plus(row, key, b"seed", 2 * row.output_octets - 3) == (first + second)[:-3]


@needs_vectors
@pytest.mark.parametrize("row", _strongswan("kdf_prf"))
def test_prf_agrees_with_the_cavp_rows_strongswan_keeps(row: dict[str, str]) -> None:
    alg = _BY_STRONGSWAN_NAME[row["arg.prf"]]
    # In these rows key is the shared secret and salt the nonces: SKEYSEED = prf(Ni | Nr, g^ir).
    assert prf(alg, bytes.fromhex(row["salt"]), bytes.fromhex(row["key"])).hex() == row["out"]


@needs_vectors
@pytest.mark.parametrize("row", _strongswan("kdf_prf_plus"))
def test_prf_plus_agrees_with_the_cavp_rows_strongswan_keeps(row: dict[str, str]) -> None:
    alg = _BY_STRONGSWAN_NAME[row["arg.prf"]]
    expected = bytes.fromhex(row["out"])
    assert prf_plus(alg, bytes.fromhex(row["key"]), bytes.fromhex(row["salt"]), len(expected)) == expected


@needs_vectors
@pytest.mark.parametrize("name", sorted(_BY_NSS_NAME))
def test_prf_plus_agrees_with_every_row_of_nss(name: str) -> None:
    alg = _BY_NSS_NAME[name]
    rows = [row for row in load("nss-ike/nss_gtest_ike_vectors.json")[name] if row["type"] == "ikePlus"]
    assert rows
    for row in rows:
        expected = bytes.fromhex(row["okm"])
        got = prf_plus(alg, bytes.fromhex(row["ikm"]), bytes.fromhex(row["seed_data"]), int(row["size"]))
        assert got == expected, row["id"]


@needs_vectors
@pytest.mark.parametrize("name", sorted(_BY_NSS_NAME))
def test_prf_agrees_with_wycheproof(name: str) -> None:
    alg = _BY_NSS_NAME[name]
    checked = 0
    for group in load(f"wycheproof/hmac_{name}_test.json.xz")["testGroups"]:
        for row in group["tests"]:
            tag = prf(alg, bytes.fromhex(row["key"]), bytes.fromhex(row["msg"]))[: group["tagSize"] // 8]
            assert hmac.compare_digest(tag.hex(), row["tag"]) == (row["result"] == "valid"), row["tcId"]
            checked += 1
    assert checked > 100


def test_prf_plus_ends_after_255_blocks() -> None:
    assert len(prf_plus(_SHA256, b"k", b"s", 255 * 32)) == 255 * 32
    with pytest.raises(ValueError, match="at most"):
        prf_plus(_SHA256, b"k", b"s", 255 * 32 + 1)


def test_a_shorter_stream_is_the_start_of_a_longer_one() -> None:
    long = prf_plus(_SHA256, b"k", b"s", 200)
    assert all(prf_plus(_SHA256, b"k", b"s", octets) == long[:octets] for octets in (0, 1, 31, 32, 33, 64, 199))
