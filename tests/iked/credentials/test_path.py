"""Chains: what is taken, and each way to be refused, made wrong in one place."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import subprocess
from collections.abc import Callable
from pathlib import Path as FilePath

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.events import KINDS
from agents.pki.errors import CertificateError
from agents.pki.path import MOST_CERTIFICATES, MOST_SIGNATURE_CHECKS, Path, paths, read_chain
from agents.pki.reading import check_issued, read
from tests import pki
from tests.pki import DAY, Authority, Leaf, der, key_usage, now


def judge(chain: tuple[bytes, ...], *anchors: Authority | Leaf, pinned: bool = False) -> Path:
    trusted = [read(der(each.certificate)) for each in anchors]
    return next(paths(read_chain(chain), trusted, now(), leaf_may_be_anchor=pinned))


def refusal(chain: tuple[bytes, ...], *anchors: Authority | Leaf, pinned: bool = False) -> CertificateError:
    with pytest.raises(CertificateError) as caught:
        judge(chain, *anchors, pinned=pinned)
    assert caught.value.code in KINDS
    assert caught.value.message.isascii()
    return caught.value


@pytest.mark.parametrize(
    "key_type", ["ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "ecdsa-bp256", "rsa-2048", "ed25519", "ed448"]
)
def test_a_leaf_below_an_intermediate_of_each_kind_of_key(key_type: str) -> None:
    own = pki.key(key_type, "shared")
    root = Authority.root("Root", private_key=own)
    leaf = root.intermediate("Issuing", private_key=own).leaf("alpha", private_key=own, dns=("alpha.example",))
    path = judge(leaf.chain, root)
    assert [each.der for each in path.certificates] == list(leaf.chain)
    assert path.leaf.spki == pki.spki(leaf.certificate)


def test_pss_signed_certificates_are_taken() -> None:
    root = Authority.root("Root", private_key=pki.key("rsa-2048", "shared"))
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    assert judge(root.leaf("alpha", rsa_padding=pss).chain, root).leaf.text.startswith("CN=alpha")


def test_intermediates_come_in_any_order_with_others_between() -> None:
    root = Authority.root()
    leaf = root.intermediate("A").intermediate("B").intermediate("C").leaf("alpha")
    stranger = Authority.root("Stranger")
    mixed = (leaf.chain[0], der(stranger.certificate), *reversed(leaf.chain[1:]), b"not a certificate")
    assert len(judge(mixed, root).certificates) == 4


def test_a_cross_certificate_finds_the_anchor_that_is_trusted() -> None:
    old, new = Authority.root("Old"), Authority.root("New")
    issuing = old.intermediate("Issuing")
    crossed = new.intermediate("Issuing", private_key=issuing.key)
    leaf = issuing.leaf("alpha")
    chain = (leaf.chain[0], der(crossed.certificate), der(issuing.certificate))
    assert judge(chain, old).certificates[1].der == der(issuing.certificate)
    assert judge(chain, new).certificates[1].der == der(crossed.certificate)


def test_nobody_trusted_says_who_issued_and_who_is_trusted() -> None:
    error = refusal(Authority.root("Theirs").leaf("alpha").chain, Authority.root("Ours"))
    assert error.code == "ike.certificate-untrusted"
    assert error.received is not None
    assert "Theirs" in error.received
    assert error.configured is not None
    assert "Ours" in error.configured


def test_a_missing_intermediate_is_not_trusted() -> None:
    root = Authority.root()
    leaf = root.intermediate().leaf("alpha")
    assert refusal(leaf.chain[:1], root).code == "ike.certificate-untrusted"


def test_the_name_of_a_ca_without_its_key_is_not_enough() -> None:
    root = Authority.root("Root")
    forged = Authority.root("Root").leaf("alpha", extensions=[(pki.key_usage("digital_signature"), True)])
    assert refusal(forged.chain, root).code == "ike.certificate-untrusted"


def test_a_changed_octet_in_the_signed_part_or_the_signature_is_noticed() -> None:
    root = Authority.root()
    good = root.leaf("alpha").chain[0]
    for at in (good.index(b"alpha"), len(good) - 10):
        changed = good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :]
        assert refusal((changed,), root).code in {"ike.certificate-untrusted", "ike.certificate-invalid"}


def test_two_algorithm_names_are_one_too_many() -> None:
    """RFC 5280 section 4.1.1.2: the algorithm outside must be the one inside."""
    root = Authority.root()
    good = root.leaf("alpha").chain[0]
    sha256, sha384 = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d040303")
    outer = good.rindex(sha256)
    assert good.count(sha256) == 2
    swapped = good[:outer] + sha384 + good[outer + len(sha384) :]
    assert "two signature algorithms" in refusal((swapped,), root).message


@pytest.mark.parametrize("who", ["root", "intermediate", "leaf"])
@pytest.mark.parametrize(
    ("days", "code"), [((-9, -2), "ike.certificate-expired"), ((2, 9), "ike.certificate-not-yet-valid")]
)
def test_every_certificate_of_the_chain_must_be_valid_now(who: str, days: tuple[int, int], code: str) -> None:
    bad = (now() + days[0] * DAY, now() + days[1] * DAY)
    root = Authority.root(valid=bad if who == "root" else None)
    issuing = root.intermediate(valid=bad if who == "intermediate" else None)
    error = refusal(issuing.leaf("alpha", valid=bad if who == "leaf" else None).chain, root)
    assert error.code == code
    assert error.received is not None
    assert "UTC" in error.received


def _as_leaf(**options: object) -> Callable[[], tuple[tuple[bytes, ...], Authority]]:
    def make() -> tuple[tuple[bytes, ...], Authority]:
        root = Authority.root()
        return root.leaf("alpha", **options).chain, root  # type: ignore[arg-type]

    return make


def _as_ca(**options: object) -> Callable[[], tuple[tuple[bytes, ...], Authority]]:
    def make() -> tuple[tuple[bytes, ...], Authority]:
        root = Authority.root()
        return root.intermediate("Issuing", **options).leaf("alpha", dns=("alpha.example",)).chain, root  # type: ignore[arg-type]

    return make


CODE_SIGNING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")

REFUSED = {
    "leaf may not sign": ("usage", _as_leaf(extensions=[(key_usage("key_agreement"), True)])),
    "leaf for web pages of code": ("usage", _as_leaf(usages=[ExtendedKeyUsageOID.CODE_SIGNING])),
    "leaf with an unknown critical extension": ("invalid", _as_leaf(extensions=[(UNKNOWN, True)])),
    "leaf is a CA": ("usage", _as_leaf(extensions=[(x509.BasicConstraints(ca=True, path_length=None), True)])),
    "leaf with RSA of 1024 bits": ("weak", _as_leaf(private_key=pki.key("rsa-1024", "weak"))),
    "leaf on P-224": ("weak", _as_leaf(key_type="ecdsa-p224")),
    "CA is none": ("usage", _as_ca(extensions=[(x509.BasicConstraints(ca=False, path_length=None), True)])),
    "CA may not issue": ("usage", _as_ca(extensions=[(key_usage("digital_signature"), True)])),
    "CA for other uses": ("usage", _as_ca(extensions=[(CODE_SIGNING, False)])),
    "CA with an unknown critical extension": ("invalid", _as_ca(extensions=[(UNKNOWN, True)])),
    "CA wants policies": ("constraint", _as_ca(extensions=[(x509.PolicyConstraints(0, None), True)])),
    "CA with RSA of 1024 bits": ("untrusted", _as_ca(private_key=pki.key("rsa-1024", "weak"))),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_with_one_certificate_refuses_the_chain(case: str) -> None:
    code, make = REFUSED[case]
    chain, root = make()
    assert refusal(chain, root).code == f"ike.certificate-{code}"


@pytest.mark.parametrize(
    "usages",
    [
        [],
        [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
        [pki.IPSEC_IKE],
        [ExtendedKeyUsageOID.SERVER_AUTH],
        [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.CODE_SIGNING],
    ],
)
def test_extended_key_usages_that_allow_ike(usages: list[ObjectIdentifier]) -> None:
    """RFC 4945 section 5.1.3.12."""
    root = Authority.root()
    assert judge(root.leaf("alpha", usages=usages).chain, root)


@pytest.mark.parametrize("usage", ["digital_signature", "content_commitment"])
def test_key_usages_that_allow_signing_and_an_unknown_extension_that_is_not_critical(usage: str) -> None:
    root = Authority.root()
    assert judge(root.leaf("alpha", extensions=[(key_usage(usage), True), (UNKNOWN, False)]).chain, root)


def test_path_length_counts_the_cas_below() -> None:
    root = Authority.root(path_length=1)
    first = root.intermediate("A", path_length=0)
    assert judge(first.leaf("alpha").chain, root)
    assert refusal(first.intermediate("B").leaf("alpha").chain, root).code == "ike.certificate-constraint"
    wide = root.intermediate("C")
    assert refusal(wide.intermediate("D").leaf("alpha").chain, root).code == "ike.certificate-constraint"


def test_a_chain_may_have_eight_certificates_and_not_nine() -> None:
    root = issuing = Authority.root()
    for number in range(MOST_CERTIFICATES - 1):
        issuing = issuing.intermediate(f"CA {number}")
    assert len(judge(issuing.leaf("alpha").chain, root).certificates) == MOST_CERTIFICATES
    assert refusal(issuing.intermediate("more").leaf("alpha").chain, root).code == "ike.certificate-untrusted"


NETWORK = x509.IPAddress(ipaddress.ip_network("192.0.2.0/24"))


@pytest.mark.parametrize(
    ("permitted", "excluded", "names", "good"),
    [
        ([x509.DNSName("example.org")], None, {"dns": ["gw.example.org"]}, True),
        ([x509.DNSName("example.org")], None, {"dns": ["EXAMPLE.ORG"]}, True),
        ([x509.DNSName("example.org")], None, {"dns": ["badexample.org"]}, False),
        ([x509.DNSName("example.org")], None, {"dns": ["gw.example.org", "gw.example.net"]}, False),
        ([x509.DNSName("example.org")], None, {"addresses": ["192.0.2.1"]}, True),
        (None, [x509.DNSName("example.org")], {"dns": ["gw.example.org"]}, False),
        (None, [x509.DNSName("secret.example.org")], {"dns": ["*.example.org"]}, False),
        (None, [x509.DNSName("example.org")], {"dns": ["gw.example.net"]}, True),
        ([NETWORK], None, {"addresses": ["192.0.2.7"]}, True),
        ([NETWORK], None, {"addresses": ["198.51.100.7"]}, False),
        ([NETWORK], None, {"addresses": ["2001:db8::7"]}, False),
        (None, [NETWORK], {"addresses": ["192.0.2.7"]}, False),
        ([x509.RFC822Name("example.org")], None, {"emails": ["ops@example.org"]}, True),
        ([x509.RFC822Name("example.org")], None, {"emails": ["ops@mail.example.org"]}, False),
        ([x509.RFC822Name(".example.org")], None, {"emails": ["ops@mail.example.org"]}, True),
        ([x509.RFC822Name("ops@example.org")], None, {"emails": ["OPS@example.org"]}, False),
        ([x509.DirectoryName(pki.name("O=VPN Console tests"))], None, {}, True),
        ([x509.DirectoryName(pki.name("O=vpn  console TESTS"))], None, {}, True),
        ([x509.DirectoryName(pki.name("O=Somebody else"))], None, {}, False),
        (None, [x509.DirectoryName(pki.name("O=VPN Console tests"))], {}, False),
    ],
)
@pytest.mark.parametrize("place", ["root", "intermediate"])
def test_name_constraints(
    place: str,
    permitted: list[x509.GeneralName] | None,
    excluded: list[x509.GeneralName] | None,
    names: dict[str, list[str]],
    good: bool,
) -> None:
    limits = [(x509.NameConstraints(permitted, excluded), True)]
    root = Authority.root("O=VPN Console tests,CN=Root", extensions=limits if place == "root" else [])
    issuing = root.intermediate("Issuing", extensions=limits if place == "intermediate" else [])
    chain = issuing.leaf("alpha", **names).chain  # type: ignore[arg-type]
    if good:
        assert judge(chain, root)
    else:
        assert refusal(chain, root).code == "ike.certificate-constraint"


def test_an_email_in_the_subject_is_under_the_constraints_too() -> None:
    limits = [(x509.NameConstraints([x509.RFC822Name("example.org")], None), True)]
    root = Authority.root("Root", extensions=limits)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.EMAIL_ADDRESS, "ops@example.net")])
    assert refusal(root.leaf(subject).chain, root).code == "ike.certificate-constraint"


def test_a_leaf_that_is_the_anchor_only_where_that_is_asked_for() -> None:
    pinned = Authority.root("Pinned", extensions=[(key_usage("digital_signature", "key_cert_sign"), True)])
    chain = (der(pinned.certificate),)
    path = judge(chain, pinned, pinned=True)
    assert list(path.steps()) == []
    assert refusal(chain, pinned).code == "ike.certificate-untrusted"
    expired = Authority.root("Old", valid=(now() - 9 * DAY, now() - DAY))
    assert refusal((der(expired.certificate),), expired, pinned=True).code == "ike.certificate-expired"


def test_many_cas_of_one_name_cost_a_bounded_number_of_signature_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer may send a maze of cross-certificates; the work stays small, and the answer is no."""
    checks = 0

    def counted(*arguments: object) -> None:
        nonlocal checks
        checks += 1
        check_issued(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("agents.pki.path.check_issued", counted)
    keys = [pki.new_key("ed25519") for _ in range(5)]
    tops = [
        Authority.root("Maze", private_key=each, extensions=[(x509.SubjectKeyIdentifier(b"same"), False)])
        for each in keys
    ]
    same = [(x509.AuthorityKeyIdentifier(b"same", None, None), False), (x509.SubjectKeyIdentifier(b"same"), False)]
    maze = [
        top.intermediate("Maze", private_key=each, extensions=same)
        for top in tops
        for each in keys
        if each is not top.key
    ]
    leaf = tops[0].leaf("alpha", extensions=same[:1])
    chain = (der(leaf.certificate), *(der(each.certificate) for each in maze[:15]))
    error = refusal(chain, Authority.root("Maze", extensions=[(x509.SubjectKeyIdentifier(b"same"), False)]))
    assert error.code == "ike.certificate-untrusted"
    assert checks <= MOST_SIGNATURE_CHECKS


def test_too_many_certificates_and_too_long_ones_are_not_looked_at() -> None:
    leaf = Authority.root().leaf("alpha").chain[0]
    for chain in ((leaf,) * 17, (b"\x30" * 16_385,), ()):
        with pytest.raises(CertificateError) as caught:
            read_chain(chain)
        assert caught.value.code == "ike.certificate-invalid"


@given(st.binary(max_size=200), st.integers(0, 600), st.integers(0, 255))
def test_whatever_a_peer_sends_is_read_or_refused(junk: bytes, at: int, octet: int) -> None:
    good = bytearray(_GOOD)
    good[at % len(good)] = octet
    for octets in (junk, bytes(good), bytes(good) + junk, _GOOD[:at]):
        with contextlib.suppress(CertificateError):
            judge((octets,), _ROOT)


_ROOT = Authority.root("Root")
_GOOD = _ROOT.leaf("alpha", dns=("alpha.example",)).chain[0]


def test_peer_text_in_a_refusal_is_printable_and_bounded() -> None:
    nasty = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a\x1b[31m\n<b>" + "x" * 40)] * 3)
    error = refusal(Authority.root("Theirs").leaf(nasty).chain, Authority.root("Ours"))
    assert "\x1b" not in error.message
    assert "\n" not in error.message
    assert len(error.message) < 600


@pytest.mark.needs("openssl")
def test_openssl_agrees_about_good_and_bad_chains(tmp_path: FilePath) -> None:
    """``openssl verify`` is the independent judge of the same files."""
    good, other = Authority.root("Root", "rsa-2048"), Authority.root("Root", "rsa-2048")
    narrow = good.intermediate("Narrow", extensions=[(x509.NameConstraints([x509.DNSName("example.org")], None), True)])
    old = good.leaf("old", valid=(now() - 9 * DAY, now() - datetime.timedelta(hours=1)))
    cases = {
        "good": good.intermediate("A").leaf("alpha"),
        "other root": other.leaf("alpha"),
        "expired": old,
        "name": narrow.leaf("alpha", dns=("alpha.example.net",)),
        "name good": narrow.leaf("alpha", dns=("alpha.example.org",)),
        "no CA": good.intermediate("X", extensions=[(key_usage("digital_signature"), True)]).leaf("alpha"),
    }
    (tmp_path / "root.pem").write_bytes(pki.pem(good.certificate))
    for case, leaf in cases.items():
        (tmp_path / "leaf.pem").write_bytes(pki.pem(leaf.certificate))
        (tmp_path / "more.pem").write_bytes(b"".join(map(pki.pem, leaf.intermediates)) or pki.pem(leaf.certificate))
        done = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "more.pem", "leaf.pem"],
            cwd=tmp_path, capture_output=True, check=False,
        )  # fmt: skip
        try:
            ours = bool(judge(leaf.chain, good))
        except CertificateError:
            ours = False
        assert ours == (done.returncode == 0), (case, done.stderr)


@pytest.mark.needs("openssl")
def test_sha1_signed_certificates_are_refused(tmp_path: FilePath) -> None:
    """Made by OpenSSL, since ``cryptography`` does not sign so any more."""
    root = Authority.root("Root", "rsa-2048")
    leaf = root.leaf("alpha", "rsa-2048")
    for name, octets in (
        ("root.pem", pki.pem(root.certificate)),
        ("root.key", pki.key_pem(root.key)),
        ("leaf.key", pki.key_pem(leaf.key)),
    ):
        (tmp_path / name).write_bytes(octets)
    for command in (
        "openssl req -new -key leaf.key -subj /CN=alpha -out leaf.csr",
        "openssl x509 -req -sha1 -in leaf.csr -CA root.pem -CAkey root.key -set_serial 7 -outform DER -out leaf.der",
    ):
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    error = refusal(((tmp_path / "leaf.der").read_bytes(),), root)
    assert (error.code, "weak hash" in error.message) == ("ike.certificate-weak", True)
