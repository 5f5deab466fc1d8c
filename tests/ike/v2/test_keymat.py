from __future__ import annotations

import hmac

import pytest

from agents.contract.algorithms import ENCRYPTION, INTEGRITY, KEY_EXCHANGE, PSEUDO_RANDOM
from agents.contract.config import IkeProposal
from agents.contract.secret import Secret
from agents.ike.crypto.prf import prf, prf_plus
from agents.ike.crypto.suite import IkeSuite
from agents.ike.v2.keymat import derive_child_keys, derive_ike_keys, psk_auth, rekey_ike_keys
from tests.vectors import load, needs_vectors

_SHA256 = PSEUDO_RANDOM["prf-hmac-sha2-256"]
_NSS = {name: PSEUDO_RANDOM[f"prf-hmac-{slug}"] for name, slug in
        (("sha1", "sha1"), ("sha256", "sha2-256"), ("sha384", "sha2-384"), ("sha512", "sha2-512"))}  # fmt: skip


def _suite(encryption: str, integrity: str | None, prf: str = "prf-hmac-sha2-256") -> IkeSuite:
    return IkeSuite.from_proposal(IkeProposal(encryption=encryption, integrity=integrity, prf=prf, group="group-31"))


def test_a_suite_holds_the_rows_its_proposal_names() -> None:
    suite = _suite("aes-256-cbc", "hmac-sha2-512-256")
    assert suite.encryption is ENCRYPTION["aes-256-cbc"]
    assert suite.integrity is INTEGRITY["hmac-sha2-512-256"]
    assert suite.prf is _SHA256
    assert suite.group is KEY_EXCHANGE["group-31"]
    assert _suite("aes-128-gcm-16", None).integrity is None


@needs_vectors
@pytest.mark.parametrize("name", sorted(_NSS))
def test_skeyseed_and_sk_d_agree_with_nss(name: str) -> None:
    """NSS's chain per hash: SKEYSEED from g^ir (ikeGxy), then 132 octets of prf+ (ikePlus), whose start is SK_d."""
    rows = load("nss-ike/nss_gtest_ike_vectors.json")[name]
    streams = [row for row in rows if row["type"] == "ikePlus" and row["size"] == 132]
    checked = 0
    for row in streams:
        seeds = [r for r in rows if r["type"] == "ikeGxy" and r["okm"] == row["ikm"]]
        for seed in seeds:
            nonce_i, nonce_r = bytes.fromhex(seed["Ni"]), bytes.fromhex(seed["Nr"])
            tail = bytes.fromhex(row["seed_data"])[len(nonce_i + nonce_r) :]
            assert bytes.fromhex(row["seed_data"]).startswith(nonce_i + nonce_r)
            suite = IkeSuite(encryption=ENCRYPTION["aes-128-cbc"], integrity=INTEGRITY["hmac-sha1-96"],
                             prf=_NSS[name], group=KEY_EXCHANGE["group-14"])  # fmt: skip
            keys = derive_ike_keys(suite, nonce_i, nonce_r, bytes.fromhex(seed["ikm"]), tail[:8], tail[8:])
            stream = keys.sk_d + keys.sk_ai + keys.sk_ar + keys.sk_ei + keys.sk_er + keys.sk_pi + keys.sk_pr
            okm = bytes.fromhex(row["okm"])
            shorter = min(len(stream), len(okm))
            assert stream[:shorter] == okm[:shorter]
            checked += 1
    assert checked


@needs_vectors
@pytest.mark.parametrize("name", sorted(_NSS))
def test_rekeying_agrees_with_nss(name: str) -> None:
    rows = [row for row in load("nss-ike/nss_gtest_ike_vectors.json")[name] if row["type"] == "ikeV2Rekey"]
    assert rows
    for row in rows:
        nonce_i, nonce_r = bytes.fromhex(row["Ni"]), bytes.fromhex(row["Nr"])
        suite = IkeSuite(encryption=ENCRYPTION["aes-128-gcm-16"], integrity=None, prf=_NSS[name],
                         group=KEY_EXCHANGE["group-14"])  # fmt: skip
        spis = bytes(range(16))
        keys = rekey_ike_keys(
            _NSS[name], bytes.fromhex(row["ikm"]), suite, nonce_i, nonce_r, bytes.fromhex(row["gxykm"]),
            spis[:8], spis[8:],
        )  # fmt: skip
        skeyseed = bytes.fromhex(row["okm"])
        assert keys.sk_d == prf_plus(_NSS[name], skeyseed, nonce_i + nonce_r + spis, _NSS[name].output_octets)


