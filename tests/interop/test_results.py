"""The file of a suite and the document made of it."""

from __future__ import annotations

from pathlib import Path

from tests.interop.results import Outcome, Result, Suite, markdown, read, render, write

SUITE = Suite(name="peer", peer="Peer 1.0", data_planes="Userspace here and there", date="2026-01-02", notes=("So.",))
RESULTS = [
    Result(axis="Ciphers", cell="aes", role="initiator", outcome=Outcome.PASSED),
    Result(axis="Ciphers", cell="aes", role="responder", outcome=Outcome.FAILED, reason="no | answer\nat all"),
    Result(axis="Ciphers", cell="idea", role="initiator", outcome=Outcome.NOT_OFFERED, reason="it has none"),
    Result(axis="Ciphers", cell="idea", role="responder", outcome=Outcome.NOT_OFFERED, reason="it has none"),
]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert read(write(SUITE, RESULTS, tmp_path)) == (SUITE, RESULTS)


def test_a_row_per_cell_a_column_per_role_and_the_reasons_below() -> None:
    text = markdown([(SUITE, RESULTS)])
    assert "## Peer 1.0\n" in text
    assert "1 passed, 1 failed, 2 not offered" in text
    assert "| aes | passed | **failed** |" in text
    assert "* aes (responder): no \\| answer at all" in text
    assert text.count("it has none") == 1


def test_the_document_shows_every_suite(tmp_path: Path) -> None:
    write(SUITE, RESULTS, tmp_path)
    write(Suite(name="other", peer="Other 2", data_planes="Kernel", date="2026-01-03"), RESULTS, tmp_path)
    render(tmp_path, tmp_path / "doc.md")
    text = (tmp_path / "doc.md").read_text(encoding="utf-8")
    assert text.index("## Other 2") < text.index("## Peer 1.0")
