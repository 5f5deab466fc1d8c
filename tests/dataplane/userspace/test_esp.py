from __future__ import annotations

import hmac
import struct
from collections import Counter

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.algorithms import ENCRYPTION, INTEGRITY
from agents.contract.secret import Secret
from agents.dataplane.userspace import drops
from agents.dataplane.userspace.drops import Dropped
from agents.dataplane.userspace.esp import (
    NEXT_IPV4,
    NEXT_IPV6,
    AeadTransform,
    CbcTransform,
    Transform,
    build_transform,
    strip,
)
from tests.dataplane.userspace.values import SUITES, entropy, ip_packet, udp_packet
from tests.vectors import load, needs_vectors

SPI = 0x8765


def transform(suite: tuple[str, str | None], spi: int = SPI, *, extended: bool = False) -> Transform:
    octets = entropy(3)
    encryption, integrity = suite
    return build_transform(
        spi,
        encryption,
        Secret(octets(ENCRYPTION[encryption].keymat_octets)),
        integrity,
        None if integrity is None else Secret(octets(INTEGRITY[integrity].key_octets)),
        entropy(4),
        extended=extended,
    )


# RFC 3602 section 4, cases 7 and 8: key, SPI, sequence number, IV, ciphertext, plaintext with trailer. The samples have
# no ICV, so one is put on by an independent HMAC.
RFC_3602 = [
    (
        "0123456789abcdef0123456789abcdef",
        2,
        "f4e765244f6407adf13dc1380f673f37",
        "773b5241a4c449225e4f3ce5ed611b0c237ca96cf74a93013c1b0ea1a0cf70f8e4ecaec78ac53aad7a0f022b859243c647752e94a859352b"
        "8a4d4d2decd136e5c177f132ad3fbfb2201ac9904c74ee0a109e0ca1e4dfe9d5a100b842f1c22f0d",
        "45000054090400004001f988c0a87b03c0a87bc808009f76a90a0100b49c083d02a2040008090a0b0c0d0e0f101112131415161718191a1b"
        "1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637",
    ),
    (
        "0123456789abcdef0123456789abcdef",
        5,
        "85d47224b5f3dd5d2101d4ea8dffab22",
        "15b92683819596a8047232cc00f7048fe45318e11f8a0f62ede3c3fc61203bb50f980a08c9843fd3a1b06d5c07ff9639b7eb7dfb3512e5de"
        "435e7207ed971ef3d2726d9b5ef6affc6d17a0decbb13892",
        "45000044090c00004001f990c0a87b03c0a87bc80800d63caa0a0200c69c083da3de0300ffffffffffffffffffffffffffffffffffffffff"
        "ffffffffffffffffffffffff",
    ),
]


@pytest.mark.parametrize(("key", "sequence", "iv", "ciphertext", "packet"), RFC_3602)
def test_rfc_3602_tunnel_mode_samples(key: str, sequence: int, iv: str, ciphertext: str, packet: str) -> None:
    mac_key = bytes(range(32))
    body = struct.pack("!II", SPI, sequence) + bytes.fromhex(iv + ciphertext)
    wire = body + hmac.digest(mac_key, body, "sha256")[:16]
    # Entropy chosen so that the first block, encrypted from the zero chaining value, gives the sample's IV.
    decryptor = Cipher(algorithms.AES(bytes.fromhex(key)), modes.CBC(bytes(16))).decryptor()
    block = decryptor.update(bytes.fromhex(iv))
    keys = Secret(bytes.fromhex(key)), Secret(mac_key)
    cbc = CbcTransform(SPI, "aes-128-cbc", "hmac-sha2-256-128", *keys, lambda count: block)
    assert strip(cbc.open(wire)) == (NEXT_IPV4, bytes.fromhex(packet))
    assert cbc.seal(sequence, [bytes.fromhex(packet)]) == [wire]


