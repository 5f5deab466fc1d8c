"""Distinguished names: compared as RFC 5280 section 7.1 asks, and shown as bounded text."""

from __future__ import annotations

import unicodedata

from cryptography import x509

Normal = tuple[frozenset[tuple[str, str | bytes]], ...]
"""A name that compares equal to another exactly when RFC 5280 section 7.1 says so."""

_MOST_CHARACTERS = 200


def normal(name: x509.Name) -> Normal:
    """Return a name for comparison: case folded, white space collapsed, whatever the string types (RFC 4518)."""
    return tuple(frozenset((each.oid.dotted_string, _folded(each.value)) for each in rdn) for rdn in name.rdns)


def text(name: x509.Name) -> str:
    """Return a name as RFC 4514 text in printable ASCII, at most 200 characters; whatever else is in it is a dot."""
    shown = name.rfc4514_string()[: _MOST_CHARACTERS + 1]
    clean = "".join(each if " " <= each <= "~" else "." for each in shown)
    return (clean[: _MOST_CHARACTERS - 3] + "..." if len(clean) > _MOST_CHARACTERS else clean) or "(no name)"


def _folded(value: str | bytes) -> str | bytes:
    if isinstance(value, bytes):
        return value
    return " ".join((value if value.isascii() else unicodedata.normalize("NFKC", value)).casefold().split())
