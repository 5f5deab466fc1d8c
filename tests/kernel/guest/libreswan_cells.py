"""Cells against Libreswan, run inside the machine: arguments are ``--quick`` or a regular expression."""

from __future__ import annotations

import asyncio
import sys

from tests.interop import libreswan
from tests.kernel.guest.interop_cells import chosen, leave, tell

if __name__ == "__main__":
    wanted = [
        (case, role) for case in libreswan.cases() for role in case.cell.roles if chosen(case.cell, role, sys.argv[1:])
    ]
    leave(asyncio.run(libreswan.run(wanted, tell)))
