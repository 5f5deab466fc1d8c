"""Agreeing on a child: what a responder accepts, what an initiator accepts as the answer (RFC 7296 2.7, 2.9, 2.17).

Mode (1.3.1), compression (2.22) and extended sequence numbers are agreed on here too. Transport mode is host to host:
its selectors are narrowed to the outer addresses. Where a NAT changes those, the peer's selectors have the addresses it
sees: they are taken as the ones seen here, before anything else, and kept for the checksums (section 2.23.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agents.contract.config import Child, IpsecProposal, Mode
from agents.dataplane.base import Features, OriginalAddresses
from agents.ike import mismatch, proposals, selectors
from agents.ike.errors import PeerError
from agents.ike.proposals import IpsecChoice
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import KeyExchangeData, Notify, SecurityAssociation, SelectorRange, TsI, TsR
from agents.ike.wire.registry import NotifyType

DEFLATE = 2
"""The IPComp transform of RFC 2394; the only one offered and taken."""

_CPIS = range(256, 61_440)

Ranges = tuple[SelectorRange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where a child is to live: the outer addresses, which end is behind a NAT, what the data plane can (if known).

    A peer that asks for UDP encapsulation looks like one behind a NAT.
    """

    local_address: str
    remote_address: str
    nat_local: bool = False
    nat_remote: bool = False
    features: Features | None = None

    @property
    def extended(self) -> bool:
        """Whether extended sequence numbers can be used where they are only preferred."""
        return self.features is None or self.features.extended_sequence_numbers

    @property
    def compression(self) -> bool:
        """Whether packets can be compressed."""
        return self.features is None or self.features.compression

    def feasible(self, config: Child) -> Child:
        """Return the child with those of its proposals that the data plane can do; with all of them where it can none.

        Then the data plane says what it is that it cannot.
        """
        fit = tuple(each for each in config.proposals if self._can(each))
        return config if len(fit) in (0, len(config.proposals)) else replace(config, proposals=fit)

    def _can(self, proposal: IpsecProposal) -> bool:
        features = self.features
        return features is None or features.can(proposal.encryption, proposal.integrity, proposal.ah_integrity)

    def ranges(self, config: Child) -> tuple[Ranges, Ranges]:
        """Return the child's local and remote selectors; in transport mode only what the two hosts can send."""
        local, remote = selectors.to_ranges(config.local_ts), selectors.to_ranges(config.remote_ts)
        if config.mode is Mode.TUNNEL:
            return local, remote
        return (
            selectors.narrow(local, (selectors.host(self.local_address),)),
            selectors.narrow(remote, (selectors.host(self.remote_address),)),
        )

    def seen(self, config: Child, message: Message, local_ts: Ranges, remote_ts: Ranges) -> Terms:
        """Return a peer's selectors for this child as they read here."""
        if config.mode is Mode.TUNNEL or message.notify(NotifyType.USE_TRANSPORT_MODE) is None:
            return Terms(local_ts=local_ts, remote_ts=remote_ts)
        original = OriginalAddresses(
            source=selectors.only_host(remote_ts) or self.remote_address,
            destination=selectors.only_host(local_ts) or self.local_address,
        )
        changed = (original.source, original.destination) != (self.remote_address, self.local_address)
        return Terms(
            local_ts=selectors.of_host(local_ts, self.local_address) if self.nat_local else local_ts,
            remote_ts=selectors.of_host(remote_ts, self.remote_address) if self.nat_remote else remote_ts,
            original=original if changed else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A peer's selectors as they read here, and what it sees in the place of the outer addresses through a NAT."""

    local_ts: Ranges
    remote_ts: Ranges
    original: OriginalAddresses | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """One of our children and what of it both sides want; selectors as we see them.

    ``peer_cpi`` is the peer's inbound CPI where packets are to be compressed; ``more`` says that another of our
    children would take more of what was asked for (ADDITIONAL_TS_POSSIBLE). ``original`` is there where a NAT changes
    the addresses of transport mode.
    """

    config: Child
    choice: IpsecChoice
    local_ts: Ranges
    remote_ts: Ranges
    narrowed: bool
    mode: Mode = Mode.TUNNEL
    peer_cpi: int | None = None
    mode_declined: bool = False
    more: bool = False
    original: OriginalAddresses | None = None


def accept_request(
    children: Sequence[Child],
    message: Message,
    setting: Setting,
    *,
    pfs: bool,
    is_live: Callable[[str], bool],
    rekeyed: str | None = None,
) -> Accepted:
    """Find the child that a request asks for.

    Among children whose selectors meet the request, one of the mode asked for goes first, then one with exactly these
    selectors, then one that is not up; where none will do, the refusal is about the one that was meant by that order.
    ``rekeyed`` fixes the child by name. Raises PeerError.
    """
    offer, ts_i, ts_r = _parts(message)
    met: list[tuple[tuple[bool, bool, bool], Accepted]] = []
    refused: list[tuple[tuple[bool, bool], PeerError]] = []
    for config in children:
        if rekeyed is not None and config.name != rekeyed:
            continue
        local, remote = setting.ranges(config)
        wished = setting.seen(config, message, ts_r.selectors, ts_i.selectors)
        local_ts, remote_ts = selectors.narrow(local, wished.local_ts), selectors.narrow(remote, wished.remote_ts)
        if not _can_meet(local_ts, remote_ts, selectors.prefix_pairs(local, remote)):
            continue
        nearness = not (set(local_ts) == set(local) and set(remote_ts) == set(remote)), is_live(config.name)
        try:
            choice = _choose(config, offer, message, pfs, setting)
            mode, declined = _mode_asked(config, message)
        except PeerError as error:
            refused.append((nearness, error.about(config.name)))
            continue
        accepted = Accepted(
            config=config,
            choice=choice,
            local_ts=local_ts,
            remote_ts=remote_ts,
            narrowed=not (_all_in(wished.local_ts, local_ts) and _all_in(wished.remote_ts, remote_ts)),
            mode=mode,
            peer_cpi=_cpi_asked(message) if config.ipcomp and setting.compression else None,
            mode_declined=declined,
            original=wished.original,
        )
        met.append(((declined, *nearness), accepted))
    if met:
        accepted = min(met, key=lambda entry: entry[0])[1]
        _check_key_exchange(accepted.config, accepted.choice, message)
        return replace(accepted, more=accepted.narrowed and len(met) + len(refused) > 1)
    if refused:
        raise min(refused, key=lambda entry: entry[0])[1]
    raise _no_selectors(children, ts_i, ts_r)


def accept_answer(
    config: Child,
    message: Message,
    setting: Setting,
    *,
    pfs: bool,
    asked: tuple[Ranges, Ranges] | None = None,
    compression: bool = False,
) -> Accepted:
    """Check the answer to a request of ours for this child. Raises PeerError, whose notify is for our own records.

    ``asked`` are the selectors of the request where they are not the child's own, ``compression`` whether it was
    offered.
    """
    offer, ts_i, ts_r = _parts(message)
    local, remote = asked or setting.ranges(config)
    terms = setting.seen(config, message, ts_i.selectors, ts_r.selectors)
    if not selectors.within(terms.local_ts, local) or not selectors.within(terms.remote_ts, remote):
        raise _no_selectors((config,), ts_r, ts_i)
    if not _can_meet(terms.local_ts, terms.remote_ts, selectors.prefix_pairs(local, remote)):
        raise _no_selectors((config,), ts_r, ts_i)
    if not proposals.is_answer(offer):
        raise _no_proposal(config, offer, pfs)
    choice = _choose(config, offer, message, pfs, setting)
    _check_mode_answered(config, message)
    _check_key_exchange(config, choice, message)
    narrowed = not (_all_in(local, terms.local_ts) and _all_in(remote, terms.remote_ts))
    return Accepted(
        config=config,
        choice=choice,
        local_ts=terms.local_ts,
        remote_ts=terms.remote_ts,
        narrowed=narrowed,
        mode=config.mode,
        peer_cpi=_cpi_answered(message, compression),
        more=narrowed and message.notify(NotifyType.ADDITIONAL_TS_POSSIBLE) is not None,
        original=terms.original,
    )


def _all_in(wished: Sequence[SelectorRange], agreed: Sequence[SelectorRange]) -> bool:
    """Whether nothing wished for was left out; a packet's own selector before wider ones (2.9) does not count."""
    return all(any(selectors.covers(outer, inner) for outer in agreed) for inner in wished)


def _mode_asked(config: Child, message: Message) -> tuple[Mode, bool]:
    """Return the mode of the answer, and whether the peer asked for another (section 1.3.1)."""
    transport = message.notify(NotifyType.USE_TRANSPORT_MODE) is not None
    if config.mode is Mode.TUNNEL:
        return Mode.TUNNEL, transport
    if not transport:
        raise _mode_mismatch(config, "tunnel")
    return Mode.TRANSPORT, False


def _check_mode_answered(config: Child, message: Message) -> None:
    answered = Mode.TUNNEL if message.notify(NotifyType.USE_TRANSPORT_MODE) is None else Mode.TRANSPORT
    if answered is not config.mode:
        raise _mode_mismatch(config, answered)


def _mode_mismatch(config: Child, received: str) -> PeerError:
    return PeerError(
        NotifyType.NO_PROPOSAL_CHOSEN,
        "child.mode-mismatch",
        f"Child {config.name} is for {config.mode} mode and the peer wants {received} mode",
        received=received,
        configured=config.mode,
        field="children.mode",
    )


def _cpi_asked(message: Message) -> int | None:
    """Return the peer's CPI of the first DEFLATE among what it offers (section 2.22)."""
    offered = [_cpi(each) for each in message.notifies(NotifyType.IPCOMP_SUPPORTED)]
    return next((cpi for cpi in offered if cpi is not None), None)


def _cpi_answered(message: Message, offered: bool) -> int | None:
    notify = message.notify(NotifyType.IPCOMP_SUPPORTED)
    if notify is None:
        return None
    cpi = _cpi(notify)
    if cpi is None or not offered:
        raise PeerError(
            NotifyType.NO_PROPOSAL_CHOSEN,
            "child.no-proposal",
            "The peer's answer has a compression that was not offered",
            received=notify.data[:8].hex(),
            configured="deflate" if offered else "none",
            field="children.ipcomp",
        )
    return cpi


def _cpi(notify: Notify) -> int | None:
    """Return the CPI of IPCOMP_SUPPORTED, or None where it is not one for DEFLATE that a packet can carry."""
    cpi = int.from_bytes(notify.data[:2], "big")
    return cpi if len(notify.data) == 3 and notify.data[2] == DEFLATE and cpi in _CPIS else None


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


def _choose(config: Child, offer: SecurityAssociation, message: Message, pfs: bool, setting: Setting) -> IpsecChoice:
    key_exchange = message.find(KeyExchangeData)
    prefer = None if key_exchange is None else key_exchange.group
    choice = proposals.choose_ipsec(setting.feasible(config), offer, pfs, prefer, setting.extended)
    if choice is None:
        raise _no_proposal(config, offer, pfs)
    return choice


def _check_key_exchange(config: Child, choice: IpsecChoice, message: Message) -> None:
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
            attributes={"child": config.name},
        )


def _no_proposal(config: Child, offer: SecurityAssociation, pfs: bool) -> PeerError:
    found = mismatch.describe_ipsec(config, offer, pfs)
    text = f"No IPsec proposal of child {config.name} matches what the peer offers"
    return PeerError(
        NotifyType.NO_PROPOSAL_CHOSEN,
        "child.no-proposal" if found is None else found.code,
        text if found is None else f"{text}: {found.sentence}",
        received=proposals.describe_offer(offer),
        configured=proposals.describe_ipsec(config),
        field="children.proposals" if found is None else found.field,
        attributes={} if found is None else found.attributes,
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
