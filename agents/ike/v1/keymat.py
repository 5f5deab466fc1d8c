"""Keying material and hashes of IKEv1 (RFC 2409 section 5 and appendix B): pure functions over octets and table rows.

The prf is HMAC of the negotiated hash (section 4; RFC 4868 for SHA-2), since no other has a number. AES-XCBC, which has
none, follows the same formulas with keys of any length (RFC 4434 section 2): IKEv1 cuts no nonce. When to derive, and
from which message, is the SA's business.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from agents.contract.algorithms import Encryption, Integrity, PseudoRandom
from agents.contract.secret import Secret
from agents.ike.crypto.prf import prf


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Phase1Keys:
    """SKEYID and what is derived from it: for phase 2 keys (d), for hashes (a) and for encryption (e)."""

    skeyid: bytes
    skeyid_d: bytes
    skeyid_a: bytes
    skeyid_e: bytes

    def __repr__(self) -> str:
        return "Phase1Keys()"


def skeyid_psk(prf_alg: PseudoRandom, psk: Secret, nonce_i: bytes, nonce_r: bytes) -> bytes:
    """Return SKEYID for a pre-shared key: prf(psk, Ni_b | Nr_b)."""
    return prf(prf_alg, psk.reveal(), nonce_i + nonce_r)


def skeyid_signature(prf_alg: PseudoRandom, nonce_i: bytes, nonce_r: bytes, shared: bytes) -> bytes:
    """Return SKEYID for signatures: prf(Ni_b | Nr_b, g^xy)."""
    return prf(prf_alg, nonce_i + nonce_r, shared)


def derive_phase1_keys(
    prf_alg: PseudoRandom, skeyid: bytes, shared: bytes, cookie_i: bytes, cookie_r: bytes
) -> Phase1Keys:
    """Return the keys of an ISAKMP SA: each of SKEYID_d, _a and _e covers the one before it."""
    seed = shared + cookie_i + cookie_r
    skeyid_d = prf(prf_alg, skeyid, seed + b"\0")
    skeyid_a = prf(prf_alg, skeyid, skeyid_d + seed + b"\1")
    skeyid_e = prf(prf_alg, skeyid, skeyid_a + seed + b"\2")
    return Phase1Keys(skeyid=skeyid, skeyid_d=skeyid_d, skeyid_a=skeyid_a, skeyid_e=skeyid_e)


def encryption_key(prf_alg: PseudoRandom, encryption: Encryption, skeyid_e: bytes) -> bytes:
    """Return the cipher's key (appendix B): the first octets of SKEYID_e, or of K1 | K2 | ... where that is too short.

    K1 = prf(SKEYID_e, 0), Kn = prf(SKEYID_e, Kn-1). Weak DES keys are not passed over: charon does not either, and one
    comes up once in 2^52 times.
    """
    octets = encryption.key_octets
    if len(skeyid_e) >= octets:
        return skeyid_e[:octets]
    block, stream = b"\0", b""
    while len(stream) < octets:
        block = prf(prf_alg, skeyid_e, block)
        stream += block
    return stream[:octets]


def first_iv(hash: str, public_i: bytes, public_r: bytes, block_octets: int) -> bytes:
    """Return the IV of phase 1's first encrypted message: hash(g^xi | g^xr), cut to the block (appendix B).

    ``hash`` is the hashlib name of the negotiated hash, ``public_*`` are the bodies of the KE payloads.
    """
    return hashlib.new(hash, public_i + public_r, usedforsecurity=False).digest()[:block_octets]


def exchange_iv(hash: str, last_block: bytes, message_id: int, block_octets: int) -> bytes:
    """Return the IV of the first message of an exchange after phase 1: hash(last block of phase 1 | M-ID), cut alike.

    Where nothing of phase 1 was encrypted, as Aggressive Mode allows, its last block is :func:`first_iv`.
    """
    data = last_block + _octets_of(message_id)
    return hashlib.new(hash, data, usedforsecurity=False).digest()[:block_octets]


def hash_i(
    prf_alg: PseudoRandom,
    skeyid: bytes,
    *,
    public_i: bytes,
    public_r: bytes,
    cookie_i: bytes,
    cookie_r: bytes,
    sa_body: bytes,
    id_body: bytes,
) -> bytes:
    """Return HASH_I: what the initiator sends with a PSK, and signs with a certificate.

    ``sa_body`` is the initiator's SA payload as it was sent, with all its proposals, ``id_body`` the initiator's ID
    payload; both without the generic header. For a signature the prf is that of
    :func:`agents.ike.crypto.hash_signature.hash_prf`.
    """
    return prf(prf_alg, skeyid, public_i + public_r + cookie_i + cookie_r + sa_body + id_body)


def hash_r(
    prf_alg: PseudoRandom,
    skeyid: bytes,
    *,
    public_i: bytes,
    public_r: bytes,
    cookie_i: bytes,
    cookie_r: bytes,
    sa_body: bytes,
    id_body: bytes,
) -> bytes:
    """Return HASH_R: as :func:`hash_i`, with the responder's own first.

    ``sa_body`` is the initiator's here too; ``id_body`` is the responder's.
    """
    return prf(prf_alg, skeyid, public_r + public_i + cookie_r + cookie_i + sa_body + id_body)


def quick_hash_1(prf_alg: PseudoRandom, skeyid_a: bytes, message_id: int, protected: bytes) -> bytes:
    """Return HASH(1) of Quick Mode (section 5.5); ``protected`` is all that follows the HASH payload, no padding."""
    return prf(prf_alg, skeyid_a, _octets_of(message_id) + protected)


def quick_hash_2(prf_alg: PseudoRandom, skeyid_a: bytes, message_id: int, nonce_i: bytes, protected: bytes) -> bytes:
    """Return HASH(2) of Quick Mode: as HASH(1), with the initiator's nonce to prove that it is an answer."""
    return prf(prf_alg, skeyid_a, _octets_of(message_id) + nonce_i + protected)


