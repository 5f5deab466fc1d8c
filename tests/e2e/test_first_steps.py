"""A new console: set-up, pages that explain what belongs on them, the first gateway and its one-time command."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e import steps
from tests.e2e.browser import DESKTOP, shoot, violations
from tests.e2e.conftest import started

pytestmark = pytest.mark.browser

PLACES = ("dashboard", "tunnels", "gateways", "keys", "policies", "changes", "events", "settings")


def test_from_nothing_to_an_enrolment_command(tmp_path: Path, browser: Browser) -> None:
    with started(tmp_path, "--empty") as console:
        context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce")
        page = context.new_page()
        page.goto(console.url)
        expect(page.locator("body")).to_have_attribute("data-test", "page-set-up")
        shoot(page, "set-up-desktop-light")
        assert violations(page) == []
        page.get_by_label("User name").fill("alice")
        page.get_by_label("Password", exact=True).fill("short")
        page.get_by_label("The same password again").fill("short")
        page.locator("[data-test=submit]").click()
        expect(page.locator("[data-test=error-summary]")).to_contain_text("too short")
        assert violations(page) == []
        for label in ("Password", "The same password again"):
            page.get_by_label(label, exact=True).fill("seven-copper-lanterns")
        page.locator("[data-test=submit]").click()
        expect(page.locator("[data-test=first-steps]")).to_be_visible()
        for place in PLACES:
            steps.go(page, place)
            shoot(page, f"empty-{place}-desktop-light")
            assert violations(page) == [], place
        steps.create_gateway(page, "paris", "192.0.2.1 uplink", "10.1.0.0/24")
        command, token = steps.enrolment_command(page, "paris")
        assert command == f"vpn-agent enrol --console {console.url} --token-file - --port 8470"
        assert token.startswith("vpc1.")
        shoot(page, "enrolment-command-desktop-light")
        assert violations(page) == []
        context.close()
