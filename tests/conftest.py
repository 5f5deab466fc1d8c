"""What every test may use: where the shared vectors are, and what this machine can run.

A test that cannot run here is skipped with a reason, and the reasons are listed at the end of the run.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine must not fail a property: an example may take as long as it needs.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

ROOT = Path(__file__).resolve().parents[1]
ARTEFACTS = ROOT / "test-artefacts"


def vectors_directory() -> Path:
    """Return the folder of independent vectors: ``VPNCONSOLE_VECTORS`` or ``shared/vectors`` beside the checkout."""
    return Path(os.environ.get("VPNCONSOLE_VECTORS", ROOT.parent / "shared" / "vectors"))


def why_not(marker: str) -> str | None:
    """Return why tests with ``marker`` cannot run on this machine, or None."""
    if marker in {"lab", "kernel"} and os.geteuid() != 0:
        return "network namespaces need root"
    tools = {
        "lab": ("ip", "nsenter", "unshare", "ping"),
        "kernel": ("linux.uml",),
        "browser": ("chromium",),
    }
    for tool in tools.get(marker, ()):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if marker == "lab" and not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, visibly; keep tests that share a machine-wide thing on one worker."""
    for item in items:
        for marker in ("lab", "kernel", "browser"):
            if item.get_closest_marker(marker) and (reason := why_not(marker)):
                item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("kernel"):
            item.add_marker(pytest.mark.xdist_group("kernel"))
        elif item.get_closest_marker("browser") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(f"browser-{item.path.stem}"))


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of independent vectors; skips where it is absent."""
    path = vectors_directory()
    if not path.is_dir():
        pytest.skip(f"independent vectors are not here: set VPNCONSOLE_VECTORS (looked in {path})")
    return path


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
