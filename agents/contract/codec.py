"""Frozen dataclasses <-> canonical JSON, strictly.

Decoding refuses an unknown field, a missing field without a default, a wrong type and a value that its class refuses,
each with the path of the offending field. Encoding gives one byte string per value (sorted keys, no white space,
UTF-8), so that its SHA-256 is the value's identity on both sides.

Supported annotations: ``str int float bool``, ``StrEnum``, nested dataclasses, ``tuple[T, ...]``, ``dict[str, str]``,
``T | None`` and :class:`~agents.contract.secret.Secret` (Base64 on the wire).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import sys
import types
import typing
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

from agents.contract.errors import ContractError, DocumentError, FieldError
from agents.contract.secret import Secret

T = TypeVar("T")


def to_plain(value: object) -> Any:
    """Return ``value`` as JSON-ready lists, dicts and scalars; secrets become Base64 text."""
    if isinstance(value, Secret):
        return base64.b64encode(value.reveal()).decode("ascii")
    if isinstance(value, StrEnum):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ContractError(f"cannot encode {type(value).__name__}")


def encode(value: object) -> bytes:
    """Return the canonical octets of a contract value."""
    return json.dumps(
        to_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


def digest(value: object) -> str:
    """Return the lowercase hexadecimal SHA-256 of :func:`encode`."""
    return hashlib.sha256(encode(value)).hexdigest()


def decode(kind: type[T], octets: bytes) -> T:
    """Read canonical or ordinary JSON into ``kind``; raises :class:`DocumentError` with the path."""
    return from_plain(kind, read_json(octets))


def read_json(octets: bytes) -> object:
    """Return what the JSON says; raises :class:`DocumentError` also for a field that stands twice and for NaN."""
    try:
        return json.loads(octets, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except DocumentError:
        raise
    except (ValueError, RecursionError) as error:
        raise DocumentError("", f"is not JSON: {error}") from None


def from_plain(kind: type[T], plain: object, path: str = "") -> T:
    """Build ``kind`` from decoded JSON; raises :class:`DocumentError` with the path below ``path``."""
    return typing.cast(T, _read(kind, plain, path))


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DocumentError("", f"field {twice!r} stands twice in one object")
    return result


def _no_constant(name: str) -> object:
    raise DocumentError("", f"holds {name}, which is not JSON")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(kind: Any, plain: object, path: str) -> object:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        inner = [arg for arg in typing.get_args(kind) if arg is not type(None)]
        return None if plain is None else _read(inner[0], plain, path)
    if origin is tuple:
        if not isinstance(plain, list):
            raise DocumentError(path, f"must be a list, not {_name(plain)}")
        (item, _dots) = typing.get_args(kind)
        return tuple(_read(item, each, f"{path}[{index}]") for index, each in enumerate(plain))
    if origin is dict:
        return _read_map(plain, path)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(typing.cast(type, kind), plain, path)
    return _read_scalar(kind, plain, path)


def _read_map(plain: object, path: str) -> dict[str, str]:
    if not isinstance(plain, dict):
        raise DocumentError(path, f"must be an object, not {_name(plain)}")
    for key, value in plain.items():
        if not isinstance(value, str):
            raise DocumentError(f"{path}.{key}", f"must be text, not {_name(value)}")
        _text(key + value, path)
    return plain


def _read_dataclass(kind: type, plain: object, path: str) -> object:
    if not isinstance(plain, dict):
        raise DocumentError(path, f"must be an object, not {_name(plain)}")
    prefix = f"{path}." if path else ""
    hints = _hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in plain:
        if name not in fields:
            raise DocumentError(f"{prefix}{name}", "is not a field of this schema version")
    values: dict[str, object] = {}
    for name, field in fields.items():
        if name in plain:
            values[name] = _read(hints[name], plain[name], f"{prefix}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise DocumentError(f"{prefix}{name}", "is missing")
    try:
        return kind(**values)
    except FieldError as error:
        raise DocumentError(f"{prefix}{error.field}", error.problem) from None


def _read_scalar(kind: Any, plain: object, path: str) -> object:
    if kind is Secret:
        if not isinstance(plain, str):
            raise DocumentError(path, f"must be Base64 text, not {_name(plain)}")
        try:
            return Secret(base64.b64decode(plain, validate=True))
        except (binascii.Error, ValueError):
            raise DocumentError(path, "is not Base64") from None
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if not isinstance(plain, str) or plain not in set(kind):
            raise DocumentError(path, f"must be one of {', '.join(sorted(kind))}, not {plain!r}"[:400])
        return kind(plain)
    if kind is float and isinstance(plain, int | float) and not isinstance(plain, bool):
        if not abs(plain) <= sys.float_info.max:
            raise DocumentError(path, "is out of range")
        return float(plain)
    if not isinstance(plain, kind) or (kind is int and isinstance(plain, bool)):
        raise DocumentError(path, f"must be {_WORDS.get(kind, kind.__name__)}, not {_name(plain)}")
    return _text(plain, path) if isinstance(plain, str) else plain


def _text(plain: str, path: str) -> str:
    """Refuse half of a surrogate pair, which JSON can escape and UTF-8 cannot hold."""
    try:
        plain.encode("utf-8")
    except UnicodeEncodeError:
        raise DocumentError(path, "holds half a surrogate pair") from None
    return plain


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _name(plain: object) -> str:
    if plain is None:
        return "null"
    if isinstance(plain, dict):
        return "an object"
    if isinstance(plain, list):
        return "a list"
    return _WORDS.get(type(plain), type(plain).__name__)
