"""Cells against Libreswan, run inside the machine: the suite, and then ``--quick`` or a regular expression."""

from __future__ import annotations

import asyncio
import sys

from tests.interop import libreswan, libreswan_ikev1
from tests.kernel.guest.interop_cells import chosen, leave, tell

CASES = {
    "libreswan-kernel": (libreswan.cases, libreswan.LibreswanLab),
    "libreswan-ikev1-kernel": (libreswan_ikev1.cases, libreswan_ikev1.IkeV1Lab),
}

if __name__ == "__main__":
    suite, *rest = sys.argv[1:]
    cases, make_lab = CASES[suite]
    wanted = [(case, role) for case in cases() for role in case.cell.roles if chosen(case.cell, role, rest)]
    leave(asyncio.run(libreswan.run(wanted, tell, make_lab)))
