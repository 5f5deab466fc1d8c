from __future__ import annotations

import functools

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.algorithms import SIGNATURE, Signature
from agents.ike.crypto.errors import CryptoError
from agents.ike.crypto.signature import (
    _BY_IDENTIFIER,
    HASH_NUMBERS,
    PrivateKey,
    PublicKey,
    SignatureError,
    auth_data,
    parse_auth,
    sign,
    usable,
    verify,
)
from tests.vectors import load, needs_vectors

_OCTETS = b"what is signed"
_ALL = frozenset(HASH_NUMBERS.values())
_ROWS = [pytest.param(row, id=slug) for slug, row in SIGNATURE.items()]
_CURVES = {
    "secp256r1": ec.SECP256R1(), "secp384r1": ec.SECP384R1(), "secp521r1": ec.SECP521R1(),
    "brainpoolP384r1": ec.BrainpoolP384R1(), "secp224r1": ec.SECP224R1(), "secp256k1": ec.SECP256K1(),
}  # fmt: skip


@functools.cache
def _key(kind: str) -> PrivateKey:
    if kind.startswith("rsa"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(kind[3:] or 2048))
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind])
    return Ed25519PrivateKey.generate() if kind == "ed25519" else Ed448PrivateKey.generate()


def _key_for(row: Signature) -> PrivateKey:
    return _key("secp384r1" if row.key == "ecdsa" else row.key)


def _spki(key: PrivateKey | PublicKey | X25519PrivateKey) -> bytes:
    public = key.public_key() if hasattr(key, "public_key") else key
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("row", _ROWS)
def test_what_is_signed_verifies_through_the_payload(row: Signature) -> None:
    key = _key_for(row)
    data = auth_data(row, sign(key, row, _OCTETS))
    parsed, bare = parse_auth(row.method, data)
    assert parsed is row
    verify(_spki(key), parsed, bare, _OCTETS)
    with pytest.raises(SignatureError, match="wrong"):
        verify(_spki(key), parsed, bare, _OCTETS + b".")
    changed = bytearray(bare)
    changed[-1] ^= 1
    with pytest.raises(SignatureError, match="wrong"):
        verify(_spki(key), parsed, bytes(changed), _OCTETS)


@pytest.mark.parametrize("row", _ROWS)
def test_a_signature_counts_as_one_row_only(row: Signature) -> None:
    key = _key_for(row)
    bare = sign(key, row, _OCTETS)
    for other in SIGNATURE.values():
        if other is not row:
            with pytest.raises(SignatureError):
                verify(_spki(key), other, bare, _OCTETS)


@pytest.mark.parametrize("octets", range(5))
def test_a_payload_cut_short_is_refused(octets: int) -> None:
    row = SIGNATURE["ed25519"]
    data = auth_data(row, sign(_key("ed25519"), row, _OCTETS))
    with pytest.raises(SignatureError, match="short"):
        parse_auth(14, data[:octets])
    with pytest.raises(SignatureError, match="short"):
        parse_auth(14, data[:8])  # the identifier and no signature


# RFC 7427 appendix A.1, A.3 and A.4, RFC 8420 appendix A: length octet and AlgorithmIdentifier.
_PRINTED = {
    "rsa-sha2-256": "0f300d06092a864886f70d01010b0500",
    "rsa-sha2-384": "0f300d06092a864886f70d01010c0500",
    "rsa-sha2-512": "0f300d06092a864886f70d01010d0500",
    "ecdsa-sha2-256": "0c300a06082a8648ce3d040302",
    "ecdsa-sha2-384": "0c300a06082a8648ce3d040303",
    "ecdsa-sha2-512": "0c300a06082a8648ce3d040304",
    "rsa-pss-sha2-256": (
        "43304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d0101083"
        "00d06096086480165030402010500a203020120"
    ),
    "ed25519": "07300506032b6570",
    "ed448": "07300506032b6571",
}


