"""What every test run does: tests whose needs are not met are skipped, and the reasons are listed at the end."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from agents.runtime import log_levels
from agents.runtime.tracing import TRACE
from tests.needs import BY_MARKER, why_not

# A busy machine must not fail a property: an example may take as long as it needs. The same code gets the same
# examples; HYPOTHESIS_PROFILE=random draws others.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

_ONE_WORKER = {"tests/kernel/": "kernel", "tests/lab/": "demo", "tests/e2e/test_main_job.py": "demo"}
"""Where tests are that share something machine-wide: User Mode Linux, the demo's network."""

ROOT = Path(__file__).resolve().parents[1]
ARTEFACTS = ROOT / "test-artefacts"


class ByFile(LoadScopeScheduling):
    """Gives a worker whole files, so that what a file starts is started once, and one worker what must not meet.

    xdist's groups would do, but this version of pytest does not let it mark tests with them.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((group for start, group in _ONE_WORKER.items() if file.startswith(start)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """Distribute tests over workers by file."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, visibly. What one worker must run alone and takes longest begins first."""
    items.sort(key=lambda item: not item.nodeid.startswith(tuple(_ONE_WORKER)))
    for item in items:
        names = [name for mark in item.iter_markers("needs") for name in mark.args]
        names += [name for marker, brought in BY_MARKER.items() if item.get_closest_marker(marker) for name in brought]
        if (reason := why_not(names)) is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def log_levels_as_before() -> Iterator[None]:
    """Put back what a test sets: loggers are the process's."""
    loggers = [logging.getLogger(), *map(log_levels.logger_of, log_levels.COMPONENTS)]
    before = [each.level for each in loggers]
    yield
    for each, level in zip(loggers, before, strict=True):
        each.setLevel(level)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what did not run on this machine, each reason once."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason] = reasons.get(reason, 0) + 1
    terminalreporter.section("not run on this machine")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count:4d} x {reason.removeprefix('Skipped: ')}")
    if not reasons:
        terminalreporter.write_line("nothing: every test ran")


@pytest.fixture
def trace_as_before() -> Iterator[None]:
    """Put back this process's trace."""
    before = {each.name: getattr(TRACE, each.name) for each in dataclasses.fields(TRACE)}
    yield
    for name, value in before.items():
        setattr(TRACE, name, value)