def test_rfc_7634_appendix_a() -> None:
    key = bytes.fromhex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3")
    wire = bytes.fromhex(
        "0102030400000005101112131415161724039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb"
        "61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da9165b82829f641e076aaa8266b7fb0f7"
        "b11b369907e1ad43"
    )
    packet = bytes.fromhex(
        "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec100007362708090a0b0c0d0e0f101112131415161718191a1b"
        "1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637"
    )
    assert strip(AeadTransform(0x01020304, "chacha20-poly1305", Secret(key)).open(wire)) == (NEXT_IPV4, packet)


@needs_vectors
@pytest.mark.parametrize("index", range(5))
def test_rfc_sample_packets(index: int) -> None:
    row = load("rfc/esp_ike_sample_packets.json")["esp_packets"][index]
    plain = bytes.fromhex(row["plaintext"])
    inner = plain[: len(plain) - 2 - plain[-2]]
    if row["rfc"] == 7634:
        aead = AeadTransform(int(row["spi"], 16), "chacha20-poly1305", Secret(bytes.fromhex(row["key"] + row["salt"])))
        assert strip(aead.open(bytes.fromhex(row["esp_ip_packet"])[20:])) == (plain[-1], inner)
        return
    body = struct.pack("!II", int(row["spi"], 16), row["seq"]) + bytes.fromhex(row["iv"] + row["ct"])
    wire = body + hmac.digest(bytes(20), body, "sha1")[:12]
    keys = Secret(bytes.fromhex(row["key"])), Secret(bytes(20))
    cbc = CbcTransform(1, "aes-128-cbc", "hmac-sha1-96", *keys, entropy())
    assert strip(cbc.open(wire)) == (plain[-1], inner)


@needs_vectors
def test_linux_rfc4106_and_rfc7539esp_vectors() -> None:
    """The kernel's vectors are ESP-shaped but for their trailers, so the cipher is asked below the trailer."""
    tables = load("linux-crypto/esp_testmgr_vectors.json")
    tried = 0
    tables_of = {
        "aes_gcm_rfc4106": ("aes-{}-gcm-{}", 4),
        "aes_ccm_rfc4309": ("aes-{}-ccm-{}", 3),
        "rfc7539esp": ("chacha20-poly1305", 4),
    }
    for name, (slug, salt_octets) in tables_of.items():
        for row in tables[name]:
            key = bytes.fromhex(row["key"])
            slug_of_row = slug.format((len(key) - salt_octets) * 8, row["tag_len"])
            if row["must_fail"]:
                continue
            aead = AeadTransform(1, slug_of_row, Secret(key))
            iv, aad = bytes.fromhex(row["iv"]), bytes.fromhex(row["aad"])
            opened = aead._decrypt(aead.salt + iv, bytes.fromhex(row["ct_tag"]), aad[:-8])
            assert opened.hex() == row["pt"]
            tried += 1
    assert tried >= 35


@needs_vectors
def test_linux_rfc4543_vectors() -> None:
    """GMAC: header, IV and payload are associated data, and the payload travels as it is."""
    for row in load("linux-crypto/esp_testmgr_vectors.json")["aes_gcm_rfc4543"]:
        aad, sealed = bytes.fromhex(row["aad"]), bytes.fromhex(row["ct_tag"])
        gmac = build_transform(1, "aes-128-gmac", Secret(bytes.fromhex(row["key"])), None, None, entropy())
        wire = aad[:8] + bytes.fromhex(row["iv"]) + sealed
        if row["must_fail"]:
            with pytest.raises(Dropped):
                gmac.open(wire)
        else:
            assert gmac.open(wire).hex() == row["pt"]


