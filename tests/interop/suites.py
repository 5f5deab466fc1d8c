"""The suites of network namespaces: our userspace data plane here, strongSwan with its kernel-libipsec there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.interop import matrix, matrix_ikev1
from tests.interop.cells import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class UserspaceSuite:
    """One matrix; ``protocol`` goes before the peer's name in the document, ``notes`` under it."""

    name: str
    cells: Callable[[], Sequence[Cell]]
    protocol: str = ""
    notes: tuple[str, ...] = ()


IKEV1 = UserspaceSuite(
    name="strongswan-ikev1",
    cells=matrix_ikev1.cells,
    protocol="IKEv1: ",
    notes=(
        "Main Mode with a pre-shared key where nothing else is said.",
        "The cells of profiles run against a strongSwan that accepts what such a peer does, and nothing else.",
        "strongSwan rekeys phase 1 by a new one that takes the children over; it deletes the old one 10 s later.",
    ),
)
IKEV2 = UserspaceSuite(
    name="strongswan-userspace",
    cells=matrix.cells,
    notes=("Transport mode, ESN, AH and IPComp need ESP in the kernel: see the suites under User Mode Linux.",),
)
SUITES: Sequence[UserspaceSuite] = (IKEV1, IKEV2)
