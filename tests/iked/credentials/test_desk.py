"""The core's Sign and Validate, answered: keys found, identities compared, nothing secret told."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from agents.contract.algorithms import SIGNATURE
from agents.contract.config import Revocation
from agents.contract.events import KINDS
from agents.ike.crypto.hash_signature import verify_hash
from agents.ike.crypto.signature import verify
from agents.ike.outputs import Verdict
from agents.ike.wire.registry import IdType
from agents.pki import documents
from agents.pki.errors import KeyFileError
from agents.pki.keys import TYPES, KeyFolder, generate
from tests import pki
from tests.pki import Authority, Leaf, der, key_usage

from .rig import POLICY, Counter, certified

OFF = dataclasses.replace(POLICY, revocation=Revocation.OFF)


@pytest.fixture
async def counter(tmp_path: Path) -> AsyncIterator[Counter]:
    async with Counter(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("key_type", "slug"),
    [
        ("ecdsa-p256", "ecdsa-sha2-256"),
        ("ecdsa-p256", "method-9"),
        ("ecdsa-p384", "ecdsa-sha2-384"),
        ("rsa-2048", "rsa-pss-sha2-256"),
        ("rsa-2048", "rsa-sha2-512"),
        ("rsa-2048", "method-1"),
        ("ed25519", "ed25519"),
        ("ed448", "ed448"),
    ],
)
async def test_the_signature_asked_for_is_made_with_the_certificates_key(
    counter: Counter, key_type: str, slug: str
) -> None:
    root = Authority.root()
    leaf = root.leaf("alpha", private_key=pki.key(key_type, "desk"))
    counter.keep(leaf.key)
    counter.desk.configure(certified([("own", leaf)], [("root", root)]))
    signature = await counter.sign("own", slug, b"octets to sign")
    assert signature is not None
    verify(pki.spki(leaf.certificate), SIGNATURE[slug], signature, b"octets to sign")
    assert counter.reports == []


@pytest.mark.parametrize(
    ("key_type", "slug", "octets"),
    [
        ("rsa-2048", "ikev1-rsa", 16),
        ("rsa-2048", "ikev1-rsa", 20),
        ("ecdsa-p256", "ikev1-ecdsa-p256", 32),
        ("ecdsa-p384", "ikev1-ecdsa-p384", 48),
        ("ecdsa-p521", "ikev1-ecdsa-p521", 64),
    ],
)
async def test_a_hash_of_ikev1_is_signed_with_the_certificates_key(
    counter: Counter, key_type: str, slug: str, octets: int
) -> None:
    root = Authority.root()
    leaf = root.leaf("alpha", private_key=pki.key(key_type, "desk"))
    counter.keep(leaf.key)
    counter.desk.configure(certified([("own", leaf)], [("root", root)]))
    signature = await counter.sign("own", slug, bytes(range(octets)))
    assert signature is not None
    verify_hash(pki.spki(leaf.certificate), slug, signature, bytes(range(octets)))
    assert counter.reports == []
    wrong = "ikev1-ecdsa-p256" if slug == "ikev1-rsa" else "ikev1-rsa"
    assert await counter.sign("own", wrong, bytes(32)) is None
    assert counter.codes() == ["ike.sign-failed"]


async def test_a_missing_key_is_told_once_and_used_when_it_comes(counter: Counter) -> None:
    root = Authority.root()
    leaf = root.leaf("alpha")
    counter.desk.configure(certified([("own", leaf)], [("root", root)]))
    counter.desk.configure(certified([("own", leaf)], [("root", root)], generation=2))
    assert counter.codes() == ["ike.key-missing"]
    assert await counter.sign("own", "ecdsa-sha2-256", b"x") is None
    assert counter.codes() == ["ike.key-missing"] * 2
    assert pki.key_file_name(leaf.key) in counter.reports[0].message
    counter.keep(leaf.key)
    assert await counter.sign("own", "ecdsa-sha2-256", b"x") is not None


async def test_a_key_that_others_may_read_is_not_used(counter: Counter) -> None:
    root = Authority.root()
    leaf = root.leaf("alpha")
    file = counter.where.keys / (counter.keep(leaf.key) + ".pem")
    counter.desk.configure(certified([("own", leaf)], [("root", root)]))
    assert await counter.sign("own", "ecdsa-sha2-256", b"x") is not None
    file.chmod(0o640)
    assert await counter.sign("own", "ecdsa-sha2-256", b"x") is None
    assert counter.codes() == ["ike.key-refused"]
    assert "0640" in counter.reports[0].message


async def test_a_signature_the_key_cannot_make_is_none_and_an_event(counter: Counter) -> None:
    root = Authority.root()
    leaf = root.leaf("alpha")
    counter.keep(leaf.key)
    counter.desk.configure(certified([("own", leaf)], [("root", root)]))
    assert await counter.sign("own", "rsa-sha2-256", b"x") is None
    assert await counter.sign("nobody", "ecdsa-sha2-256", b"x") is None
    assert counter.codes() == ["ike.sign-failed", "ike.key-missing"]


async def test_a_good_chain_gives_the_key_to_verify_with(counter: Counter) -> None:
    root = Authority.root()
    leaf = root.intermediate().leaf("alpha", dns=("alpha.example",))
    counter.trust(root)
    verdict = await counter.validate(leaf, OFF)
    assert verdict == Verdict(public_key=pki.spki(leaf.certificate), subject="CN=alpha,O=VPN Console tests")


@pytest.mark.parametrize(
    ("id_type", "id_data", "good"),
    [
        (IdType.FQDN, b"alpha.example", True),
        (IdType.FQDN, b"ALPHA.example", True),
        (IdType.FQDN, b"beta.example", False),
        (IdType.FQDN, b"alpha", False),  # the common name is no subjectAltName
        (IdType.RFC822_ADDR, b"ops@alpha.example", True),
        (IdType.IPV4_ADDR, bytes((192, 0, 2, 1)), True),
        (IdType.IPV4_ADDR, bytes((192, 0, 2, 2)), False),
        (IdType.KEY_ID, b"alpha.example", False),
    ],
)
async def test_the_identity_must_stand_in_the_certificate(
    counter: Counter, id_type: int, id_data: bytes, good: bool
) -> None:
    root = Authority.root()
    leaf = root.leaf("alpha", dns=("alpha.example",), emails=("ops@alpha.example",), addresses=("192.0.2.1",))
    counter.trust(root)
    verdict = await counter.validate(leaf, OFF, id_type=id_type, id_data=id_data)
    assert (verdict.public_key is not None) == good
    if not good:
        assert verdict.code == "ike.certificate-identity"
        assert "alpha.example" in (verdict.configured or "")
    lax = dataclasses.replace(OFF, validate_identity=False)
    assert (await counter.validate(leaf, lax, id_type=id_type, id_data=id_data)).public_key is not None


async def test_a_distinguished_name_is_the_subject(counter: Counter) -> None:
    root = Authority.root()
    leaf = root.leaf("alpha")
    counter.trust(root)
    subject = leaf.certificate.subject.public_bytes()
    good = await counter.validate(leaf, OFF, id_type=IdType.DER_ASN1_DN, id_data=subject)
    assert good.public_key is not None
    other = pki.name("beta").public_bytes()
    assert (await counter.validate(leaf, OFF, id_type=IdType.DER_ASN1_DN, id_data=other)).code == (
        "ike.certificate-identity"
    )


async def test_only_the_anchors_of_the_tunnel_count(counter: Counter) -> None:
    one, two = Authority.root("One"), Authority.root("Two")
    counter.trust(one, two)
    leaf = two.leaf("alpha", dns=("alpha.example",))
    assert (await counter.validate(leaf, OFF)).public_key is not None
    narrow = dataclasses.replace(OFF, trust_anchors=("anchor-0",))
    verdict = await counter.validate(leaf, narrow)
    assert verdict.code == "ike.certificate-untrusted"
    assert verdict.configured is not None
    assert ("One" in verdict.configured, "Two" in verdict.configured) == (True, False)


async def test_a_pinned_certificate_counts_where_the_tunnel_names_it(counter: Counter) -> None:
    pinned = Authority.root("alpha", extensions=[(key_usage("digital_signature"), True)])
    counter.trust(pinned)
    chain = (der(pinned.certificate),)
    lax = dataclasses.replace(OFF, validate_identity=False)
    assert (await counter.validate(chain, lax)).public_key is None
    assert (await counter.validate(chain, dataclasses.replace(lax, trust_anchors=("anchor-0",)))).public_key is not None


@pytest.mark.parametrize("chain", [(), (b"",), (b"\x30\x03\x02\x01\x01",), (b"x" * 70_000,)])
async def test_rubbish_is_refused_with_a_code(counter: Counter, chain: tuple[bytes, ...]) -> None:
    counter.trust(Authority.root())
    assert (await counter.validate(chain, OFF)).code == "ike.certificate-invalid"


async def test_every_refusal_has_a_known_code_and_a_sentence(counter: Counter) -> None:
    root = Authority.root()
    counter.trust(root)
    for leaf in (root.leaf("a"), Authority.root("b").leaf("b"), root.leaf("c", valid=(pki.now(), pki.now()))):
        verdict = await counter.validate(leaf, OFF)
        assert verdict.code in KINDS
        assert verdict.message


async def test_more_than_the_cap_at_once_are_refused_at_once(counter: Counter) -> None:
    root = Authority.root()
    counter.trust(root)
    leaf = root.leaf("alpha", dns=("alpha.example",))
    verdicts = await asyncio.gather(*(counter.validate(leaf, OFF) for _ in range(300)))
    assert {each.code for each in verdicts} == {"", "ike.certificate-busy"}
    assert sum(each.code == "" for each in verdicts) >= 256


async def test_a_bug_refuses_the_peer_and_is_logged(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = Authority.root()
    counter.trust(root)

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("agents.iked.credentials.desk.read_chain", broken)
    assert (await counter.validate(root.leaf("alpha"), OFF)).code == "ike.bug"
    assert "ZeroDivisionError" in caplog.text


async def test_nothing_of_a_private_key_is_ever_told(
    counter: Counter, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever happens to a key: no text of ours holds eight characters of it in a row."""
    caplog.set_level(logging.DEBUG)
    root = Authority.root()
    own = pki.new_key("rsa-2048")
    leaf = root.leaf("alpha", private_key=own)
    name = counter.keep(own)
    file = counter.where.keys / f"{name}.pem"
    document = certified([("own", leaf)], [("root", root)])
    counter.desk.configure(document)
    folder = KeyFolder(counter.where.keys)
    found = [repr(folder), repr(folder.find(name)), repr(vars(folder)), repr(counter.desk), repr(vars(counter.desk))]
    await counter.sign("own", "rsa-sha2-256", b"x")
    for mode, octets in ((0o644, pki.key_pem(own)), (0o600, pki.key_pem(own)[:-200])):
        file.write_bytes(octets)
        file.chmod(mode)
        await counter.sign("own", "rsa-sha2-256", b"x")
        counter.desk.configure(document)
        found += [repr(each) for each in documents.problems(documents.parse(document), folder, pki.now())]
    texts = "\n".join([*found, *(repr(each) for each in counter.reports), caplog.text, *capsys.readouterr()])
    secret = pki.key_pem(own).decode()
    parts = [line[at : at + 8] for line in secret.splitlines()[1:-1] for at in range(0, len(line) - 7, 8)]
    assert isinstance(own, rsa.RSAPrivateKey)
    numbers = own.private_numbers()
    assert "key-refused" in texts
    assert not [part for part in (*parts, str(numbers.p), f"{numbers.d:x}"[:16]) if part in texts]


