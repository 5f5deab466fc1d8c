"""Whether this machine can be what a document says; asked before the document is accepted."""

from __future__ import annotations

from agents.agentd.errors import InvalidError
from agents.agentd.host import Host
from agents.contract.config import DataPlane, GatewayDocument
from agents.dataplane.kernel import KernelDriver


async def check(document: GatewayDocument, host: Host) -> None:
    """Raise :class:`InvalidError` for a data plane or a local address this machine does not have.

    A disabled tunnel may name an address that is not here: nothing is to be done for it.
    """
    if document.data_plane is DataPlane.KERNEL:
        features = await KernelDriver().features()
        if not features.available:
            raise InvalidError("data_plane", f"kernel is not available here: {features.reason}")
    here = {address.address for address in (await host.look()).addresses}
    for index, tunnel in enumerate(document.tunnels):
        if tunnel.enabled and tunnel.local.address not in here:
            raise InvalidError(
                f"tunnels[{index}].local.address", f"{tunnel.local.address} is not an address of this gateway"
            )
