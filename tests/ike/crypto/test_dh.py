from __future__ import annotations

import random
import warnings
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from agents.contract.algorithms import KEY_EXCHANGE, KeyExchange
from agents.ike.crypto import brainpool224, ffdh
from agents.ike.crypto.dh import (
    _CURVES,
    InvalidPublicValue,
    KeyPair,
    _Curve448,
    _Curve25519,
    _encapsulate,
    _Kem,
    _PrimeCurve,
    respond,
)
from tests.vectors import load, needs_vectors

from .seeded import FixedEntropy, SeededEntropy

_GROUPS = [pytest.param(row, id=slug) for slug, row in KEY_EXCHANGE.items()]
_SYMMETRIC = [pytest.param(row, id=slug) for slug, row in KEY_EXCHANGE.items() if not row.additional_only]
_KEMS = [pytest.param(row, id=slug) for slug, row in KEY_EXCHANGE.items() if row.additional_only]
_STRONGSWAN_METHODS = {
    "MODP_768_BIT": 1, "MODP_1024_BIT": 2, "MODP_1536_BIT": 5, "MODP_2048_BIT": 14, "MODP_3072_BIT": 15,
    "MODP_4096_BIT": 16, "MODP_6144_BIT": 17, "MODP_8192_BIT": 18,
    "MODP_1024_160": 22, "MODP_2048_224": 23, "MODP_2048_256": 24,
    "ECP_256_BIT": 19, "ECP_384_BIT": 20, "ECP_521_BIT": 21,
    "ECP_224_BP": 27, "ECP_256_BP": 28, "ECP_384_BP": 29, "ECP_512_BP": 30,
    "CURVE_25519": 31, "CURVE_448": 32,
}  # fmt: skip
_STRONGSWAN_TABLES = ("modp", "modpsub", "ecp", "ecpbp", "curve25519", "curve448")
_BY_NUMBER = {row.number: row for row in KEY_EXCHANGE.values()}
_MODP = sorted(ffdh.GROUPS)
_SAFE = [number for number in _MODP if ffdh.GROUPS[number].q is None]
_SUBGROUPS = [number for number in _MODP if ffdh.GROUPS[number].q is not None]
_POINTS = [27, *_CURVES]


def _strongswan_rows() -> list[Any]:
    tables = load("strongswan-test-vectors/strongswan_test_vectors.json")
    rows = [row for table in _STRONGSWAN_TABLES for row in tables.get(table, [])]
    return [pytest.param(row, id=row["name"]) for row in rows if row["method"] in _STRONGSWAN_METHODS]


def _private(group: int, octets: bytes) -> Any:
    if group == 31:
        return _Curve25519(octets)
    if group == 32:
        return _Curve448(octets)
    scalar = int.from_bytes(octets, "big")
    if group == 27:
        return brainpool224.PrivateScalar(scalar)
    if group in _CURVES:
        return _PrimeCurve(_CURVES[group], scalar)
    return ffdh.private_value(group, scalar)


@pytest.mark.parametrize("group", _GROUPS)
def test_both_ends_reach_the_same_secret(group: KeyExchange) -> None:
    initiator = KeyPair.generate(group, SeededEntropy(1))
    answer, shared = respond(group, initiator.public, SeededEntropy(2))
    assert len(initiator.public) == group.public_octets
    assert len(answer) == (group.response_octets or group.public_octets)
    assert initiator.public != answer
    assert initiator.shared(answer) == shared


@pytest.mark.parametrize("group", _SYMMETRIC)
def test_a_responder_repeats_with_its_seed(group: KeyExchange) -> None:
    public = KeyPair.generate(group, SeededEntropy(1)).public
    pair = KeyPair.generate(group, SeededEntropy(2))
    assert respond(group, public, SeededEntropy(2)) == (pair.public, pair.shared(public))


