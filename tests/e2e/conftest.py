"""A console with played gateways, and Chromium to look at it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.conftest import ROOT
from tests.console.enrolled import free_port
from tests.e2e.browser import DESKTOP, chromium
from tests.e2e.seed import PASSWORD, USERNAME
from tests.e2e.steps import log_in

START_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """Where the console under test is, and the paths of its pages by name."""

    url: str
    paths: dict[str, str]

    def page(self, name: str) -> str:
        """Return the full address of a page."""
        return self.url + self.paths[name]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium for one module: Playwright holds this thread's event loop, which the asynchronous tests need again."""
    with chromium() as running:
        yield running


@contextmanager
def started(directory: Path, *options: str) -> Iterator[Console]:
    """Run a console with played gateways in a process of its own."""
    port = free_port()
    environment = {
        **os.environ,
        "VPNCONSOLE_DATA_DIR": str(directory / "data"),
        "DJANGO_SETTINGS_MODULE": "vpnconsole.settings",
    }
    log = (directory / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.played", str(directory), str(port), *options],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=log,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _await_answer(process, f"{url}/accounts/login/", directory / "log")
        paths = json.loads((directory / "paths.json").read_text(encoding="utf-8"))
        yield Console(url=url, paths=paths)
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


@pytest.fixture(scope="session")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A console with things in every state, without a broker: its pages poll."""
    with started(tmp_path_factory.mktemp("console")) as running:
        yield running


def _await_answer(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=START_S):
                return
        except OSError:  # nobody listens yet
            time.sleep(0.2)
    raise RuntimeError(f"the console did not start:\n{log.read_text()}")


@pytest.fixture
def page(console: Console, browser: Browser) -> Iterator[Page]:
    """A logged-in page on the dashboard."""
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    log_in(page, console.url, USERNAME, PASSWORD)
    yield page
    context.close()