@needs_vectors
def test_linux_rfc3686_vectors() -> None:
    """Counter mode below the trailer; the kernel's vectors have no ICV, so one is put on."""
    rows = load("linux-crypto/esp_testmgr_vectors.json")["aes_ctr_rfc3686"]
    for row in rows:
        key = bytes.fromhex(row["key_and_nonce"])
        slug = f"aes-{(len(key) - 4) * 8}-ctr"
        counter = build_transform(1, slug, Secret(key), "hmac-sha1-96", Secret(bytes(20)), entropy())
        counter._stream.reset_nonce(key[-4:] + bytes.fromhex(row["iv"]) + b"\0\0\0\1")  # type: ignore[attr-defined]
        assert counter._stream.update(bytes.fromhex(row["pt"])).hex() == row["ct"]  # type: ignore[attr-defined]
        body = struct.pack("!II", 1, 1) + bytes.fromhex(row["iv"] + row["ct"])
        if len(body) % 4 == 0:
            wire = body + hmac.digest(bytes(20), body, "sha1")[:12]
            assert counter.open(wire).hex() == row["pt"]
    assert len(rows) == 7


@needs_vectors
@pytest.mark.parametrize(
    ("name", "slug"), [("aes_gcm_test", "aes-{}-gcm-16"), ("chacha20_poly1305_test", "chacha20-poly1305")]
)
def test_wycheproof_verdicts(name: str, slug: str) -> None:
    """Every case of our sizes, its nonce cut into salt and IV as ESP does, below the trailer."""
    document = load(f"wycheproof/{name}.json.xz")
    verdicts = Counter[str]()
    for group in document["testGroups"]:
        if group["ivSize"] != 96 or group["tagSize"] != 128 or group["keySize"] == 192:
            continue
        for case in group["tests"]:
            nonce = bytes.fromhex(case["iv"])
            key = Secret(bytes.fromhex(case["key"]) + nonce[:4])
            aead = AeadTransform(1, slug.format(group["keySize"]), key)
            data, aad = bytes.fromhex(case["ct"] + case["tag"]), bytes.fromhex(case["aad"])
            if case["result"] == "valid":
                assert aead._decrypt(aead.salt + nonce[4:], data, aad).hex() == case["msg"]
            else:
                with pytest.raises(InvalidTag):
                    aead._decrypt(aead.salt + nonce[4:], data, aad)
            verdicts[case["result"]] += 1
    assert verdicts["valid"] > 50
    assert verdicts["invalid"] > 20


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_what_is_sealed_opens_again(suite: tuple[str, str | None]) -> None:
    sender, receiver = transform(suite), transform(suite)
    for length in (*range(40), 1400, 8999):
        packets = [ip_packet(payload=bytes(length)), ip_packet(payload=b"x" * length)]
        sealed = sender.seal(41, packets)
        assert [strip(receiver.open(memoryview(wire))) for wire in reversed(sealed)] == [
            (NEXT_IPV4, packet) for packet in reversed(packets)
        ]
        assert [struct.unpack_from("!II", wire) for wire in sealed] == [(SPI, 41), (SPI, 42)]
        assert all(len(wire) % 4 == 0 for wire in sealed)


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_the_high_half_is_in_every_icv_and_in_no_packet(suite: tuple[str, str | None]) -> None:
    """RFC 4303 section 2.2.1: only the low half travels, and another high half is another ICV."""
    first = 0xFFFFFFFE
    packets = [udp_packet(data=bytes((number,))) for number in range(4)]
    sealed = transform(suite, extended=True).seal(first, packets)
    assert [struct.unpack_from("!II", wire)[1] for wire in sealed] == [0xFFFFFFFE, 0xFFFFFFFF, 0, 1]
    receiver = transform(suite, extended=True)
    for number, (wire, packet) in enumerate(zip(sealed, packets, strict=True), first):
        high = number >> 32
        for wrong in {0, 1, 2, 0xFFFFFFFF} - {high}:
            with pytest.raises(Dropped) as caught:
                receiver.open(wire, wrong)
            assert caught.value.code == drops.INTEGRITY
        assert strip(receiver.open(wire, high)) == (NEXT_IPV4, packet)
        assert strip(receiver.open(memoryview(wire), high)) == (NEXT_IPV4, packet)
        assert len(wire) == len(transform(suite).seal(1, [packet])[0])


