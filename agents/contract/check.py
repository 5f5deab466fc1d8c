"""Field checks the contract's values share; each raises :class:`~agents.contract.errors.FieldError`."""

from __future__ import annotations

import base64 as base_64
import binascii
import ipaddress
import re
from collections import Counter
from collections.abc import Container, Mapping, Sized
from typing import Protocol

from agents.contract import algorithms
from agents.contract.errors import FieldError

_SLUG = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


def address(field: str, value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the parsed address; refuses a form that is not canonical."""
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        raise FieldError(field, f"{value!r} is not an IP address") from None
    if str(address) != value:
        raise FieldError(field, f"must be written {address}")
    return address


def network(field: str, value: str) -> None:
    """Refuse a prefix that is none or has host bits, and a form that is not canonical."""
    try:
        canonical = str(ipaddress.ip_network(value))
    except ValueError as error:
        raise FieldError(field, str(error)) from None
    if canonical != value:
        raise FieldError(field, f"must be written {canonical}")


def suite(encryption: str, integrity: str | None) -> None:
    """Refuse an unknown cipher, an AEAD with integrity and a cipher without."""
    known("encryption", encryption, algorithms.ENCRYPTION)
    aead = algorithms.ENCRYPTION[encryption].aead
    if aead and integrity is not None:
        raise FieldError("integrity", f"must be absent: {encryption} protects integrity itself")
    if not aead:
        if integrity is None:
            raise FieldError("integrity", f"is required with {encryption}")
        known("integrity", integrity, algorithms.INTEGRITY)


def known(field: str, value: str, table: Container[str]) -> None:
    """Refuse a slug that is not in ``table``."""
    if value not in table:
        raise FieldError(field, f"{value!r} is not an algorithm this version knows")


class _Row(Protocol):
    @property
    def legacy(self) -> bool: ...


def modern(field: str, value: str | None, table: Mapping[str, _Row]) -> None:
    """Refuse an algorithm that is kept for old peers only."""
    if value is not None and table[value].legacy:
        raise FieldError(field, f"{value} is weak and only taken where the gateway allows legacy algorithms")


def base64(field: str, value: str, most_octets: int) -> None:
    """Refuse text that is not canonical Base64 of 1 to ``most_octets`` octets."""
    try:
        octets = base_64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise FieldError(field, "is not Base64") from None
    if not 1 <= len(octets) <= most_octets or base_64.b64encode(octets).decode("ascii") != value:
        raise FieldError(field, f"must be Base64 of 1 to {most_octets} octets without line ends")


def bounded(field: str, value: int, low: int, high: int) -> None:
    """Refuse a number outside ``low`` to ``high``, both included."""
    if not low <= value <= high:
        raise FieldError(field, f"must be between {low} and {high}, not {value}")


def count(field: str, items: Sized, most: int) -> None:
    """Refuse an empty list and one longer than ``most``."""
    if not 1 <= len(items) <= most:
        raise FieldError(field, f"must have 1 to {most} entries, not {len(items)}")


def unique(field: str, names: list[str]) -> None:
    """Refuse a name that stands twice."""
    for name, times in Counter(names).items():
        if times > 1:
            raise FieldError(field, f"{name!r} stands more than once")


def slug(field: str, value: str) -> None:
    """Refuse a name that is not 1 to 63 of ``a-z 0-9 . _ -``."""
    if not _SLUG.fullmatch(value):
        raise FieldError(
            field,
            "must be 1 to 63 of a-z, 0-9, dot, dash and underscore, starting and ending with a letter or digit",
        )


def uuid(field: str, value: str) -> None:
    """Refuse anything but a lowercase UUID."""
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value):
        raise FieldError(field, "must be a UUID in lowercase")
