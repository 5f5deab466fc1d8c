"""Chromium for the browser tests, and what they ask of every page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from tests.conftest import ARTEFACTS, ROOT

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
SCREENSHOTS = ARTEFACTS / "screenshots"
DESKTOP: ViewportSize = {"width": 1440, "height": 900}
PHONE: ViewportSize = {"width": 360, "height": 800}
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the system's Chromium, headless."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_COLOURS = "color-contrast"
_READ = ["violations", "incomplete"]
"""What axe is to describe: to find words for every element that is right takes it longer than to look at it."""


def violations(page: Page, *, colours: bool = True, structure: bool = True) -> list[str]:
    """Return what axe finds wrong with the page, one line each (WCAG 2.2 A and AA).

    axe is put in through the debugger, not the page: the content security policy stays as it is. What does not differ
    between two looks of a page can be left out of the second.
    """
    if not page.evaluate("() => typeof axe === 'object'"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    options: dict[str, Any] = {
        "runOnly": _TAGS if structure else {"type": "rule", "values": [_COLOURS]},
        "resultTypes": _READ,
    }
    if not colours:
        options["rules"] = {_COLOURS: {"enabled": False}}
    with _whole(page):
        found: dict[str, Any] = page.evaluate("options => axe.run(options)", options)
    lines = [
        f"{each['id']}: {each['help']}: {node['target']} {node.get('failureSummary', '')}"
        for each in found["violations"]
        for node in each["nodes"]
    ]
    # axe does not dare to call text in the colour of its background wrong.
    return lines + [
        f"{each['id']}: text cannot be seen: {node['target']}"
        for each in found["incomplete"]
        for node in each["nodes"]
        if any((check.get("data") or {}).get("messageKey") == "equalRatio" for check in node["any"])
    ]


def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than the window."""
    return int(page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def shoot(page: Page, name: str) -> Path:
    """Keep a picture of the whole page as a test artefact."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    with _whole(page):
        page.screenshot(path=path)
    return path


@contextmanager
def _whole(page: Page) -> Iterator[None]:
    """Make the window as high as the page, so that what sticks to its edges is where a person scrolling sees it.

    Otherwise what axe says of sizes would depend on which input a bar happens to cover.
    """
    size = page.viewport_size
    assert size is not None
    height = int(page.evaluate("() => document.documentElement.scrollHeight"))
    page.set_viewport_size({"width": size["width"], "height": max(size["height"], height)})
    try:
        yield
    finally:
        page.set_viewport_size(size)
