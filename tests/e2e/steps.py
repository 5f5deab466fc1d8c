"""What a person does in the console, one function per step; each ends when the page shows what came of it.

The steps know only addresses' beginnings, labels and ``data-test`` marks, so they run against any console.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, expect

# For what must come: the wait ends when it is there, and a busy machine may take longer than Playwright's 5 s.
expect.set_options(timeout=30_000)


def log_in(page: Page, base_url: str, username: str, password: str) -> None:
    """Log in and arrive on the dashboard."""
    page.goto(f"{base_url}/accounts/login/")
    page.get_by_label("Username").fill(username)
    page.get_by_label("Password").fill(password)
    page.locator("[data-test=submit]").click()
    expect(page.locator("body")).to_have_attribute("data-test", "page-dashboard")


def go(page: Page, place: str) -> None:
    """Use the main navigation."""
    page.locator(f"[data-test=nav-{place}]").click()
    page.wait_for_load_state()


def create_gateway(
    page: Page, name: str, addresses: str, networks: str, *, agent_host: str = "", extranet: bool = False
) -> None:
    """Define a gateway by its form."""
    go(page, "gateways")
    page.locator("[data-test=new-gateway]").click()
    page.get_by_label("Name", exact=True).fill(name)
    if extranet:
        page.get_by_label("Somebody else").check()
    page.get_by_label("Outer addresses").fill(addresses)
    page.get_by_label("Protected networks").fill(networks)
    if agent_host:
        page.get_by_label("Agent's address").fill(agent_host)
    page.locator("[data-test=submit]").click()
    expect(page.locator("[data-test=message-success]")).to_contain_text(name)


def enrolment_command(page: Page, gateway: str) -> tuple[str, str]:
    """Issue a one-time token and return the command line and the token shown."""
    go(page, "gateways")
    page.locator(f"[data-test=gateway-{gateway}]").get_by_role("link", name=gateway).click()
    page.locator("[data-test=enrol]").click()
    page.locator("[data-test=issue-token]").click()
    shown = [page.locator(f"[data-test={part}]").inner_text().strip() for part in ("enrol-command", "enrol-token")]
    return shown[0], shown[1]


def create_tunnel(page: Page, name: str, gateway_a: str, gateway_b: str, *, psk: str | None = None) -> None:
    """Define a tunnel: choosing the gateways fills in the rest; ``psk`` in hexadecimal, or let one be generated."""
    go(page, "tunnels")
    page.locator("[data-test=new-tunnel]").click()
    choose_gateway(page, "end_a", gateway_a)
    choose_gateway(page, "end_b", gateway_b)
    page.get_by_label("Name", exact=True).fill(name)
    if psk is not None:
        page.get_by_label("Enter a key agreed with the peer").check()
        page.get_by_label("Key", exact=True).fill(psk)
    page.locator("[data-test=submit]").click()
    expect(page.locator("[data-test=message-success]")).to_contain_text(name)


def choose_gateway(page: Page, end: str, gateway: str) -> None:
    """Choose the gateway of one end and wait until the form has filled in what follows from it."""
    choice = page.locator(f"#id_{end}-gateway")
    choice.focus()
    with refilled(page):
        choice.select_option(label=gateway)
    expect(page.locator(f"#id_{end}-identity_value")).not_to_have_value("")


@contextmanager
def refilled(page: Page) -> Iterator[None]:
    """Do in this block what has the tunnel form's fields fetched anew; it ends when htmx listens to the new ones.

    Their answer is too early a sign: what is done before they take the old ones' place is lost with those. So is what
    is done before the page has loaded, since htmx hears nothing until then.
    """
    fields = page.locator("#tunnel-fields")
    fields.evaluate("fields => { fields.dataset.old = 'yes'; }")
    page.wait_for_load_state()
    yield
    expect(page.locator("#tunnel-fields:not([data-old]):not(.htmx-added)")).to_have_count(1)


def open_tunnel(page: Page, name: str) -> None:
    """Go to a tunnel's page from the list."""
    go(page, "tunnels")
    page.locator(f"[data-test=tunnel-{name}]").get_by_role("link", name=name, exact=True).click()
    expect(page.locator("body")).to_have_attribute("data-test", "page-tunnel")
    page.wait_for_load_state()


