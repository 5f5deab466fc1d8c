"""A tunnel of IKEv1 as status shows it: times monotonic, counters zero, the shell fills in."""

from __future__ import annotations

from collections.abc import Sequence

from agents.contract.status import ChildSaStatus, ChildStatus, Counters, IkeSaStatus, TunnelState, TunnelStatus
from agents.ike import identity, selectors
from agents.ike.paths import endpoint
from agents.ike.v1.child import ChildSa
from agents.ike.v1.sa import IsakmpSa
from agents.ike.v1.states import UP_CHILD
from agents.ike.v1.tunnel import TunnelRuntime
from agents.ike.wire.isakmp.payloads import Identification


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


def _ike_sa(sa: IsakmpSa) -> IkeSaStatus:
    suite, shown = sa.suite, sa.phase1.shown
    return IkeSaStatus(
        spi_i=sa.cookie_i.hex(),
        spi_r=sa.cookie_r.hex(),
        initiator=sa.initiator,
        state=str(sa.state),
        local=endpoint(sa.path.local_address, sa.path.local_port),
        remote=endpoint(sa.path.remote_address, sa.path.remote_port),
        nat_local=sa.nat.local,
        nat_remote=sa.nat.remote,
        encryption=suite.encryption.slug,
        integrity=suite.proposal.integrity,
        prf=suite.prf.slug,
        group=suite.group.slug,
        fragmentation=sa.fragmenting,
        established_at=sa.created_at if sa.established_at is None else sa.established_at,
        rekey_at=sa.rekey_at if sa.standing else None,
        local_auth=sa.phase1.local,
        remote_auth=sa.phase1.remote,
        remote_identity=None if shown is None else identity.describe(Identification(id_type=shown[0], data=shown[1])),
        version="v1",
        exchange_mode=str(sa.mode),
    )


def _child(tunnels: Sequence[TunnelRuntime], name: str) -> ChildStatus:
    children = [child for tunnel in tunnels for child in tunnel.children]
    found = [child for child in children if child.name == name and child.state in UP_CHILD]
    up = any(tunnel.children.is_up(name) for tunnel in tunnels)
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
        local_ts=(selectors.describe(agreement.local),),
        remote_ts=(selectors.describe(agreement.remote),),
        installed_at=child.installed_at,
        rekey_at=child.rekey_at,
        expires_at=child.expire_at,
        counters=Counters(),
        ah_integrity=agreement.proposal.ah_integrity,
        mode=agreement.mode,
        esn=agreement.esn,
        ipcomp=agreement.cpi_in is not None,
    )
