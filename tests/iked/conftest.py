"""Replaced SAs are gone at once here, where nothing is under way; the tests of lingering set the time themselves."""

from __future__ import annotations

import pytest

from agents.iked import effects


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "LINGER_S", 0.0)
