"""The transforms of an IKE SA as table rows, in one value."""

from __future__ import annotations

from dataclasses import dataclass

from agents.contract import algorithms
from agents.contract.algorithms import Encryption, Integrity, KeyExchange, PseudoRandom
from agents.contract.config import IkeProposal


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeSuite:
    """What an IKE SA negotiated; ``integrity`` is None exactly when the cipher is an AEAD (RFC 5282 section 8).

    ``additional`` are the key exchanges done after that of ``group``, in order (RFC 9370).
    """

    encryption: Encryption
    integrity: Integrity | None
    prf: PseudoRandom
    group: KeyExchange
    additional: tuple[KeyExchange, ...] = ()

    @classmethod
    def from_proposal(cls, proposal: IkeProposal) -> IkeSuite:
        """Look up the rows a proposal names; the proposal has checked that they exist."""
        return cls(
            encryption=algorithms.ENCRYPTION[proposal.encryption],
            integrity=None if proposal.integrity is None else algorithms.INTEGRITY[proposal.integrity],
            prf=algorithms.PSEUDO_RANDOM[proposal.prf],
            group=algorithms.KEY_EXCHANGE[proposal.group],
            additional=tuple(algorithms.KEY_EXCHANGE[each] for each in proposal.additional_key_exchanges),
        )