# The key folder


@pytest.mark.parametrize("key_type", [each for each in TYPES if each != "rsa-4096"])
def test_each_type_of_key_is_made_kept_and_found(tmp_path: Path, key_type: str) -> None:
    folder = KeyFolder(tmp_path / "keys")
    made = generate(key_type)
    name = folder.add(made)
    assert folder.names() == (name,)
    found = folder.find(name)
    assert found is not None
    assert pki.key_pem(found) == pki.key_pem(made)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "keys" / f"{name}.pem").stat().st_mode & 0o777 == 0o600


def _link(file: Path) -> None:
    file.rename(file.with_suffix(".x"))
    file.symlink_to(file.with_suffix(".x"))


def _directory(file: Path) -> None:
    file.unlink()
    file.mkdir(mode=0o700)


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def _written(octets: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(octets)


SPOILED: dict[str, Callable[[Path], object]] = {
    "readable by the group": lambda file: file.chmod(0o640),
    "writable by others": lambda file: file.chmod(0o602),
    "a link": _link,
    "a directory": _directory,
    "a pipe": _pipe,
    "of another user": lambda file: os.chown(file, 1234, 1234),
    "another key": _written(pki.key_pem(pki.key("ecdsa-p256", "another"))),
    "no key": _written(b"-----BEGIN PRIVATE KEY-----\nnothing"),
    "too long": _written(b"\n" * 20_000),
    "in an open folder": lambda file: file.parent.chmod(0o755),
}


@pytest.mark.needs("root")
@pytest.mark.parametrize("case", SPOILED)
def test_a_key_file_that_is_not_as_it_must_be_is_not_used(tmp_path: Path, case: str) -> None:
    folder = KeyFolder(tmp_path / "keys")
    name = folder.add(pki.new_key("ecdsa-p256"))
    assert folder.find(name) is not None
    SPOILED[case](tmp_path / "keys" / f"{name}.pem")
    with pytest.raises(KeyFileError, match="is not used"):
        folder.find(name)


def test_a_key_that_went_away_is_gone_and_a_path_is_no_name(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    assert folder.names() == ()
    assert folder.find("0" * 64) is None
    name = folder.add(pki.new_key("ed25519"))
    assert folder.find(name) is not None
    (tmp_path / "keys" / f"{name}.pem").unlink()
    assert folder.find(name) is None
    for wrong in ("../" + name, name.upper(), "", "x" * 64):
        with pytest.raises(KeyFileError):
            folder.find(wrong)


# Documents


def test_a_broken_certificate_is_told_with_its_path() -> None:
    root = Authority.root()
    good = certified([("own", root.intermediate().leaf("alpha"))], [("root", root)])
    broken = dataclasses.replace(
        good, certificates=(dataclasses.replace(good.certificates[0], chain=(good.certificates[0].chain[0], "AAAA")),)
    )
    with pytest.raises(documents.DocumentCertificateError) as caught:
        documents.parse(broken)
    assert caught.value.path == "certificates[0].chain[1]"
    weak = certified([], [("root", root), ("weak", Authority.root("W", private_key=pki.key("rsa-1024", "weak")))])
    with pytest.raises(documents.DocumentCertificateError) as caught:
        documents.parse(weak)
    assert caught.value.path == "trust_anchors[1].certificate"


def test_an_expired_certificate_of_our_own_is_a_problem_not_a_refusal(tmp_path: Path) -> None:
    root = Authority.root()
    old: Leaf = root.leaf("alpha", valid=(pki.now() - 9 * pki.DAY, pki.now() - pki.DAY))
    folder = KeyFolder(tmp_path / "keys")
    folder.add(old.key)
    document = certified([("own", old)], [("root", root)])
    found = documents.problems(documents.parse(document), folder, pki.now())
    assert [each.code for each in found] == ["ike.own-certificate-expired"]
