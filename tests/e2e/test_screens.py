"""Every page on desk and phone, light and dark: a picture kept, axe finds nothing, nothing is wider than the window."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.e2e.browser import DESKTOP, PHONE, overflow, shoot, violations
from tests.e2e.conftest import Console
from tests.e2e.seed import PASSWORD, USERNAME
from tests.e2e.steps import log_in

pytestmark = pytest.mark.browser


@pytest.mark.timeout(420)
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_every_page(console: Console, browser: Browser, size: str) -> None:
    context = browser.new_context(viewport=DESKTOP if size == "desktop" else PHONE, reduced_motion="reduce")
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    found: dict[str, list[str]] = {}
    for name, path in {"login": "/accounts/login/", **console.paths}.items():
        if name == "dashboard":
            log_in(page, console.url, USERNAME, PASSWORD)
        page.goto(console.url + path)
        page.wait_for_load_state("load")
        if name == "tunnel-up":
            page.wait_for_selector("#traffic-chart canvas")
        found[name] = []
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            shoot(page, f"{name}-{size}-{scheme}")
            # A phone's page has the desk's colours, and a dark one the structure of a light one.
            if size == "desktop" or scheme == "light":
                problems = violations(page, colours=size == "desktop", structure=scheme == "light")
                found[name] += [f"{scheme}: {problem}" for problem in problems]
        if wide := overflow(page):
            found[name].append(f"the page is {wide} px wider than the window")
    context.close()
    assert not any(found.values()), "\n".join(
        f"{name}: {each}" for name, problems in found.items() for each in problems
    )
    # The stream is refused where there is no broker, which the browser reports; polling takes over.
    assert [text for text in complaints if "503" not in text] == []
