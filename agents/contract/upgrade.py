"""Documents of older schema versions, brought up one step at a time.

``STEPS[n]`` turns the plain form of schema ``n`` into that of ``n + 1``. Version 1 is the first, so the table is empty;
a golden file per version in ``tests/golden/contract`` must load for ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from agents.contract.codec import decode, from_plain
from agents.contract.config import SCHEMA_VERSION, GatewayDocument
from agents.contract.errors import DocumentError

STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def load_document(octets: bytes) -> GatewayDocument:
    """Read a gateway document of this or any older schema; raises :class:`DocumentError` with the path."""
    try:
        plain = json.loads(octets)
    except (ValueError, RecursionError) as error:
        raise DocumentError("", f"is not JSON: {error}") from None
    schema = plain.get("schema", SCHEMA_VERSION) if isinstance(plain, dict) else SCHEMA_VERSION
    if not isinstance(schema, int) or schema == SCHEMA_VERSION or schema not in STEPS:
        return decode(GatewayDocument, octets)
    while schema in STEPS:
        plain = STEPS[schema](plain)
        schema += 1
    return from_plain(GatewayDocument, plain)
