"""All checks of the kernel driver in one boot: its own and the suite that every driver passes."""

from __future__ import annotations

import sys
from functools import partial

from tests.kernel.guest import conformance_checks, driver_checks, header_checks, link_checks, mode_checks
from tests.kernel.guest.harness import Pair, report

if __name__ == "__main__":
    both = Pair()
    both.build()
    checks = {name: partial(driver_checks.run, both, name) for name in driver_checks.CHECKS}
    checks |= {name: partial(mode_checks.run, both, name) for name in mode_checks.CHECKS}
    checks |= {name: partial(header_checks.run, both, name) for name in header_checks.CHECKS}
    checks |= {name: partial(link_checks.run, both, name) for name in link_checks.CHECKS}
    checks |= {name: partial(conformance_checks.run, both, name) for name in conformance_checks.CHECKS}
    report({name: checks[name] for name in sys.argv[1:] or checks})
