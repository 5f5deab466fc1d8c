"""Which tunnel the peer's identity means, and whether it is the configured one (RFC 2409 section 5, RFC 2407 4.6.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.contract import ikev1
from agents.contract.config import Tunnel
from agents.ike import identity
from agents.ike.errors import PeerError
from agents.ike.v1 import place
from agents.ike.wire.isakmp.payloads import Identification
from agents.ike.wire.isakmp.registry import NotifyType

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa
    from agents.ike.v1.tunnel import TunnelRuntime


def check(sa: IsakmpSa, config: Tunnel, shown: Identification, step: int) -> None:
    """Raise PeerError unless the peer shows the identity that its tunnel has."""
    if not identity.matches(config.remote.identity, shown):
        raise mismatch(sa, (config,), shown, step, sa.suite.method == ikev1.PSK_METHOD)


def best(candidates: tuple[TunnelRuntime, ...], shown: Identification) -> TunnelRuntime | None:
    """Return the first tunnel whose peer is called so: exactly, else partly, else whatever it is called."""
    found: dict[identity.Fit, TunnelRuntime] = {}
    for tunnel in candidates:
        fit = identity.fit(tunnel.config.remote.identity, shown)
        if fit is not None:
            found.setdefault(fit, tunnel)
    return found[min(found)] if found else None


def select(sa: IsakmpSa, candidates: tuple[TunnelRuntime, ...], shown: Identification, step: int) -> TunnelRuntime:
    """Return the tunnel that the peer means. Raises PeerError."""
    tunnel = best(candidates, shown)
    if tunnel is None:
        raise mismatch(sa, tuple(each.config for each in candidates), shown, step, sa.suite.method == ikev1.PSK_METHOD)
    return tunnel


def mismatch(sa: IsakmpSa, configs: tuple[Tunnel, ...], shown: Identification, step: int, by_psk: bool) -> PeerError:
    """Return the refusal of an identity that none of these tunnels has; ``by_psk`` says how the peer proves it."""
    received = identity.describe(shown)
    configured = "; ".join(dict.fromkeys(identity.describe_own(each.remote.identity) for each in configs[:8]))
    text = "with the configured IKE policy" if len(configs) == 1 else "with any of the configured IKE policies"
    if by_psk:
        code = "ikev1.psk-identity-mismatch"
    else:
        code = "ikev1.certificate-identity-mismatch" if len(configs) == 1 else "ikev1.no-tunnel-for-identity"
    return PeerError(
        NotifyType.INVALID_ID_INFORMATION,
        code,
        f"Mismatching ID type and data ({received}) {text} ({configured}), {place.phase1(sa, step).sentence}",
        received=received,
        configured=configured,
        field="remote.identity",
        fatal=True,
    )
