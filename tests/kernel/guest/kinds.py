"""The kinds of child that only the kernel carries, and what ``ip xfrm state`` shows of each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from agents.contract.config import Child, IpsecProposal, Mode, SequenceNumbers, TrafficSelector

GCM = IpsecProposal(encryption="aes-256-gcm-16")
CBC = IpsecProposal(encryption="aes-128-cbc", integrity="hmac-sha2-256-128")
AH = IpsecProposal(ah_integrity="hmac-sha2-256-128")
BUNDLE = IpsecProposal(encryption="aes-128-gcm-16", ah_integrity="hmac-sha2-512-256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One way to carry a child. ``shown`` are words of ``ip xfrm state``, with how often each stands there."""

    name: str
    proposal: IpsecProposal = GCM
    mode: Mode = Mode.TUNNEL
    extended: bool = False
    ipcomp: bool = False
    shown: tuple[tuple[str, int], ...] = ()

    @property
    def numbers(self) -> SequenceNumbers:
        """What the child says of sequence numbers."""
        return SequenceNumbers.EXTENDED if self.extended else SequenceNumbers.NORMAL

    def child(self, child: Child, here: str, there: str) -> Child:
        """Return ``child`` made of this kind, in transport mode between these outer addresses."""
        made = dataclasses.replace(
            child, proposals=(self.proposal,), mode=self.mode, sequence_numbers=self.numbers, ipcomp=self.ipcomp
        )
        if self.mode is Mode.TUNNEL:
            return made
        return dataclasses.replace(
            made,
            local_ts=(TrafficSelector(network=f"{here}/32"),),
            remote_ts=(TrafficSelector(network=f"{there}/32"),),
        )


KINDS: tuple[Kind, ...] = (
    Kind(name="transport", mode=Mode.TRANSPORT, shown=(("proto esp", 2), ("mode transport", 2))),
    Kind(name="extended numbers", proposal=CBC, extended=True, shown=(("esn\n", 2), ("mode tunnel", 2))),
    Kind(name="AH", proposal=AH, shown=(("proto ah", 2), ("proto esp", 0), ("mode tunnel", 2))),
    Kind(name="AH, transport", proposal=AH, mode=Mode.TRANSPORT, shown=(("proto ah", 2), ("mode transport", 2))),
    Kind(name="IPComp", ipcomp=True, shown=(("proto comp", 2), ("proto esp", 2), ("comp deflate", 2))),
    Kind(
        name="IPComp, transport, extended numbers", ipcomp=True, mode=Mode.TRANSPORT, extended=True,
        shown=(("proto comp", 2), ("mode transport", 4), ("esn\n", 2)),
    ),
    Kind(name="ESP inside AH", proposal=BUNDLE, shown=(("proto ah", 2), ("proto esp", 2), ("mode tunnel", 2))),
    Kind(
        name="all at once", proposal=BUNDLE, ipcomp=True, extended=True,
        shown=(("proto ah", 2), ("proto esp", 2), ("proto comp", 2), ("esn\n", 4)),
    ),
)  # fmt: skip


def miscounted(shown: str, kind: Kind) -> list[str]:
    """Return what ``ip -d xfrm state`` does not show as often as it should."""
    return [
        f"{word}: {shown.count(word)} times instead of {times}"
        for word, times in kind.shown
        if shown.count(word) != times
    ]
