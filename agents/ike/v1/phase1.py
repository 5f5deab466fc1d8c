"""What phase 1 gathers before the ISAKMP SA stands, and the keys and hashes made of it (RFC 2409 section 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agents.contract.algorithms import PseudoRandom
from agents.contract.secret import Secret
from agents.ike.crypto.dh import KeyPair
from agents.ike.v1 import keymat
from agents.ike.wire.isakmp.payloads import SecurityAssociation

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa
    from agents.ike.v1.tunnel import TunnelRuntime

NONCE_OCTETS = 32


@dataclass(slots=True, kw_only=True, repr=False)
class Phase1:
    """Bodies of payloads as they went over the wire, and secrets that end with phase 1.

    ``sa_body`` is the initiator's (SAi_b). ``candidates`` are the tunnels that a responder still takes for possible,
    ``stops`` how often each had been stopped when the peer began.
    ``authorities`` are the distinguished names that the peer's CERTREQs hold. ``local`` and ``remote`` say how each end
    has proven itself.
    """

    offered: SecurityAssociation | None = None
    sa_body: bytes = b""
    key_pair: KeyPair | None = None
    public_i: bytes = b""
    public_r: bytes = b""
    nonce_i: bytes = b""
    nonce_r: bytes = b""
    shared: bytes = b""
    id_own: bytes = b""
    id_peer: bytes = b""
    psk: Secret | None = None
    candidates: tuple[TunnelRuntime, ...] = ()
    stops: tuple[int, ...] = ()
    certificate_wanted: bool = False
    shown: tuple[int, bytes] | None = None
    local: str | None = None
    remote: str | None = None
    vendor_told: bool = field(default=False)

    def forget_secrets(self) -> None:
        """Phase 1 is over."""
        self.key_pair, self.shared, self.psk = None, b"", None
        self.offered, self.candidates = None, ()


def derive(sa: IsakmpSa) -> None:
    """Make the keys of what phase 1 has: by pre-shared key where there is one, else by signatures."""
    phase1, prf = sa.phase1, sa.suite.prf
    if phase1.psk is not None:
        skeyid = keymat.skeyid_psk(prf, phase1.psk, phase1.nonce_i, phase1.nonce_r)
    else:
        skeyid = keymat.skeyid_signature(prf, phase1.nonce_i, phase1.nonce_r, phase1.shared)
    sa.take_keys(keymat.derive_phase1_keys(prf, skeyid, phase1.shared, sa.cookie_i, sa.cookie_r))


def proof_octets(sa: IsakmpSa, of_initiator: bool, prf: PseudoRandom | None = None) -> bytes:
    """Return HASH_I or HASH_R; ``prf`` is another than the suite's where a signature method has its own."""
    phase1 = sa.phase1
    make = keymat.hash_i if of_initiator else keymat.hash_r
    own = of_initiator == sa.initiator
    return make(
        prf or sa.suite.prf,
        sa.keys.skeyid,
        public_i=phase1.public_i,
        public_r=phase1.public_r,
        cookie_i=sa.cookie_i,
        cookie_r=sa.cookie_r,
        sa_body=phase1.sa_body,
        id_body=phase1.id_own if own else phase1.id_peer,
    )
