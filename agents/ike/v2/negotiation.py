"""Agreeing on a child: what a responder accepts, what an initiator accepts as the answer (RFC 7296 2.7, 2.9, 2.17)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agents.contract.config import Child
from agents.ike import proposals, selectors
from agents.ike.errors import PeerError
from agents.ike.proposals import EspChoice
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import KeyExchangeData, SecurityAssociation, SelectorRange, TsI, TsR
from agents.ike.wire.registry import NotifyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """One of our children and what of it both sides want; selectors as we see them."""

    config: Child
    choice: EspChoice
    local_ts: tuple[SelectorRange, ...]
    remote_ts: tuple[SelectorRange, ...]
    narrowed: bool


def accept_request(
    children: Sequence[Child],
    message: Message,
    *,
    pfs: bool,
    is_live: Callable[[str], bool],
    rekeyed: str | None = None,
) -> Accepted:
    """Find the child that a request asks for.

    Among children whose selectors meet the request, one with exactly these selectors goes first, then one that is not
    up. ``rekeyed`` fixes the child by name. Raises PeerError.
    """
    offer, ts_i, ts_r = _parts(message)
    met: list[tuple[tuple[bool, bool], Accepted]] = []
    refused: Child | None = None
    for config in children:
        if rekeyed is not None and config.name != rekeyed:
            continue
        local, remote = selectors.to_ranges(config.local_ts), selectors.to_ranges(config.remote_ts)
        local_ts, remote_ts = selectors.narrow(local, ts_r.selectors), selectors.narrow(remote, ts_i.selectors)
        if not _can_meet(local_ts, remote_ts, selectors.prefix_pairs(local, remote)):
            continue
        choice = _choose(config, offer, message, pfs)
        if choice is None:
            refused = refused or config
            continue
        exact = set(local_ts) == set(local) and set(remote_ts) == set(remote)
        narrowed = set(local_ts) != set(ts_r.selectors) or set(remote_ts) != set(ts_i.selectors)
        accepted = Accepted(config=config, choice=choice, local_ts=local_ts, remote_ts=remote_ts, narrowed=narrowed)
        met.append(((not exact, is_live(config.name)), accepted))
    if met:
        accepted = min(met, key=lambda entry: entry[0])[1]
        _check_key_exchange(accepted.choice, message)
        return accepted
    if refused is not None:
        raise _no_proposal(refused, offer, pfs)
    raise _no_selectors(children, ts_i, ts_r)


def accept_answer(config: Child, message: Message, *, pfs: bool) -> Accepted:
    """Check the answer to a request of ours for this child. Raises PeerError, whose notify is for our own records."""
    offer, ts_i, ts_r = _parts(message)
    local, remote = selectors.to_ranges(config.local_ts), selectors.to_ranges(config.remote_ts)
    if not selectors.within(ts_i.selectors, local) or not selectors.within(ts_r.selectors, remote):
        raise _no_selectors((config,), ts_r, ts_i)
    if not _can_meet(ts_i.selectors, ts_r.selectors, selectors.prefix_pairs(local, remote)):
        raise _no_selectors((config,), ts_r, ts_i)
    choice = proposals.choose_esp(config, offer, pfs) if proposals.is_answer(offer) else None
    if choice is None or len(choice.peer_spi) != 4:
        raise _no_proposal(config, offer, pfs)
    _check_key_exchange(choice, message)
    narrowed = set(ts_i.selectors) != set(local) or set(ts_r.selectors) != set(remote)
    return Accepted(config=config, choice=choice, local_ts=ts_i.selectors, remote_ts=ts_r.selectors, narrowed=narrowed)


def _parts(message: Message) -> tuple[SecurityAssociation, TsI, TsR]:
    offer, ts_i, ts_r = message.find(SecurityAssociation), message.find(TsI), message.find(TsR)
    if offer is None or ts_i is None or ts_r is None:
        raise PeerError(
            NotifyType.INVALID_SYNTAX, "drop.payload-rules", "A child needs an SA payload and both traffic selectors"
        )
    return offer, ts_i, ts_r


def _can_meet(local_ts: Sequence[SelectorRange], remote_ts: Sequence[SelectorRange], configured_pairs: int) -> bool:
    """Whether there is anything to protect, and not so much in odd ranges that a data plane would drown in policies."""
    versions = {each.ts_type for each in local_ts} & {each.ts_type for each in remote_ts}
    return bool(versions) and selectors.prefix_pairs(local_ts, remote_ts) <= max(
        selectors.MOST_PREFIX_PAIRS, configured_pairs
    )


def _choose(config: Child, offer: SecurityAssociation, message: Message, pfs: bool) -> EspChoice | None:
    key_exchange = message.find(KeyExchangeData)
    choice = proposals.choose_esp(config, offer, pfs, None if key_exchange is None else key_exchange.group)
    return choice if choice is not None and len(choice.peer_spi) == 4 else None


def _check_key_exchange(choice: EspChoice, message: Message) -> None:
    if choice.group is None:
        return
    key_exchange = message.find(KeyExchangeData)
    if key_exchange is None or key_exchange.group != choice.group.number:
        raise PeerError(
            NotifyType.INVALID_KE_PAYLOAD,
            "ike.group-changed",
            "The child's key exchange is of another group than the one chosen",
            data=choice.group.number.to_bytes(2, "big"),
            received="none" if key_exchange is None else str(key_exchange.group),
            configured=choice.group.slug,
            field="children.pfs_groups",
        )


def _no_proposal(config: Child, offer: SecurityAssociation, pfs: bool) -> PeerError:
    pfs_only = pfs and proposals.differs_in_pfs_only(config, offer)
    return PeerError(
        NotifyType.NO_PROPOSAL_CHOSEN,
        "child.pfs-mismatch" if pfs_only else "child.no-proposal",
        f"No IPsec proposal of child {config.name} matches what the peer offers",
        received=proposals.describe_offer(offer),
        configured=proposals.describe_esp(config),
        field="children.pfs_groups" if pfs_only else "children.proposals",
    )


def _no_selectors(children: Sequence[Child], remote: TsI | TsR, local: TsI | TsR) -> PeerError:
    configured = "; ".join(
        f"{selectors.describe_all(selectors.to_ranges(each.local_ts))} = "
        f"{selectors.describe_all(selectors.to_ranges(each.remote_ts))}"
        for each in children[:8]
    )
    return PeerError(
        NotifyType.TS_UNACCEPTABLE,
        "child.ts-unacceptable",
        "The peer's traffic selectors do not match",
        received=f"{selectors.describe_all(local.selectors)} = {selectors.describe_all(remote.selectors)}",
        configured=configured[:800],
        field="children.local_ts",
    )