@given(
    suite=st.sampled_from(SUITES),
    extended=st.booleans(),
    payloads=st.lists(st.binary(max_size=300), min_size=1, max_size=5),
    sequence=st.integers(1, 2**32 - 10),
    noise=st.binary(max_size=400),
)
def test_any_packets_come_back_and_no_noise_opens(
    suite: tuple[str, str | None], extended: bool, payloads: list[bytes], sequence: int, noise: bytes
) -> None:
    packets = [ip_packet(payload=payload) for payload in payloads]
    receiver = transform(suite, extended=extended)
    high = 3 if extended else 0
    for wire, packet in zip(
        transform(suite, extended=extended).seal(high << 32 | sequence, packets), packets, strict=True
    ):
        with pytest.raises(Dropped):
            receiver.open(wire[:8] + noise, high)
        assert strip(receiver.open(wire, high)) == (NEXT_IPV4, packet)


def test_extended_numbers_are_where_the_rfcs_have_them() -> None:
    """Against the plain primitives: the AAD of RFC 4106 section 5, and RFC 4303 section 2.8 for a MAC."""
    number, packet = 5 << 32 | 7, udp_packet(data=b"123")
    keys = entropy(3)(20)
    (wire,) = transform(("aes-128-gcm-16", None), extended=True).seal(number, [packet])
    assert wire[:16] == struct.pack("!IIQ", SPI, 7, number)
    plain = AESGCM(keys[:16]).decrypt(keys[16:] + wire[8:16], wire[16:], struct.pack("!III", SPI, 5, 7))
    assert plain == packet + bytes((1, 2, 3, 3, 4))
    mac_key = entropy(3)(16 + 32)[16:]
    (wire,) = transform(("aes-128-cbc", "hmac-sha2-256-128"), extended=True).seal(number, [packet])
    assert wire[-16:] == hmac.digest(mac_key, wire[:-16] + struct.pack("!I", 5), "sha256")[:16]
    (wire,) = transform(("aes-128-gmac", None), extended=True).seal(number, [packet])
    covered = struct.pack("!III", SPI, 5, 7) + wire[8:-16]
    assert AESGCM(keys[:16]).encrypt(keys[16:] + wire[8:16], b"", covered) == wire[-16:]


def test_counter_mode_is_what_rfc_3686_says() -> None:
    octets = entropy(3)(20 + 20)
    packet = udp_packet(data=b"123")
    (wire,) = transform(("aes-128-ctr", "hmac-sha1-96")).seal(7, [packet])
    assert wire[:16] == struct.pack("!IIQ", SPI, 7, 7)
    counter = octets[16:20] + wire[8:16] + b"\0\0\0\1"
    decryptor = Cipher(algorithms.AES(octets[:16]), modes.CTR(counter)).decryptor()
    assert decryptor.update(wire[16:-12]) == packet + bytes((1, 2, 3, 3, 4))
    assert wire[-12:] == hmac.digest(octets[20:], wire[:-12], "sha1")[:12]


def test_null_and_gmac_hide_nothing() -> None:
    packet = udp_packet(data=b"for everybody to see")
    for suite, iv_octets in ((("null", "hmac-sha2-256-128"), 0), (("aes-256-gmac", None), 8)):
        (wire,) = transform(suite).seal(1, [packet])
        assert wire[8 + iv_octets :].startswith(packet)


def test_ipv6_goes_as_next_header_41() -> None:
    suite = SUITES[0]
    packet = udp_packet("fd01::1", "fd02::1")
    assert strip(transform(suite).open(transform(suite).seal(1, [packet])[0])) == (NEXT_IPV6, packet)


