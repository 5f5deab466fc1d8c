"""The interop suites that need a kernel with ESP, in User Mode Linux: writes ``docs/interop.md`` with the others.

``python -m tests.kernel.interop`` runs all of them; exits with 1 for a failed cell.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deploy.lab import libreswan, strongswan, uml
from tests.interop import results
from tests.interop.results import Outcome, Result, Suite

_LIMIT_S = 560.0
DATA_PLANES = "XFRM of Linux 6.1 under User Mode Linux on both sides"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A suite and the module that runs it inside the machine."""

    name: str
    module: str
    peer: Callable[[], str]
    missing: Callable[[], str | None] = lambda: None
    notes: tuple[str, ...] = ()


def _strongswan() -> str:
    return f"strongSwan {strongswan.version()} (kernel-netlink)"


def _libreswan() -> str:
    return f"Libreswan {libreswan.version()}"


STRONGSWAN = Guest(
    name="strongswan-kernel",
    module="tests.kernel.guest.interop_cells",
    peer=_strongswan,
    notes=(
        "Each cell of the first table then rekeys the child by us and by the peer, deletes it by the peer and by us, "
        "and looks at the states of both kernels.",
        "ESP inside AH is proven between two of our daemons in `tests/kernel`.",
    ),
)
LIBRESWAN = Guest(
    name="libreswan-kernel",
    module="tests.kernel.guest.libreswan_cells",
    peer=_libreswan,
    missing=libreswan.missing,
    notes=(
        "Each cell then rekeys the child by us and by the peer, lets the peer and then us delete the IKE SA, and "
        "compares the states of both kernels, keys included.",
        "AH children are rekeyed by us only: Libreswan 4.10 deletes the old one by an SPI that is not AH's.",
    ),
)
STRONGSWAN_IKEV1 = Guest(
    name="strongswan-ikev1-kernel",
    module=STRONGSWAN.module,
    peer=lambda: f"IKEv1: {_strongswan()}",
    notes=STRONGSWAN.notes[:1],
)
LIBRESWAN_IKEV1 = Guest(
    name="libreswan-ikev1-kernel",
    module=LIBRESWAN.module,
    peer=lambda: f"IKEv1: {_libreswan()}",
    missing=libreswan.missing,
    notes=(
        "Each cell then rekeys phase 2 and phase 1 by us, lets the peer and then us delete phase 1, and compares the "
        "states of both kernels, keys included.",
        "Libreswan 4.10 cannot be told to rekey what is IKEv1's: one cell has a lifetime that ends.",
    ),
)
SUITES: Sequence[Guest] = (STRONGSWAN, LIBRESWAN, STRONGSWAN_IKEV1, LIBRESWAN_IKEV1)


def run(guest: Guest, arguments: Sequence[str] = (), echo: Callable[[str], None] | None = None) -> list[Result]:
    """Run a suite's cells. Raises AssertionError with the machine's last words, or MachineError."""
    outcome = uml.run(guest.module, [guest.name, *arguments], timeout_s=_LIMIT_S, echo=echo)
    assert outcome.status == 0, outcome.console
    return [Result(**{**each, "outcome": Outcome(each["outcome"])}) for each in outcome.result]


def main() -> int:
    """Run the suites asked for; a part of one changes no document."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernel.interop", description=__doc__)
    parser.add_argument("--suite", choices=[each.name for each in SUITES], help="only this one")
    parser.add_argument("--only", default="", help="regular expression for 'axis: cell (role)'; writes no document")
    arguments = parser.parse_args()
    reason = uml.missing()
    if reason is not None:
        print(f"interop under User Mode Linux: not run: {reason}")
        return 77
    failed = 0
    for guest in SUITES:
        if arguments.suite in (None, guest.name):
            if (reason := guest.missing()) is not None:
                print(f"{guest.name}: not run: {reason}")
                continue
            found = run(guest, [arguments.only] if arguments.only else [], lambda line: print(line, flush=True))
            failed += sum(1 for each in found if each.outcome is Outcome.FAILED)
            if not arguments.only:
                results.write(_suite(guest), found)
                results.render()
    return 1 if failed else 0


def _suite(guest: Guest) -> Suite:
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return Suite(name=guest.name, peer=guest.peer(), data_planes=DATA_PLANES, date=date, notes=guest.notes)


if __name__ == "__main__":
    sys.exit(main())
