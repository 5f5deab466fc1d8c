"""What a tunnel with manual keys is in the data plane: SAs and policies, and what cannot be before a driver is asked.

Not here: limits (nothing would renew an SA), UDP encapsulation (nothing finds a NAT) and extended sequence numbers
(their high half would have to be remembered across restarts).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agents.contract.config import Mode
from agents.contract.manual import ManualChild, ManualSa, ManualTunnel
from agents.contract.secret import Secret
from agents.dataplane.base import AuthenticationHeader, Direction, PolicySpec, SaProtocol, SaSpec
from agents.ike import rules, selectors
from agents.ike.wire.payloads import SelectorRange

DEFLATE_CPI = 2
"""What says DEFLATE where no CPI was negotiated (RFC 3173 section 3.3)."""

Key = tuple[str, str]
"""A tunnel's id and the name of one of its children."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One child in the data plane."""

    inbound: SaSpec
    outbound: SaSpec
    policies: tuple[PolicySpec, ...]
    selectors: tuple[str, str]
    """The local and the remote selector, as the status shows them."""

    @property
    def sas(self) -> tuple[SaSpec, SaSpec]:
        """Both SAs, the inbound one first."""
        return self.inbound, self.outbound


def bundles(tunnel: ManualTunnel, reqids: Mapping[str, int]) -> dict[str, Bundle]:
    """Return each child's SAs and policies by its name; ``reqids`` has a reqid for each."""
    pairs = {child.name: _selectors(tunnel, child) for child in tunnel.children}
    ranks = rules.ranks(((local,), (remote,)) for local, remote in pairs.values())
    return {
        child.name: _bundle(tunnel, child, reqids[child.name], pairs[child.name], rank)
        for child, rank in zip(tunnel.children, ranks, strict=True)
    }


def obstacles(tunnels: Iterable[ManualTunnel]) -> dict[Key, str]:
    """Return the children that cannot be installed whatever the driver, and why; of two that clash the later one."""
    found: dict[Key, str] = {}
    compressing: dict[str, str] = {}
    for tunnel in tunnels:
        for child in tunnel.children if tunnel.enabled else ():
            key = (tunnel.id, child.name)
            if not selectors.can_meet(selectors.to_range(child.local_ts), selectors.to_range(child.remote_ts)):
                found[key] = (
                    f"no packet matches both selectors: protocol {child.local_ts.protocol} here and "
                    f"{child.remote_ts.protocol} there"
                )
            elif child.mode is Mode.TRANSPORT and not _between_hosts(tunnel, child):
                found[key] = (
                    f"transport mode carries only what is between {tunnel.local_address} and {tunnel.remote_address}, "
                    f"which the selectors {child.local_ts.network} and {child.remote_ts.network} leave out"
                )
            elif child.ipcomp:
                ends = (tunnel.local_address, tunnel.remote_address)
                taken = next((f"{compressing[each]} at {each}" for each in ends if each in compressing), None)
                if taken is not None:
                    found[key] = (
                        f"CPI {DEFLATE_CPI} of IPComp is that of {taken} already: with manual keys nothing else tells "
                        "compressed packets apart. Let only one child between these addresses compress"
                    )
                else:
                    compressing |= dict.fromkeys(ends, f"{tunnel.name}/{child.name}")
    return found


def _between_hosts(tunnel: ManualTunnel, child: ManualChild) -> bool:
    ends = ((child.local_ts, tunnel.local_address), (child.remote_ts, tunnel.remote_address))
    return all(
        selectors.intersect(selectors.to_range(selector), selectors.host(address)) is not None
        for selector, address in ends
    )


def _selectors(tunnel: ManualTunnel, child: ManualChild) -> tuple[SelectorRange, SelectorRange]:
    """Return the child's selectors; in transport mode narrowed to the two hosts, as a negotiation does."""
    local, remote = selectors.to_range(child.local_ts), selectors.to_range(child.remote_ts)
    if child.mode is Mode.TRANSPORT:
        local = selectors.intersect(local, selectors.host(tunnel.local_address)) or local
        remote = selectors.intersect(remote, selectors.host(tunnel.remote_address)) or remote
    return local, remote


def _bundle(
    tunnel: ManualTunnel, child: ManualChild, reqid: int, pair: tuple[SelectorRange, SelectorRange], rank: rules.Rank
) -> Bundle:
    protocols = tuple(SaProtocol(each) for each in child.outbound.protocols)
    return Bundle(
        inbound=_sa(tunnel, child, child.inbound, Direction.IN, reqid),
        outbound=_sa(tunnel, child, child.outbound, Direction.OUT, reqid),
        policies=selectors.policies(
            tunnel_id=tunnel.id,
            reqid=reqid,
            local_address=tunnel.local_address,
            remote_address=tunnel.remote_address,
            local_ts=pair[:1],
            remote_ts=pair[1:],
            mode=child.mode,
            protocols=protocols,
            compressed=child.ipcomp,
            place=rank.place,
        ),
        selectors=(selectors.describe(pair[0]), selectors.describe(pair[1])),
    )


def _sa(tunnel: ManualTunnel, child: ManualChild, sa: ManualSa, direction: Direction, reqid: int) -> SaSpec:
    ends = (tunnel.local_address, tunnel.remote_address)
    source, destination = ends if direction is Direction.OUT else ends[::-1]
    spi = sa.ah_spi if sa.esp_spi is None else sa.esp_spi
    assert spi is not None
    ah = None
    if sa.ah_spi is not None:
        assert sa.ah_integrity is not None
        assert sa.ah_key is not None
        ah = AuthenticationHeader(spi=sa.ah_spi, integrity=sa.ah_integrity, key=sa.ah_key)
    # NULL takes a key of no octets (RFC 2410 section 2); the document has none for it.
    key = sa.encryption_key or Secret(b"") if sa.encryption is not None else None
    return SaSpec(
        tunnel_id=tunnel.id,
        direction=direction,
        spi=spi,
        source=source,
        destination=destination,
        reqid=reqid,
        encryption=sa.encryption,
        encryption_key=key,
        integrity=sa.integrity,
        integrity_key=sa.integrity_key,
        ah=ah,
        mode=child.mode,
        compression_cpi=DEFLATE_CPI if child.ipcomp else None,
        replay_window=child.replay_window,
        df_bit=tunnel.carriage.df_bit,
        copy_dscp=tunnel.carriage.copy_dscp,
    )
