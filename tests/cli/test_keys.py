"""``vpn-agent key``: what stays on the gateway and what is printed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agents.cli import vpn_agent
from agents.contract.codec import encode
from agents.pki.keys import TYPES, KeyFolder
from tests import pki
from tests.iked.credentials.rig import certified


def run(tmp_path: Path, *words: str) -> int:
    return vpn_agent.main(["key", *words, "--state", str(tmp_path / "state"), "--run", str(tmp_path / "run")])


def folder(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "state" / "keys")


@pytest.mark.parametrize("key_type", [each for each in TYPES if each not in ("rsa-3072", "rsa-4096")])
def test_a_new_key_stays_and_its_request_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key_type: str
) -> None:
    words = ["--subject", "CN=gw.example.org,O=Example", "--dns", "gw.example.org", "--address", "192.0.2.1"]
    assert run(tmp_path, "new", "--type", key_type, *words, "--email", "ops@example.org") == 0
    printed = capsys.readouterr()
    request = x509.load_pem_x509_csr(printed.out.encode())
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=gw.example.org,O=Example"
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert len(list(names)) == 3
    (name,) = folder(tmp_path).names()
    assert name in printed.err
    key = folder(tmp_path).find(name)
    assert key is not None
    assert pki.key_file_name(key) == name
    public = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    assert request.public_key().public_bytes(*public) == key.public_key().public_bytes(*public)
    assert "PRIVATE" not in printed.out + printed.err


@pytest.mark.needs("openssl")
def test_openssl_reads_the_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "new", "--dns", "gw.example.org") == 0
    done = subprocess.run(
        ["openssl", "req", "-noout", "-verify", "-text"],
        input=capsys.readouterr().out, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "DNS:gw.example.org" in done.stdout


def test_a_second_request_for_the_same_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "new", "--dns", "a.example.org") == 0
    first = x509.load_pem_x509_csr(capsys.readouterr().out.encode())
    (name,) = folder(tmp_path).names()
    assert run(tmp_path, "request", name[:8], "--subject", "CN=b") == 0
    second = x509.load_pem_x509_csr(capsys.readouterr().out.encode())
    assert second.public_key() == first.public_key()
    assert run(tmp_path, "request", "zz", "--subject", "CN=b") == 1


@pytest.mark.parametrize(
    "words", [[], ["--subject", "nonsense"], ["--address", "192.0.2"], ["--dns", "ä.example"], ["--email", "ö@x"]]
)
def test_a_name_that_cannot_be_certified_makes_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(tmp_path, "new", *words) == 1
    assert folder(tmp_path).names() == ()
    assert capsys.readouterr().err


@pytest.mark.parametrize("form", ["PKCS#8 PEM", "PKCS#8 DER", "traditional PEM", "encrypted"])
def test_keys_in_each_form_are_taken_in(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    key = pki.key("rsa-2048", "cli")
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    file, passphrase = tmp_path / "key", tmp_path / "passphrase"
    passphrase.write_text("a long passphrase\n")
    file.write_bytes(
        {
            "PKCS#8 PEM": lambda: pki.key_pem(key),
            "PKCS#8 DER": lambda: key.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            "traditional PEM": lambda: key.private_bytes(
                serialization.Encoding.PEM, traditional, serialization.NoEncryption()
            ),
            "encrypted": lambda: key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"a long passphrase"),
            ),
        }[form]()
    )
    more = ["--passphrase-file", str(passphrase)] if form == "encrypted" else []
    assert run(tmp_path, "import", str(file), *more) == 0
    assert "RSA 2048" in capsys.readouterr().out
    assert folder(tmp_path).names() == (pki.key_file_name(key),)
    if form == "encrypted":
        assert run(tmp_path, "import", str(file)) == 1
        assert "encrypted" in capsys.readouterr().err


@pytest.mark.parametrize("key_type", ["rsa-1024", "ecdsa-p224"])
def test_a_weak_key_is_not_taken_in(tmp_path: Path, capsys: pytest.CaptureFixture[str], key_type: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(pki.key_pem(pki.key(key_type, "weak")))
    assert run(tmp_path, "import", str(file)) == 1
    assert "not usable" in capsys.readouterr().err
    assert folder(tmp_path).names() == ()


def test_the_list_names_kinds_certificates_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "list") == 0
    assert "no key" in capsys.readouterr().out
    root = pki.Authority.root()
    here, away = root.leaf("here", "ed25519"), root.leaf("away")
    folder(tmp_path).add(here.key)
    other = folder(tmp_path).add(pki.new_key("ecdsa-p384"))
    (tmp_path / "state" / "keys" / f"{other}.pem").chmod(0o644)
    document = certified([("paris", here), ("lyon", away)], [("root", root)])
    (tmp_path / "state" / "document.json").write_bytes(encode(document))
    assert run(tmp_path, "list") == 0
    printed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert "Ed25519" in printed[pki.key_file_name(here.key)]
    assert printed[pki.key_file_name(here.key)].endswith("paris")
    assert "not on this gateway" in printed[pki.key_file_name(away.key)]
    assert "0644" in printed[other]
