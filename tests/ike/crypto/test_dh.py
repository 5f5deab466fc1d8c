from __future__ import annotations

import random
import warnings
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agents.contract.algorithms import KEY_EXCHANGE, KeyExchange
from agents.ike.crypto import ffdh
from agents.ike.crypto.dh import InvalidPublicValue, KeyPair, _Curve25519, _PrimeCurve
from tests.vectors import load, needs_vectors

from .seeded import FixedEntropy, SeededEntropy

_GROUPS = [pytest.param(row, id=slug) for slug, row in KEY_EXCHANGE.items()]
_STRONGSWAN_METHODS = {
    "MODP_2048_BIT": 14, "MODP_3072_BIT": 15, "MODP_4096_BIT": 16,
    "ECP_256_BIT": 19, "ECP_384_BIT": 20, "ECP_521_BIT": 21, "CURVE_25519": 31,
}  # fmt: skip
_BY_NUMBER = {row.number: row for row in KEY_EXCHANGE.values()}
_CURVES = {19: ec.SECP256R1(), 20: ec.SECP384R1(), 21: ec.SECP521R1()}
_MODP_BITS = {14: 2048, 15: 3072, 16: 4096}


def _strongswan_rows() -> list[Any]:
    tables = load("strongswan-test-vectors/strongswan_test_vectors.json")
    rows = [row for table in ("modp", "ecp", "curve25519") for row in tables.get(table, [])]
    return [pytest.param(row, id=row["name"]) for row in rows if row["method"] in _STRONGSWAN_METHODS]


def _private(group: int, octets: bytes) -> Any:
    if group == 31:
        return _Curve25519(octets)
    if group in _CURVES:
        return _PrimeCurve(_CURVES[group], int.from_bytes(octets, "big"))
    return ffdh.PrivateExponent(_MODP_BITS[group], int.from_bytes(octets, "big"))


@pytest.mark.parametrize("group", _GROUPS)
def test_both_ends_reach_the_same_secret(group: KeyExchange) -> None:
    here = KeyPair.generate(group, SeededEntropy(1))
    there = KeyPair.generate(group, SeededEntropy(2))
    assert len(here.public) == group.public_octets
    assert here.public != there.public
    assert here.shared(there.public) == there.shared(here.public)


@pytest.mark.parametrize("group", _GROUPS)
def test_a_seed_repeats_octet_by_octet(group: KeyExchange) -> None:
    assert KeyPair.generate(group, SeededEntropy(7)).public == KeyPair.generate(group, SeededEntropy(7)).public


@pytest.mark.parametrize("group", _GROUPS)
def test_a_public_value_of_another_length_is_refused(group: KeyExchange) -> None:
    pair = KeyPair.generate(group, SeededEntropy(1))
    for value in (b"", pair.public[:-1], pair.public + b"\0"):
        with pytest.raises(InvalidPublicValue, match="octets"):
            pair.shared(value)


@pytest.mark.parametrize("number", [14, 15, 16])
def test_modp_values_outside_the_range_are_refused(number: int) -> None:
    """RFC 6989 section 2.1: 1 < y < p - 1."""
    group = _BY_NUMBER[number]
    pair = KeyPair.generate(group, SeededEntropy(1))
    p = ffdh.modulus(_MODP_BITS[number])
    for value in (0, 1, p - 1, p, p + 1, 2 ** (8 * group.public_octets) - 1):
        with pytest.raises(InvalidPublicValue, match="range"):
            pair.shared(value.to_bytes(group.public_octets, "big"))
    assert pair.shared((p - 2).to_bytes(group.public_octets, "big"))


