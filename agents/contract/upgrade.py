"""Documents of older schema versions, brought up one step at a time.

``STEPS[n]`` turns the plain form of schema ``n`` into that of ``n + 1``; version 1 is the first. A golden file per
version in ``tests/golden/contract`` must load for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agents.contract.codec import from_plain, read_json
from agents.contract.config import GatewayDocument


def _to_2(plain: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 adds fields; their defaults are what schema 1 did."""
    return {**plain, "schema": 2}


def _to_3(plain: dict[str, Any]) -> dict[str, Any]:
    """Schema 3 adds IKEv1; the defaults of its fields are what schema 2 did."""
    return {**plain, "schema": 3}


def _to_4(plain: dict[str, Any]) -> dict[str, Any]:
    """Schema 4 adds on-demand and manual tunnels, carriage, contexts and the filter: without them it is schema 3."""
    return {**plain, "schema": 4}


def _to_5(plain: dict[str, Any]) -> dict[str, Any]:
    """Schema 5 adds the context of the endpoint and the rate of a tunnel's queues.

    Their defaults, the main table and none, are schema 4.
    """
    return {**plain, "schema": 5}


STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _to_2, 2: _to_3, 3: _to_4, 4: _to_5}


def load_document(octets: bytes) -> GatewayDocument:
    """Read a gateway document of this or any older schema; raises :class:`DocumentError` with the path."""
    plain = read_json(octets)
    while isinstance(plain, dict) and isinstance(schema := plain.get("schema"), int) and schema in STEPS:
        plain = STEPS[schema](plain)
    return from_plain(GatewayDocument, plain)
