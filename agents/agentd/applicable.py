"""Whether this machine can be what a document says; asked before the document is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from agents.agentd.errors import InvalidError
from agents.agentd.host import Host
from agents.contract.config import DataPlane, GatewayDocument, Identity, IdentityType, Tunnel
from agents.contract.manual import ManualTunnel
from agents.dataplane.kernel import KernelDriver
from agents.ike import names
from agents.ike.crypto.hash_signature import slug_for
from agents.ike.crypto.signature import HASH_NUMBERS, usable
from agents.pki import documents
from agents.pki.documents import DocumentCertificateError


async def check(document: GatewayDocument, host: Host) -> None:
    """Raise :class:`InvalidError` for a data plane or a local address this machine does not have.

    Likewise for what the contract cannot look into: certificates, trust anchors and distinguished names that cannot be
    read, signatures that a certificate's key cannot make, and keys that IKEv1 cannot sign with.

    A disabled tunnel may name an address that is not here: nothing is to be done for it.
    """
    _check_credentials(document)
    if document.data_plane is DataPlane.KERNEL:
        features = await KernelDriver().features()
        if not features.available:
            raise InvalidError("data_plane", f"kernel is not available here: {features.reason}")
    here = {address.address for address in (await host.look()).addresses}
    ends = [(f"tunnels[{index}].local.address", each.local.address) for index, each in _enabled(document.tunnels)]
    ends += [
        (f"manual_tunnels[{index}].local_address", each.local_address)
        for index, each in _enabled(document.manual_tunnels)
    ]
    for path, address in ends:
        if address not in here:
            raise InvalidError(path, f"{address} is not an address of this gateway")


T = TypeVar("T", Tunnel, ManualTunnel)


def _enabled(tunnels: Sequence[T]) -> list[tuple[int, T]]:
    return [(index, tunnel) for index, tunnel in enumerate(tunnels) if tunnel.enabled]


def _check_credentials(document: GatewayDocument) -> None:
    try:
        certificates = documents.parse(document)
    except DocumentCertificateError as error:
        raise InvalidError(error.path, error.problem) from None
    for index, tunnel in enumerate(document.tunnels):
        for side, end in (("local", tunnel.local), ("remote", tunnel.remote)):
            _check_name(f"tunnels[{index}].{side}.identity.value", end.identity)
        local = tunnel.local_auth
        if local.certificate is None:
            continue
        key = certificates.own[local.certificate][0].spki
        if tunnel.version.allows_v1 and slug_for(key) is None:
            raise InvalidError(
                f"tunnels[{index}].local_auth.certificate",
                f"the key of certificate {local.certificate} cannot sign in IKEv1, which takes RSA and ECDSA on P-256, "
                "P-384 and P-521",
            )
        possible = usable(key, frozenset(HASH_NUMBERS.values()))
        for place, signature in enumerate(local.signatures):
            if signature not in possible:
                raise InvalidError(
                    f"tunnels[{index}].local_auth.signatures[{place}]",
                    f"{signature} is not possible with the key of certificate {local.certificate}",
                )


def _check_name(path: str, identity: Identity) -> None:
    if identity.type is IdentityType.DN:
        try:
            names.to_der(identity.value)
        except ValueError as error:
            raise InvalidError(path, f"is {error}") from None