@pytest.mark.parametrize("number", [14, 15, 16])
def test_the_modp_public_value_is_the_generator_to_the_exponent(number: int) -> None:
    bits = _MODP_BITS[number]
    exponent = random.Random(number).getrandbits(300)
    private = ffdh.PrivateExponent(bits, exponent)
    assert int.from_bytes(private.public, "big") == pow(2, exponent, ffdh.modulus(bits))


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_the_modp_moduli_are_safe_primes(bits: int) -> None:
    """A wrong digit of pi would make one of these composite with all but certainty."""
    p = ffdh.modulus(bits)
    assert p.bit_length() == bits
    assert pow(3, p - 1, p) == 1
    assert pow(3, (p - 1) // 2 - 1, (p - 1) // 2) == 1


@pytest.mark.parametrize("number", [19, 20, 21])
def test_a_point_off_the_curve_is_refused(number: int) -> None:
    """RFC 6989 section 2.3."""
    group = _BY_NUMBER[number]
    pair = KeyPair.generate(group, SeededEntropy(1))
    other = bytearray(KeyPair.generate(group, SeededEntropy(2)).public)
    other[-1] ^= 1
    for value in (bytes(other), bytes(group.public_octets), b"\xff" * group.public_octets):
        with pytest.raises(InvalidPublicValue, match="curve"):
            pair.shared(value)


def test_the_smallest_and_largest_draw_give_a_valid_private_value() -> None:
    for number in (19, 20, 21):
        group = _BY_NUMBER[number]
        for drawn in (b"\0", b"\xff" * (group.public_octets // 2 + 8)):
            assert len(KeyPair.generate(group, FixedEntropy(drawn)).public) == group.public_octets


@needs_vectors
@pytest.mark.parametrize("row", _strongswan_rows())
def test_public_and_shared_values_agree_with_strongswan(row: dict[str, str]) -> None:
    group = _STRONGSWAN_METHODS[row["method"]]
    seed = bytes.fromhex(row["seed"])
    private_i, private_r = seed[: len(seed) // 2], seed[len(seed) // 2 :]
    i, r = _private(group, private_i), _private(group, private_r)
    assert i.public.hex() == row["pub_i"]
    assert r.public.hex() == row["pub_r"]
    assert i.shared(r.public).hex() == row["shared"] == r.shared(i.public).hex()


@needs_vectors
def test_x25519_agrees_with_wycheproof() -> None:
    checked = refused = 0
    for row in load("wycheproof/x25519_test.json.xz")["testGroups"][0]["tests"]:
        pair = _Curve25519(bytes.fromhex(row["private"]))
        if set(row["shared"]) == {"0"}:
            with pytest.raises(InvalidPublicValue):
                pair.shared(bytes.fromhex(row["public"]))
            refused += 1
        else:
            assert pair.shared(bytes.fromhex(row["public"])).hex() == row["shared"], row["tcId"]
        checked += 1
    assert checked > 500
    assert refused > 10


@needs_vectors
@pytest.mark.parametrize(("number", "curve"), [(19, "secp256r1"), (20, "secp384r1"), (21, "secp521r1")])
def test_ecdh_agrees_with_wycheproof(number: int, curve: str) -> None:
    group = _BY_NUMBER[number]
    agreed = refused = 0
    for row in load(f"wycheproof/ecdh_{curve}_ecpoint_test.json.xz")["testGroups"][0]["tests"]:
        public = bytes.fromhex(row["public"])
        if not public.startswith(b"\x04"):
            continue  # IKE carries x and y only: a compressed or empty point has no form in a KE payload
        pair = KeyPair(group, _PrimeCurve(_CURVES[number], int(row["private"], 16)))
        if row["result"] == "valid":
            assert pair.shared(public[1:]).hex() == row["shared"], row["tcId"]
            agreed += 1
        else:
            with pytest.raises(InvalidPublicValue):
                pair.shared(public[1:])
            refused += 1
    assert agreed > 100
    assert refused > 5


def test_the_deprecated_library_part_warns_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair = KeyPair.generate(_BY_NUMBER[14], SeededEntropy(1))
        pair.shared(KeyPair.generate(_BY_NUMBER[14], SeededEntropy(2)).public)


def test_a_key_pair_prints_its_group_only() -> None:
    assert repr(KeyPair.generate(_BY_NUMBER[31], SeededEntropy(1))) == "KeyPair(group-31)"
