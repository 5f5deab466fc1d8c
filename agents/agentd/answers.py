"""The forms of the API's answers: a value of the contract, a JSON object, an error with its code and sentence."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from agents.contract.codec import encode


def value_answer(contract_value: object) -> web.Response:
    """Return a value of the contract."""
    return web.Response(body=encode(contract_value), content_type="application/json")


def json_answer(plain: dict[str, Any], status: int = 200) -> web.Response:
    """Return a JSON object."""
    return web.Response(body=json.dumps(plain).encode(), status=status, content_type="application/json")


def error_answer(status: int, error: str, message: str, **more: Any) -> web.Response:
    """Return an error: a code for programs, a sentence for people."""
    return json_answer({"error": error, "message": message, **more}, status)
