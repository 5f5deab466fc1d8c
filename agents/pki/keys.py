"""The gateway's private keys: made or imported here, kept as files, never sent anywhere.

One file per key, PKCS#8 PEM, named by the SHA-256 of the public key's SubjectPublicKeyInfo, in a folder of mode 0700.
A file that others could read or write, a link, or one of another owner is not used. Nothing here puts a key's octets
into a text.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from agents.pki import reading
from agents.pki.errors import CertificateError, KeyFileError
from agents.runtime.paths import PathError, make_private, write_private

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

TYPES = ("ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519", "ed448")
"""What ``vpn-agent key new`` makes."""

_CURVES = {"ecdsa-p256": ec.SECP256R1(), "ecdsa-p384": ec.SECP384R1(), "ecdsa-p521": ec.SECP521R1()}
_SUFFIX = ".pem"
_NAME = re.compile(r"[0-9a-f]{64}")
_MOST_OCTETS = 16_384
_MOST_KEPT = 256


def generate(key_type: str) -> PrivateKey:
    """Return a new key of one of :data:`TYPES`; raises KeyError for another word."""
    match key_type:
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ed448":
            return ed448.Ed448PrivateKey.generate()
        case "rsa-2048" | "rsa-3072" | "rsa-4096":
            return rsa.generate_private_key(65_537, int(key_type.removeprefix("rsa-")))
        case "ecdsa-p256" | "ecdsa-p384" | "ecdsa-p521":
            return ec.generate_private_key(_CURVES[key_type])
        case _:
            raise KeyError(key_type)


def load(octets: bytes, passphrase: bytes | None = None) -> PrivateKey:
    """Read a private key, PEM or DER; raises KeyFileError when it cannot be used."""
    kind = serialization.load_pem_private_key if b"-----BEGIN" in octets else serialization.load_der_private_key
    try:
        key = kind(octets, passphrase)
        if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            reading.usable(key.public_key())
    except TypeError:
        raise KeyFileError("the key is encrypted" if passphrase is None else "the key is not encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError("is not a private key this version reads, or the passphrase is wrong") from None
    except CertificateError as error:
        raise KeyFileError(f"the key is not usable here: {error.received}") from None
    if not isinstance(
        key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
    ):
        raise KeyFileError("is a kind of private key that cannot sign for IKE")
    return key


def key_id(key: PrivateKey) -> str:
    """Return the name of a key: SHA-256 of its public half, hexadecimal."""
    return reading.key_id(reading.spki(key.public_key()))


def signing_hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """Return the hash to sign a certificate request with; None for Ed25519 and Ed448, which have their own."""
    if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256:
        return hashes.SHA384() if key.key_size <= 384 else hashes.SHA512()
    return hashes.SHA256()


@dataclass(slots=True, kw_only=True)
class _Kept:
    stamp: tuple[int, ...]
    key: PrivateKey = field(repr=False)


class KeyFolder:
    """One folder of keys. What was read is kept while its file does not change, so a new file is seen at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._kept: dict[str, _Kept] = {}

    def __repr__(self) -> str:
        return f"KeyFolder({str(self.directory)!r})"

    def add(self, key: PrivateKey) -> str:
        """Store a key and return its name; a key that is there already stays. Raises KeyFileError."""
        name = key_id(key)
        try:
            make_private(self.directory)
            octets = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_private(self._file(name), octets)
        except PathError as error:
            raise KeyFileError(str(error)) from None
        except OSError as error:
            raise KeyFileError(f"{self.directory}: {os.strerror(error.errno or 0)}") from None
        return name

    def names(self) -> tuple[str, ...]:
        """Return the names of the key files, usable or not."""
        try:
            found = [each.stem for each in self.directory.iterdir() if each.suffix == _SUFFIX]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise KeyFileError(f"{self.directory}: {os.strerror(error.errno or 0)}") from None
        return tuple(sorted(name for name in found if _NAME.fullmatch(name)))

    def find(self, name: str) -> PrivateKey | None:
        """Return the key of this name, None where there is no file; raises KeyFileError for a file not to be used."""
        if not _NAME.fullmatch(name):
            raise KeyFileError("is not the name of a key")
        try:
            descriptor = os.open(self._file(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            self._kept.pop(name, None)
            return None
        except OSError as error:
            why = "it is a link" if self._file(name).is_symlink() else os.strerror(error.errno or 0)
            raise KeyFileError(f"key file {name}{_SUFFIX} is not used: {why}") from None
        try:
            self._check_folder()
            status = os.fstat(descriptor)
            self._check_file(name, status)
            stamp = (status.st_ino, status.st_dev, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            kept = self._kept.get(name)
            if kept is None or kept.stamp != stamp:
                kept = self._kept[name] = _Kept(stamp=stamp, key=self._read(name, os.read(descriptor, _MOST_OCTETS)))
                while len(self._kept) > _MOST_KEPT:
                    del self._kept[next(iter(self._kept))]
            return kept.key
        finally:
            os.close(descriptor)

    def _file(self, name: str) -> Path:
        return self.directory / (name + _SUFFIX)

    def _check_folder(self) -> None:
        status = self.directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise KeyFileError(f"the folder {self.directory} is not used: it must be this user's own, mode 0700")

    def _check_file(self, name: str, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            why = "it is not a plain file"
        elif status.st_uid != os.geteuid():
            why = "it belongs to another user"
        elif stat.S_IMODE(status.st_mode) & 0o077:
            why = f"others may use it (mode {stat.S_IMODE(status.st_mode):04o}, not 0600)"
        elif status.st_size > _MOST_OCTETS:
            why = "it is too long"
        else:
            return
        raise KeyFileError(f"key file {name}{_SUFFIX} is not used: {why}")

    def _read(self, name: str, octets: bytes) -> PrivateKey:
        try:
            key = load(octets)
        except KeyFileError as error:
            raise KeyFileError(f"key file {name}{_SUFFIX} is not used: {error}") from None
        if key_id(key) != name:
            raise KeyFileError(f"key file {name}{_SUFFIX} is not used: it holds another key")
        return key
