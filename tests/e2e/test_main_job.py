"""The product's main job by clicking, against a real lab: from log-in to encrypted packets, an edit, and a cleared SA.

The lab is that of ``make demo`` with nothing in it but two enrolled gateways: what an operator does is done here, in
the browser. :func:`main_job` takes any console, so that it can be pointed elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from deploy.lab.netns import sweep
from deploy.lab.topology import LYON
from tests.e2e import steps
from tests.e2e.browser import DESKTOP, shoot
from tests.lab.demos import RunningDemo

pytestmark = [pytest.mark.browser, pytest.mark.lab, pytest.mark.slow]


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
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab without tunnels, and a host behind paris that keeps asking one behind lyon."""
    running = RunningDemo(tmp_path / "d", f"vcm{os.getpid()}", options=("--bare",))
    try:
        running.start()
        pings = running.namespace("host-paris").start("ping", "-q", "-i", "0.3", LYON.host_address)
        description = running.description
        yield Lab(
            url=description["url"].rstrip("/"),
            username=description["username"],
            password=description["password"],
            gateway_a="paris",
            gateway_b="lyon",
            proposal="AES-256-GCM SHA2-384 group 31",
        )
        pings.terminate()
        pings.wait(10)
        assert running.end() == 0
    finally:
        if running.process is not None:
            running.kill()
        # Nothing is left of a lab that did not come up or did not end by itself.
        sweep(running.prefix)


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
