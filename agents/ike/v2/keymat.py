"""Keying material of IKEv2 (RFC 7296 sections 2.13 to 2.18): what is derived from nonces and shared secrets.

Pure functions over octets and table rows. When to derive, and from which exchange, is the SA's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from agents.contract.algorithms import Encryption, Integrity, PseudoRandom
from agents.contract.secret import Secret
from agents.ike.crypto.prf import prf, prf_plus
from agents.ike.crypto.suite import IkeSuite

_KEY_PAD = b"Key Pad for IKEv2"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class IkeKeys:
    """The seven keys of section 2.14; an AEAD's ``sk_e*`` end with the salt and its ``sk_a*`` are empty (RFC 5282)."""

    sk_d: bytes
    sk_ai: bytes
    sk_ar: bytes
    sk_ei: bytes
    sk_er: bytes
    sk_pi: bytes
    sk_pr: bytes

    def __repr__(self) -> str:
        return "IkeKeys()"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildKeys:
    """Keys of a pair of SAs: ``*_i`` protects what the exchange's initiator sends (section 2.17).

    ``encr_*`` are empty without ESP; ``ah_*`` are None without AH.
    """

    encr_i: Secret
    integ_i: Secret | None
    encr_r: Secret
    integ_r: Secret | None
    ah_i: Secret | None = None
    ah_r: Secret | None = None


def derive_ike_keys(
    suite: IkeSuite, nonce_i: bytes, nonce_r: bytes, shared: bytes, spi_i: bytes, spi_r: bytes
) -> IkeKeys:
    """Return the keys of a new IKE SA: SKEYSEED = prf(Ni | Nr, g^ir) (section 2.14).

    AES-XCBC and AES-CMAC, which take a key of one length, see 64 bits of each nonce there and whole nonces elsewhere.
    """
    used = suite.prf.output_octets // 2 if suite.prf.fixed_key else None
    skeyseed = prf(suite.prf, nonce_i[:used] + nonce_r[:used], shared)
    return _cut(suite, skeyseed, nonce_i + nonce_r + spi_i + spi_r)


def rekey_ike_keys(
    old_prf: PseudoRandom,
    old_sk_d: bytes,
    suite: IkeSuite,
    nonce_i: bytes,
    nonce_r: bytes,
    shared: bytes,
    spi_i: bytes,
    spi_r: bytes,
    further: tuple[bytes, ...] = (),
) -> IkeKeys:
    """Return the keys of an IKE SA made by a rekey (section 2.18): SKEYSEED by the old prf, the rest by the new.

    ``further`` are the secrets of additional key exchanges, in order (RFC 9370 section 2.2.4).
    """
    skeyseed = prf(old_prf, old_sk_d, shared + nonce_i + nonce_r + b"".join(further))
    return _cut(suite, skeyseed, nonce_i + nonce_r + spi_i + spi_r)


def _cut(suite: IkeSuite, skeyseed: bytes, seed: bytes) -> IkeKeys:
    prf_octets = suite.prf.output_octets
    integrity_octets = 0 if suite.integrity is None else suite.integrity.key_octets
    encryption_octets = suite.encryption.keymat_octets
    total = 3 * prf_octets + 2 * integrity_octets + 2 * encryption_octets
    keymat = _Cutter(prf_plus(suite.prf, skeyseed, seed, total))
    return IkeKeys(
        sk_d=keymat.take(prf_octets),
        sk_ai=keymat.take(integrity_octets),
        sk_ar=keymat.take(integrity_octets),
        sk_ei=keymat.take(encryption_octets),
        sk_er=keymat.take(encryption_octets),
        sk_pi=keymat.take(prf_octets),
        sk_pr=keymat.take(prf_octets),
    )


