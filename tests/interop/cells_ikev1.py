"""What the cells of IKEv1 are made of: one hash where IKEv2 has integrity and PRF, two modes of phase 1."""

from __future__ import annotations

from typing import Any

from agents.contract import algorithms
from agents.contract.config import ConnectionType, ExchangeMode, IkeProposal, IkeVersion, IpsecProposal
from tests.interop import steps, steps_ikev1, words
from tests.interop.cells import Cell

MAIN, AGGRESSIVE = ExchangeMode.MAIN, ExchangeMode.AGGRESSIVE
MODES = (MAIN, AGGRESSIVE)
SETTINGS = (("i_dont_care_about_security_and_use_aggressive_mode_psk", "yes"), ("delete_rekeyed", "yes"))
"""strongSwan answers in Aggressive Mode with a pre-shared key, and deletes what it has rekeyed, only when told so."""

AFTER_REKEYS = (
    steps.we_rekey_the_child,
    steps.they_rekey_the_child,
    steps_ikev1.we_rekey_phase_1,
    steps.they_rekey_the_ike_sa,
)
BOTH = {"connection_type": ConnectionType.BOTH}
"""For cells in which our end begins a new phase 1, whoever began the first."""


def ike(encryption: str = "aes-128-cbc", hash_: str = "sha256", group: str = "group-14") -> IkeProposal:
    """Return a suite of phase 1; ``hash_`` is a hashlib name."""
    integrity = next(slug for slug, row in algorithms.INTEGRITY.items() if row.hash == hash_)
    prf = next(slug for slug, row in algorithms.PSEUDO_RANDOM.items() if row.hash == hash_)
    return IkeProposal(encryption=encryption, integrity=integrity, prf=prf, group=group)


def esp(encryption: str = "aes-128-cbc", integrity: str = "hmac-sha2-256-128") -> IpsecProposal:
    """Return a suite of phase 2."""
    aead = algorithms.ENCRYPTION[encryption].aead
    return IpsecProposal(encryption=encryption, integrity=None if aead else integrity)


def hash_names(hash_: str) -> tuple[str, str]:
    """Return what strongSwan must have for a hash."""
    suite = ike(hash_=hash_)
    assert suite.integrity is not None
    return words.INTEGRITY[suite.integrity].name, words.PSEUDO_RANDOM[suite.prf].name


def cell(axis: str, name: str, mode: ExchangeMode = MAIN, **more: Any) -> Cell:
    """Return a cell in which both ends speak IKEv1.

    A peer rekeys phase 1 by another one, which our end must take then whoever began. strongSwan keeps the old for 10 s.
    """
    answers = steps.they_rekey_the_ike_sa in more.get("script", ())
    more = {
        "version": IkeVersion.V1, "ike": (ike(),), "esp": (esp(),), "settings": SETTINGS, "limit_s": 90.0,
        "answers": answers, **more,
    }  # fmt: skip
    return Cell(axis=axis, name=name, mode=mode, **more)
