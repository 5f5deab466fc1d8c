"""A golden file per message and schema version: it loads for ever, and its octets and digest never change."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from agents.contract import upgrade
from agents.contract.codec import decode, digest, encode
from agents.contract.config import SCHEMA_VERSION, GatewayDocument
from agents.contract.upgrade import load_document
from tests.contract.values import EARLIER, GOLDEN

DIRECTORY = Path(__file__).resolve().parents[1] / "golden/contract"
DIGESTS = {
    "gateway-document-v5": "f888033e22310ff5f78ff3186fccc0dc352cebffae8f8f70dfbdd68cb8835f0c",
    "gateway-status-v6": "e80768257d20cc9e5f18d1f90320f98be60810a914cc61babb0355a5eccc8b4c",
    "gateway-document-v4": "9355ae63f0fc6109f875b9ac8c995c4ce2d7fc5e2ba5e9c1cb1ad3e0e54f7e9d",
    "gateway-status-v5": "5bef821b9a3789568aebd2f2f3dc696fc3d740c6b5238019fb7e1baa7bc3d105",
    "gateway-status-v4": "7e66c3543f0a7bd168f319bc7ffd932def8bf46556d8181ba3d7ece6c83c2c1c",
    "gateway-document-v3": "2fd16b813d6b18d0a0ce30e5e77855edb91dfee19beaa6b1fbc21b511f48fd7b",
    "gateway-status-v3": "dffb9e79918e1a2c303de7d46d62a609ec125dc6a9799a14d86ac900a3b93710",
    "gateway-document-v2": "b26eebd5c24b1870fbd311996961cd66d80eb68c5aa0c6ba39c7f807776f8cd9",
    "gateway-status-v2": "01c88269212fd074b174297cd0c8bb8a753d70a03fc1a01b73779e9496614d81",
    "gateway-document-v1": "e2c3b7c9283453b20f18b990fe787dd9aeb5acbb3b7d86cfaddac54ef8b0329c",
    "gateway-status-v1": "a34aa0f1cec43104dd71b9a8d766ba1a16eb582a9f2856360ae0617a1f9dd958",
    "event-page-v1": "62742ade3e9ed3d92b57aabed3438f065305c3b904bc105422721d023b68cfe8",
    "action-v1": "71af46c6a60b29bb7ccca793e6b07b1abc95f36c29d1724dde4b3399c4843abb",
    "action-result-v1": "3a557df20ef39ef07d6cd5082a312f8725ab01dd6c6fefda164b62a127796dc0",
    "signed-request-v1": "c3a0a4fb1f6b48f26915acd0b373144e1810c0fe1d5e07a57d807f8d50036e30",
    "signed-grant-v1": "3ff57f9f9700f3a880557938d16d1360eff3f3dde1ae54753ed976b54377ee18",
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_a_golden_file_loads_and_encodes_to_its_own_octets(name: str) -> None:
    octets = (DIRECTORY / f"{name}.json").read_bytes()
    value = decode(type(GOLDEN[name]), octets)
    assert value == GOLDEN[name]
    assert encode(value) == octets
    assert digest(value) == DIGESTS[name]


@pytest.mark.parametrize("name", sorted(EARLIER))
def test_a_golden_file_of_an_earlier_schema_is_read_for_ever(name: str) -> None:
    octets = (DIRECTORY / f"{name}.json").read_bytes()
    assert hashlib.sha256(octets).hexdigest() == DIGESTS[name]
    document = isinstance(EARLIER[name], GatewayDocument)
    assert (load_document(octets) if document else decode(type(EARLIER[name]), octets)) == EARLIER[name]


def test_an_older_schema_is_brought_up_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(plain: dict[str, Any]) -> dict[str, Any]:
        return {**plain, "schema": 0, "gateway_name": plain["gateway_name"] + "-a"}

    def second(plain: dict[str, Any]) -> dict[str, Any]:
        return {**plain, "schema": SCHEMA_VERSION, "gateway_name": plain["gateway_name"] + "-b"}

    monkeypatch.setattr(upgrade, "STEPS", {-1: first, 0: second})
    plain = json.loads((DIRECTORY / "gateway-document-v1.json").read_bytes())
    loaded = load_document(json.dumps({**plain, "schema": -1}).encode())
    assert (loaded.gateway_name, loaded.schema) == ("paris-a-b", SCHEMA_VERSION)


def test_every_golden_file_is_tested() -> None:
    assert {file.stem for file in DIRECTORY.iterdir()} == {*GOLDEN, *EARLIER} == set(DIGESTS)
