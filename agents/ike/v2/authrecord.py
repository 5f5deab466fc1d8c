"""What an IKE SA knows about authentication: what the peer announced, and how both ends have proven themselves."""

from __future__ import annotations

from dataclasses import dataclass

from agents.ike.wire.payloads import Identification


@dataclass(slots=True, kw_only=True)
class AuthRecord:
    """Filled in by IKE_SA_INIT and IKE_AUTH; the SAs that rekeys make share it.

    ``peer_hashes`` are the numbers of SIGNATURE_HASH_ALGORITHMS, None when the peer sent none (RFC 7427 section 4);
    ``authorities`` the CAs it asked certificates of; ``childless`` whether it takes IKE SAs without a child;
    ``ppk_known`` whether both ends sent USE_PPK. ``local`` and ``remote`` are ``psk`` or the slug of a signature once
    that end has proven itself, ``identity`` what the peer has proven to be, ``ppk`` whether a post-quantum key is in
    the keys.
    """

    peer_hashes: frozenset[int] | None = None
    authorities: frozenset[bytes] = frozenset()
    childless: bool = False
    ppk_known: bool = False
    local: str | None = None
    remote: str | None = None
    identity: Identification | None = None
    ppk: bool = False
