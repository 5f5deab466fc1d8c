"""AH against an HMAC of the standard library over octets laid out by hand, and what routers may do to a packet."""

from __future__ import annotations

import hmac
import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.algorithms import INTEGRITY
from agents.contract.secret import Secret
from agents.dataplane.userspace import drops
from agents.dataplane.userspace.ah import AhTransform, covered, parse
from agents.dataplane.userspace.drops import Dropped
from agents.dataplane.userspace.ip import header
from agents.ike.crypto.primitives import keyed_mac
from tests.vectors import load, needs_vectors

SPI = 0x2233
V4 = tuple(ipaddress.ip_address(each).packed for each in ("192.0.2.1", "198.51.100.2"))
V6 = tuple(ipaddress.ip_address(each).packed for each in ("2001:db8::1", "2001:db8::2"))
KEY = bytes(range(32))


def transform(slug: str = "hmac-sha2-256-128", *, extended: bool = False) -> AhTransform:
    return AhTransform(SPI, slug, Secret(bytes(range(INTEGRITY[slug].key_octets))), extended=extended)


def sealed(
    ah: AhTransform,
    addresses: tuple[bytes, ...] = V4,
    payload: bytes = b"payload",
    number: int = 7,
    between: bytes = b"",
) -> bytes:
    """A whole packet; ``between`` is put behind the IP header: options of IPv4, a hop-by-hop header of IPv6."""
    octets = ah.octets(4 if len(addresses[0]) == 4 else 6) + len(payload)
    before = bytearray(header(addresses[0], addresses[1], 51, octets + len(between), traffic_class=0xB9))
    if between and len(addresses[0]) == 4:
        before[0] += len(between) // 4
    elif between:
        before[6] = 0
    before += between
    return bytes(before) + ah.seal(number, bytes(before), 4, payload)


def test_an_ipv4_packet_is_what_rfc_4302_says() -> None:
    packet = sealed(transform(), payload=b"12345")
    words = 7
    assert packet[20:32] == struct.pack("!BBHII", 4, words - 2, 0, SPI, 7)
    # Version, header length, total length, identification, protocol, addresses; all else of the header is zero.
    head = (
        b"\x45\0" + struct.pack("!H", 20 + 4 * words + 5) + bytes(2) + bytes(2) + b"\0\x33" + bytes(2) + V4[0] + V4[1]
    )
    icv = hmac.digest(KEY, head + packet[20:32] + bytes(16) + b"12345", "sha256")[:16]
    assert packet[32:] == icv + b"12345"


