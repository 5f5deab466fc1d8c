"""The kernel data plane: XFRM by netlink, through our own message classes on pyroute2.

:class:`~agents.dataplane.kernel.driver.KernelDriver` is the driver; :mod:`~agents.dataplane.kernel.sockets` prepares
the UDP sockets of IKE for it.
"""

from __future__ import annotations

from agents.dataplane.kernel.driver import KernelDriver

__all__ = ["KernelDriver"]