@pytest.mark.parametrize(("slug", "octets"), _PRINTED.items())
def test_identifiers_are_those_the_rfcs_print(slug: str, octets: str) -> None:
    assert auth_data(SIGNATURE[slug], b"").hex() == octets
    assert parse_auth(14, bytes.fromhex(octets) + b"s") == (SIGNATURE[slug], b"s")


def test_parameters_may_be_absent_where_rfc_4055_says_so() -> None:
    """Section 2.1: NULL or absent in the hash; section 5: for sha*WithRSAEncryption too."""
    absent = bytes.fromhex("0d300b06092a864886f70d01010b")
    assert parse_auth(14, absent + b"s") == (SIGNATURE["rsa-sha2-256"], b"s")
    pss = bytes.fromhex(
        "3f303d06092a864886f70d01010a3030a00d300b0609608648016503040203a11a301806092a864886f70d010108300b0609608648016503040203a203020140"
    )
    assert parse_auth(14, pss + b"s") == (SIGNATURE["rsa-pss-sha2-512"], b"s")
    assert sum(row.pss for row in _BY_IDENTIFIER.values()) == 3 * 8


@pytest.mark.parametrize(
    ("identifier", "reason"),
    [
        pytest.param("300d06092a864886f70d0101050500", "SHA-1", id="sha1WithRSAEncryption"),
        pytest.param("300d06092a864886f70d01010a3000", "RSASSA-PSS", id="PSS with its defaults, SHA-1"),
        pytest.param("300b06092a864886f70d01010a", "RSASSA-PSS", id="PSS without parameters"),
        pytest.param(
            "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d0609608648016503040202"
            "0500a203020120",
            "RSASSA-PSS",
            id="PSS with another hash in the MGF",
        ),
        pytest.param(
            "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d0609608648016503040201"
            "0500a203020100",
            "RSASSA-PSS",
            id="PSS without salt",
        ),
        pytest.param(
            "304606092a864886f70d01010a3039a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d0609608648016503040201"
            "0500a203020120a303020102",
            "RSASSA-PSS",
            id="PSS with trailer 2",
        ),
        pytest.param("300c06082a8648ce3d0403020500", "not one that is taken", id="ECDSA with parameters"),
        pytest.param("300906072a8648ce3d0401", "not one that is taken", id="ECDSA with SHA-1"),
        pytest.param("300706032b65700500", "not one that is taken", id="Ed25519 with parameters"),
        pytest.param("30810506032b6570", "not one that is taken", id="a long length"),
        pytest.param("", "none", id="nothing"),
    ],
)
def test_an_identifier_that_is_not_exactly_one_of_ours_is_refused(identifier: str, reason: str) -> None:
    octets = bytes.fromhex(identifier)
    with pytest.raises(SignatureError, match=reason) as caught:
        parse_auth(14, bytes((len(octets),)) + octets + b"signature")
    assert isinstance(caught.value, CryptoError)


@given(st.integers(0, 255), st.binary(max_size=200))
def test_no_payload_does_more_than_be_refused(method: int, data: bytes) -> None:
    try:
        row, bare = parse_auth(method, data)
    except SignatureError as error:
        reason = str(error)
        assert reason.isascii()
        assert len(reason) < 200
    else:
        assert auth_data(row, bare)[-len(bare) :] == bare or not bare


@given(st.sampled_from(sorted(_BY_IDENTIFIER)), st.integers(0, 2000), st.integers(1, 255), st.binary(max_size=80))
def test_a_changed_identifier_is_never_another_meaning(identifier: bytes, at: int, mask: int, bare: bytes) -> None:
    changed = bytearray(identifier)
    changed[at % len(changed)] ^= mask
    try:
        row, _ = parse_auth(14, bytes((len(changed),)) + bytes(changed) + bare)
    except SignatureError:
        return
    assert bytes(changed) in _BY_IDENTIFIER
    assert _BY_IDENTIFIER[bytes(changed)] is row