def deploy(page: Page, note: str, *, timeout_s: float = 60) -> None:
    """Review the changes, press Deploy and wait until every gateway has them in force."""
    go(page, "changes")
    page.get_by_label("Note").fill(note)
    page.locator("[data-test=deploy]").click()
    expect(page.locator("[data-test=deployment-done]")).to_be_visible(timeout=timeout_s * 1000)


def await_state(page: Page, state: str, *, timeout_s: float = 60) -> None:
    """Wait on a tunnel's page, without reloading it, until the state's word is there."""
    badge = page.locator("#tunnel .state").first
    expect(badge).to_have_attribute("data-state", state, timeout=timeout_s * 1000)


def carried(page: Page) -> tuple[int, int]:
    """Return the octets of both directions as a tunnel's page shows them."""
    a_to_b = page.locator("[data-test=bytes-a-b]").get_attribute("data-bytes")
    b_to_a = page.locator("[data-test=bytes-b-a]").get_attribute("data-bytes")
    return int(a_to_b or 0), int(b_to_a or 0)


def await_rising_counters(page: Page, *, timeout_s: float = 30) -> None:
    """Wait on a tunnel's page until both directions have grown, without reloading."""
    before = carried(page)
    _wait(page, lambda: all(now > then for now, then in zip(carried(page), before, strict=True)), timeout_s)


def await_refresh(page: Page, region: str) -> None:
    """Wait until a page's live part was fetched anew and stands in the old one's place."""
    page.evaluate(
        """region => new Promise(done => document.addEventListener("htmx:afterOnLoad", event => {
            if (event.detail.elt.id === region) done();
        }))""",
        region,
    )


def edit_ike_proposal(page: Page, name: str, *, encryption: str) -> None:
    """Change the cipher of an IKE proposal."""
    go(page, "policies")
    page.locator("[data-test=ike-proposals]").get_by_role("link", name=name, exact=True).click()
    page.get_by_label("Encryption").select_option(encryption)
    page.locator("[data-test=submit]").click()
    expect(page.locator("[data-test=message-success]")).to_contain_text(name)


def act(page: Page, verb: str) -> None:
    """Press one of a tunnel's buttons; a question that comes up is answered with yes."""
    if verb.startswith("clear"):
        press_and_confirm(page, f"do-{verb}")
    else:
        page.locator(f"[data-test=do-{verb}]").click()
    expect(page.locator("[data-test=message-success]")).to_contain_text("was sent to")


def press_and_confirm(page: Page, button: str) -> None:
    """Press a button that asks first, and answer yes: a script asks, and it runs only once the page has loaded."""
    page.wait_for_load_state()
    page.locator(f"[data-test={button}]").click()
    page.locator("[data-test=confirm-yes]").click()


def established_spis(page: Page) -> set[str]:
    """Return the SPIs of the traffic's SAs a tunnel's page shows."""
    return set(re.findall(r"\b[0-9a-f]{8}\b", page.locator("[data-test=pairs]").inner_text()))


def await_new_spis(page: Page, before: set[str], *, timeout_s: float = 60) -> None:
    """Wait until the tunnel runs on SAs none of which was there before."""
    _wait(page, lambda: bool(established_spis(page)) and not established_spis(page) & before, timeout_s)


def _wait(page: Page, met: Callable[[], bool], timeout_s: float) -> None:
    for _ in range(int(timeout_s / 0.25)):
        if met():
            return
        page.wait_for_timeout(250)
    raise AssertionError("what was waited for did not come")