@pytest.mark.parametrize("group", _GROUPS)
def test_a_seed_repeats_octet_by_octet(group: KeyExchange) -> None:
    assert KeyPair.generate(group, SeededEntropy(7)).public == KeyPair.generate(group, SeededEntropy(7)).public


@pytest.mark.parametrize("group", _GROUPS)
def test_a_public_value_of_another_length_is_refused(group: KeyExchange) -> None:
    pair = KeyPair.generate(group, SeededEntropy(1))
    answer = bytes(group.response_octets or group.public_octets)
    for value in (b"", answer[:-1], answer + b"\0"):
        with pytest.raises(InvalidPublicValue, match="octets"):
            pair.shared(value)
    for value in (b"", pair.public[:-1], pair.public + b"\0"):
        with pytest.raises(InvalidPublicValue, match="octets"):
            respond(group, value, SeededEntropy(2))


@pytest.mark.parametrize("number", _MODP)
def test_modp_values_outside_the_range_are_refused(number: int) -> None:
    """RFC 6989 section 2.1: 1 < y < p - 1."""
    group = _BY_NUMBER[number]
    pair = KeyPair.generate(group, SeededEntropy(1))
    p = ffdh.GROUPS[number].p
    for value in (0, 1, p - 1, p, p + 1, 2 ** (8 * group.public_octets) - 1):
        with pytest.raises(InvalidPublicValue, match="range"):
            pair.shared(value.to_bytes(group.public_octets, "big"))


@pytest.mark.parametrize("number", _SAFE)
def test_the_last_value_of_the_range_is_taken(number: int) -> None:
    group = _BY_NUMBER[number]
    last = (ffdh.GROUPS[number].p - 2).to_bytes(group.public_octets, "big")
    assert KeyPair.generate(group, SeededEntropy(1)).shared(last)


@pytest.mark.parametrize("number", _SUBGROUPS)
def test_a_value_outside_the_subgroup_is_refused(number: int) -> None:
    """RFC 6989 section 2.2: y^q = 1, so that nothing of the exponent leaks through a small subgroup."""
    group, modp = _BY_NUMBER[number], ffdh.GROUPS[number]
    assert modp.q is not None
    pair = KeyPair.generate(group, SeededEntropy(1))
    for value in (2, 3, modp.p - 2, modp.g * 2 % modp.p, modp.p - modp.g):
        inside = pow(value, modp.q, modp.p) == 1
        assert not inside
        with pytest.raises(InvalidPublicValue, match="subgroup"):
            pair.shared(value.to_bytes(group.public_octets, "big"))
    assert pair.shared(pow(modp.g, 12345, modp.p).to_bytes(group.public_octets, "big"))


@pytest.mark.parametrize("number", _MODP)
def test_the_modp_public_value_is_the_generator_to_the_exponent(number: int) -> None:
    group = ffdh.GROUPS[number]
    exponent = random.Random(number).getrandbits(150)
    private = ffdh.private_value(number, exponent)
    assert int.from_bytes(private.public, "big") == pow(group.g, exponent, group.p)


