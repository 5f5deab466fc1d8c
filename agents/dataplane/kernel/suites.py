"""The contract's ESP algorithms under the names of the kernel's ``net/xfrm/xfrm_algo.c``.

A cipher or checksum that is missing here cannot be used with this data plane; :func:`algorithm_attributes` says so.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from types import MappingProxyType

from agents.contract import algorithms
from agents.dataplane.base import DataplaneError, SaSpec

ENCRYPTION_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "aes-128-cbc": "cbc(aes)",
        "aes-192-cbc": "cbc(aes)",
        "aes-256-cbc": "cbc(aes)",
        "aes-128-gcm-16": "rfc4106(gcm(aes))",
        "aes-256-gcm-16": "rfc4106(gcm(aes))",
        "chacha20-poly1305": "rfc7539esp(chacha20,poly1305)",
    }
)
INTEGRITY_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "hmac-sha1-96": "hmac(sha1)",
        "hmac-sha2-256-128": "hmac(sha256)",
        "hmac-sha2-384-192": "hmac(sha384)",
        "hmac-sha2-512-256": "hmac(sha512)",
    }
)


def algorithm_attributes(spec: SaSpec) -> list[tuple[str, bytes]]:
    """Return the attributes that carry an SA's keys.

    Raises :class:`DataplaneError` (EINVAL) for an algorithm without a kernel name, a key of another length than the
    algorithm's, and a suite that has integrity where it must not or lacks it where it must have it.
    """
    if spec.encryption is None or spec.encryption_key is None:
        raise _refusal(spec, "AH is not carried")
    cipher = algorithms.ENCRYPTION.get(spec.encryption)
    name = ENCRYPTION_NAMES.get(spec.encryption)
    if cipher is None or name is None:
        raise _refusal(spec, f"the kernel has no cipher {spec.encryption}")
    _check_length(spec, spec.encryption, len(spec.encryption_key), cipher.keymat_octets)
    if cipher.aead:
        if spec.integrity is not None:
            raise _refusal(spec, f"{spec.encryption} takes no integrity algorithm")
        return [("XFRMA_ALG_AEAD", _keyed(name, spec.encryption_key.reveal(), cipher.icv_octets))]
    if spec.integrity is None or spec.integrity_key is None:
        raise _refusal(spec, f"{spec.encryption} needs an integrity algorithm and its key")
    checksum = algorithms.INTEGRITY.get(spec.integrity)
    checksum_name = INTEGRITY_NAMES.get(spec.integrity)
    if checksum is None or checksum_name is None:
        raise _refusal(spec, f"the kernel has no integrity algorithm {spec.integrity}")
    _check_length(spec, spec.integrity, len(spec.integrity_key), checksum.key_octets)
    return [
        ("XFRMA_ALG_AUTH_TRUNC", _keyed(checksum_name, spec.integrity_key.reveal(), checksum.icv_octets)),
        ("XFRMA_ALG_CRYPT", _keyed(name, spec.encryption_key.reveal(), None)),
    ]


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
    return DataplaneError("add_sa", f"esp {spec.spi:08x} to {spec.destination}", errno.EINVAL, reason)
