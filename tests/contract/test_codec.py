"""The codec is strict: what is not exactly a value of the schema is refused, with the path to what is wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.contract.codec import decode, digest, encode, from_plain, to_plain
from agents.contract.config import SCHEMA_VERSION, GatewayDocument
from agents.contract.errors import ContractError, DocumentError
from agents.contract.events import Event, Severity
from agents.contract.secret import Secret
from agents.contract.status import ComponentHealth, Counters, GatewayStatus
from agents.contract.upgrade import load_document
from tests.contract.values import GATEWAY_DOCUMENT

Path = tuple[str | int, ...]


def places(plain: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value inside a plain form, with the way to it."""
    yield path, plain
    items: Any = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def written(path: Path) -> str:
    """The way as error texts write it."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def replaced(plain: Any, path: Path, value: Any) -> Any:
    """A copy with one value exchanged."""
    changed = copy.deepcopy(plain)
    target = changed
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return changed


DOCUMENT = to_plain(GATEWAY_DOCUMENT)
OBJECTS = [path for path, value in places(DOCUMENT) if isinstance(value, dict)]
TYPED = [(path, value) for path, value in places(DOCUMENT) if path and value is not None]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("path", OBJECTS, ids=written)
def test_an_unknown_field_is_refused_wherever_it_stands(path: Path) -> None:
    unknown = (*path, "colour")
    with pytest.raises(DocumentError) as caught:
        from_plain(GatewayDocument, replaced(DOCUMENT, unknown, "red"))
    assert caught.value.path == written(unknown)


def _value_at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step] if isinstance(step, int) else getattr(value, step)
    return value


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TYPED), st.sampled_from([None, True, 3, 1.5, "text", [], {}, {"a": 1}]))
def test_a_value_of_another_type_is_refused_with_its_path(place: tuple[Path, Any], other: Any) -> None:
    path, _value = place
    refused_at: str | None = None
    back: Any = None
    try:
        back = to_plain(from_plain(GatewayDocument, replaced(DOCUMENT, path, other)))
    except DocumentError as error:
        refused_at = error.path
    if refused_at is not None:
        named_by_tunnels = path[0] in ("certificates", "trust_anchors", "postquantum_keys", "allow_legacy", "contexts")
        users = ("tunnels[", "manual_tunnels[") if named_by_tunnels else ()
        assert refused_at.startswith((str(path[0]), *users))
        return
    for step in path:  # another value that is possible there comes back as itself
        back = back[step]
    if other == {}:  # every field has a default
        other = to_plain(type(_value_at(GATEWAY_DOCUMENT, path))())
    assert back == other
    assert isinstance(back, bool) == isinstance(other, bool)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_json_is_a_value_or_a_refusal(plain: Any) -> None:
    octets = json.dumps(plain).encode()
    for load in (load_document, lambda given: decode(GatewayStatus, given)):
        with pytest.raises(DocumentError):
            load(octets)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_octets_are_refused_without_a_bug(octets: bytes) -> None:
    with pytest.raises(DocumentError):
        load_document(octets)


@pytest.mark.parametrize("name", ["gateway_id", "generation", "nonce"])
def test_a_missing_field_is_named(name: str) -> None:
    plain = {key: value for key, value in DOCUMENT.items() if key != name}
    with pytest.raises(DocumentError, match="is missing") as caught:
        from_plain(GatewayDocument, plain)
    assert caught.value.path == name


def test_a_field_that_stands_twice_is_refused() -> None:
    with pytest.raises(DocumentError, match="stands twice"):
        decode(Counters, b'{"bytes_in": 1, "bytes_in": 2}')


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"name": "x", "healthy": true, "started_at": NaN}', "not JSON"),
        ('{"name": "x", "healthy": true, "started_at": -Infinity}', "not JSON"),
        ('{"name": "x", "healthy": true, "started_at": 1e999}', "out of range"),
        ('{"name": "x", "healthy": true, "started_at": 1' + "0" * 400 + "}", "out of range"),
        ('{"name": "\\ud800", "healthy": true}', "surrogate"),
        ('{"name": "x", "healthy": 1}', "true or false"),
        ('{"name": "x", "healthy": true, "pid": 1.0}', "whole number"),
    ],
)
def test_what_json_allows_and_the_contract_does_not(text: str, problem: str) -> None:
    with pytest.raises(DocumentError, match=problem):
        decode(ComponentHealth, text.encode())


def test_defaults_may_be_left_out_and_do_not_change_the_digest() -> None:
    short = b'{"bytes_in":1}'
    assert decode(Counters, short) == Counters(bytes_in=1)
    assert digest(decode(Counters, short)) == digest(Counters(bytes_in=1))


def test_order_and_white_space_do_not_change_the_digest() -> None:
    spaced = json.dumps(dict(reversed(list(DOCUMENT.items()))), indent=3).encode()
    assert digest(load_document(spaced)) == digest(GATEWAY_DOCUMENT)


def test_every_field_changes_the_digest() -> None:
    seen = {digest(GATEWAY_DOCUMENT)}
    changes: list[dict[str, Any]] = [
        {"generation": 43},
        {"gateway_name": "rome"},
        {"nonce": "ff" * 16},
        {"tunnels": ()},
        {"preshared_keys": ()},
        {"data_plane": "auto"},
        {"retransmission": {}},
    ]
    for change in changes:
        seen.add(digest(from_plain(GatewayDocument, {**DOCUMENT, **to_plain(change)})))
    assert len(seen) == len(changes) + 1


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        Event,
        sequence=st.integers(0, 2**63),
        time=st.floats(allow_nan=False, allow_infinity=False),
        code=st.text(st.characters(exclude_categories=["Cs"])),
        severity=st.sampled_from(Severity),
        message=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
        received=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        attributes=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.just("v"), max_size=3),
    )
)
def test_what_is_encoded_comes_back_equal(event: Event) -> None:
    assert decode(Event, encode(event)) == event
    assert encode(decode(Event, encode(event))) == encode(event)


def test_a_later_schema_is_refused_with_what_to_do() -> None:
    with pytest.raises(DocumentError, match="upgrade the agent") as caught:
        load_document(json.dumps({**DOCUMENT, "schema": SCHEMA_VERSION + 1}).encode())
    assert caught.value.path == "schema"


@pytest.mark.parametrize("value", [b"octets", {1, 2}, object(), 1 + 2j])
def test_what_has_no_json_form_is_not_encoded(value: object) -> None:
    with pytest.raises(ContractError):
        encode(value)


def test_a_secret_travels_as_base64() -> None:
    assert to_plain(Secret(b"\x00\xff")) == "AP8="
    assert from_plain(GatewayDocument, DOCUMENT).preshared_keys[0].secret.reveal() == bytes(range(32))
    wrong = replaced(DOCUMENT, ("preshared_keys", 0, "secret"), "not base64!")
    with pytest.raises(DocumentError) as caught:
        from_plain(GatewayDocument, wrong)
    assert caught.value.path == "preshared_keys[0].secret"
    assert "not base64" not in str(caught.value)