@given(st.binary(max_size=300), st.sampled_from(sorted(SIGNATURE)))
def test_no_signature_or_key_does_more_than_be_refused(octets: bytes, slug: str) -> None:
    row = SIGNATURE[slug]
    with pytest.raises(SignatureError):
        verify(_spki(_key_for(row)), row, octets, _OCTETS)
    with pytest.raises(SignatureError):
        verify(octets, row, octets, _OCTETS)
    assert usable(octets, _ALL) == ()


@given(
    st.sampled_from(["rsa", "secp256r1", "brainpoolP384r1", "ed25519", "ed448"]),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255), st.sampled_from("=+-")), min_size=1, max_size=4),
    st.binary(max_size=300),
)
def test_a_changed_public_key_verifies_nothing(kind: str, changes: list[tuple[int, int, str]], bare: bytes) -> None:
    """It may still be a key: of whatever kind it then is, refusing is all that happens."""
    spki = bytearray(_spki(_key(kind)))
    for at, octet, change in changes:
        here = at % len(spki)
        spki[here : here + (change != "+")] = b"" if change == "-" else bytes((octet,))
    slugs = usable(bytes(spki), _ALL)
    for slug in slugs or SIGNATURE:
        with pytest.raises(SignatureError):
            verify(bytes(spki), SIGNATURE[slug], bare, _OCTETS)


@pytest.mark.parametrize("method", [0, 2, 3, 12, 13, 15, 255])
def test_a_method_without_a_signature_is_refused(method: int) -> None:
    with pytest.raises(SignatureError, match=f"method {method} "):
        parse_auth(method, b"data")


@pytest.mark.parametrize(("method", "octets"), [(9, 64), (10, 96), (11, 132)])
def test_the_older_ecdsa_methods_have_a_fixed_length(method: int, octets: int) -> None:
    row, bare = parse_auth(method, bytes(octets))
    key = _key(row.key)
    assert len(sign(key, row, _OCTETS)) == octets
    for wrong in (octets - 1, octets + 1):
        with pytest.raises(SignatureError, match=f"{octets} octets"):
            parse_auth(method, bytes(wrong))
        with pytest.raises(SignatureError, match=f"{octets} octets"):
            verify(_spki(key), row, bytes(wrong), _OCTETS)
    with pytest.raises(SignatureError, match="wrong"):  # r = s = 0
        verify(_spki(key), row, bare, _OCTETS)


