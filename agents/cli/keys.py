"""``vpn-agent key``: the private keys that tunnels sign with, made or taken in on the gateway; requests leave it.

A key is named by its public half, so the certificate that comes back finds it by itself. Nothing printed here holds
anything of a private key.
"""

from __future__ import annotations

import argparse
import getpass
import ipaddress
import sys
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agents.cli import text
from agents.cli.ask import CommandError
from agents.contract.config import GatewayDocument
from agents.contract.errors import DocumentError
from agents.contract.upgrade import load_document
from agents.pki import documents, keys, reading
from agents.pki.documents import DocumentCertificateError
from agents.pki.errors import KeyFileError
from agents.pki.keys import KeyFolder, PrivateKey
from agents.runtime import paths
from agents.runtime.paths import PathError, Paths

_MOST_KEY_FILE_OCTETS = 65_536


def add(commands: Any, places: argparse.ArgumentParser) -> None:
    """Add the command and its own commands to a parser's."""
    group = commands.add_parser("key", help="private keys of this gateway").add_subparsers(
        required=True, metavar="COMMAND"
    )
    request = argparse.ArgumentParser(add_help=False)
    request.add_argument("--subject", default="", metavar="DN", help="for example CN=gw.example.org,O=Example")
    request.add_argument("--dns", action="append", default=[], metavar="NAME", help="a DNS name; may be repeated")
    request.add_argument("--address", action="append", default=[], metavar="IP", help="an IP address")
    request.add_argument("--email", action="append", default=[], metavar="ADDRESS", help="an e-mail address")

    new = group.add_parser("new", parents=[places, request], help="make a key and print a certificate request")
    new.add_argument(
        "--type", default=keys.TYPES[0], choices=keys.TYPES, help=f"kind of key (default: {keys.TYPES[0]})"
    )
    new.set_defaults(command=_reported(_new))

    again = group.add_parser("request", parents=[places, request], help="print a certificate request for a key")
    again.add_argument("key", help="its name, or the beginning of it")
    again.set_defaults(command=_reported(_request))

    taking = group.add_parser("import", parents=[places], help="take in a key from a file (PEM or DER)")
    taking.add_argument("file", type=Path, help="the file; it stays where it is: remove it afterwards")
    taking.add_argument("--passphrase-file", type=Path, metavar="FILE", help="the passphrase of an encrypted key")
    taking.set_defaults(command=_reported(_import))

    listing = group.add_parser("list", parents=[places], help="show the keys and the certificates that use them")
    listing.set_defaults(command=_reported(_list))


def _reported(command: Any) -> Any:
    def run(arguments: argparse.Namespace) -> int:
        try:
            where = paths.from_arguments(arguments)
            result: int = command(arguments, where, KeyFolder(where.keys))
        except (KeyFileError, PathError) as error:
            raise CommandError(str(error)) from None
        return result

    return run


def _new(arguments: argparse.Namespace, where: Paths, folder: KeyFolder) -> int:
    builder = _builder(arguments)  # a wrong name is told before there is a key
    paths.make_private(where.state)
    key = keys.generate(arguments.type)
    name = folder.add(key)
    print(f"Key {name} is on this gateway. Let your CA certify this request:", file=sys.stderr)
    print(_signed(builder, key), end="")
    return 0


def _request(arguments: argparse.Namespace, _where: Paths, folder: KeyFolder) -> int:
    builder = _builder(arguments)
    key = folder.find(_one(folder, arguments.key))
    if key is None:
        raise CommandError(f"there is no key {arguments.key}")
    print(_signed(builder, key), end="")
    return 0


def _import(arguments: argparse.Namespace, where: Paths, folder: KeyFolder) -> int:
    octets = _octets(arguments.file)
    passphrase: bytes | None = None
    if arguments.passphrase_file is not None:
        passphrase = _octets(arguments.passphrase_file).rstrip(b"\r\n")
    elif b"ENCRYPTED" in octets and sys.stdin.isatty():
        passphrase = getpass.getpass(f"Passphrase of {arguments.file}: ").encode()
    try:
        key = keys.load(octets, passphrase)
    except KeyFileError as error:
        raise CommandError(f"{arguments.file}: {error}") from None
    paths.make_private(where.state)
    print(f"Key {folder.add(key)} ({reading.describe_key(key)}) is on this gateway.")
    return 0


def _list(_arguments: argparse.Namespace, where: Paths, folder: KeyFolder) -> int:
    used = _used(where)
    rows = []
    for name in folder.names():
        try:
            key = folder.find(name)
        except KeyFileError as error:
            rows.append((name, str(error).partition(": ")[2] or str(error), "-"))
            continue
        if key is not None:
            rows.append((name, reading.describe_key(key), ", ".join(used.pop(name, [])) or "-"))
    rows += [(name, "not on this gateway", ", ".join(certificates)) for name, certificates in used.items()]
    print(text.table(("KEY", "KIND", "CERTIFICATES"), rows) if rows else "There is no key on this gateway.")
    return 0


def _used(where: Paths) -> dict[str, list[str]]:
    """Return the ids of the accepted document's certificates by the name of their key."""
    try:
        document: GatewayDocument = load_document(where.document.read_bytes())
        certificates = documents.parse(document)
    except (OSError, DocumentError, DocumentCertificateError):
        return {}
    used: dict[str, list[str]] = {}
    for certificate, chain in certificates.own.items():
        used.setdefault(reading.key_id(chain[0].spki), []).append(certificate)
    return used


def _one(folder: KeyFolder, beginning: str) -> str:
    found = [name for name in folder.names() if name.startswith(beginning)]
    if len(found) != 1:
        raise CommandError(f"{'several keys begin' if found else 'no key begins'} with {beginning}")
    return found[0]


def _octets(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_MOST_KEY_FILE_OCTETS)
    except OSError:
        raise CommandError(f"{file} cannot be read") from None


def _builder(arguments: argparse.Namespace) -> x509.CertificateSigningRequestBuilder:
    try:
        subject = x509.Name.from_rfc4514_string(arguments.subject)
        names: list[x509.GeneralName] = [x509.DNSName(each) for each in arguments.dns]
        names += [x509.IPAddress(ipaddress.ip_address(each)) for each in arguments.address]
        names += [x509.RFC822Name(each) for each in arguments.email]
    except ValueError as error:
        raise CommandError(f"this cannot stand in a certificate: {error}") from None
    if not names and not subject.rdns:
        raise CommandError("name what is to be certified: --subject, --dns, --address or --email")
    builder = x509.CertificateSigningRequestBuilder(subject_name=subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not subject.rdns)
    return builder


def _signed(builder: x509.CertificateSigningRequestBuilder, key: PrivateKey) -> str:
    request = builder.sign(key, keys.signing_hash(key))
    return request.public_bytes(serialization.Encoding.PEM).decode("ascii")