def test_an_ipv6_packet_is_padded_to_eight_octets() -> None:
    packet = sealed(transform(), V6, b"12345")
    assert packet[40:52] == struct.pack("!BBHII", 4, 32 // 4 - 2, 0, SPI, 7)
    head = b"\x60\0\0\0" + struct.pack("!HBB", 32 + 5, 51, 0) + V6[0] + V6[1]
    icv = hmac.digest(KEY, head + packet[40:52] + bytes(16) + bytes(4) + b"12345", "sha256")[:16]
    assert packet[52:] == icv + bytes(4) + b"12345"


def test_the_high_half_follows_the_packet() -> None:
    number = 5 << 32 | 7
    packet = sealed(transform(extended=True), payload=b"12345", number=number)
    icv = hmac.digest(KEY, covered(packet[:20]) + packet[20:32] + bytes(16) + b"12345" + b"\0\0\0\5", "sha256")[:16]
    assert packet[32:48] == icv
    assert transform(extended=True).open(parse(packet), 5) == b"12345"
    with pytest.raises(Dropped):
        transform(extended=True).open(parse(packet), 4)


@pytest.mark.parametrize("slug", INTEGRITY)
@pytest.mark.parametrize("addresses", [V4, V6], ids=["IPv4", "IPv6"])
def test_every_algorithm_verifies_and_notices_every_changed_octet(slug: str, addresses: tuple[bytes, ...]) -> None:
    ah = transform(slug)
    packet = sealed(ah, addresses)
    parsed = parse(packet)
    assert (parsed.spi, parsed.sequence, parsed.next_header) == (SPI, 7, 4)
    assert ah.open(parsed) == b"payload"
    mutable = {1, 6, 7, 8, 10, 11} if len(addresses[0]) == 4 else {0, 1, 2, 3, 7}
    for at in range(len(packet)):
        changed = bytearray(packet)
        changed[at] ^= 1
        if at in mutable:
            assert ah.open(parse(bytes(changed))) == b"payload", at
        else:
            with pytest.raises(Dropped) as caught:
                ah.open(parse(bytes(changed)))
            assert caught.value.code in (drops.INTEGRITY, drops.MALFORMED), at


OPTIONS = {
    "router alert is covered": (bytes((148, 4, 0, 0)), 3, False),
    "security is covered": (bytes((130, 4, 1, 2)), 2, False),
    "a record of the route is not": (bytes((7, 7, 4, 0, 0, 0, 0, 0)), 4, True),
    "a timestamp is not": (bytes((1, 68, 3, 9, 0, 0, 0, 0)), 3, True),
    "an unknown one is not": (bytes((222, 4, 1, 2)), 3, True),
}


@pytest.mark.parametrize(("options", "at", "mutable"), OPTIONS.values(), ids=OPTIONS)
def test_ipv4_options_are_covered_as_appendix_a_says(options: bytes, at: int, mutable: bool) -> None:
    packet = bytearray(sealed(transform(), between=options))
    assert transform().open(parse(bytes(packet))) == b"payload"
    packet[20 + at] ^= 0xFF
    if mutable:
        assert transform().open(parse(bytes(packet))) == b"payload"
    else:
        with pytest.raises(Dropped):
            transform().open(parse(bytes(packet)))


EXTENSIONS = {
    "hop by hop, may change": (bytes((51, 0, 0x3E, 4, 1, 2, 3, 4)), True),
    "hop by hop, does not": (bytes((51, 0, 0x1E, 4, 1, 2, 3, 4)), False),
}


@pytest.mark.parametrize(("extension", "mutable"), EXTENSIONS.values(), ids=EXTENSIONS)
def test_ipv6_options_are_covered_as_they_say(extension: bytes, mutable: bool) -> None:
    ah = transform()
    packet = bytearray(sealed(ah, V6, between=extension))
    assert ah.open(parse(bytes(packet))) == b"payload"
    packet[44] ^= 0xFF
    if mutable:
        assert ah.open(parse(bytes(packet))) == b"payload"
    else:
        with pytest.raises(Dropped):
            ah.open(parse(bytes(packet)))


def test_padding_that_the_sender_chose_is_kept_in_the_icv() -> None:
    """Linux pads to eight octets over IPv4 too, with octets that are not zero."""
    ah, padding = transform(), b"\1\2\3\4"
    before = header(V4[0], V4[1], 51, 32 + 5)
    fixed = struct.pack("!BBHII", 4, 32 // 4 - 2, 0, SPI, 1)
    icv = hmac.digest(KEY, covered(before) + fixed + bytes(16) + padding + b"12345", "sha256")[:16]
    assert ah.open(parse(before + fixed + icv + padding + b"12345")) == b"12345"
    with pytest.raises(Dropped):
        ah.open(parse(before + fixed + icv + bytes(4) + b"12345"))


@given(st.binary(max_size=120))
def test_any_octets_are_survived(octets: bytes) -> None:
    for first in (b"", b"\x45" + bytes(8) + b"\x33", b"\x60" + bytes(5) + b"\x33", b"\x60" + bytes(5) + b"\x00"):
        with pytest.raises(Dropped):
            transform().open(parse(first + octets))


def test_every_truncation_is_dropped() -> None:
    for addresses in (V4, V6):
        packet = sealed(transform(), addresses)
        for length in range(len(packet)):
            with pytest.raises(Dropped):
                transform().open(parse(packet[:length]))


@pytest.mark.parametrize(("slug", "octets"), [("rot13", 16), ("hmac-sha1-96", 16)])
def test_impossible_keys_are_refused(slug: str, octets: int) -> None:
    with pytest.raises(ValueError):
        AhTransform(SPI, slug, Secret(bytes(octets)))


@needs_vectors
@pytest.mark.parametrize(("table", "name"), [("aes_xcbc128", "aes-xcbc"), ("aes_cmac128", "aes-cmac")])
def test_linux_vectors_of_the_macs(table: str, name: str) -> None:
    rows = load("linux-crypto/esp_testmgr_vectors.json")[table]
    for row in rows:
        mac = keyed_mac(name, bytes.fromhex(row["key"]))
        assert mac(bytes.fromhex(row["msg"])).hex() == row["mac"]
    assert len(rows) == 6