def quick_hash_3(prf_alg: PseudoRandom, skeyid_a: bytes, message_id: int, nonce_i: bytes, nonce_r: bytes) -> bytes:
    """Return HASH(3) of Quick Mode: it proves that the initiator is alive, and covers no payload."""
    return prf(prf_alg, skeyid_a, b"\0" + _octets_of(message_id) + nonce_i + nonce_r)


def informational_hash(prf_alg: PseudoRandom, skeyid_a: bytes, message_id: int, protected: bytes) -> bytes:
    """Return the hash of a protected Informational exchange (section 5.7): the formula of HASH(1)."""
    return quick_hash_1(prf_alg, skeyid_a, message_id, protected)


def derive_sa_keys(
    prf_alg: PseudoRandom,
    skeyid_d: bytes,
    protocol: int,
    spi: bytes,
    nonce_i: bytes,
    nonce_r: bytes,
    shared: bytes | None,
    encryption: Encryption | None,
    integrity: Integrity | None,
) -> tuple[Secret, Secret | None]:
    """Return the encryption key, salt included, and the integrity key of one SA: one protocol in one direction.

    KEYMAT = K1 | K2 | ... with Kn = prf(SKEYID_d, Kn-1 | [g(qm)^xy |] protocol | SPI | Ni_b | Nr_b) (section 5.5).
    ``spi`` is the SPI that the SA's receiver chose, the nonces are those of the Quick Mode, ``shared`` is the secret of
    its own key exchange, None without PFS. Encryption comes before integrity (RFC 2401 section
    4.6.2); its key is empty without encryption, the other None without integrity.
    """
    encryption_octets = 0 if encryption is None else encryption.keymat_octets
    total = encryption_octets + (0 if integrity is None else integrity.key_octets)
    seed = (shared or b"") + bytes((protocol,)) + spi + nonce_i + nonce_r
    block, stream = b"", b""
    while len(stream) < total:
        block = prf(prf_alg, skeyid_d, block + seed)
        stream += block
    return Secret(stream[:encryption_octets]), None if integrity is None else Secret(stream[encryption_octets:total])


def _octets_of(message_id: int) -> bytes:
    return message_id.to_bytes(4, "big")
