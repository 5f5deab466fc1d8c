"""What a UDP socket of ``iked`` needs in kernel mode.

With UDP encapsulation (RFC 3948) the kernel takes ESP out of the very socket that receives IKE on port 4500. And a
policy whose selector covers the outer addresses themselves would catch IKE messages, so their sockets carry a policy of
their own that lets them pass.
"""

from __future__ import annotations

import errno
import socket

from agents.dataplane.base import DataplaneError
from agents.dataplane.kernel import rows
from agents.dataplane.kernel.messages import PolicyMessage

_UDP_ENCAP = 100
_UDP_ENCAP_ESPINUDP = 2
_IP_XFRM_POLICY = 17
_IPV6_XFRM_POLICY = 35
_NETLINK_HEADER_OCTETS = 16


def accept_encapsulated_esp(udp: socket.socket) -> None:
    """Let the kernel take ESP in UDP from this socket, which receives all else. Raises DataplaneError."""
    try:
        udp.setsockopt(socket.IPPROTO_UDP, _UDP_ENCAP, _UDP_ENCAP_ESPINUDP)
    except OSError as error:
        raise _refusal("accept encapsulated ESP", error) from None


def bypass_policies(udp: socket.socket) -> None:
    """Let this socket's datagrams pass every policy in both directions. Raises DataplaneError."""
    level, option = socket.IPPROTO_IP, _IP_XFRM_POLICY
    if udp.family == socket.AF_INET6:
        level, option = socket.IPPROTO_IPV6, _IPV6_XFRM_POLICY
    for direction in (rows.POLICY_IN, rows.POLICY_OUT):
        try:
            udp.setsockopt(level, option, _allow(udp.family, direction))
        except OSError as error:
            raise _refusal("bypass policies", error) from None


def _allow(family: int, direction: int) -> bytes:
    message = PolicyMessage.of({"sel_family": family, "dir": direction, **rows.limit_fields()})
    message.encode()
    return bytes(message.data[_NETLINK_HEADER_OCTETS:])


def _refusal(operation: str, error: OSError) -> DataplaneError:
    return DataplaneError(operation, "UDP socket", error.errno or errno.EIO, error.strerror or str(error))
