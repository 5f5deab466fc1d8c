from __future__ import annotations

import functools
import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.algorithms import PSEUDO_RANDOM
from agents.contract.algorithms import SIGNATURE as IKEV2
from agents.contract.ikev1 import SIGNATURE
from agents.ike.crypto.hash_signature import SignatureError, hash_prf, sign_by_slug, sign_hash, slug_for, verify_hash
from agents.ike.crypto.signature import PrivateKey, PublicKey, verify

_CURVES = {
    "ikev1-ecdsa-p256": ec.SECP256R1(), "ikev1-ecdsa-p384": ec.SECP384R1(), "ikev1-ecdsa-p521": ec.SECP521R1(),
    "brainpool": ec.BrainpoolP256R1(), "secp256k1": ec.SECP256K1(),
}  # fmt: skip
_HASH_OCTETS = {"ikev1-rsa": 20, "ikev1-ecdsa-p256": 32, "ikev1-ecdsa-p384": 48, "ikev1-ecdsa-p521": 64}
_SLUGS = sorted(SIGNATURE)


@functools.cache
def _key(kind: str) -> PrivateKey:
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind])
    if kind == "ed25519":
        return Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=1024 if kind == "rsa1024" else 2048)


def _spki(key: PrivateKey | PublicKey) -> bytes:
    public = key.public_key() if isinstance(key, PrivateKey) else key
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("slug", _SLUGS)
def test_what_is_signed_verifies_and_nothing_else(slug: str) -> None:
    key, octets = _key(slug), bytes(range(_HASH_OCTETS[slug]))
    bare = sign_hash(key, slug, octets)
    verify_hash(_spki(key), slug, bare, octets)
    with pytest.raises(SignatureError, match="wrong"):
        verify_hash(_spki(key), slug, bare, octets[:-1] + b"\0")
    changed = bytearray(bare)
    changed[-1] ^= 1
    with pytest.raises(SignatureError, match="wrong"):
        verify_hash(_spki(key), slug, bytes(changed), octets)
    for other in set(_SLUGS) - {slug}:
        with pytest.raises(SignatureError, match="does not go with"):
            verify_hash(_spki(key), other, bare, octets)
        with pytest.raises(ValueError, match="does not go with"):
            sign_hash(key, other, octets)


@pytest.mark.parametrize("octets", [16, 20, 32, 48, 64])
def test_rsa_signs_the_hash_of_any_length_bare(octets: int) -> None:
    """RFC 8017 section 9.2 without the DigestInfo: 00 01 FF ... 00 and the hash."""
    key, digest = _key("ikev1-rsa"), bytes(range(octets))
    assert isinstance(key, rsa.RSAPrivateKey)
    bare = sign_hash(key, "ikev1-rsa", digest)
    numbers = key.public_key().public_numbers()
    block = pow(int.from_bytes(bare, "big"), numbers.e, numbers.n).to_bytes(256, "big")
    assert block == b"\0\1" + b"\xff" * (253 - octets) + b"\0" + digest


