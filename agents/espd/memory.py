"""Free memory that the C library keeps, given back to the system.

Packets of all sizes come and go for months beside SAs that stay: the heap gets holes that nobody fits into, and would
grow by a megabyte or so a minute under steady traffic without a byte more in use.
"""

from __future__ import annotations

import ctypes

_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""The GNU C library has it; others keep less."""


def give_back() -> None:
    """Let go of whole free pages; takes some milliseconds."""
    if _TRIM is not None:
        _TRIM(0)