def test_gcm_sealing_is_what_rfc_4106_says() -> None:
    """Against the plain AEAD: nonce is salt and IV, AAD is SPI and sequence number, the trailer pads to four octets."""
    octets = entropy(3)(20)
    packet = udp_packet(data=b"123")
    (wire,) = transform(("aes-128-gcm-16", None)).seal(7, [packet])
    plain = AESGCM(octets[:16]).decrypt(octets[16:] + wire[8:16], wire[16:], wire[:8])
    assert len(packet) % 4 == 3
    assert plain == packet + bytes((1, 2, 3, 3, 4))
    assert wire[:8] == struct.pack("!II", SPI, 7)


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_no_iv_is_used_twice(suite: tuple[str, str | None]) -> None:
    sealed = transform(suite).seal(1, [udp_packet()] * 200)
    octets = ENCRYPTION[suite[0]].iv_octets
    assert not octets or len({wire[8 : 8 + octets] for wire in sealed}) == 200


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_every_changed_octet_is_noticed(suite: tuple[str, str | None]) -> None:
    receiver = transform(suite)
    (wire,) = transform(suite).seal(1, [udp_packet()])
    for position in range(len(wire)):
        changed = bytearray(wire)
        changed[position] ^= 0x01
        with pytest.raises(Dropped) as caught:
            receiver.open(bytes(changed))
        assert caught.value.code == drops.INTEGRITY
    assert strip(receiver.open(wire)) == (NEXT_IPV4, udp_packet())


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_every_truncation_is_dropped(suite: tuple[str, str | None]) -> None:
    receiver = transform(suite)
    (wire,) = transform(suite).seal(1, [udp_packet()])
    for length in range(8, len(wire)):
        with pytest.raises(Dropped):
            receiver.open(wire[:length])


@pytest.mark.parametrize(
    "plain",
    [bytes((0, 0, 9, 4)), bytes((255, 4)) * 2, b"\0" * 10 + bytes((9, 9, 2, 4)), bytes((2, 1, 2, 4))],
    ids=["longer than the packet", "255", "wrong octets", "reversed octets"],
)
def test_authenticated_packets_with_impossible_padding_are_malformed(plain: bytes) -> None:
    key = bytes(20)
    head, iv = struct.pack("!II", SPI, 1), bytes(8)
    wire = head + iv + AESGCM(key[:16]).encrypt(key[16:] + iv, plain, head)
    with pytest.raises(Dropped) as caught:
        strip(AeadTransform(SPI, "aes-128-gcm-16", Secret(key)).open(wire))
    assert caught.value.code == drops.MALFORMED


@pytest.mark.parametrize(
    ("encryption", "key", "integrity", "integrity_key"),
    [
        ("rot13", 16, None, None),
        ("aes-128-gcm-16", 16, None, None),
        ("aes-128-gcm-16", 20, "hmac-sha1-96", 20),
        ("aes-128-cbc", 16, None, None),
        ("aes-128-cbc", 16, "hmac-md4-96", 16),
        ("aes-128-gmac", 20, "hmac-sha1-96", 20),
        ("aes-128-ctr", 16, "hmac-sha1-96", 20),
        ("aes-128-ctr", 20, None, None),
        ("null", 0, None, None),
        ("des-cbc", 24, "hmac-sha1-96", 20),
        ("aes-128-cbc", 16, "hmac-sha1-96", 16),
    ],
)
def test_an_impossible_suite_is_refused(
    encryption: str, key: int, integrity: str | None, integrity_key: int | None
) -> None:
    secret = None if integrity_key is None else Secret(bytes(integrity_key))
    with pytest.raises(ValueError):
        build_transform(1, encryption, Secret(bytes(key)), integrity, secret, entropy())


def test_the_icv_has_the_length_of_rfc_4868() -> None:
    for slug, row in INTEGRITY.items():
        (wire,) = transform(("aes-256-cbc", slug)).seal(1, [ip_packet(payload=bytes(10))])
        assert len(wire) == 8 + 16 + 32 + row.icv_octets
