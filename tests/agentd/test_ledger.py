"""The three generation rules, and a document that survives the process."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.agentd.errors import ConflictError, InvalidError, OutdatedError
from agents.agentd.ledger import Ledger
from agents.contract.codec import digest, encode, to_plain
from agents.contract.config import GatewayDocument
from tests.agentd.fakes import GATEWAY_ID, document


async def fits(_document: GatewayDocument) -> None:
    return None


async def does_not_fit(_document: GatewayDocument) -> None:
    raise InvalidError("data_plane", "is not here")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "document.json", GATEWAY_ID)


async def test_a_newer_document_replaces_the_older(ledger: Ledger) -> None:
    for generation in (1, 2, 9):
        accepted, news = await ledger.offer(encode(document(generation)), fits)
        assert news
        assert ledger.current == accepted
        assert accepted.digest == digest(document(generation))


async def test_the_same_again_is_accepted_and_is_no_news(ledger: Ledger) -> None:
    first, _ = await ledger.offer(encode(document(2)), fits)
    again, news = await ledger.offer(json.dumps(to_plain(document(2)), indent=1).encode(), does_not_fit)
    assert (again, news) == (first, False)


async def test_an_older_generation_is_refused(ledger: Ledger) -> None:
    await ledger.offer(encode(document(5)), fits)
    with pytest.raises(OutdatedError) as caught:
        await ledger.offer(encode(document(4)), fits)
    assert (caught.value.generation, caught.value.digest) == (5, digest(document(5)))


async def test_the_same_generation_with_other_content_is_refused(ledger: Ledger) -> None:
    await ledger.offer(encode(document(5)), fits)
    with pytest.raises(ConflictError):
        await ledger.offer(encode(document(5, nonce="11" * 16)), fits)


async def test_what_cannot_be_applied_is_refused_and_the_old_stays(ledger: Ledger) -> None:
    await ledger.offer(encode(document(1)), fits)
    with pytest.raises(InvalidError):
        await ledger.offer(encode(document(2)), does_not_fit)
    assert ledger.current is not None
    assert ledger.current.document.generation == 1
    assert ledger.refusal is not None
    assert (ledger.refusal.generation, ledger.refusal.path) == (2, "data_plane")
    await ledger.offer(encode(document(3)), fits)
    assert ledger.refusal is None


@pytest.mark.parametrize("octets", [b"", b"{", b"[]", b"null", b'{"generation": 7}', b"\xff", b"[" * 100_000])
async def test_what_is_no_document_is_refused(ledger: Ledger, octets: bytes) -> None:
    with pytest.raises(InvalidError):
        await ledger.offer(octets, fits)
    assert ledger.current is None
    assert ledger.refusal is not None


async def test_document_and_refusal_survive_the_process(tmp_path: Path, ledger: Ledger) -> None:
    await ledger.offer(encode(document(7)), fits)
    with pytest.raises(InvalidError):
        await ledger.offer(encode(document(8)), does_not_fit)
    again = Ledger(tmp_path / "document.json", GATEWAY_ID)
    assert again.current == ledger.current
    assert again.refusal == ledger.refusal
    assert stat.S_IMODE((tmp_path / "document.json").stat().st_mode) == 0o600


def test_a_damaged_document_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "document.json").write_bytes(b"{torn")
    assert Ledger(tmp_path / "document.json", GATEWAY_ID).current is None
    assert (tmp_path / "document.json.damaged").read_bytes() == b"{torn"


async def test_the_document_of_another_gateway_is_not_used(tmp_path: Path, ledger: Ledger) -> None:
    await ledger.offer(encode(document(7)), fits)
    other = Ledger(tmp_path / "document.json", "22222222-2222-4222-8222-222222222222")
    assert other.current is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 1)), max_size=12))
async def test_whatever_is_offered_the_generation_never_goes_back_and_never_forks(
    tmp_path_factory: pytest.TempPathFactory, offers: list[tuple[int, int]]
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "document.json", GATEWAY_ID)
    seen: dict[int, str] = {}
    for generation, variant in offers:
        before = ledger.current.document.generation if ledger.current else 0
        try:
            accepted, _ = await ledger.offer(encode(document(generation, nonce=f"{variant:032x}")), fits)
        except (OutdatedError, ConflictError):
            continue
        assert accepted.document.generation >= before
        assert seen.setdefault(generation, accepted.digest) == accepted.digest
