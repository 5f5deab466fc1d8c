"""All checks of the kernel driver in one boot: its own and the suite that every driver passes.

``[--patience SECONDS] [CHECK...]``: the most that one check may take, and only these.
"""

from __future__ import annotations

import argparse
from functools import partial

from tests.kernel.guest import (
    conformance_checks,
    driver_checks,
    header_checks,
    link_checks,
    mode_checks,
    ospf_checks,
    outer_checks,
    queue_checks,
    table_checks,
)
from tests.kernel.guest.harness import Pair, report

MODULES = (
    driver_checks, mode_checks, header_checks, link_checks, outer_checks, queue_checks, table_checks, ospf_checks,
    conformance_checks,
)  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--patience", type=float, default=120)
    parser.add_argument("checks", nargs="*")
    arguments = parser.parse_args()
    both = Pair()
    both.build()
    checks = {name: partial(module.run, both, name) for module in MODULES for name in module.CHECKS}
    report({name: checks[name] for name in arguments.checks or checks}, timeout_s=arguments.patience)