def derive_child_keys(
    prf_alg: PseudoRandom,
    sk_d: bytes,
    nonce_i: bytes,
    nonce_r: bytes,
    shared: bytes | None,
    encryption: Encryption | None,
    integrity: Integrity | None,
    ah: Integrity | None = None,
) -> ChildKeys:
    """Return the keys of a child: KEYMAT = prf+(SK_d, [g^ir |] Ni | Nr) (section 2.17).

    ``shared`` is the secret of the child's own key exchange, None without one. Order: all of the initiator's first; for
    each direction AH before ESP, as their headers stand in the packet (RFC 4306 section 2.17), and encryption before
    integrity.
    """
    lengths = (
        0 if ah is None else ah.key_octets,
        0 if encryption is None else encryption.keymat_octets,
        0 if integrity is None else integrity.key_octets,
    )
    keymat = _Cutter(prf_plus(prf_alg, sk_d, (shared or b"") + nonce_i + nonce_r, 2 * sum(lengths)))
    ah_i, encr_i, integ_i = (Secret(keymat.take(length)) for length in lengths)
    ah_r, encr_r, integ_r = (Secret(keymat.take(length)) for length in lengths)
    return ChildKeys(
        encr_i=encr_i,
        integ_i=integ_i if len(integ_i) else None,
        encr_r=encr_r,
        integ_r=integ_r if len(integ_r) else None,
        ah_i=ah_i if len(ah_i) else None,
        ah_r=ah_r if len(ah_r) else None,
    )


def further_ike_keys(
    suite: IkeSuite, old_sk_d: bytes, nonce_i: bytes, nonce_r: bytes, shared: bytes, spi_i: bytes, spi_r: bytes
) -> IkeKeys:
    """Return the keys after an additional key exchange of the initial exchanges (RFC 9370 section 2.2.2).

    SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr); nonces and SPIs are those of IKE_SA_INIT.
    """
    skeyseed = prf(suite.prf, old_sk_d, shared + nonce_i + nonce_r)
    return _cut(suite, skeyseed, nonce_i + nonce_r + spi_i + spi_r)


def int_auth_chunk(prf_alg: PseudoRandom, sk_p: bytes, before: bytes, authenticated: bytes) -> bytes:
    """Return IntAuth_i or IntAuth_r after one more IKE_INTERMEDIATE exchange (RFC 9242 section 3.3.2).

    ``before`` is that end's value after the exchange before (empty at first), ``authenticated`` the message's A and P
    (:attr:`agents.ike.wire.message.Message.authenticated`), ``sk_p`` the end's SK_p that was in use for the exchange.
    """
    return prf(prf_alg, sk_p, before + authenticated)


def auth_octets(
    prf_alg: PseudoRandom, first_message: bytes, peer_nonce: bytes, sk_p: bytes, id_body: bytes, int_auth: bytes = b""
) -> bytes:
    """Return what one end's AUTH payload signs (section 2.15).

    ``first_message`` is that end's own IKE_SA_INIT message from the first octet of its IKE header, ``peer_nonce`` the
    other end's nonce data, ``sk_p`` its SK_pi or SK_pr, ``id_body`` its ID payload without the generic header,
    ``int_auth`` the same for both ends: :attr:`agents.ike.v2.sa.IkeSa.int_auth` (RFC 9242 section 3.3.2).
    """
    return first_message + peer_nonce + prf(prf_alg, sk_p, id_body) + int_auth


def psk_auth(
    prf_alg: PseudoRandom,
    psk: Secret,
    first_message: bytes,
    peer_nonce: bytes,
    sk_p: bytes,
    id_body: bytes,
    int_auth: bytes = b"",
) -> bytes:
    """Return the AUTH data of one end with a pre-shared key; the other arguments are those of :func:`auth_octets`."""
    signed_octets = auth_octets(prf_alg, first_message, peer_nonce, sk_p, id_body, int_auth)
    return prf(prf_alg, prf(prf_alg, psk.reveal(), _KEY_PAD), signed_octets)


class _Cutter:
    __slots__ = ("_octets", "_offset")

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._offset = 0

    def take(self, count: int) -> bytes:
        start, self._offset = self._offset, self._offset + count
        return self._octets[start : self._offset]