def test_an_rsa_signature_with_a_digest_info_is_refused() -> None:
    key, octets = _key("ikev1-rsa"), b"what is signed"
    assert isinstance(key, rsa.RSAPrivateKey)
    bare = key.sign(octets, padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(SignatureError, match="wrong"):
        verify_hash(_spki(key), "ikev1-rsa", bare, hashlib.sha256(octets).digest())


def test_an_rsa_signature_is_as_long_as_the_modulus() -> None:
    key = _key("ikev1-rsa")
    digest, bare = next(
        (digest, bare)
        for number in range(10_000)
        if (bare := sign_hash(key, "ikev1-rsa", digest := number.to_bytes(20, "big")))[0] == 0
    )
    verify_hash(_spki(key), "ikev1-rsa", bare, digest)
    for wrong in (bare[1:], b"\0" + bare, b""):
        with pytest.raises(SignatureError, match="wrong"):
            verify_hash(_spki(key), "ikev1-rsa", wrong, digest)


@pytest.mark.parametrize(("slug", "name"), [("ikev1-ecdsa-p256", "method-9"), ("ikev1-ecdsa-p384", "method-10"),
                                            ("ikev1-ecdsa-p521", "method-11")])  # fmt: skip
def test_ecdsa_does_not_hash_again(slug: str, name: str) -> None:
    """The signature of a hash is that of IKEv2's method of the same number over what was hashed, and the reverse."""
    key, row, octets = _key(slug), IKEV2[name], b"what is signed"
    digest = hashlib.new(row.hash, octets).digest()
    verify(_spki(key), row, sign_hash(key, slug, digest), octets)
    verify_hash(_spki(key), slug, sign_by_slug(key, name, octets), digest)
    assert SIGNATURE[slug] == row.method


@pytest.mark.parametrize(("slug", "octets"), [("ikev1-ecdsa-p256", 64), ("ikev1-ecdsa-p384", 96),
                                              ("ikev1-ecdsa-p521", 132)])  # fmt: skip
def test_an_ecdsa_signature_is_two_numbers_of_a_fixed_length(slug: str, octets: int) -> None:
    key, digest = _key(slug), bytes(_HASH_OCTETS[slug])
    assert len(sign_hash(key, slug, digest)) == octets
    for wrong in (0, octets - 1, octets + 1):
        with pytest.raises(SignatureError, match=f"{octets} octets"):
            verify_hash(_spki(key), slug, bytes(wrong), digest)
    with pytest.raises(SignatureError, match="wrong"):  # r = s = 0
        verify_hash(_spki(key), slug, bytes(octets), digest)


def test_ecdsa_takes_the_hash_of_its_method_only() -> None:
    with pytest.raises(ValueError, match="digest"):
        sign_hash(_key("ikev1-ecdsa-p256"), "ikev1-ecdsa-p256", bytes(20))


def test_the_signed_hash_is_made_with_the_methods_hash() -> None:
    """RFC 2409 section 5: an algorithm tied to a hash overrides the negotiated one."""
    sha1 = PSEUDO_RANDOM["prf-hmac-sha1"]
    assert hash_prf("ikev1-rsa", sha1) is sha1
    for slug, row in (("p256", "sha2-256"), ("p384", "sha2-384"), ("p521", "sha2-512")):
        assert hash_prf(f"ikev1-ecdsa-{slug}", sha1) is PSEUDO_RANDOM[f"prf-hmac-{row}"]
    for slug, octets in _HASH_OCTETS.items():
        assert hash_prf(slug, sha1).output_octets == octets


def test_a_key_has_one_way_to_sign() -> None:
    for slug in _SLUGS:
        assert slug_for(_spki(_key(slug))) == slug
    for kind in ("brainpool", "secp256k1", "ed25519", "rsa1024"):
        assert slug_for(_spki(_key(kind))) is None
    assert slug_for(b"no key") is None


@pytest.mark.parametrize("bits", [1024, 2047, 8193])
def test_rsa_keys_are_those_of_ikev2(bits: int) -> None:
    spki = _spki(rsa.RSAPublicNumbers(65537, (1 << (bits - 1)) + 1).public_key())
    assert slug_for(spki) is None
    with pytest.raises(SignatureError, match="taken"):
        verify_hash(spki, "ikev1-rsa", bytes(bits // 8), bytes(20))


def test_a_key_for_pss_alone_does_not_sign_here() -> None:
    """RFC 4055 section 1.2: id-RSASSA-PSS in the place of rsaEncryption."""
    body = bytes.fromhex("300b06092a864886f70d01010a") + _spki(_key("ikev1-rsa"))[19:]
    spki = b"\x30\x82" + len(body).to_bytes(2, "big") + body
    assert slug_for(spki) is None
    with pytest.raises(SignatureError, match="PSS only"):
        verify_hash(spki, "ikev1-rsa", bytes(256), bytes(20))


@given(st.sampled_from(_SLUGS), st.binary(max_size=300))
def test_no_signature_or_key_does_more_than_be_refused(slug: str, octets: bytes) -> None:
    digest = bytes(_HASH_OCTETS[slug])
    with pytest.raises(SignatureError):
        verify_hash(_spki(_key(slug)), slug, octets, digest)
    with pytest.raises(SignatureError):
        verify_hash(octets, slug, octets, digest)


def test_each_slug_of_either_version_signs_its_own_way() -> None:
    key = _key("ikev1-rsa")
    verify_hash(_spki(key), "ikev1-rsa", sign_by_slug(key, "ikev1-rsa", bytes(20)), bytes(20))
    verify(_spki(key), IKEV2["rsa-sha2-256"], sign_by_slug(key, "rsa-sha2-256", b"octets"), b"octets")
    assert not set(SIGNATURE) & set(IKEV2)
    with pytest.raises(ValueError, match="does not go with"):
        sign_by_slug(key, "ikev1-ecdsa-p256", bytes(32))
