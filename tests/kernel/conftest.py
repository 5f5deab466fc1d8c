"""One boot of User Mode Linux per file of checks, shared by its tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from deploy.lab import uml

Report = dict[str, dict[str, Any]]

_LIMIT_S = 585.0
"""What is left of a test's own 600 s when it is the one that boots."""


@cache
def _report(module: str, *checks: str) -> Report:
    outcome = uml.run(module, checks, timeout_s=_LIMIT_S)
    assert outcome.status == 0, outcome.console
    assert isinstance(outcome.result, dict), outcome.console
    return outcome.result


@pytest.fixture(scope="session")
def guest() -> Callable[..., Report]:
    """Return what the checks of a module found in the machine: those named, or all."""
    return _report