@pytest.mark.parametrize("name", ["prf-aes128-xcbc", "prf-aes128-cmac"])
def test_prfs_of_one_key_length_see_half_of_it_from_each_nonce(name: str) -> None:
    """RFC 7296 section 2.14: 64 bits of Ni and of Nr for SKEYSEED, all of them for prf+ and for a rekey (2.18)."""
    row, suite = PSEUDO_RANDOM[name], _suite("aes-128-cbc", "aes-xcbc-96", name)
    nonce_i, nonce_r, shared, spi_i, spi_r = (
        b"i" * 7 + b"Irest",
        b"r" * 7 + b"Rrest",
        b"g" * 32,
        b"12345678",
        b"abcdefgh",
    )
    keys = derive_ike_keys(suite, nonce_i, nonce_r, shared, spi_i, spi_r)
    seed = nonce_i + nonce_r + spi_i + spi_r
    skeyseed = prf(row, b"iiiiiiiIrrrrrrrR", shared)
    assert keys.sk_d == prf_plus(row, skeyseed, seed, 16)
    assert len(keys.sk_pi) == 16
    again = rekey_ike_keys(row, keys.sk_d, suite, nonce_i, nonce_r, shared, spi_i, spi_r)
    assert again.sk_d == prf_plus(row, prf(row, keys.sk_d, shared + nonce_i + nonce_r), seed, 16)


def test_the_key_lengths_are_those_of_the_suite() -> None:
    arguments = (b"i" * 32, b"r" * 32, b"g" * 32, b"12345678", b"abcdefgh")
    aead = derive_ike_keys(_suite("aes-256-gcm-16", None, "prf-hmac-sha2-512"), *arguments)
    assert [len(aead.sk_d), len(aead.sk_ai), len(aead.sk_ei), len(aead.sk_er), len(aead.sk_pr)] == [64, 0, 36, 36, 64]
    cbc = derive_ike_keys(_suite("aes-192-cbc", "hmac-sha2-384-192", "prf-hmac-sha1"), *arguments)
    assert [len(cbc.sk_d), len(cbc.sk_ar), len(cbc.sk_ei), len(cbc.sk_pi)] == [20, 48, 24, 20]


def test_a_childs_keys_are_cut_initiator_first_and_encryption_first() -> None:
    """RFC 7296 section 2.17."""
    nonce_i, nonce_r, sk_d = b"i" * 16, b"r" * 16, b"d" * 32
    encryption, integrity = ENCRYPTION["aes-128-cbc"], INTEGRITY["hmac-sha2-256-128"]
    for shared in (None, b"s" * 32):
        keys = derive_child_keys(_SHA256, sk_d, nonce_i, nonce_r, shared, encryption, integrity)
        stream = prf_plus(_SHA256, sk_d, (shared or b"") + nonce_i + nonce_r, 96)
        assert keys.encr_i == Secret(stream[:16])
        assert keys.integ_i == Secret(stream[16:48])
        assert keys.encr_r == Secret(stream[48:64])
        assert keys.integ_r == Secret(stream[64:])


def test_an_aead_childs_keys_end_with_the_salt_and_have_no_integrity() -> None:
    keys = derive_child_keys(_SHA256, b"d" * 32, b"i" * 16, b"r" * 16, None, ENCRYPTION["aes-128-gcm-16"], None)
    assert (len(keys.encr_i), len(keys.encr_r)) == (20, 20)
    assert keys.integ_i is None
    assert keys.integ_r is None


def test_keys_do_not_print() -> None:
    keys = derive_ike_keys(_suite("aes-128-gcm-16", None), b"i" * 16, b"r" * 16, b"g" * 32, b"12345678", b"abcdefgh")
    assert repr(keys) == "IkeKeys()"
    child = derive_child_keys(_SHA256, b"d" * 32, b"i" * 16, b"r" * 16, None, ENCRYPTION["aes-128-gcm-16"], None)
    assert child.encr_i.reveal().hex() not in repr(child)


def test_psk_auth_is_the_formula_of_section_2_15() -> None:
    psk, first, nonce, sk_p, identity = b"a PSK", b"message octets", b"n" * 24, b"p" * 32, b"\2\0\0\0peer.example"
    inner = hmac.digest(psk, b"Key Pad for IKEv2", "sha256")
    expected = hmac.digest(inner, first + nonce + hmac.digest(sk_p, identity, "sha256"), "sha256")
    assert psk_auth(_SHA256, Secret(psk), first, nonce, sk_p, identity) == expected
    assert psk_auth(_SHA256, Secret(b"another"), first, nonce, sk_p, identity) != expected
