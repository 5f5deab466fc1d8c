"""Identities on the wire, as text, partial ones, and in certificates (RFC 7296 3.5, RFC 4945 3.1, RFC 5280 7.1)."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agents.contract.config import Identity, IdentityType
from agents.ike import identity, names
from agents.ike.identity import Fit
from agents.ike.wire.payloads import IdI

_CASES = [
    (Identity(type=IdentityType.IPV4, value="192.0.2.1"), 1, bytes((192, 0, 2, 1))),
    (Identity(type=IdentityType.IPV6, value="2001:db8::1"), 5, bytes.fromhex("20010db8000000000000000000000001")),
    (Identity(type=IdentityType.FQDN, value="paris.example"), 2, b"paris.example"),
    (Identity(type=IdentityType.EMAIL, value="paris@example.net"), 3, b"paris@example.net"),
    (Identity(type=IdentityType.KEY_ID, value="00ff10"), 11, b"\x00\xff\x10"),
    # SEQUENCE { SET { SEQUENCE { 2.5.4.6, PrintableString FR } }, SET { SEQUENCE { 2.5.4.3, UTF8String gw } } }
    (
        Identity(type=IdentityType.DN, value="CN=gw,C=FR"),
        9,
        bytes.fromhex("301a310b3009060355040613024652310b300906035504030c026777"),
    ),
]


@pytest.mark.parametrize(("own", "number", "octets"), _CASES, ids=lambda value: str(value)[:20])
def test_wire_form_and_back(own: Identity, number: int, octets: bytes) -> None:
    shown = identity.to_id_i(own)
    assert (shown.id_type, shown.data) == (number, octets)
    assert identity.matches(own, identity.to_id_r(own))
    assert identity.describe(shown) == identity.describe_own(own)


def test_names_compare_without_case_and_types_with_care() -> None:
    name = Identity(type=IdentityType.FQDN, value="paris.example")
    assert identity.matches(name, IdI(id_type=2, data=b"Paris.Example"))
    assert not identity.matches(name, IdI(id_type=3, data=b"paris.example"))
    assert not identity.matches(name, IdI(id_type=2, data=b"paris.example."))


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (IdI(id_type=2, data=b"a\r\n\x1b[0m" + b"x" * 500), "fqdn a...[0m" + "x" * 93),
        (IdI(id_type=9, data=b"\x30\x01"), "dn that cannot be read"),
        (IdI(id_type=10, data=b"\x30\x00"), "type 10 3000"),
        (IdI(id_type=1, data=b"\x01\x02\x03"), "ipv4 010203"),
    ],
)
def test_what_a_peer_calls_itself_is_bounded_and_harmless(shown: IdI, text: str) -> None:
    assert identity.describe(shown) == text


def dn(text: str) -> Identity:
    return Identity(type=IdentityType.DN, value=text)


def printable_name(common_name: str, country: str = "FR") -> bytes:
    """A name whose strings are all PrintableString, written by hand."""

    def rdn(oid_end: int, value: str) -> bytes:
        attribute = bytes((0x06, 3, 0x55, 4, oid_end, 0x13, len(value))) + value.encode()
        return bytes((0x31, len(attribute) + 2, 0x30, len(attribute))) + attribute

    body = rdn(6, country) + rdn(3, common_name)
    return bytes((0x30, len(body))) + body


class TestDistinguishedNames:
    @pytest.mark.parametrize("shown", ["Paris Gateway", "PARIS  gateway", " paris gateway "])
    def test_case_white_space_and_kind_of_string_do_not_count(self, shown: str) -> None:
        assert identity.matches(dn("CN=Paris Gateway,C=FR"), IdI(id_type=9, data=printable_name(shown)))

    @pytest.mark.parametrize(
        "other", ["CN=Paris,C=DE", "C=FR,CN=Paris", "CN=Paris", "CN=Paris,OU=x,C=FR", "CN=Pari,C=FR"]
    )
    def test_another_name_is_another_name(self, other: str) -> None:
        assert not identity.matches(dn(other), IdI(id_type=9, data=printable_name("Paris")))

    def test_an_rdn_of_two_attributes_has_no_order(self) -> None:
        assert names.equal(names.to_der("CN=a+OU=b,C=FR"), names.to_der("OU=b+CN=a,C=FR"))

    @pytest.mark.parametrize(
        "text", ["CN=gw,O=Example", "CN=a\\, b,O=\\#x\\+", "E=a@b.example,CN=x", "UID=7,DC=example,DC=org", "1.2.3.4=x"]
    )
    def test_text_and_der_and_back(self, text: str) -> None:
        assert names.to_text(names.to_der(text)) == text

    def test_spaces_after_commas_are_taken(self) -> None:
        assert names.to_der("CN=gw , O=Example") == names.to_der("CN=gw,O=Example")

    @pytest.mark.parametrize("text", ["no name", "CN=a,,O=b", "XX=1", "CN"])
    def test_text_that_is_no_name(self, text: str) -> None:
        with pytest.raises(ValueError, match="not a distinguished name"):
            names.to_der(text)

    def test_every_cut_and_every_changed_octet_is_a_name_or_a_value_error(self) -> None:
        der = printable_name("Paris")
        for cut in range(len(der)):
            with pytest.raises(ValueError):
                names.read(der[:cut])
        for place in range(len(der)):
            for value in (0, 0x7F, 0x80, 0x82, 0xFF):
                try:
                    names.read(der[:place] + bytes((value,)) + der[place + 1 :])
                except ValueError:
                    continue

    def test_hostile_text_of_a_peer(self) -> None:
        shown = IdI(id_type=9, data=printable_name("\n\x1b[31m<script>"))
        assert identity.describe(shown) == "dn CN=..[31m\\<script\\>,C=FR"

    def test_the_subject_of_our_certificate_is_sent_as_it_is(self) -> None:
        subject = printable_name("Paris")
        assert identity.to_id_i(dn("CN=paris,C=FR"), subject).data == subject
        assert identity.to_id_i(dn("CN=lyon,C=FR"), subject).data != subject


class TestPartial:
    @pytest.mark.parametrize(
        ("kind", "expected", "id_type", "shown", "fit"),
        [
            (IdentityType.FQDN, "gw.example.org", 2, b"GW.example.org", Fit.EXACT),
            (IdentityType.FQDN, "*.example.org", 2, b"gw.Example.org", Fit.PARTIAL),
            (IdentityType.FQDN, "*.example.org", 2, b"a.b.example.org", Fit.PARTIAL),
            (IdentityType.FQDN, "*.example.org", 2, b".example.org", None),
            (IdentityType.FQDN, "*.example.org", 2, b"example.org", None),
            (IdentityType.FQDN, "*.example.org", 2, b"gw.example.org.evil.net", None),
            (IdentityType.FQDN, "*.example.org", 3, b"gw.example.org", None),
            (IdentityType.EMAIL, "*@example.org", 3, b"ann@example.org", Fit.PARTIAL),
            (IdentityType.EMAIL, "*@example.org", 3, b"ann@sub.example.org", None),
            (IdentityType.DN, "CN=*,C=FR", 9, printable_name("anything"), Fit.PARTIAL),
            (IdentityType.DN, "CN=Paris,C=*", 9, printable_name("paris"), Fit.PARTIAL),
            (IdentityType.DN, "CN=*,C=DE", 9, printable_name("anything"), None),
            (IdentityType.DN, "CN=*,OU=x,C=FR", 9, printable_name("anything"), None),
            (IdentityType.ANY, "*", 11, b"whatever", Fit.ANY),
        ],
    )
    def test_fit(self, kind: IdentityType, expected: str, id_type: int, shown: bytes, fit: Fit | None) -> None:
        assert identity.fit(Identity(type=kind, value=expected), IdI(id_type=id_type, data=shown)) is fit

    def test_what_is_shown_as_a_document_writes_it(self) -> None:
        for own, number, octets in _CASES:
            assert identity.from_shown(IdI(id_type=number, data=octets)) == own
        assert identity.from_shown(IdI(id_type=2, data=b"*.example.org")) is None
        assert identity.from_shown(IdI(id_type=2, data=b"\xff")) is None
        assert identity.from_shown(IdI(id_type=99, data=b"x")) is None


@pytest.fixture(scope="module")
def certificate() -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name.from_rfc4514_string("CN=Paris,C=FR")
    alternative = x509.SubjectAlternativeName(
        [
            x509.DNSName("Paris.example.org"),
            x509.DNSName("*.wild.example.org"),
            x509.RFC822Name("gw@example.org"),
            x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
            x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
        ]
    )
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return (
        x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + datetime.timedelta(days=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )


@pytest.mark.parametrize(
    ("id_type", "data", "there"),
    [
        (2, b"paris.EXAMPLE.org", True),
        (2, b"lyon.example.org", False),
        (2, b"Paris", False),  # the common name is not the place for it
        (2, b"x.wild.example.org", False),
        (3, b"gw@example.org", True),
        (3, b"paris.example.org", False),
        (1, bytes((192, 0, 2, 1)), True),
        (1, bytes((192, 0, 2, 2)), False),
        (5, bytes.fromhex("20010db8000000000000000000000001"), True),
        (9, printable_name("paris"), True),
        (9, printable_name("lyon"), False),
        (11, b"paris.example.org", False),
        (10, b"", False),
    ],
)
def test_in_certificate(certificate: x509.Certificate, id_type: int, data: bytes, there: bool) -> None:
    assert identity.in_certificate(id_type, data, certificate) is there


def test_in_a_certificate_without_alternative_names(certificate: x509.Certificate) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    bare = x509.CertificateBuilder(
        certificate.subject,
        certificate.subject,
        key.public_key(),
        2,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    ).sign(key, hashes.SHA256())
    assert not identity.in_certificate(2, b"paris.example.org", bare)
    assert identity.in_certificate(9, printable_name("Paris"), bare)