# RFC 4754 sections 8.1 to 8.3: private value, r and s of a signature of "abc".
_RFC_4754 = [
    (
        9, ec.SECP256R1(),
        "dc51d3866a15bacde33d96f992fca99da7e6ef0934e7097559c27f1614c88a7f",
        "cb28e0999b9c7715fd0a80d8e47a77079716cbbf917dd72e97566ea1c066957c",
        "86fa3bb4e26cad5bf90b7f81899256ce7594bb1ea0c89212748bff3b3d5b0315",
    ),
    (
        10, ec.SECP384R1(),
        "0beb646634ba87735d77ae4809a0ebea865535de4c1e1dcb692e84708e81a5af62e528c38b2a81b35309668d73524d9f",
        "fb017b914e29149432d8bac29a514640b46f53ddab2c69948084e2930f1c8f7e08e07c9c63f2d21a07dcb56a6af56eb3",
        "b263a1305e057f984d38726a1b46874109f417bca112674c528262a40a629af1cbb9f516ce0fa7d2ff630863a00e8b9f",
    ),
    (
        11, ec.SECP521R1(),
        "0065fda3409451dcab0a0ead45495112a3d813c17bfd34bdf8c1209d7df5849120597779060a7ff9d704adf78b570ffad6f062e95c7e0c5d"
        "5481c5b153b48b375fa1",
        "0154fd3836af92d0dca57dd5341d3053988534fde8318fc6aaaab68e2e6f4339b19f2f281a7e0b22c269d93cf8794a9278880ed7dbb8d936"
        "2caeacee544320552251",
        "017705a7030290d1ceb605a9a1bb03ff9cdd521e87a696ec926c8c10c8362df4975367101f67d1cf9bccbf2f3d239534fa509e70aac851ae"
        "01aac68d62f866472660",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("method", "curve", "private", "r", "s"), _RFC_4754)
def test_signatures_of_rfc_4754_verify(method: int, curve: ec.EllipticCurve, private: str, r: str, s: str) -> None:
    key = ec.derive_private_key(int(private, 16), curve)
    row, bare = parse_auth(method, bytes.fromhex(r + s))
    verify(_spki(key), row, bare, b"abc")


class TestUsable:
    def test_ecdsa_takes_the_hash_that_fits_the_curve_first(self) -> None:
        assert usable(_key("secp256r1"), _ALL) == ("ecdsa-sha2-256", "ecdsa-sha2-384", "ecdsa-sha2-512", "method-9")
        assert usable(_key("secp384r1"), _ALL) == ("ecdsa-sha2-384", "ecdsa-sha2-512", "ecdsa-sha2-256", "method-10")
        assert usable(_key("secp521r1"), _ALL) == ("ecdsa-sha2-512", "ecdsa-sha2-384", "ecdsa-sha2-256", "method-11")
        assert usable(_key("brainpoolP384r1"), _ALL) == ("ecdsa-sha2-384", "ecdsa-sha2-512", "ecdsa-sha2-256")

    def test_rsa_takes_pss_first(self) -> None:
        assert usable(_key("rsa"), _ALL) == (
            "rsa-pss-sha2-256", "rsa-pss-sha2-384", "rsa-pss-sha2-512", "rsa-sha2-256", "rsa-sha2-384", "rsa-sha2-512",
            "method-1",
        )  # fmt: skip

    def test_only_what_the_peer_announced(self) -> None:
        assert usable(_key("rsa"), frozenset({4})) == ("rsa-pss-sha2-512", "rsa-sha2-512", "method-1")
        assert usable(_key("secp256r1"), frozenset({1, 3, 99})) == ("ecdsa-sha2-384", "method-9")
        assert usable(_key("ed25519"), frozenset({2, 3, 4})) == ()
        assert usable(_key("ed25519"), frozenset({5})) == ("ed25519",)
        assert usable(_key("ed448"), _ALL) == ("ed448",)

    def test_a_peer_without_rfc_7427_gets_the_older_methods(self) -> None:
        assert usable(_key("rsa"), None) == ("method-1",)
        assert usable(_key("secp256r1"), None) == ("method-9",)
        assert usable(_key("secp384r1"), None) == ("method-10",)
        assert usable(_key("secp521r1"), None) == ("method-11",)
        assert usable(_key("brainpoolP384r1"), None) == ()
        assert usable(_key("ed25519"), None) == ()

    def test_private_public_and_encoded_keys_are_the_same(self) -> None:
        for kind in ("rsa", "secp384r1", "ed25519"):
            key = _key(kind)
            assert usable(key, _ALL) == usable(key.public_key(), _ALL) == usable(_spki(key), _ALL)

    def test_every_row_that_is_usable_signs_and_no_other(self) -> None:
        for kind in ("rsa", "secp256r1", "secp384r1", "secp521r1", "brainpoolP384r1", "ed25519", "ed448"):
            for row in SIGNATURE.values():
                if row.slug in usable(_key(kind), _ALL):
                    verify(_spki(_key(kind)), row, sign(_key(kind), row, _OCTETS), _OCTETS)
                else:
                    with pytest.raises(ValueError, match="key"):
                        sign(_key(kind), row, _OCTETS)

    @pytest.mark.parametrize("kind", ["rsa1024", "secp224r1", "secp256k1"])
    def test_weak_and_odd_keys_are_not_taken(self, kind: str) -> None:
        assert usable(_key(kind), _ALL) == usable(_spki(_key(kind)), None) == ()
        row = SIGNATURE["rsa-sha2-256" if kind.startswith("rsa") else "ecdsa-sha2-256"]
        with pytest.raises(SignatureError, match="taken"):
            verify(_spki(_key(kind)), row, bytes(128), _OCTETS)

    def test_a_key_that_cannot_sign_is_not_taken(self) -> None:
        spki = _spki(X25519PrivateKey.generate())
        assert usable(spki, _ALL) == ()
        with pytest.raises(SignatureError, match="kind"):
            verify(spki, SIGNATURE["ed25519"], bytes(64), _OCTETS)

    @pytest.mark.parametrize("bits", [2047, 8193])
    def test_an_rsa_modulus_of_another_length_is_not_taken(self, bits: int) -> None:
        numbers = rsa.RSAPublicNumbers(65537, (1 << (bits - 1)) + 1)
        assert usable(_spki(numbers.public_key()), _ALL) == ()

    def test_a_huge_rsa_exponent_is_not_taken(self) -> None:
        """Checking a signature would take as long as making one, at the peer's wish."""
        public = _key("rsa").public_key()
        assert isinstance(public, rsa.RSAPublicKey)
        key = rsa.RSAPublicNumbers((1 << 33) + 1, public.public_numbers().n).public_key()
        assert usable(key, _ALL) == ()


def test_a_key_for_pss_alone_signs_with_nothing_else() -> None:
    """id-RSASSA-PSS in the SubjectPublicKeyInfo (RFC 4055 section 1.2)."""
    key = _key("rsa")
    assert isinstance(key, rsa.RSAPrivateKey)
    plain = _spki(key)
    # 30 82 xx xx 30 0d <rsaEncryption> 05 00 03 82 ...: the same with id-RSASSA-PSS and without the NULL.
    body = bytes.fromhex("300b06092a864886f70d01010a") + plain[19:]
    spki = b"\x30\x82" + len(body).to_bytes(2, "big") + body
    assert usable(spki, _ALL) == ("rsa-pss-sha2-256", "rsa-pss-sha2-384", "rsa-pss-sha2-512")
    pss, pkcs1 = SIGNATURE["rsa-pss-sha2-256"], SIGNATURE["rsa-sha2-256"]
    verify(spki, pss, sign(key, pss, _OCTETS), _OCTETS)
    with pytest.raises(SignatureError, match="PSS only"):
        verify(spki, pkcs1, sign(key, pkcs1, _OCTETS), _OCTETS)


def test_pss_with_another_salt_length_is_refused() -> None:
    key = _key("rsa")
    assert isinstance(key, rsa.RSAPrivateKey)
    for salt_octets in (0, 20, 31, 33, 64):
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=salt_octets)
        with pytest.raises(SignatureError, match="wrong"):
            verify(_spki(key), SIGNATURE["rsa-pss-sha2-256"], key.sign(_OCTETS, pss, hashes.SHA256()), _OCTETS)


@needs_vectors
@pytest.mark.parametrize(
    ("name", "slug", "refused_at_least"),
    [
        ("ecdsa_secp256r1_sha256", "ecdsa-sha2-256", 200),
        ("ed25519", "ed25519", 50),
        ("rsa_pss_2048_sha256_mgf1_32", "rsa-pss-sha2-256", 40),
        ("rsa_signature_2048_sha256", "rsa-sha2-256", 200),
    ],
)
def test_wycheproof_agrees_on_every_signature(name: str, slug: str, refused_at_least: int) -> None:
    """Those called acceptable are lenient readings of PKCS#1 (a missing NULL): refused here."""
    row = SIGNATURE[slug]
    taken = refused = 0
    for group in load(f"wycheproof/{name}_test.json.xz")["testGroups"]:
        spki = bytes.fromhex(group["publicKeyDer"])
        for test in group["tests"]:
            octets, bare = bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])
            if test["result"] == "valid":
                verify(spki, row, bare, octets)
                taken += 1
            else:
                with pytest.raises(SignatureError):
                    verify(spki, row, bare, octets)
                refused += 1
    assert taken > 5
    assert refused > refused_at_least
