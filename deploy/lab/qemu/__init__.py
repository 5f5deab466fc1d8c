"""Run a Python module of this repository in Debian's stock kernel under QEMU.

As :mod:`deploy.lab.uml`, for what User Mode Linux has not: xfrm interfaces. The processor is emulated, so that it works
wherever QEMU does; everything inside takes several times as long. Deliberately not here: what is tested.
"""

from __future__ import annotations

from deploy.lab.qemu.machine import missing, run

__all__ = ["missing", "run"]
