"""TUN devices with a virtio-net header and segmentation offload, by ``ioctl`` alone (linux/if_tun.h, linux/sockios.h).

A device lives as long as its file descriptor. Routes are ``agentd``'s, addresses the operator's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from agents.dataplane.userspace.offload import VNET_OCTETS, Frame

_CLONE = "/dev/net/tun"
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x0100, 0x1000, 0x4000
_CSUM, _TSO4, _TSO6, _TSO_ECN, _USO4, _USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFMTU, _SIOCSIFTXQLEN = 0x8913, 0x8914, 0x8922, 0x8943
_IFF_UP = 1
_NAME = struct.Struct("16sH22x")
_NUMBER = struct.Struct("16si20x")
FRAME_OCTETS = VNET_OCTETS + 65535
FRAMES, FRAMES_WITH_PRIORITIES = 500, 4_096
"""What the kernel keeps of a device while nobody reads: as much as it does by itself (TUN_READQ_SIZE of
drivers/net/tun.c), and more where we choose what is dropped, since the kernel takes no notice of priorities."""


class Tun:
    """One device, made up and running at once; raises OSError. ``dropped`` counts frames the kernel did not take.

    With ``shared`` each process that opens it has a queue of its own; it lives as long as one has.
    """

    def __init__(self, name: str, mtu: int, *, shared: bool = False) -> None:
        self.name = name
        self.dropped = 0
        self.fd = os.open(_CLONE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self.fd)
            flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if shared else 0)
            fcntl.ioctl(self.fd, _TUNSETIFF, _NAME.pack(name.encode("ascii"), flags))
            self._offload()
            # No router solicitations into the tunnel: the link has the addresses that it is given and no others.
            with contextlib.suppress(OSError):
                Path(f"/proc/sys/net/ipv6/conf/{name}/addr_gen_mode").write_text("1")
            self.set_mtu(mtu)
            self._up()
            undo.pop_all()

    def _offload(self) -> None:
        """Take super-packets from the kernel; USO since Linux 6.2."""
        tso = _CSUM | _TSO4 | _TSO6 | _TSO_ECN
        try:
            fcntl.ioctl(self.fd, _TUNSETOFFLOAD, tso | _USO4 | _USO6)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fcntl.ioctl(self.fd, _TUNSETOFFLOAD, tso)

    def set_mtu(self, mtu: int) -> None:
        """Set the link's MTU in octets; raises OSError."""
        self._ioctl(_SIOCSIFMTU, _NUMBER.pack(self.name.encode("ascii"), mtu))
        self.mtu = mtu

    def keep(self, frames: int) -> None:
        """Set how many frames the kernel keeps until they are read; raises OSError."""
        self._ioctl(_SIOCSIFTXQLEN, _NUMBER.pack(self.name.encode("ascii"), frames))

    def _up(self) -> None:
        name = self.name.encode("ascii")
        _name, flags = _NAME.unpack(self._ioctl(_SIOCGIFFLAGS, _NAME.pack(name, 0)))
        self._ioctl(_SIOCSIFFLAGS, _NAME.pack(name, flags | _IFF_UP))

    def _ioctl(self, request: int, argument: bytes) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            return fcntl.ioctl(control, request, argument)

    def read(self, memory: memoryview) -> memoryview | None:
        """Return one frame, in this memory of :data:`FRAME_OCTETS`; None when there is none now.

        Raises OSError when the device is gone.
        """
        try:
            return memory[: os.readv(self.fd, (memory,))]
        except BlockingIOError:
            return None

    def write(self, frames: Iterable[Frame]) -> None:
        """Hand frames to the kernel; one it does not take is counted and gone."""
        for frame in frames:
            try:
                os.writev(self.fd, frame)
            except OSError:
                self.dropped += 1

    def close(self) -> None:
        """Remove the device."""
        os.close(self.fd)


def probe() -> str | None:
    """Make a device and remove it again; return why that does not work, None when it does."""
    try:
        fd = os.open(_CLONE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{_CLONE}: {os.strerror(error.errno or 0)}"
    try:
        # An empty name lets the kernel choose one that is free.
        fcntl.ioctl(fd, _TUNSETIFF, _NAME.pack(b"", _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR))
    except OSError as error:
        return f"a TUN device cannot be made: {os.strerror(error.errno or 0)}"
    finally:
        os.close(fd)
    return None
