"""What only a browser shows: forms that fill themselves, questions before interruptions, live values, keyboard."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.e2e import steps
from tests.e2e.browser import DESKTOP, PHONE, violations
from tests.e2e.conftest import Console, started
from tests.e2e.seed import PASSWORD, USERNAME

pytestmark = pytest.mark.browser


def test_choosing_gateways_fills_in_the_other_fields(page: Page) -> None:
    steps.go(page, "tunnels")
    page.locator("[data-test=new-tunnel]").click()
    steps.choose_gateway(page, "end_a", "paris")
    expect(page.locator("#id_end_a-address")).to_have_value("192.0.2.1")
    expect(page.locator("#id_selectors-0-network_a")).to_have_value("10.1.0.0/24")
    # The keyboard stays where it was although the fields were fetched anew.
    expect(page.locator("#id_end_a-gateway")).to_be_focused()
    steps.choose_gateway(page, "end_b", "berlin")
    expect(page.locator("#id_name")).to_have_value("paris-berlin")
    expect(page.locator("#id_end_b-identity_value")).to_have_value("203.0.113.50")
    expect(page.locator("#id_selectors-1-network_a")).to_have_value("10.1.64.0/20")
    expect(page.locator("#id_selectors-1-network_b")).to_have_value("10.4.0.0/24")
    # Only the inputs of the chosen way of giving a key are there.
    expect(page.locator("#id_psk")).to_be_hidden()
    page.get_by_label("Use a stored key").check()
    expect(page.locator("#id_psk")).to_be_visible()
    assert violations(page) == []


def test_what_is_typed_and_chosen_before_the_form_has_filled_itself_in_stays(page: Page) -> None:
    held: list[Route] = []
    steps.go(page, "tunnels")
    page.locator("[data-test=new-tunnel]").click()
    page.wait_for_load_state()
    page.route("**/tunnels/form/", lambda route: held.append(route), times=1)
    with page.expect_request("**/tunnels/form/"):
        page.locator("#id_end_a-gateway").select_option(label="paris")
    page.locator("#id_end_b-gateway").select_option(label="berlin")
    page.locator("#id_name").press_sequentially("quick")
    page.get_by_label("Always encapsulate in UDP").check()
    with page.expect_request("**/tunnels/form/"):
        held[0].continue_()
    expect(page.locator("#id_end_b-identity_value")).to_have_value("203.0.113.50")
    expect(page.locator("#id_end_a-address")).to_have_value("192.0.2.1")
    expect(page.locator("#id_end_b-gateway option:checked")).to_have_text("berlin")
    expect(page.locator("#id_name")).to_have_value("quick")
    expect(page.get_by_label("Always encapsulate in UDP")).to_be_checked()


def test_a_peer_that_is_fixed_brings_its_version_and_its_policies(page: Page) -> None:
    steps.go(page, "tunnels")
    page.locator("[data-test=new-tunnel]").click()
    steps.choose_gateway(page, "end_a", "paris")
    steps.choose_gateway(page, "end_b", "pbx (extranet)")
    version = page.locator("#id_version")
    expect(version).to_have_value("v1")
    assert version.locator("option").all_inner_texts() == ["IKEv1"]
    expect(page.locator("[data-test=make]")).to_contain_text("Main Mode only")
    expect(page.locator("[data-test=key-note]")).to_contain_text("192.0.2.1 and 203.0.113.61")
    page.locator("[data-test=make-defaults]").click()
    expect(page.locator("#id_ike_policy option:checked")).to_have_text("OmniPCX Office defaults")
    expect(page.locator("[data-test=refused]").first).to_contain_text("which paris does not allow")
    assert violations(page) == []
    # Another peer takes back what came with this one.
    steps.choose_gateway(page, "end_b", "berlin")
    expect(version).to_have_value("v2")
    expect(page.locator("#id_ike_policy option:checked")).to_have_text("default")


def test_a_reason_of_ikev1_leads_to_the_field(page: Page, console: Console) -> None:
    page.goto(console.page("tunnel-ikev1-down"))
    page.locator("[data-test=reason-place]").click()
    expect(page).to_have_url(re.compile("#id_exchange_mode$"))
    expect(page.locator("#id_exchange_mode")).to_be_in_viewport()


def test_a_refused_form_keeps_what_was_typed_and_leads_to_the_field(page: Page) -> None:
    steps.go(page, "tunnels")
    page.locator("[data-test=new-tunnel]").click()
    steps.choose_gateway(page, "end_a", "paris")
    steps.choose_gateway(page, "end_b", "berlin")
    page.get_by_label("Description").fill("typed with care")
    page.locator("#id_selectors-0-network_b").fill("10.1.0.0/16")
    page.get_by_label("Enter a key agreed with the peer").check()
    page.get_by_label("Key", exact=True).fill('with "quotes"')
    page.get_by_label("Text (ASCII)").check()
    page.locator("[data-test=submit]").click()
    summary = page.locator("[data-test=error-summary]")
    expect(summary).to_contain_text("overlap")
    expect(summary).to_contain_text("Leave out quotes")
    expect(page.get_by_label("Description")).to_have_value("typed with care")
    expect(page.get_by_label("Key", exact=True)).to_have_value('with "quotes"')
    expect(page.locator("#id_selectors-0-network_b")).to_have_attribute("aria-invalid", "true")
    summary.get_by_role("link", name="Network at B").click()
    expect(page).to_have_url(re.compile("#id_selectors-0-network_b$"))
    # A browser scrolls to a fragment with its next frame, not within the click.
    page.wait_for_function(
        """() => {
            const field = document.querySelector("#id_selectors-0-network_b").getBoundingClientRect();
            return [".bar", ".form-end"].every((name) => {
                const bar = document.querySelector(name).getBoundingClientRect();
                return field.top >= bar.bottom || field.bottom <= bar.top;
            });
        }"""
    )
    assert violations(page) == []


def test_a_tunnel_by_clicking(page: Page) -> None:
    steps.create_tunnel(page, "made-by-clicking", "lyon", "berlin")
    expect(page.locator("body")).to_have_attribute("data-test", "page-tunnel")
    expect(page.locator("#tunnel .state").first).to_have_attribute("data-state", "not-deployed")
    expect(page.locator("[data-test=pending]")).to_contain_text("made-by-clicking added")
    page.locator("[data-test=delete]").click()
    page.locator("[data-test=submit]").click()
    expect(page.locator("[data-test=message-success]")).to_contain_text("was deleted")


def test_values_move_without_reloading(console: Console, page: Page) -> None:
    page.goto(console.page("tunnel-up"))
    page.evaluate("() => { window.sameDocument = true; }")
    steps.await_rising_counters(page)
    assert page.evaluate("() => window.sameDocument")
    expect(page.locator("#live-mode")).to_have_text("Refreshing every 5 s")
    canvas = page.locator("#traffic-chart canvas")
    expect(canvas).to_be_visible()
    page.get_by_text("The same as a table").click()
    expect(page.locator("#series-table tbody tr").first).to_be_visible()
    # A refresh leaves the opened table open.
    steps.await_rising_counters(page)
    expect(page.locator("#series-table tbody tr").first).to_be_visible()


def test_an_interruption_asks_first(console: Console, page: Page) -> None:
    page.goto(console.page("tunnel-up"))
    page.locator("[data-test=do-clear-ike]").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Traffic stops until an end negotiates anew")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.locator("[data-test=message-success]")).to_have_count(0)
    steps.act(page, "clear-ike")
    expect(page.locator("[data-test=job]").first).to_contain_text("clear-ike on paris")


def test_silence_looks_silent(console: Console, page: Page) -> None:
    page.goto(console.page("tunnel-half-silent"))
    expect(page.locator("[data-test=end-b]")).to_contain_text("unreachable")
    expect(page.locator("[data-test=end-b]")).to_contain_text("last said up")
    expect(page.locator("[data-test=reason]")).to_contain_text("madrid not heard from")
    page.goto(console.page("gateways"))
    row = page.locator("[data-test=gateway-madrid]")
    expect(row).to_have_attribute("data-state", "unreachable")
    expect(row.locator("time.age.old")).to_be_visible()


def test_the_search_key_and_the_keyboard(console: Console, page: Page) -> None:
    page.goto(console.page("dashboard"))
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the page")).to_be_focused()
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("voice")
    page.keyboard.press("Enter")
    expect(page.locator("[data-test=found]")).to_contain_text("paris-lyon-voice")


def test_every_stop_of_the_keyboard_is_visible(console: Console, page: Page) -> None:
    page.goto(console.page("tunnel-up"))
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        outline = page.evaluate(
            "() => { const e = document.activeElement; const s = getComputedStyle(e);"
            " const name = e.tagName + '|' + (e.dataset.test || e.textContent.trim().slice(0, 20));"
            " return [name, s.outlineStyle, s.outlineWidth]; }"
        )
        seen.add(outline[0])
        if outline[0].startswith("BODY"):
            break
        assert outline[1] != "none", outline
        assert outline[2] != "0px", outline
    assert len(seen) > 15


def test_appearance_is_kept(console: Console, page: Page) -> None:
    page.goto(console.page("dashboard"))
    page.locator("[data-test=user-menu]").click()
    page.get_by_role("button", name="Appearance: dark").click()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    page.locator("[data-test=user-menu]").click()
    page.get_by_role("button", name="Appearance: system").click()
    expect(page.locator("html:not([data-bs-theme])")).to_have_count(1)


def test_filter_and_sort_stay_in_the_address_bar(console: Console, page: Page) -> None:
    page.goto(console.page("tunnels"))
    page.get_by_label("State").select_option("down")
    expect(page.locator("[data-test=tunnels] tbody tr")).to_have_count(2)
    expect(page).to_have_url(re.compile("state=down"))
    page.reload()
    expect(page.locator("[data-test=tunnel-paris-extranet]")).to_be_visible()
    page.goto(console.page("tunnels"))
    page.get_by_role("link", name="Tunnel", exact=True).click()
    expect(page).to_have_url(re.compile(r"[?&]sort=name"))


def test_nothing_comes_from_another_host(console: Console, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in ("dashboard", "tunnel-up", "tunnel-new", "changes"):
        page.goto(console.page(name))
        page.wait_for_load_state("load")
    assert asked
    assert [url for url in asked if not url.startswith((console.url, "data:"))] == []


def test_the_form_works_without_scripts(console: Console, browser: Browser) -> None:
    context = browser.new_context(viewport=DESKTOP, java_script_enabled=False)
    page = context.new_page()
    steps.log_in(page, console.url, USERNAME, PASSWORD)
    page.goto(console.page("tunnel-new"))
    page.locator("#id_end_a-gateway").select_option(label="madrid")
    page.locator("#id_end_b-gateway").select_option(label="extranet (extranet)")
    page.get_by_role("button", name="Fill in from the gateways").click()
    expect(page.locator("#id_name")).to_have_value("madrid-extranet")
    page.locator("[data-test=submit]").click()
    expect(page.locator("[data-test=message-success]")).to_contain_text("madrid-extranet")
    context.close()


def test_with_a_broker_pages_hear_of_changes(tmp_path: Path, browser: Browser) -> None:
    with started(tmp_path, "--broker") as live:
        context = browser.new_context(viewport=DESKTOP)
        page = context.new_page()
        steps.log_in(page, live.url, USERNAME, PASSWORD)
        page.goto(live.page("tunnel-up"))
        expect(page.locator("#live-mode")).to_have_text("Live")
        steps.await_rising_counters(page)
        # By the stream: nothing polls.
        expect(page.locator("#live-mode")).to_have_text("Live")
        assert page.evaluate("() => live.poll") == 0
        context.close()


def test_an_ended_session_leads_to_log_in(console: Console, browser: Browser) -> None:
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    steps.log_in(page, console.url, USERNAME, PASSWORD)
    page.goto(console.page("tunnels"))
    context.clear_cookies()
    expect(page.locator("body")).to_have_attribute("data-test", "page-login")
    expect(page).to_have_url(re.compile("next="))
    context.close()


def test_a_silent_gateway_does_not_make_the_others_look_old(console: Console, page: Page) -> None:
    page.goto(console.page("tunnels"))
    page.wait_for_timeout(1500)
    expect(page.locator("[data-test=tunnel-paris-lyon]")).not_to_have_class(re.compile("stale"))
    page.goto(console.page("gateway-unreachable"))
    expect(page.get_by_text("as last heard").first).to_be_visible()
    page.goto(console.page("gateway-new"))
    expect(page.get_by_label("Agent's port")).to_be_visible()
    page.get_by_label("Somebody else").check()
    expect(page.get_by_label("Agent's port")).to_be_hidden()


def test_a_capture_is_begun_and_what_is_counted_is_explained(console: Console, page: Page) -> None:
    page.goto(console.page("tunnel-up"))
    late = page.locator("[data-test=refused-late]")
    expect(late).to_contain_text("Too late")
    expect(late).to_contain_text("4,807")
    expect(late).to_contain_text("A larger window lets them in.")
    expect(page.locator("[data-test=queues]")).to_contain_text("CS6, CS7")
    page.get_by_label("What", exact=True).select_option("inner")
    page.get_by_label("Up to").select_option(label="1 MiB")
    # A refresh of the live parts meanwhile must not undo the choice.
    steps.await_refresh(page, "tunnel")
    expect(page.get_by_label("What", exact=True)).to_have_value("inner")
    page.locator("[data-test=capture-start]").click()
    expect(page.locator(".note", has_text="A capture of inner packets begins on paris.")).to_be_visible()
    ordered = page.locator("[data-test=capture]").first
    expect(ordered).to_have_attribute("data-state", "queued")
    expect(ordered).to_contain_text("inner packets on paris")
    expect(ordered).to_contain_text("by alice")
    expect(page.locator("[data-test=capture-download]").first).to_be_visible()
    page.goto(console.page("audit"))
    expect(page.locator("body")).to_contain_text("tunnel.capture.start")


def test_a_given_password_is_for_one_log_in(console: Console, browser: Browser, page: Page) -> None:
    page.goto(console.page("user"))
    given, own = "three-brass-anchors", "eight-wooden-spoons"
    page.get_by_label("New password").fill(given)
    page.get_by_label("The same password again").fill(given)
    page.locator("[data-test=give-password]").click()
    page.locator("[data-test=confirm-yes]").click()
    expect(page.locator("[data-test=message-success]")).to_contain_text("bob has a new password")
    context = browser.new_context(viewport=PHONE)
    theirs = context.new_page()
    theirs.goto(f"{console.url}/accounts/login/")
    theirs.get_by_label("Username").fill("bob")
    theirs.get_by_label("Password").fill(given)
    theirs.locator("[data-test=submit]").click()
    expect(theirs.locator("body")).to_have_attribute("data-test", "page-choose-password")
    assert violations(theirs) == []
    theirs.get_by_label("Present password").fill(given)
    theirs.get_by_label("New password").fill(own)
    theirs.get_by_label("The same password again").fill(own)
    theirs.locator("[data-test=submit]").click()
    expect(theirs.locator("body")).to_have_attribute("data-test", "page-dashboard")
    context.close()


def test_an_end_that_was_not_heard_is_told_and_tried_again(console: Console, page: Page) -> None:
    page.goto(console.page("tunnel-half-silent"))
    running = page.locator("[data-test=capture][data-state=running]", has_text="on madrid")
    expect(running.locator("[data-test=stop-failed]")).to_contain_text("Sent again when madrid answers")
    expect(running.locator("[data-test=capture-old]")).to_contain_text("madrid does not answer")
    running.get_by_role("button", name="Try again to stop").click()
    expect(page.locator(".note", has_text="madrid is told to end the capture")).to_be_visible()
    expect(running.locator("[data-test=stop-sent]")).to_be_visible()
    expect(running.locator("[data-test=capture-stop]")).to_have_count(0)


def test_a_trace_is_begun_with_what_was_chosen(console: Console, page: Page) -> None:
    page.goto(console.page("gateway"))
    running = page.locator("[data-test=trace][data-state=running]")
    expect(running).to_contain_text("espd does not trace: its octets are full")
    expect(running.locator("[data-test=trace-stop]")).to_be_visible()
    page.locator("[data-test=to-trace]").click()
    for name in ("error", "tunnel"):
        page.get_by_label(name, exact=True).uncheck()
    page.locator("[data-test=trace-start]").click()
    expect(page.locator("[data-test=error-summary]")).to_contain_text("Choose at least one")
    page.get_by_label("crypto-information").check()
    page.get_by_label("At most").select_option(label="15 min")
    # A refresh of the live parts meanwhile must not undo the choice.
    steps.await_refresh(page, "gateway")
    expect(page.get_by_label("crypto-information")).to_be_checked()
    page.locator("[data-test=trace-start]").click()
    expect(page.locator(".note", has_text="A trace begins on paris.")).to_be_visible()
    ordered = page.locator("[data-test=trace]").first
    expect(ordered).to_have_attribute("data-state", "queued")
    expect(ordered).to_contain_text("crypto-information")
    expect(ordered).to_contain_text("by alice")
    page.goto(console.page("audit"))
    expect(page.locator("body")).to_contain_text("gateway.trace.start")
