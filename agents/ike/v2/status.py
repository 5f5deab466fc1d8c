"""A tunnel as status shows it (:mod:`agents.contract.status`): times monotonic, counters zero, the shell fills in."""

from __future__ import annotations

from collections.abc import Sequence

from agents.contract.status import ChildSaStatus, ChildStatus, Counters, IkeSaStatus, TunnelState, TunnelStatus
from agents.ike import identity, selectors
from agents.ike.paths import endpoint
from agents.ike.v2.child import ChildSa
from agents.ike.v2.sa import IkeSa
from agents.ike.v2.states import ChildState, SaState
from agents.ike.v2.tunnel import TunnelRuntime

_SHOWN = (ChildState.INSTALLED, ChildState.REKEYING, ChildState.REPLACED, ChildState.DELETING)


def tunnel_status(tunnel: TunnelRuntime) -> TunnelStatus:
    """Return the status of one configured tunnel, up or not."""
    everyone = (tunnel, *tunnel.peers)
    down = tunnel.state in (TunnelState.DOWN, TunnelState.NEGOTIATING, TunnelState.PARTLY_UP)
    return TunnelStatus(
        id=tunnel.config.id,
        name=tunnel.config.name,
        state=tunnel.state,
        since=tunnel.since,
        step=None if tunnel.state is TunnelState.UP else tunnel.step(),
        reason=tunnel.reason if down else None,
        ike_sas=tuple(_ike_sa(sa) for each in everyone for sa in each.sas if sa.keyed),
        children=tuple(_child(everyone, child.name) for child in tunnel.config.children),
        kind=str(tunnel.config.kind),
        peers=len(tunnel.peers),
    )


def _ike_sa(sa: IkeSa) -> IkeSaStatus:
    suite = sa.suite
    return IkeSaStatus(
        spi_i=sa.spi_i.hex(),
        spi_r=sa.spi_r.hex(),
        initiator=sa.initiator,
        state=str(sa.state),
        local=endpoint(sa.path.local_address, sa.path.local_port),
        remote=endpoint(sa.path.remote_address, sa.path.remote_port),
        nat_local=sa.nat.local,
        nat_remote=sa.nat.remote,
        encryption=suite.encryption.slug,
        integrity=None if suite.integrity is None else suite.integrity.slug,
        prf=suite.prf.slug,
        group=suite.group.slug,
        additional_key_exchanges=tuple(each.slug for each in suite.additional),
        fragmentation=sa.fragmentation,
        established_at=sa.created_at if sa.established_at is None else sa.established_at,
        rekey_at=sa.rekey_at if sa.state is SaState.ESTABLISHED else None,
        reauth_at=sa.authentication.renew_at if sa.state is SaState.ESTABLISHED else None,
        mobike=sa.mobility.enabled,
        local_auth=sa.auth.local,
        remote_auth=sa.auth.remote,
        remote_identity=None if sa.auth.identity is None else identity.describe(sa.auth.identity),
        ppk=sa.auth.ppk,
    )


def _child(tunnels: Sequence[TunnelRuntime], name: str) -> ChildStatus:
    sas = [sa for tunnel in tunnels for sa in tunnel.sas]
    found = [child for sa in sas for child in sa.children if child.name == name and child.state in _SHOWN]
    up = any(tunnel.is_up(name) for tunnel in tunnels)
    return ChildStatus(name=name, up=up, sas=tuple(_child_sa(child) for child in found))


def _child_sa(child: ChildSa) -> ChildSaStatus:
    agreement = child.agreement
    return ChildSaStatus(
        spi_in=f"{child.spi_in:08x}",
        spi_out=f"{child.spi_out:08x}",
        encryption=agreement.proposal.encryption,
        integrity=agreement.proposal.integrity,
        group=agreement.group,
        udp_encapsulation=child.outbound.encapsulation is not None,
        local_ts=tuple(selectors.describe(each) for each in agreement.local_ts),
        remote_ts=tuple(selectors.describe(each) for each in agreement.remote_ts),
        installed_at=child.installed_at,
        rekey_at=child.rekey_at,
        expires_at=child.expire_at,
        counters=Counters(),
        ah_integrity=agreement.proposal.ah_integrity,
        mode=agreement.mode,
        esn=agreement.esn,
        ipcomp=agreement.cpi_in is not None,
    )
