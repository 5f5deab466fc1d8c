"""The tunnel form in a browser: each kind shows what belongs to it, keys by hand, rules that move."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e import steps
from tests.e2e.browser import shoot, violations

pytestmark = pytest.mark.browser


def new_tunnel(page: Page) -> None:
    steps.go(page, "tunnels")
    page.locator("[data-test=new-tunnel]").click()


def choose_kind(page: Page, label: str) -> None:
    with steps.refilled(page):
        page.get_by_label(label).check()
    expect(page.get_by_label(label)).to_be_checked()


def test_an_on_demand_tunnel_has_peers_in_place_of_end_b(page: Page) -> None:
    new_tunnel(page)
    expect(page.locator("[data-test=peers]")).to_be_hidden()
    choose_kind(page, "On-demand")
    expect(page.locator("[data-test=end_b]")).to_be_hidden()
    expect(page.locator("#id_end_a-connection_type")).to_be_hidden()
    steps.choose_gateway(page, "end_a", "lyon")
    expect(page.locator("#id_name")).to_have_value("lyon-peers")
    page.locator("#id_selectors-0-network_b").fill("10.201.0.0/16")
    page.locator("[data-test=submit]").click()
    expect(page.locator("[data-test=error-summary]")).to_contain_text("what the peers call themselves")
    page.locator("#id_peers-identity_value").fill("*.branch.example.org")
    assert violations(page) == []
    page.locator("[data-test=submit]").click()
    expect(page.locator("[data-test=message-success]")).to_contain_text("lyon-peers")
    expect(page.locator("[data-test=end-b]")).to_contain_text("from anywhere")


def test_manual_keys_are_typed_refused_generated_and_shown_once(page: Page) -> None:
    new_tunnel(page)
    steps.choose_gateway(page, "end_a", "berlin")
    steps.choose_gateway(page, "end_b", "extranet (extranet)")
    page.get_by_label("Name", exact=True).fill("berlin-by-hand")
    choose_kind(page, "Manual keys")
    expect(page.locator("[data-test=manual-advice]")).to_contain_text("Keys that IKE negotiates are better")
    expect(page.locator("[data-test=first-rule]")).to_be_visible()
    expect(page.locator("#id_version")).to_be_hidden()
    pair = page.locator("[data-test=manual-0]")
    into = pair.locator("[data-test=selectors-0-in]")
    expect(into.get_by_label("AH", exact=True)).to_be_hidden()
    expect(into.get_by_label("Encryption key")).to_be_hidden()
    into.get_by_label("Enter", exact=True).check()
    into.get_by_label("Encryption key").fill("abcd")
    into.get_by_label("Encryption", exact=True).select_option(label="AES-128-GCM")
    page.locator("[data-test=submit]").click()
    expect(page.locator("[data-test=error-summary]")).to_contain_text("counts in its IV")
    expect(into.get_by_label("Encryption key")).to_have_value("abcd")
    into.get_by_label("Encryption", exact=True).select_option(label="AES-128-CBC")
    page.locator("[data-test=submit]").click()
    expect(page.locator("[data-test=error-summary]")).to_contain_text(
        "16 octets (32 hexadecimal digits), this one has 2"
    )
    shoot(page, "tunnel-manual-refused-desktop-light")
    assert violations(page) == []
    into.get_by_label("Generate", exact=True).check()
    page.locator("[data-test=submit]").click()
    expect(page.locator("[data-test=message-success]")).to_contain_text("berlin-by-hand")
    page.locator("[data-test=manual-keys]").click()
    expect(page.locator("[data-test=manual-sas]")).to_contain_text("berlin → extranet")
    expect(page.locator("[data-test=key-text]")).to_have_count(0)
    steps.press_and_confirm(page, "reveal")
    expect(page.locator("[data-test=key-text]")).to_have_count(4)
    assert violations(page) == []


def test_ah_and_both_ways_show_what_they_need(page: Page) -> None:
    new_tunnel(page)
    choose_kind(page, "Manual keys")
    pair = page.locator("[data-test=manual-0]")
    both = pair.locator("[data-test=selectors-0-both]")
    expect(both).to_be_hidden()
    pair.get_by_label("The same SPI and keys both ways").check()
    expect(both).to_be_visible()
    expect(pair.locator("[data-test=selectors-0-in]")).to_be_hidden()
    page.locator("#id_selectors-0-manual-protocol").select_option("ah")
    expect(both.get_by_label("Encryption", exact=True)).to_be_hidden()
    expect(both.get_by_label("AH SPI")).to_be_visible()
    page.locator("#id_selectors-0-manual-protocol").select_option("esp-ah")
    expect(both.get_by_label("Encryption", exact=True)).to_be_visible()
    # What is not of this kind is kept for when it is wanted again.
    both.get_by_label("AH SPI").fill("0x4711")
    choose_kind(page, "Static: two gateways")
    expect(pair).to_be_hidden()
    choose_kind(page, "Manual keys")
    expect(both.get_by_label("AH SPI")).to_have_value("0x4711")


def test_a_rule_moves_up_and_its_order_is_stored(page: Page) -> None:
    new_tunnel(page)
    steps.choose_gateway(page, "end_a", "paris")
    steps.choose_gateway(page, "end_b", "berlin")
    page.get_by_label("Name", exact=True).fill("ordered")
    first, second = page.locator("#id_selectors-0-network_a"), page.locator("#id_selectors-1-network_a")
    expect(first).to_have_value("10.1.0.0/24")
    page.locator("[data-test=up-1]").click()
    expect(first).to_have_value("10.1.64.0/20")
    expect(second).to_have_value("10.1.0.0/24")
    page.locator("[data-test=submit]").click()
    expect(page.locator("[data-test=message-success]")).to_contain_text("ordered")
    page.locator("[data-test=edit]").click()
    expect(first).to_have_value("10.1.64.0/20")
    steps.go(page, "changes")
    expect(page.locator("[data-test=preview-paris]")).to_contain_text("tunnel ordered")


def test_a_pair_has_a_policy_of_its_own(page: Page) -> None:
    steps.open_tunnel(page, "paris-lyon-old")
    page.locator("[data-test=edit]").click()
    own = page.locator("[data-test=policy-0]")
    own.get_by_text("IPsec policy: the tunnel's").click()
    with steps.refilled(page):
        own.get_by_label("IPsec policy of this pair").select_option(label="compatible")
    expect(own.get_by_label("IPsec policy of this pair")).to_have_value(re.compile(r"\d+"))
    expect(own.get_by_text("IPsec policy: the tunnel's")).to_have_count(0)
    page.locator("[data-test=submit]").click()
    expect(page.locator("[data-test=pair-policy]")).to_have_text("policy compatible")
    expect(page.locator("[data-test=own-policies]")).to_have_text("1 pair has its own")
