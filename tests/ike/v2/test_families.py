"""Every family of rejected packets (FEATURES A21): a crafted exchange, its code, what was received and expected.

The ladder is the same throughout: a request of the peer that cannot be read is dropped in silence while it is in clear,
and refused once it is authentic::

    peer                                   we
    SK {payload that cannot be read} -->
                                     <--   SK {N(INVALID_SYNTAX)}      and the IKE SA ends (RFC 7296 section 2.21.3)
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.config import Child, IkePolicy, IkeProposal, IpsecProposal, SequenceNumbers
from agents.contract.events import KINDS
from agents.ike import mismatch, proposals
from agents.ike.outputs import Report
from agents.ike.v2.states import SaState
from agents.ike.wire.families import FAMILIES
from agents.ike.wire.header import Header
from agents.ike.wire.message import Inner, Message, seal_inner, serialize_clear
from agents.ike.wire.payloads import Nonce, Proposal, SecurityAssociation, Transform
from agents.ike.wire.registry import Exchange
from tests.harness.documents import FAST_ESP, FAST_IKE, child, pair
from tests.harness.world import Host, Network, World
from tests.ike.v2.test_robustness import give, standing

H = bytes.fromhex

SA, KE, IDI, CERT, CERTREQ, AUTH, NONCE, NOTIFY, DELETE, VID, TSI, SK, CP, EAP = (
    33, 34, 35, 37, 38, 39, 40, 41, 42, 43, 44, 46, 47, 48,
)  # fmt: skip

# family, payload type, body without generic header, code, received, expected
BODIES: tuple[tuple[str, int, bytes, str, str, str], ...] = (
    ("Authentication payload", AUTH, H("0200"), "wire.auth-payload", "2 octets", "at least 4 octets"),
    ("Authentication payload", AUTH, H("00000000 11"), "wire.auth-payload", "0", "1 to 255"),
    ("Authentication payload", AUTH, H("02000000"), "wire.auth-payload", "4", "at least 5"),
    ("Certificate payload", CERT, b"", "wire.cert-payload", "0 octets", "at least 1 octets"),
    ("Certificate payload", CERTREQ, b"", "wire.cert-payload", "0 octets", "at least 1 octets"),
    ("Certificate payload", CERT, H("16 30"), "wire.cert-payload", "22", "1 to 15"),
    ("CP payload", CP, H("0100"), "wire.cp-payload", "2 octets", "at least 4 octets"),
    ("Delete payload", DELETE, H("0304"), "wire.delete-payload", "2 octets", "at least 4 octets"),
    ("Delete payload", DELETE, H("03040002 01020304"), "wire.delete-payload", "4", "8"),
    ("Delete payload", DELETE, H("0f040001 01020304"), "wire.delete-payload", "15", "1, 2 or 3"),
    ("Delete payload", DELETE, H("01040001 01020304"), "wire.delete-payload", "1 of 4 octets", "none"),
    ("EAP payload", EAP, H("0101"), "wire.eap-payload", "2 octets", "at least 4 octets"),
    ("EAP payload", EAP, H("01010200 01"), "wire.eap-payload", "5", "512"),
    ("EAP payload", EAP, H("09010004"), "wire.eap-payload", "9", "1 to 4"),
    ("ID payload", IDI, H("0100"), "wire.id-payload", "2 octets", "at least 4 octets"),
    ("ID payload", IDI, H("01000000 c00002"), "wire.id-payload", "3", "4"),
    ("Key exchange payload", KE, H("001f"), "wire.ke-payload", "2 octets", "at least 4 octets"),
    ("Key exchange payload", KE, H("001f0000"), "wire.ke-payload", "4", "at least 5"),
    ("Nonce payload", NONCE, bytes(15), "wire.nonce-payload", "15", "16 to 256"),
    ("Nonce payload", NONCE, bytes(300), "wire.nonce-payload", "300", "16 to 256"),
    ("Notify payload", NOTIFY, H("0000"), "wire.notify-payload", "2 octets", "at least 4 octets"),
    ("Notify payload", NOTIFY, H("03084000 01020304"), "wire.notify-payload", "8 octets", "at least 12 octets"),
    (
        "Notify payload", NOTIFY, H("05044000 01020304"), "wire.notify-payload",
        "protocol 5, SPI of 4 octets", "protocol 2 or 3, or no SPI",
    ),
    (
        "Notify payload", NOTIFY, H("01084000 0102030405060708"), "wire.notify-payload",
        "protocol 1, SPI of 8 octets", "protocol 2 or 3, or no SPI",
    ),
    (
        "Proposal payload", SA, H("00000400 01010003 03000008 01000014"), "wire.proposal-payload",
        "length 1024, marker 0", "length 8 to 16, marker 0 or 2",
    ),
    ("SA payload", SA, H("000000"), "wire.sa-payload", "3 octets", "8 octets"),
    (
        "SA payload", SA, H("00000010 01010001 00000008 01000014 ff"), "wire.sa-payload", "17 octets", "16 octets",
    ),
    ("Traffic selector payload", TSI, H("00000000"), "wire.ts-payload", "0", "1 to 255"),
    (
        "Xform payload", SA, H("0000000c 01010001 00000008"), "wire.transform", "4 octets", "8 octets",
    ),
    (
        "Xform payload", SA, H("00000010 01010001 00000400 01000014"), "wire.transform",
        "length 1024, marker 0", "length 8 to 8, marker 0",
    ),
    (
        "Xform payload", SA, H("00000016 01010001 0000000e 01000014 000e0002 0080"), "wire.transform",
        "AF bit 0", "AF bit 1",
    ),
    (
        "Xform payload", SA, H("00000014 01010001 0000000c 01000014 00630960"), "wire.transform",
        "8 octets", "at least 2408 octets",
    ),
    ("Incomplete attribute", CP, H("01000000 0001"), "wire.incomplete-attribute", "2 octets", "4 octets"),
    ("Incomplete attribute", CP, H("01000000 00010200"), "wire.incomplete-attribute", "0 octets", "512 octets"),
    ("Invalid attribute", IDI, H("63000000 6162"), "wire.invalid-attribute", "99", "1, 2, 3, 5, 9, 10, 11"),
    ("Invalid attribute", SA, H("00000010 01000001 00000008 01000014"), "wire.invalid-attribute", "0", "1 to 3"),
    (
        "Invalid attribute", SA, H("00000013 01030301 010203 00000008 0100000c"), "wire.invalid-attribute", "3", "4",
    ),
    ("Invalid attribute", TSI, H("01000000 07000007 00000000"), "wire.invalid-attribute", "7", "16"),
    ("Invalid attribute", CP, H("78000000"), "wire.invalid-attribute", "120", "1 to 4"),
    ("Mismatched attribute", SA, H("00000008 06010000"), "wire.mismatched-attribute", "0", "1 to 64"),
    ("Traffic selector attribute", TSI, H("01000000 070000"), "wire.ts-attribute", "3", "4"),
    (
        "Traffic selector attribute", TSI, H("01000000 07000010 0000ffff 0a00"), "wire.ts-attribute",
        "10 octets", "16 octets",
    ),
)  # fmt: skip

# family, octets of the chain, type of the first payload: the generic header itself is wrong
CHAINS: tuple[tuple[str, int, bytes, str, str, str], ...] = (
    ("Authentication payload", AUTH, H("00000400 02000000 aa"), "wire.auth-payload", "9 octets", "1024 octets"),
    ("Certificate payload", CERT, H("000000d2 04"), "wire.cert-payload", "5 octets", "210 octets"),
    ("CP payload", CP, H("00000200"), "wire.cp-payload", "4 octets", "512 octets"),
    ("Default payload", 200, H("00000800 00"), "wire.default-payload", "5 octets", "2048 octets"),
    ("Default payload", 200, H("00000003"), "wire.default-payload", "4 octets", "3 octets"),
    ("EAP payload", EAP, H("00000800"), "wire.eap-payload", "4 octets", "2048 octets"),
    ("ID payload", IDI, H("0000"), "wire.id-payload", "2 octets", "at least 4 octets"),
    ("Vendor ID payload", VID, H("00000800 61"), "wire.vendor-id-payload", "5 octets", "2048 octets"),
    ("Vendor ID payload", VID, H("00"), "wire.vendor-id-payload", "1 octets", "at least 4 octets"),
    ("Traffic selector payload", TSI, H("00000400"), "wire.ts-payload", "4 octets", "1024 octets"),
)


def seal(paris: Host, first: int, chain: bytes, exchange: int = Exchange.INFORMATIONAL) -> bytes:
    (sa,) = paris.engine.v2.sas.values()
    header = Header(
        spi_i=sa.spi_i, spi_r=sa.spi_r, next_payload=0, exchange=exchange, flags=8, message_id=sa.requests.next_id
    )
    return seal_inner(header, Inner(first=first, reserved=0, chain=chain), sa.protection.cipher_out, b"\xff" * 8)


def generic(body: bytes) -> bytes:
    return bytes(2) + (4 + len(body)).to_bytes(2, "big") + body


def the(host: Host, code: str) -> Report:
    (report,) = [each for each in host.reports if each.code == code]
    return report


def check_refused(paris: Host, lyon: Host, octets: bytes, code: str, received: str, expected: str) -> Report:
    (sa,) = lyon.engine.v2.sas.values()
    give(lyon, octets)
    report = the(lyon, code)
    assert (report.received, report.configured) == (received, expected)
    assert report.attributes["exchange"] == "informational"
    assert sa.state is (SaState.ESTABLISHED if received == "99" else SaState.CLOSED)  # an identity is no syntax
    assert lyon.codes()["ike.bug"] == 0
    return report


class TestPayloads:
    @pytest.mark.parametrize(("family", "type_", "body", "code", "received", "expected"), BODIES)
    def test_a_body(self, family: str, type_: int, body: bytes, code: str, received: str, expected: str) -> None:
        _, paris, lyon = standing()
        report = check_refused(paris, lyon, seal(paris, type_, generic(body)), code, received, expected)
        assert report.attributes["payload"]
        assert code in next(each for each in FAMILIES if each.name == family).codes

    @pytest.mark.parametrize(("family", "type_", "chain", "code", "received", "expected"), CHAINS)
    def test_a_generic_header(
        self, family: str, type_: int, chain: bytes, code: str, received: str, expected: str
    ) -> None:
        _, paris, lyon = standing()
        check_refused(paris, lyon, seal(paris, type_, chain), code, received, expected)
        assert code in next(each for each in FAMILIES if each.name == family).codes

    def test_encrypted_payload_inside_another(self) -> None:
        _, paris, lyon = standing()
        give(lyon, seal(paris, SK, generic(b"")))
        assert the(lyon, "wire.encrypted-payload").received == "nested"

    def test_unsupported_critical_payload(self) -> None:
        """Refused with its type, and the IKE SA stands (RFC 7296 section 2.5)."""
        world, paris, lyon = standing()
        since = len(world.log)
        give(lyon, seal(paris, 200, H("00800004")))
        assert the(lyon, "drop.critical-payload").received == "payload type 200, critical"
        assert len(world.log) == since + 1
        (sa,) = lyon.engine.v2.sas.values()
        assert sa.state is SaState.ESTABLISHED


def clear(payload_octets: bytes = b"", first: int = 0, **changes: int | bytes) -> bytes:
    """A first request in clear, with these fields of the header."""
    header = Header(
        spi_i=b"initiate", spi_r=bytes(8), next_payload=first, exchange=34, flags=8, message_id=0,
        length=28 + len(payload_octets),
    )  # fmt: skip
    return replace(header, **changes).serialize() + payload_octets  # type: ignore[arg-type]


class TestHeader:
    """IKEv2 header: dropped in silence, for nobody is proven; another version is told which one is spoken."""

    @pytest.mark.parametrize(
        ("octets", "code", "received", "expected"),
        [
            (clear()[:20], "wire.header", "20 octets", "at least 28 octets"),
            (clear(length=110), "wire.header", "28 octets", "110 octets"),
            (clear(spi_i=bytes(8)), "wire.header", "SPI 0", None),
            (clear(version=0x10), "drop.ikev1", "1", "2"),
            (clear(version=0x30), "drop.version", "3", "2"),
            (clear(H("00000004"), first=SA), "wire.sa-payload", "0 octets", "8 octets"),
            (clear(H("00000003"), first=NONCE), "wire.nonce-payload", "4 octets", "3 octets"),
        ],
    )
    def test_dropped(self, octets: bytes, code: str, received: str, expected: str | None) -> None:
        world, _, lyon = standing()
        since = len(world.log)
        give(lyon, octets)
        report = the(lyon, code)
        assert (report.received, report.configured if expected is not None else None) == (received, expected)
        assert len(world.log) == since

    def test_an_unknown_exchange_type(self) -> None:
        _, paris, lyon = standing()
        give(lyon, seal(paris, 0, b"", exchange=99))
        assert lyon.codes()["drop.state"] + lyon.codes()["drop.exchange-type"] == 1

    def test_a_payload_that_is_missing(self) -> None:
        _, _, lyon = standing()
        message = Message(header=replace_header(), payloads=(Nonce(data=bytes(16)),))
        give(lyon, serialize_clear(message))
        report = the(lyon, "drop.payload-rules")
        assert (report.received, report.configured) == ("0", "at least 1")
        assert report.attributes["exchange"] == "ike-sa-init"


def replace_header() -> Header:
    return Header(spi_i=b"initiate", spi_r=bytes(8), next_payload=0, exchange=34, flags=8, message_id=0)


CBC = IpsecProposal(encryption="aes-256-cbc", integrity="hmac-sha2-256-128")
OTHER_CBC = IpsecProposal(encryption="aes-256-cbc", integrity="hmac-sha2-512-256")
AH = IpsecProposal(encryption=None, integrity=None, ah_integrity="hmac-sha2-256-128")
OTHER_AH = IpsecProposal(encryption=None, integrity=None, ah_integrity="hmac-sha2-512-256")

MISMATCHES: tuple[tuple[str, Child, Child, str, str], ...] = (
    ("child.encryption-mismatch", child(proposals=(IpsecProposal(encryption="aes-256-gcm-16"),)), child(),
     "aes-256-gcm-16", FAST_ESP.encryption or ""),
    ("child.integrity-mismatch", child(proposals=(OTHER_CBC,)), child(proposals=(CBC,)),
     "hmac-sha2-512-256", "hmac-sha2-256-128"),
    ("child.ah-mismatch", child(proposals=(OTHER_AH,)), child(proposals=(AH,)),
     "hmac-sha2-512-256", "hmac-sha2-256-128"),
    ("child.protocols-mismatch", child(proposals=(AH,)), child(), "AH", "ESP"),
    ("child.pfs-mismatch", child(pfs_groups=("group-14",)), child(pfs_groups=("group-31",)), "group-14", "group-31"),
    ("child.pfs-mismatch", child(pfs_groups=("group-14",)), child(), "group-14", "none"),
    ("child.esn-mismatch", child(sequence_numbers=SequenceNumbers.EXTENDED), child(), "esn", "no-esn"),
)  # fmt: skip


class TestMismatches:
    """Mismatched attribute: which transform of which proposal differs, at the end that refuses."""

    @pytest.mark.parametrize(("code", "theirs", "ours", "received", "configured"), MISMATCHES)
    def test_child(self, code: str, theirs: Child, ours: Child, received: str, configured: str) -> None:
        offer = proposals.offer_ipsec(theirs, b"\1\2\3\4", pfs=True)
        assert proposals.choose_ipsec(ours, offer, True) is None
        found = mismatch.describe_ipsec(ours, offer, True)
        assert found is not None
        assert (found.code, found.received, found.configured, found.proposal) == (code, received, configured, 1)
        assert KINDS[code].field == found.field

    def test_the_nearest_proposal_counts(self) -> None:
        offer = proposals.offer_ipsec(
            child(proposals=(AH, IpsecProposal(encryption="aes-128-cbc", integrity="hmac-sha1-96"), OTHER_CBC)),
            b"\1\2\3\4",
            pfs=False,
        )
        found = mismatch.describe_ipsec(child(proposals=(CBC,)), offer, False)
        assert found is not None
        assert (found.code, found.proposal, found.received) == ("child.integrity-mismatch", 3, "hmac-sha2-512-256")

    def test_two_differences_are_no_single_one(self) -> None:
        offer = proposals.offer_ipsec(child(proposals=(CBC,)), b"\1\2\3\4", pfs=False)
        found = mismatch.describe_ipsec(child(), offer, False)
        assert found is not None
        assert (found.code, found.what, found.more) == ("child.no-proposal", "encryption", True)

    def test_nothing_differs(self) -> None:
        offer = proposals.offer_ipsec(child(), b"\1\2\3\4", pfs=False)
        assert mismatch.describe_ipsec(child(), offer, False) is None

    @pytest.mark.parametrize(
        ("changes", "what", "received"),
        [
            ({"encryption": "aes-256-gcm-16"}, "encryption", "aes-256-gcm-16"),
            ({"prf": "prf-hmac-sha2-512"}, "pseudo-random function", "prf-hmac-sha2-512"),
            ({"group": "group-19"}, "key exchange group", "group-19"),
            ({"additional_key_exchanges": ("ml-kem-768",)}, "additional key exchange 1", "addke1:ml-kem-768"),
        ],
    )
    def test_ike(self, changes: dict[str, object], what: str, received: str) -> None:
        theirs: IkeProposal = replace(FAST_IKE, **changes)  # type: ignore[arg-type]
        world = World()
        left, right = pair()
        left.change(ike=IkePolicy(proposals=(theirs,)))
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(0.3)
        report = the(lyon, "ike.no-proposal")
        assert report.attributes["difference"] == what
        assert report.attributes["difference_received"] == received
        assert report.attributes["proposal"] == "1"
        assert what in report.message
        ours = the(paris, "ike.peer-refused-proposal")  # the peer does not say why: we say what we offered
        assert ours.configured == proposals.describe_ike((theirs,))

    def test_hostile_offers_are_described_in_bounds(self) -> None:
        many = tuple(Transform(type=1, id=number) for number in range(64))
        offer = SecurityAssociation(
            proposals=tuple(Proposal(number=number, protocol=1, transforms=many) for number in range(1, 65))
        )
        found = mismatch.describe_ike((FAST_IKE,), offer)
        assert found is not None
        assert len(found.sentence) < 300


class TestTable:
    def test_twenty_two_families_each_with_codes_that_exist(self) -> None:
        assert len(FAMILIES) == len({each.name for each in FAMILIES}) == 22
        codes = [code for each in FAMILIES for code in each.codes]
        assert len(codes) == len(set(codes))
        assert all(code in KINDS for code in codes)
        assert {code for code in KINDS if code.startswith("wire.")} <= set(codes)

    def test_every_family_is_provoked(self) -> None:
        provoked = {entry[0] for entry in (*BODIES, *CHAINS)}
        provoked |= {"Encrypted payload", "Unsupported payload", "IKEv2 header"}  # by tests of their own above
        assert provoked == {each.name for each in FAMILIES}


def test_an_answer_that_cannot_be_read_is_not_answered() -> None:
    """Whoever waits for an answer drops what is wrong and asks again."""
    world, paris, lyon = standing()
    (sa,) = lyon.engine.v2.sas.values()
    world.network = Network(loss=1.0)
    paris.do(paris.engine.rekey_child, paris.status().id)
    (ours,) = paris.engine.v2.sas.values()
    assert ours.requests.outstanding is not None
    header = Header(
        spi_i=sa.spi_i, spi_r=sa.spi_r, next_payload=0, exchange=36, flags=0x20,
        message_id=ours.requests.outstanding.message_id,
    )  # fmt: skip
    octets = seal_inner(
        header, Inner(first=NONCE, reserved=0, chain=generic(bytes(3))), sa.protection.cipher_out, b"\xff" * 8
    )
    since = len(world.log)
    paris.do(paris.engine.receive, octets, ours.path)
    assert the(paris, "wire.nonce-payload").received == "3"
    assert len(world.log) == since
    assert ours.requests.outstanding is not None
    assert ours.state is SaState.ESTABLISHED
