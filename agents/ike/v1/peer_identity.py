"""Which tunnel the peer's identity means, and whether it is the configured one (RFC 2409 section 5, RFC 2407 4.6.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.contract import ikev1
from agents.contract.config import Tunnel
from agents.ike import identity
from agents.ike.errors import PeerError
from agents.ike.v1 import common
from agents.ike.wire.isakmp.payloads import Identification
from agents.ike.wire.isakmp.registry import NotifyType

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa
    from agents.ike.v1.tunnel import TunnelRuntime


def check(sa: IsakmpSa, config: Tunnel, shown: Identification, step: int) -> None:
    """Raise PeerError unless the peer shows the identity that its tunnel has."""
    if not identity.matches(config.remote.identity, shown):
        raise _mismatch(sa, (config,), shown, step)


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
        if len(candidates) == 1:
            sa.adopt(candidates[0])  # only to give the report its tunnel; the refusal ends this SA
        raise _mismatch(sa, tuple(each.config for each in candidates), shown, step)
    return tunnel


def _mismatch(sa: IsakmpSa, configs: tuple[Tunnel, ...], shown: Identification, step: int) -> PeerError:
    received = identity.describe(shown)
    configured = "; ".join(dict.fromkeys(identity.describe_own(each.remote.identity) for each in configs[:8]))
    if sa.suite.method == ikev1.PSK_METHOD:
        code, text = "ikev1.psk-identity-mismatch", "with the configured IKE policy"
    elif len(configs) == 1:
        code, text = "ikev1.certificate-identity-mismatch", "with the configured IKE policy"
    else:
        code, text = "ikev1.no-tunnel-for-identity", "with any of the configured IKE policies"
    return PeerError(
        NotifyType.INVALID_ID_INFORMATION,
        code,
        f"Mismatching ID type and data ({received}) {text} ({configured}), {common.where(sa, step)}",
        received=received,
        configured=configured,
        field="remote.identity",
        fatal=True,
    )
