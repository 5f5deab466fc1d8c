"""The contract's algorithms under the names of the kernel's ``net/xfrm/xfrm_algo.c``, and the attributes with the keys.

A cipher or checksum that is missing here cannot be used with this data plane; what the kernel of this machine lacks of
them it refuses itself, SA by SA.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from agents.contract import algorithms
from agents.contract.secret import Secret
from agents.dataplane.base import AuthenticationHeader, DataplaneError, SaSpec

Attributes = list[tuple[str, bytes]]


def _sizes(kernel: str, *slugs: str) -> Iterable[tuple[str, str]]:
    return ((slug.format(bits), kernel) for slug in slugs for bits in (128, 192, 256))


ENCRYPTION_NAMES: Mapping[str, str] = MappingProxyType(
    {
        **dict(_sizes("cbc(aes)", "aes-{}-cbc")),
        **dict(_sizes("rfc3686(ctr(aes))", "aes-{}-ctr")),
        **dict(_sizes("rfc4106(gcm(aes))", "aes-{}-gcm-16", "aes-{}-gcm-12", "aes-{}-gcm-8")),
        **dict(_sizes("rfc4309(ccm(aes))", "aes-{}-ccm-16", "aes-{}-ccm-12", "aes-{}-ccm-8")),
        **dict(_sizes("rfc4543(gcm(aes))", "aes-{}-gmac")),
        **dict(_sizes("cbc(camellia)", "camellia-{}-cbc")),
        "chacha20-poly1305": "rfc7539esp(chacha20,poly1305)",
        "null": "ecb(cipher_null)",
        "3des-cbc": "cbc(des3_ede)",
        "des-cbc": "cbc(des)",
    }
)
INTEGRITY_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "hmac-sha1-96": "hmac(sha1)",
        "hmac-sha2-256-128": "hmac(sha256)",
        "hmac-sha2-384-192": "hmac(sha384)",
        "hmac-sha2-512-256": "hmac(sha512)",
        "aes-xcbc-96": "xcbc(aes)",
        "aes-cmac-96": "cmac(aes)",
        "hmac-md5-96": "hmac(md5)",
    }
)
COMPRESSION_NAME = "deflate"
"""IPComp's DEFLATE (RFC 2394)."""


def esp_attributes(spec: SaSpec) -> Attributes:
    """Return the attributes that carry the keys of an ESP SA.

    Raises :class:`DataplaneError` (EINVAL) for an algorithm without a kernel name, a key of another length than the
    algorithm's, and a suite that has integrity where it must not or lacks it where it must have it.
    """
    assert spec.encryption is not None
    cipher = algorithms.ENCRYPTION.get(spec.encryption)
    name = ENCRYPTION_NAMES.get(spec.encryption)
    if cipher is None or name is None:
        raise _refusal(spec, f"the kernel has no cipher {spec.encryption}")
    key = spec.encryption_key if spec.encryption_key is not None else Secret(b"")
    _check_length(spec, spec.encryption, len(key), cipher.keymat_octets)
    if cipher.aead:
        if spec.integrity is not None:
            raise _refusal(spec, f"{spec.encryption} takes no integrity algorithm")
        return [("XFRMA_ALG_AEAD", _keyed(name, key.reveal(), cipher.icv_octets))]
    if spec.integrity is None or spec.integrity_key is None:
        raise _refusal(spec, f"{spec.encryption} needs an integrity algorithm and its key")
    return [
        _checksum(spec, spec.integrity, spec.integrity_key),
        ("XFRMA_ALG_CRYPT", _keyed(name, key.reveal(), None)),
    ]


def ah_attributes(spec: SaSpec, header: AuthenticationHeader) -> Attributes:
    """Return the attribute that carries the key of an AH SA; raises as :func:`esp_attributes` does."""
    return [_checksum(spec, header.integrity, header.key)]


def compression_attributes() -> Attributes:
    """Return the attribute that names IPComp's algorithm."""
    return [("XFRMA_ALG_COMP", _keyed(COMPRESSION_NAME, b"", None))]


def _checksum(spec: SaSpec, slug: str, key: Secret) -> tuple[str, bytes]:
    checksum = algorithms.INTEGRITY.get(slug)
    name = INTEGRITY_NAMES.get(slug)
    if checksum is None or name is None:
        raise _refusal(spec, f"the kernel has no integrity algorithm {slug}")
    _check_length(spec, slug, len(key), checksum.key_octets)
    return "XFRMA_ALG_AUTH_TRUNC", _keyed(name, key.reveal(), checksum.icv_octets)


def _keyed(name: str, key: bytes, icv_octets: int | None) -> bytes:
    """Pack ``struct xfrm_algo``, or with ``icv_octets`` ``xfrm_algo_auth`` and ``xfrm_algo_aead``; lengths in bits."""
    lengths = struct.pack("I", 8 * len(key))
    if icv_octets is not None:
        lengths += struct.pack("I", 8 * icv_octets)
    return name.encode("ascii").ljust(64, b"\0") + lengths + key


def _check_length(spec: SaSpec, slug: str, have: int, want: int) -> None:
    if have != want:
        raise _refusal(spec, f"{slug} needs {want} octets of key, not {have}")


def _refusal(spec: SaSpec, reason: str) -> DataplaneError:
    return DataplaneError("add_sa", f"{spec.id.protocol} {spec.spi:08x} to {spec.destination}", errno.EINVAL, reason)
