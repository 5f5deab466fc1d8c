"""Texts for people."""

from __future__ import annotations

import pytest

from agents.cli import text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h 0 min"), (90_000, "25 h 0 min"), (200_000, "2 d 7 h")],
)
def test_ages(seconds: int, shown: str) -> None:
    assert text.age(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1_023, "1023 B"), (1_024, "1.0 KiB"), (5 * 1024**4, "5.0 TiB"), (2**60, "1048576.0 TiB")],
)
def test_sizes(count: int, shown: str) -> None:
    assert text.octets(count) == shown


def test_columns() -> None:
    assert text.table(("A", "LONG"), [("x", "1"), ("yyy", "")]) == "A    LONG\nx    1\nyyy"
