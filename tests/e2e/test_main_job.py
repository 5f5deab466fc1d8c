"""The product's main job by clicking, against a real lab: from log-in to encrypted packets, an edit, and a cleared SA.

The fixture ``lab`` stands for a running console whose gateways are enrolled agents; it gives their names and keeps some
traffic flowing between their networks. Without such a lab the test says so and is skipped.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.e2e import steps
from tests.e2e.browser import DESKTOP, shoot

pytestmark = [pytest.mark.browser, pytest.mark.lab]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A running console and two of its managed gateways, between which no tunnel of this test's name exists."""

    url: str
    username: str
    password: str
    gateway_a: str
    gateway_b: str
    proposal: str


@pytest.fixture
def lab() -> Lab:
    """The console described by ``VPNCONSOLE_DEMO`` (a ``demo.json``), its gateways paris and lyon."""
    path = os.environ.get("VPNCONSOLE_DEMO", "")
    if not path or not Path(path).is_file():
        pytest.skip("no running lab: set VPNCONSOLE_DEMO to the demo.json of one")
    demo = json.loads(Path(path).read_text(encoding="utf-8"))
    return Lab(
        url=demo["url"].rstrip("/"),
        username=demo["username"],
        password=demo["password"],
        gateway_a="paris",
        gateway_b="lyon",
        proposal="AES-256-GCM SHA2-384 group 31",
    )


@pytest.mark.timeout(300)
def test_main_job(lab: Lab, browser: Browser) -> None:
    main_job(lab, browser, name="by-clicking")


def main_job(lab: Lab, browser: Browser, *, name: str, psk: str | None = None) -> None:
    """Create tunnel and key, deploy, see it up and counting, change the proposal, deploy, clear, see it return."""
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    steps.log_in(page, lab.url, lab.username, lab.password)
    steps.create_tunnel(page, name, lab.gateway_a, lab.gateway_b, psk=psk)
    steps.deploy(page, "a tunnel by clicking")
    steps.open_tunnel(page, name)
    steps.await_state(page, "up")
    steps.await_rising_counters(page)
    shoot(page, "main-job-up")
    before = steps.established_spis(page)
    steps.edit_ike_proposal(page, lab.proposal, encryption="aes-128-gcm-16")
    steps.deploy(page, "another cipher for IKE")
    steps.open_tunnel(page, name)
    steps.await_state(page, "up")
    steps.act(page, "clear-ike")
    steps.await_new_spis(page, before)
    steps.await_state(page, "up")
    steps.await_rising_counters(page)
    shoot(page, "main-job-returned")
    context.close()
