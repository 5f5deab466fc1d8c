"""Which tunnel a responder's IKE_AUTH is about: by identities first, then by what else tells tunnels apart.

The identity expected of the peer decides: exact, then partial, then any. Among equals: a tunnel whose peer proves
itself as this one does, one that has the suite in use, one that protects what is asked for, the first in the document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.contract.config import AuthKind, Identity, IkeProposal
from agents.ike import identity, proposals
from agents.ike.crypto.suite import IkeSuite
from agents.ike.errors import PeerError
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import Auth, Identification, IdI, IdR, TsR
from agents.ike.wire.registry import AuthMethod, NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa
    from agents.ike.v2.tunnel import TunnelRuntime


def find_tunnel(sa: IkeSa, message: Message, id_i: IdI, id_r: IdR | None) -> TunnelRuntime:
    """Return the tunnel that an IKE_AUTH request means. Raises PeerError."""
    candidates = sa.core.candidates(sa.path.local_address, sa.path.remote_address)
    matching: dict[identity.Fit, list[TunnelRuntime]] = {}
    for tunnel in candidates:
        fit = identity.fit(tunnel.config.remote.identity, id_i)
        if fit is not None and (id_r is None or identity.matches(tunnel.config.local.identity, id_r)):
            matching.setdefault(fit, []).append(tunnel)
    if not matching:
        raise _no_tunnel(sa, candidates, id_i, id_r)
    best = matching[min(matching)]
    auth = message.find(Auth)
    by_psk = auth is not None and auth.method == AuthMethod.SHARED_KEY_MIC
    proving = [each for each in best if (each.config.remote_auth.kind is AuthKind.PSK) == by_psk] or best
    fitting = [each for each in proving if _has_suite(each.config.ike.proposals, sa)]
    if not fitting:
        raise PeerError(
            NotifyType.NO_PROPOSAL_CHOSEN,
            "ike.no-proposal",
            "The IKE suite in use is not one of this tunnel's proposals",
            received=f"{sa.suite.encryption.slug} {sa.suite.prf.slug} {sa.suite.group.slug}",
            configured=proposals.describe_ike(proving[0].config.ike.proposals),
            field="ike.proposals",
            fatal=True,
        )
    # Tunnels with the same addresses and identities differ in their networks, if at all.
    ts_r = message.find(TsR)
    ranges = () if ts_r is None else ts_r.selectors
    return next((each for each in fitting if each.protects(ranges)), fitting[0])


def identity_mismatch(shown: Identification, configured: Identity, field: str) -> PeerError:
    """Return the refusal of an identity that is not the configured one."""
    return PeerError(
        NotifyType.AUTHENTICATION_FAILED,
        "ike.identity-mismatch",
        "The identity the peer shows or asks for is not the configured one",
        received=identity.describe(shown),
        configured=identity.describe_own(configured),
        field=field,
        fatal=True,
    )


def _no_tunnel(sa: IkeSa, candidates: tuple[TunnelRuntime, ...], id_i: IdI, id_r: IdR | None) -> PeerError:
    if len(candidates) == 1:
        sa.adopt(candidates[0])  # only to give the report its tunnel; the refusal ends this SA
        config = candidates[0].config
        if id_r is None or not identity.matches(config.remote.identity, id_i):
            return identity_mismatch(id_i, config.remote.identity, "remote.identity")
        return identity_mismatch(id_r, config.local.identity, "local.identity")
    known = any(identity.matches(each.config.remote.identity, id_i) for each in candidates)
    shown, field = (id_r, "local.identity") if known and id_r is not None else (id_i, "remote.identity")
    ends = [each.config.local if field == "local.identity" else each.config.remote for each in candidates[:8]]
    return PeerError(
        NotifyType.AUTHENTICATION_FAILED,
        "ike.no-tunnel",
        "No tunnel between these addresses has the identities the peer shows and asks for",
        received=identity.describe(shown),
        configured="; ".join(dict.fromkeys(identity.describe_own(each.identity) for each in ends)) or None,
        field=field,
        fatal=True,
    )


def _has_suite(configured: tuple[IkeProposal, ...], sa: IkeSa) -> bool:
    return any(IkeSuite.from_proposal(each) == sa.suite for each in configured)
