"""Model fields with the console's own words: names, IP prefixes."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models

if TYPE_CHECKING:
    _CharField = models.CharField[str, str]
else:
    _CharField = models.CharField

SLUG_VALIDATOR = RegexValidator(
    r"\A[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?\Z",
    "Use 1 to 63 lowercase letters, digits, dots, dashes and underscores; start and end with a letter or digit.",
)
"""The contract's rule for names that reach a gateway."""


def parse_prefix(value: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return the network; raises ValidationError in plain words, with the correction where host bits are set."""
    # A zone (fe80::%eth0) names an interface of one machine: no network for a document.
    text = value.strip().replace("%", "?")
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValidationError(
            f"{value!r} is not a network: write it like 10.1.0.0/24 or 2001:db8::/64.", code="prefix"
        ) from None
    raise ValidationError(f"{value} has bits set behind the prefix length: did you mean {meant}?", code="host_bits")


class PrefixField(_CharField):
    """An IPv4 or IPv6 prefix as text in canonical form."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("max_length", 43)
        super().__init__(*args, **kwargs)

    def to_python(self, value: Any) -> Any:
        """Bring text into canonical form; raises ValidationError."""
        text = super().to_python(value)
        return str(parse_prefix(text)) if text else text