@pytest.mark.parametrize("number", _MODP)
def test_the_modp_constants_make_a_group(number: int) -> None:
    """A wrong digit of pi, or of RFC 5114, would make p composite and this fail with all but certainty."""
    group = ffdh.GROUPS[number]
    assert group.octets == _BY_NUMBER[number].public_octets
    q = group.q or (group.p - 1) // 2
    assert (group.p - 1) % q == 0
    assert pow(group.g, q, group.p) == 1
    assert q.bit_length() > 3072 or pow(3, q - 1, q) == 1


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_library_never_sees_a_legacy_group(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It validates a group it does not know for every peer value: 25 ms that anybody could make us spend."""
    monkeypatch.setattr(ffdh, "dh", None)
    public = KeyPair.generate(_BY_NUMBER[number], SeededEntropy(1)).public
    assert respond(_BY_NUMBER[number], public, SeededEntropy(2))


@pytest.mark.parametrize("number", _POINTS)
def test_a_point_off_the_curve_is_refused(number: int) -> None:
    """RFC 6989 section 2.3."""
    group = _BY_NUMBER[number]
    pair = KeyPair.generate(group, SeededEntropy(1))
    other = bytearray(KeyPair.generate(group, SeededEntropy(2)).public)
    other[-1] ^= 1
    for value in (bytes(other), bytes(group.public_octets), b"\xff" * group.public_octets):
        with pytest.raises(InvalidPublicValue, match="curve"):
            pair.shared(value)


@pytest.mark.parametrize("number", _POINTS)
def test_the_smallest_and_largest_draw_give_a_valid_private_value(number: int) -> None:
    group = _BY_NUMBER[number]
    for drawn in (b"\0", b"\xff" * (group.public_octets // 2 + 8)):
        assert len(KeyPair.generate(group, FixedEntropy(drawn)).public) == group.public_octets


@pytest.mark.parametrize("number", _SUBGROUPS)
def test_the_smallest_and_largest_exponent_of_a_subgroup_are_valid(number: int) -> None:
    group = ffdh.GROUPS[number]
    assert group.q is not None
    for drawn, exponent in ((0, 2), (group.q - 3, group.q - 1)):
        pair = ffdh.draw(number, FixedEntropy(drawn.to_bytes(group.exponent_octets, "big")))
        assert int.from_bytes(pair.public, "big") == pow(group.g, exponent, group.p)


class TestBrainpool224:
    """The curve computed here, against the group laws and a slow addition of its own."""

    def test_the_constants_of_rfc_5639_are_a_group_of_that_order(self) -> None:
        assert brainpool224.on_curve(brainpool224._GENERATOR)
        assert pow(3, brainpool224.ORDER - 1, brainpool224.ORDER) == 1
        # (order - 1) * G = -G, so order * G is the point at infinity.
        x, y = brainpool224._GENERATOR
        assert brainpool224._multiply(brainpool224.ORDER - 1, (x, y)) == (x, brainpool224._P - y)

    def test_small_multiples_agree_with_affine_addition(self) -> None:
        generator = brainpool224._GENERATOR
        point = generator
        for scalar in range(1, 40):
            assert brainpool224._multiply(scalar, generator) == point
            point = _affine_add(point, generator)

    def test_multiples_distribute(self) -> None:
        entropy = SeededEntropy(4)
        for _ in range(10):
            a, b = (int.from_bytes(entropy.octets(28), "big") % (brainpool224.ORDER // 2) + 1 for _ in range(2))
            left = _affine_add(*(brainpool224._multiply(each, brainpool224._GENERATOR) for each in (a, b)))
            assert brainpool224._multiply(a + b, brainpool224._GENERATOR) == left

    def test_a_coordinate_beyond_the_field_is_refused(self) -> None:
        x, y = brainpool224._GENERATOR
        beyond = y + brainpool224._P
        assert not brainpool224.on_curve((x, beyond))
        assert not brainpool224.on_curve((x + brainpool224._P, y))


def _affine_add(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    p = brainpool224._P
    if left == right:
        slope = (3 * left[0] ** 2 + brainpool224._A) * pow(2 * left[1], -1, p) % p
    else:
        slope = (right[1] - left[1]) * pow(right[0] - left[0], -1, p) % p
    x = (slope * slope - left[0] - right[0]) % p
    return x, (slope * (left[0] - x) - left[1]) % p


@pytest.mark.parametrize("group", _KEMS)
def test_an_encapsulation_key_that_is_not_reduced_is_refused(group: KeyExchange) -> None:
    """FIPS 203 section 7.2: every coefficient below 3329; the first one of this key is 4095."""
    key = bytearray(KeyPair.generate(group, SeededEntropy(1)).public)
    key[0], key[1] = 0xFF, key[1] | 0x0F
    with pytest.raises(InvalidPublicValue, match="reduced"):
        respond(group, bytes(key), SeededEntropy(2))


@pytest.mark.parametrize("group", _KEMS)
def test_a_changed_ciphertext_gives_another_secret(group: KeyExchange) -> None:
    pair = KeyPair.generate(group, SeededEntropy(1))
    ciphertext, shared = respond(group, pair.public, SeededEntropy(2))
    changed = bytes((ciphertext[0] ^ 1,)) + ciphertext[1:]
    assert len(shared) == 32
    assert pair.shared(changed) not in (shared, pair.shared(ciphertext))


def _drbg(seed: bytes, octets: int) -> bytes:
    """The first draw of NIST's CTR_DRBG with AES-256 (SP 800-90A section 10.2.1): their known answers start from it."""
    counter = iter(range(1, 4))
    zero_key = Cipher(AES(bytes(32)), modes.ECB()).encryptor()
    state = b"".join(zero_key.update(next(counter).to_bytes(16, "big")) for _ in range(3))
    state = bytes(a ^ b for a, b in zip(state, seed, strict=True))
    key, value = Cipher(AES(state[:32]), modes.ECB()).encryptor(), int.from_bytes(state[32:], "big")
    blocks = (key.update(((value + n) % 2**128).to_bytes(16, "big")) for n in range(1, octets // 16 + 1))
    return b"".join(blocks)


@needs_vectors
@pytest.mark.parametrize(("name", "number"), [("ML_KEM_768", 36), ("ML_KEM_1024", 37)])
def test_ml_kem_agrees_with_strongswan(name: str, number: int) -> None:
    """Key generation and decapsulation; encapsulation draws its own randomness and is checked by decapsulating."""
    table = load("strongswan-test-vectors/strongswan_test_vectors.json")["ml_kem"]
    rows = [row for row in table if row["method"] == name]
    for row in rows:
        initiator = _Kem(number, _drbg(bytes.fromhex(row["seed"]), 64))
        assert initiator.public.hex() == row["pub_i"]
        assert initiator.shared(bytes.fromhex(row["pub_r"])).hex() == row["shared"]
        ciphertext, shared = _encapsulate(number, initiator.public)
        assert initiator.shared(ciphertext) == shared
    assert len(rows) == 4


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
def test_x448_agrees_with_wycheproof() -> None:
    checked = refused = 0
    for row in load("wycheproof/x448_test.json.xz")["testGroups"][0]["tests"]:
        pair = KeyPair(_BY_NUMBER[32], _Curve448(bytes.fromhex(row["private"])))
        public = bytes.fromhex(row["public"])
        if len(public) != 56 or set(row["shared"]) <= {"0"}:
            with pytest.raises(InvalidPublicValue):
                pair.shared(public)
            refused += 1
        else:
            assert pair.shared(public).hex() == row["shared"], row["tcId"]
        checked += 1
    assert checked > 500
    assert refused > 5


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
        ours, theirs = (KeyPair.generate(_BY_NUMBER[14], SeededEntropy(seed)) for seed in (1, 2))
        assert ours.shared(theirs.public) == theirs.shared(ours.public)


def test_a_key_pair_prints_its_group_only() -> None:
    assert repr(KeyPair.generate(_BY_NUMBER[31], SeededEntropy(1))) == "KeyPair(group-31)"


@pytest.mark.parametrize("number", [1, 2, 5])
def test_powers_of_a_legacy_groups_generator_are_put_together_right(number: int) -> None:
    """Exponents of every length, those longer than the comb too."""
    group = ffdh.GROUPS[number]
    bits = 8 * group.exponent_octets
    dice = random.Random(number)
    draws = [dice.getrandbits(bits) for _ in range(40)]
    for exponent in (0, 1, 2, 1 << (bits - 1), (1 << bits) - 1, (1 << (bits + 40)) + 5, *draws):
        expected = pow(group.g, exponent, group.p).to_bytes(group.octets, "big")
        assert ffdh.private_value(number, exponent).public == expected
